"""When the sound of an AVI starts, which ffprobe does not report."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from models.audio.headers import file_size, read_at

MAX_CHUNKS = 100_000  # of sound and pictures, before the first sound


@dataclass(frozen=True)
class AviStream:
    kind: bytes  # `auds`, `vids`
    start: float  # s, as declared
    unit: float  # s of one picture
    length: int  # in units


@dataclass(frozen=True)
class AviStart:
    """
    `declared`: seconds. `beside`: the second of the pictures beside which the first sound is
    stored; None if pictures and sound are not stored side by side.
    """

    declared: float
    beside: float | None


def read_avi_starts(file: BinaryIO) -> dict[int, AviStart]:
    """The start of each stream of sound, by the stream's number."""
    streams: list[AviStream] = []
    first: dict[int, int] = {}  # pictures before the first sound, by stream
    n_pictures = 0
    for name, body in _chunks(file):
        if name == b"strh":
            head = read_at(file, body, 36).ljust(36, b"\0")
            scale, rate, start, length = struct.unpack_from("<IIII", head, 20)
            unit = scale / max(rate, 1)
            streams.append(AviStream(head[:4], start * unit, unit, length))
        elif name[:2].isdigit():
            number = int(name[:2])
            if name[2:] == b"wb":
                first.setdefault(number, n_pictures)
            elif name[2:] in (b"dc", b"db"):
                n_pictures += 1
        sounds = {i for i, stream in enumerate(streams) if stream.kind == b"auds"}
        if sounds and sounds <= first.keys():
            break
    pictures = next((stream for stream in streams if stream.kind == b"vids"), None)
    starts = {}
    for i, stream in enumerate(streams):
        if stream.kind == b"auds":
            n = first.get(i)
            is_beside = pictures is not None and n is not None and n < 0.9 * pictures.length
            beside = n * pictures.unit if pictures and n is not None and is_beside else None
            starts[i] = AviStart(stream.start, beside)
    return starts


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The name and the body's position of each chunk, from the start of the file."""
    at, end = 12, file_size(file)
    for _ in range(MAX_CHUNKS):
        head = read_at(file, at, 12)
        if at + 8 > end or len(head) < 8:
            return
        name, size = head[:4], int.from_bytes(head[4:8], "little")
        if name == b"LIST":
            if head[8:12] in (b"hdrl", b"strl", b"movi", b"rec "):
                at += 12  # into the list
                continue
        else:
            yield name, at + 8
        at += 8 + size + size % 2
