"""Finds the audio in WAV, RF64, Wave64, AIFF and CAF files by walking their chunks.

Recorders and programs leave three kinds of headers that must not be trusted:

* sizes that were never filled in, because the file was streamed: they say nothing;
* sizes that were last updated before the battery died: sound follows the declared end;
* more than one chunk of sound.

Anything after the sound that parses as chunks up to the end of the file is metadata, however large:
levels, covers, XMP.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from models.audio.memory_file import memory_file

MIN_TAIL_SECONDS = 0.1  # of sound after the declared end; less is padding or garbage
MAX_HEADER_BYTES = 1 << 20  # bytes before the sound that a repaired copy keeps
BLOCK_BYTES = 1 << 20
KNOWN = (
    b"LIST id3  ID3  cue  bext iXML axml levl _PMX fact smpl inst plst PEAK acid strc JUNK junk "
    b"PAD  FLLR minf elm1 elmo regn umid DGDA aXML cart afsp note labl ltxt ResU SyLp SAUR MARK "
    b"INST MIDI AESD APPL COMT NAME AUTH (c)  ANNO FVER free info uuid strg mark edct ovvw peak "
    b"umid ubit olym vidb zmin XMP  chna ID32 tag  TAG  logs mext"
)
W64_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of every chunk except `riff`


@dataclass(frozen=True)
class Form:
    """The chunk layout of a family of formats."""

    first: int  # offset of the first chunk
    name_bytes: int
    size_bytes: int
    order: str  # "<" or ">"
    padding: int  # chunks begin at multiples of this
    size_counts_head: bool
    sound: bytes  # name of the chunk of sound
    skipped: int = 0  # bytes between the head of that chunk and the sound

    @property
    def head_bytes(self) -> int:
        return self.name_bytes + self.size_bytes


WAV = Form(12, 4, 4, "<", 2, False, b"data")
W64 = Form(40, 16, 8, "<", 8, True, b"data" + W64_GUID)
AIFF = Form(12, 4, 4, ">", 2, False, b"SSND", skipped=8)
CAF = Form(8, 4, 8, ">", 1, False, b"data", skipped=4)


@dataclass(frozen=True)
class Chunk:
    name: bytes
    start: int
    body: int
    size: int | None  # of the body; None if it was never filled in

    def end(self, n_bytes: int) -> int:
        return n_bytes if self.size is None else self.body + self.size


@dataclass(frozen=True)
class Sound:
    """The sound of a file in chunks, as bytes."""

    form: Form
    heads: tuple[Chunk, ...]  # the chunks up to and including the first one of sound
    extents: tuple[tuple[int, int], ...]  # start and end, within the file
    declared_bytes: int | None  # by all chunks of sound; None if not filled in
    contradiction: bool  # the chunk is longer than the file, but the file as long as it should be
    unknown_bytes: int = 0  # at the end; neither metadata nor sound

    @property
    def n_bytes(self) -> int:
        return sum(end - start for start, end in self.extents)

    @property
    def is_stale(self) -> bool:
        """Whether sound lies outside the first chunk of sound, as its header declares it."""
        first = self.heads[-1]
        end = self.extents[0][1] if self.extents else 0
        return len(self.extents) > 1 or (first.size is not None and first.body + first.size < end)

    @property
    def is_plain(self) -> bool:
        """Whether ffmpeg reads all of it: not past a stale size, in some not without any."""
        needs_size = self.form in (W64, AIFF) or self.heads[0].name == b"ds64"
        return not self.is_stale and not (needs_size and self.heads[-1].size is None)

    def runs_to_end(self, n_bytes: int) -> bool:
        """Whether ffmpeg reads all of it, in a file of `n_bytes`, if it ignores the size."""
        has_long_size = self.heads[0].name == b"ds64"
        return len(self.extents) == 1 and self.extents[0][1] == n_bytes and not has_long_size


def find_sound(file: BinaryIO, head: bytes) -> Sound | None:
    """Find the audio in a file that is made of chunks.

    Returns:
        None for other files, and where no chunk of sound was found.
    """
    form = form_of(head)
    if form is None:
        return None
    n_bytes = os.fstat(file.fileno()).st_size
    heads: list[Chunk] = []
    for chunk in chunks(file, form, form.first, n_bytes):
        heads.append(chunk)
        if chunk.name == form.sound:
            break
    else:
        return None
    first = with_long_size(file, heads)
    heads[-1] = first
    begin = first.body + form.skipped
    more: list[tuple[int, int]] = []
    unknown = 0
    if first.size is not None and first.end(n_bytes) < n_bytes:
        more, unknown = sound_in_tail(file, form, first, n_bytes, byte_rate(file, form, heads))
        if first.size <= form.skipped and more == [(first.end(n_bytes), n_bytes)]:
            first = heads[-1] = replace(first, size=None)  # streamed: it was never filled in
            more = []
    end = min(first.end(n_bytes), n_bytes)
    extents = [(min(begin, end), end), *more]
    extents = [(start, end) for start, end in extents if end > start] or extents[:1]
    declared = None
    if first.size is not None:
        declared = first.size - form.skipped + sum(end - start for start, end in more)
    merged: list[tuple[int, int]] = []
    for start, end in extents:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    outer = outer_size(head, form)
    contradiction = (
        first.size is not None
        and first.end(n_bytes) > n_bytes
        and outer is not None
        and abs(outer - n_bytes) <= form.padding
    )
    return Sound(form, tuple(heads), tuple(merged), declared, contradiction, unknown)


def form_of(head: bytes) -> Form | None:
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return WAV
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return W64
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return AIFF
    return CAF if head[:4] == b"caff" else None


def chunks(file: BinaryIO, form: Form, at: int, n_bytes: int) -> Iterator[Chunk]:
    """Yield chunks as long as they look valid; the last may be longer than the file."""
    while (chunk := chunk_at(file, form, at)) is not None:
        yield chunk
        if chunk.size is None or chunk.end(n_bytes) >= n_bytes:
            return
        at = aligned(chunk.end(n_bytes), form)


def aligned(at: int, form: Form) -> int:
    return -(-at // form.padding) * form.padding


def chunk_at(file: BinaryIO, form: Form, at: int) -> Chunk | None:
    head = os.pread(file.fileno(), form.head_bytes, at)
    if len(head) < form.head_bytes:
        return None
    name = head[: form.name_bytes]
    if form is W64:
        if not name.endswith(W64_GUID) or not is_name(name[:4]):
            return None
    elif not is_name(name):
        return None
    size = int.from_bytes(head[form.name_bytes :], "little" if form.order == "<" else "big")
    if is_unfilled(size, form):
        return Chunk(name, at, at + form.head_bytes, None)
    if form.size_counts_head:
        if size < form.head_bytes:
            return None
        size -= form.head_bytes
    return Chunk(name, at, at + form.head_bytes, size)


def is_name(name: bytes) -> bool:
    return all(0x20 <= byte <= 0x7E for byte in name)


def is_unfilled(size: int, form: Form) -> bool:
    """Whether a size is one that programs write before they know the real one.

    Zero is not one of them: it may be an empty chunk, and what follows it shows which it is.
    SoX writes 0x7ffff000 (AIFF 0x7f000000), arecord 0x80000000, ffmpeg 0xffffffff, some less 36.
    """
    if form.size_bytes == 8:
        return size >= 1 << 50
    near = (1 << 31, 1 << 32)
    if 0x7F000000 <= size < 0x7F000400:
        return True
    return any(limit - 0x10000 <= size < limit + 0x400 for limit in near)


def with_long_size(file: BinaryIO, heads: Sequence[Chunk]) -> Chunk:
    """The chunk of sound with the 64-bit size of an RF64, if there is one."""
    sound = heads[-1]
    if sound.size is None and heads[0].name == b"ds64":
        (size,) = struct.unpack("<Q", os.pread(file.fileno(), 8, heads[0].body + 8))
        return Chunk(sound.name, sound.start, sound.body, size if 0 < size < 1 << 50 else None)
    return sound


def sound_in_tail(
    file: BinaryIO, form: Form, first: Chunk, n_bytes: int, bytes_per_second: float
) -> tuple[list[tuple[int, int]], int]:
    """Sound after the declared end of the first chunk of sound.

    Returns:
        The extents, and the number of bytes at the end that are neither sound nor metadata.
    """
    end = first.end(n_bytes)
    found: list[tuple[int, int]] = []
    known = False
    at = end
    while n_bytes - at >= form.head_bytes:
        chunk = next(
            (
                chunk
                for start in dict.fromkeys((aligned(at, form), at))
                if (chunk := chunk_at(file, form, start)) is not None
                and (chunk.end(n_bytes) <= n_bytes + 1 or is_known(chunk, form))
            ),
            None,
        )
        if chunk is None:
            break
        known = known or is_known(chunk, form)
        if chunk.name == form.sound:
            found.append((chunk.body + form.skipped, min(chunk.end(n_bytes), n_bytes)))
        at = chunk.end(n_bytes)
    if n_bytes - at < form.head_bytes or is_tag(file, at) or is_zero(file, at, n_bytes):
        return found, 0
    if known:
        return found, n_bytes - at
    if n_bytes - end < MIN_TAIL_SECONDS * bytes_per_second:
        return [], 0
    return [(end, n_bytes)], 0


def is_known(chunk: Chunk, form: Form) -> bool:
    return chunk.name == form.sound or chunk.name[:4] in KNOWN.replace(b"  ", b"   ").split(b" ")


def is_tag(file: BinaryIO, at: int) -> bool:
    return os.pread(file.fileno(), 8, at).startswith((b"TAG", b"ID3", b"APETAGEX", b"LYRICSBE"))


def is_zero(file: BinaryIO, at: int, end: int) -> bool:
    """Whether only zeros follow, which card readers and recorders pad with."""
    while at < end:
        block = os.pread(file.fileno(), min(BLOCK_BYTES, end - at), at)
        if not block or block.strip(b"\0"):
            return False
        at += len(block)
    return True


def byte_rate(file: BinaryIO, form: Form, heads: Sequence[Chunk]) -> float:
    """Bytes of sound in a second; 0 where the header does not say."""
    for chunk in heads:
        if chunk.name[:4] == b"fmt " and form in (WAV, W64):
            return float(struct.unpack("<I", os.pread(file.fileno(), 4, chunk.body + 8))[0])
        if chunk.name == b"COMM" and form is AIFF:
            body = os.pread(file.fileno(), 18, chunk.body)
            n_channels, _, bits, exponent, mantissa = struct.unpack(">HIHHQ", body)
            if not 16383 <= exponent < 16383 + 32:  # an 80-bit float; other rates are nonsense
                return 0.0
            return float(n_channels * -(-bits // 8) * mantissa * 2.0 ** (exponent - 16383 - 63))
        if chunk.name == b"desc" and form is CAF:
            body = os.pread(file.fileno(), 32, chunk.body)
            rate, _, _, packet_bytes, packet_frames = struct.unpack(">d4sIII", body[:24])
            if not 0 < rate < 1e9 or not packet_frames:
                return 0.0
            return float(rate * packet_bytes / packet_frames)
    return 0.0


def outer_size(head: bytes, form: Form) -> int | None:
    """The file size that the first bytes declare; None if it was not filled in."""
    if form is W64:
        size = int.from_bytes(head[16:24], "little")
    elif form is CAF:
        return None
    else:
        size = int.from_bytes(head[4:8], "little" if form is WAV else "big") + 8
    return None if size <= 8 or is_unfilled(size, form) else size


def repaired(file: BinaryIO, sound: Sound) -> BinaryIO:
    """A copy in memory with all sound in one chunk, whose size is filled in.

    Costs as much memory as the sound, so it is made only for files that ffmpeg cannot read whole.
    """
    form, first = sound.form, sound.heads[-1]
    begin = first.body + form.skipped
    header = bytearray(os.pread(file.fileno(), begin, 0))
    n_bytes = sound.n_bytes + form.skipped
    size = n_bytes + form.head_bytes if form.size_counts_head else n_bytes
    field = slice(first.start + form.name_bytes, first.body)
    byteorder = "little" if form.order == "<" else "big"
    if form.size_bytes == 4:
        size = min(size, 0xFFFFFFFF)
    header[field] = size.to_bytes(form.size_bytes, "little" if byteorder == "little" else "big")
    if sound.heads[0].name == b"ds64":
        at = sound.heads[0].body + 8
        header[at : at + 16] = struct.pack("<QQ", n_bytes, 0)  # and the number of samples: unknown
    if form is W64:
        header[16:24] = (begin + sound.n_bytes).to_bytes(8, "little")
    for chunk in sound.heads:
        if chunk.name == b"COMM":
            header[4:8] = min(begin + sound.n_bytes - 8, 0xFFFFFFFF).to_bytes(4, "big")
            n_channels, _, bits = struct.unpack_from(">HIH", header, chunk.body)
            n_frames = sound.n_bytes // max(1, n_channels * -(-bits // 8))
            struct.pack_into(">I", header, chunk.body + 2, min(n_frames, 0xFFFFFFFF))

    def parts() -> Iterator[bytes]:
        yield bytes(header)
        for start, end in sound.extents:
            while start < end:
                block = os.pread(file.fileno(), min(BLOCK_BYTES, end - start), start)
                if not block:
                    break
                yield block
                start += len(block)

    return memory_file(parts())
