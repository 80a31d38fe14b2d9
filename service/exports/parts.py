"""The part of a session's transcript that belongs to each of its recordings."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TypeVar

from models.transcript import Flag, Overlap, Segment, Source, Transcript, Turn, Word

Timed = TypeVar("Timed", Segment, Word)
Span = TypeVar("Span", Turn, Overlap, Flag)
TOLERANCE = 0.05  # s by which consecutive recordings may overlap, because times are rounded


def are_parallel(sources: Sequence[Source]) -> bool:
    """Return whether the recordings were made at the same time, one per speaker (`--parallel`)."""
    return any(a.start + a.duration > b.start + TOLERANCE for a, b in pairwise(sources))


def split_by_recording(transcript: Transcript) -> tuple[Transcript, ...]:
    """One transcript for each recording, with times from the start of that recording.

    A word belongs to the recording in which it starts. The recordings must not be parallel.
    """
    starts = [source.start for source in transcript.sources]

    def number_of(time: float) -> int:
        return max(bisect_right(starts, time) - 1, 0)

    pieces = [piece for each in transcript.segments for piece in _split(each, number_of)]
    parts = []
    for number, source in enumerate(transcript.sources):
        begin, end = source.start, source.start + source.duration
        parts.append(
            replace(
                transcript,
                duration=source.duration,
                sources=(replace(source, start=0.0),),
                segments=tuple(_move_segment(each, begin) for at, each in pieces if at == number),
                turns=tuple(_cut(transcript.turns, begin, end)),
                overlaps=tuple(_cut(transcript.overlaps, begin, end)),
                flags=tuple(_cut(transcript.flags, begin, end)),
            )
        )
    return tuple(parts)


def _split(segment: Segment, number_of: Callable[[float], int]) -> Iterator[tuple[int, Segment]]:
    """Yield the pieces of a segment with the numbers of their recordings."""
    if number_of(segment.start) == number_of(segment.end) or not segment.words:
        yield number_of(segment.start), segment
        return
    for number, group in groupby(segment.words, key=lambda word: number_of(word.start)):
        words = tuple(group)
        yield number, replace(segment, start=words[0].start, end=words[-1].end, words=words)


def _move_segment(segment: Segment, begin: float) -> Segment:
    words = tuple(_move(word, begin) for word in segment.words)
    return replace(_move(segment, begin), words=words)


def _move(each: Timed, begin: float) -> Timed:
    return replace(each, start=max(each.start - begin, 0.0), end=max(each.end - begin, 0.0))


def _cut(spans: Iterable[Span], begin: float, end: float) -> Iterator[Span]:
    """Yield what lies between two times, with times from the first of them."""
    for each in spans:
        if each.start < end and each.end > begin:
            start, stop = max(each.start, begin) - begin, min(each.end, end) - begin
            yield replace(each, start=start, end=stop)
