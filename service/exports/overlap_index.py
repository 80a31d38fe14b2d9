"""Finds the overlaps at a time without searching all of them for every segment or cue."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from models.transcript import Overlap


class OverlapIndex:
    def __init__(self, overlaps: Sequence[Overlap]) -> None:
        self._by_start = sorted(overlaps, key=lambda overlap: overlap.start)
        self._starts = [overlap.start for overlap in self._by_start]
        self._reach = list(accumulate((overlap.end for overlap in self._by_start), max))
        self._by_middle = sorted(overlaps, key=_middle)
        self._middles = [_middle(overlap) for overlap in self._by_middle]

    def during(self, start: float, end: float) -> list[Overlap]:
        """Overlaps that intersect [start, end)."""
        last = bisect_left(self._starts, end)
        first = bisect_right(self._reach, start, hi=last)  # all before it end before `start`
        return [overlap for overlap in self._by_start[first:last] if overlap.end > start]

    def centred(self, start: float, end: float) -> list[Overlap]:
        """Overlaps whose middle lies in [start, end)."""
        return self._by_middle[bisect_left(self._middles, start) : bisect_left(self._middles, end)]


def _middle(overlap: Overlap) -> float:
    return (overlap.start + overlap.end) / 2
