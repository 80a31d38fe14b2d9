"""Streaming encryption: Tink's AES-GCM-HKDF format (AES-256-GCM, HKDF-SHA256, segments of 64 KiB).

A file is a header (1 byte for its length, 32 of salt, 7 of nonce prefix) and segments. Each segment
is AES-256-GCM under HKDF(key, salt, info=associated data), with the nonce prefix | segment number |
1 if it is the last. So segments cannot be cut off, reordered or swapped between files.

Source: https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming
"""

import io
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.vault.errors import ArtefactDamaged

KEY_SIZE = 32  # bytes; the salt has the same size
PREFIX_SIZE = 7
TAG_SIZE = 16
SEGMENT_SIZE = 64 * 1024  # encrypted, including the tag and, in the first, the header
HEADER_SIZE = 1 + KEY_SIZE + PREFIX_SIZE


@dataclass(frozen=True)
class Key:
    """32 secret bytes, hidden from logs and tracebacks."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes")


class EncryptingWriter:
    """Encrypts to `file`, which it leaves open. Until `finish()` the file cannot be read."""

    def __init__(self, file: BinaryIO, key: Key, associated_data: bytes) -> None:
        self._file = file
        salt, self._prefix = os.urandom(KEY_SIZE), os.urandom(PREFIX_SIZE)
        self._cipher = _cipher(key, salt, associated_data)
        self._pending = bytearray()
        self._n_segments = 0
        file.write(bytes([HEADER_SIZE]) + salt + self._prefix)

    def write(self, data: bytes) -> None:
        self._pending += data
        # One segment always stays pending, because it may turn out to be the last.
        while len(self._pending) > (room := _room(self._n_segments)):
            self._write_segment(bytes(self._pending[:room]), last=False)
            del self._pending[:room]

    def finish(self) -> None:
        self._write_segment(bytes(self._pending), last=True)

    def _write_segment(self, data: bytes, *, last: bool) -> None:
        nonce = _nonce(self._prefix, self._n_segments, last=last)
        self._file.write(self._cipher.encrypt(nonce, data, None))
        self._n_segments += 1


class DecryptingReader(io.RawIOBase):
    """Decrypts only the segments that are read. Not thread-safe. Closing it closes `file`.

    Opening it authenticates the last segment and thereby the length; reading authenticates what is
    read.

    Raises:
        ArtefactDamaged: on opening or reading.
    """

    def __init__(self, file: BinaryIO, key: Key, associated_data: bytes) -> None:
        super().__init__()
        self._file = file
        file_size = file.seek(0, io.SEEK_END)
        self.size = plain_size(file_size)
        self._last = _n_segments(file_size) - 1
        file.seek(0)
        header = file.read(HEADER_SIZE)
        if header[0] != HEADER_SIZE:
            raise ArtefactDamaged("An artefact has an unknown header")
        self._prefix = header[1 + KEY_SIZE :]
        self._cipher = _cipher(key, header[1 : 1 + KEY_SIZE], associated_data)
        self._position = 0
        self._number, self._segment = self._last, self._decrypt(self._last)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise ValueError("before the start")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # Buffer is 3.12's
        """Read up to the end of one segment; io.BufferedReader asks again for the rest."""
        if self._position >= self.size:
            return 0
        # The header takes space from the first segment.
        number, start = divmod(self._position + HEADER_SIZE, SEGMENT_SIZE - TAG_SIZE)
        if number == 0:
            start -= HEADER_SIZE
        if number != self._number:
            self._number, self._segment = number, self._decrypt(number)
        part = self._segment[start : start + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _decrypt(self, number: int) -> bytes:
        start = number * SEGMENT_SIZE or HEADER_SIZE
        self._file.seek(start)
        encrypted = self._file.read((number + 1) * SEGMENT_SIZE - start)
        nonce = _nonce(self._prefix, number, last=number == self._last)
        try:
            return self._cipher.decrypt(nonce, encrypted, None)
        except InvalidTag as error:
            raise ArtefactDamaged(f"Segment {number} of an artefact is not authentic") from error


def open_encrypted(path: Path, key: Key, associated_data: bytes) -> io.BufferedReader:
    return decrypt(open(path, "rb"), key, associated_data)


def decrypt(file: BinaryIO, key: Key, associated_data: bytes) -> io.BufferedReader:
    """Read `file` decrypted and seekable; `read(n)` returns n bytes unless it ends.

    Closing the reader closes `file`, as does an error here.
    """
    try:
        return io.BufferedReader(DecryptingReader(file, key, associated_data))
    except BaseException:
        file.close()
        raise


def plain_size(file_size: int) -> int:
    """Number of plain bytes, computed from the file's size; only reading authenticates it."""
    size = file_size - HEADER_SIZE - TAG_SIZE * _n_segments(file_size)
    if size < 0:
        raise ArtefactDamaged("An artefact is shorter than an empty one")
    return size


def _n_segments(file_size: int) -> int:
    return max(1, -(-file_size // SEGMENT_SIZE))


def _room(number: int) -> int:
    return SEGMENT_SIZE - TAG_SIZE - (HEADER_SIZE if number == 0 else 0)


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + struct.pack(">IB", number, last)


def _cipher(key: Key, salt: bytes, associated_data: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_SIZE, salt, associated_data).derive(key.secret))
