"""Breaks in an AMR file, whose frames have neither numbers nor timestamps.

A frame's first byte tells its size, so after missing bytes the next frame begins in the wrong place
and everything decodes to noise. What is between two runs of good frames is replaced by frames
without data, so that what follows decodes, and keeps its time if the bytes are still there.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from models.audio.memory_file import memory_file, private_map

FRAME_SECONDS = 0.02
# Bytes of a frame by its type, its first byte included; types 14 and 15 hold no data.
# Source: 3GPP TS 26.101 and 26.201, RFC 4867, 5.3.
NARROW_BAND = {0: 13, 1: 14, 2: 16, 3: 18, 4: 20, 5: 21, 6: 27, 7: 32, 8: 6, 15: 1}
WIDE_BAND = {0: 18, 1: 24, 2: 33, 3: 37, 4: 41, 5: 47, 6: 51, 7: 59, 8: 61, 9: 6, 14: 1, 15: 1}
KINDS = {b"#!AMR\n": NARROW_BAND, b"#!AMR-WB\n": WIDE_BAND}
NO_DATA = b"\x7c"  # a frame of type 15
GOOD_RUN = 10  # frames after a break that must follow one another
MAX_FRAMES = 4_500_000  # of more than a day, which is refused
MAX_BROKEN = 1 << 20  # bytes; a file with more is not repaired


@dataclass(frozen=True)
class AmrBreak:
    """Bytes [start, end) that are not frames, after `n_before` frames of the file."""

    start: int
    end: int
    n_before: int


@dataclass(frozen=True)
class AmrDamage:
    """`lost`: start and length of each place in seconds; `joints`: where an unknown length may be
    missing."""

    lost: tuple[tuple[float, float], ...] = ()
    joints: tuple[float, ...] = ()


def is_amr(head: bytes) -> bool:
    """Whether a file begins like an AMR file with one channel."""
    return head.startswith(tuple(KINDS))


@contextmanager
def repaired_amr(file: BinaryIO, head: bytes) -> Iterator[tuple[BinaryIO, AmrDamage]]:
    """The recording, or a copy in memory in which breaks are frames without data."""
    magic = next(magic for magic in KINDS if head.startswith(magic))
    with private_map(file) as content:
        breaks, n_frames = find_breaks(content, len(magic), KINDS[magic])
        n_good = len(content) - len(magic) - sum(each.end - each.start for each in breaks)
        if not breaks or not n_frames:
            yield file, AmrDamage()
            return
        lost, joints, parts = [], [], [content[: len(magic)]]
        n_added, position = 0, len(magic)
        for each in breaks:
            n_missing = round((each.end - each.start) * n_frames / n_good)
            time = (each.n_before + n_added) * FRAME_SECONDS
            if n_missing > 1:
                lost.append((round(time, 2), round(n_missing * FRAME_SECONDS, 2)))
            else:
                joints.append(round(time, 2))
            parts += [content[position : each.start], n_missing * NO_DATA]
            n_added, position = n_added + n_missing, each.end
        parts.append(content[position:])
    with memory_file(parts) as copy:
        yield copy, AmrDamage(tuple(lost), tuple(joints))


def find_breaks(
    content: mmap.mmap | bytes, begin: int, sizes: dict[int, int]
) -> tuple[list[AmrBreak], int]:
    """Return the breaks and the number of good frames: none if MAX_BROKEN is exceeded.

    Args:
        begin: of the first frame.
        sizes: bytes by frame type.
    """
    table = [_frame_size(byte, sizes) for byte in range(256)]
    position, n_frames, n_broken, breaks = begin, 0, 0, list[AmrBreak]()
    while position < len(content) and n_frames < MAX_FRAMES:
        size = table[content[position]]
        if size:
            position, n_frames = position + size, n_frames + 1
            continue
        again = position + 1
        while again < len(content) and not _is_good_run(content, again, table):
            again, n_broken = again + 1, n_broken + 1
            if n_broken > MAX_BROKEN:
                return [], 0
        breaks.append(AmrBreak(position, again, n_frames))
        position = again
    return breaks, n_frames


def _frame_size(first_byte: int, sizes: dict[int, int]) -> int:
    """0 if no frame begins with this byte: padding bits are set, or it is marked as damaged."""
    kind, is_intact = first_byte >> 3 & 15, first_byte & 4
    if first_byte & 0x83 or not (is_intact or sizes.get(kind, 0) == 1):
        return 0
    return sizes.get(kind, 0)


def _is_good_run(content: mmap.mmap | bytes, position: int, table: list[int]) -> bool:
    for _ in range(GOOD_RUN):
        if position >= len(content):
            return True
        size = table[content[position]]
        if not size:
            return False
        position += size
    return True
