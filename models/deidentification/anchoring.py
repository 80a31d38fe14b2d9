"""Carries spans from one version of a transcript to another.

A span whose words are unchanged keeps its place, even if its segment was split, joined to another,
or corrected elsewhere. All other spans are reported as changed or deleted.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from models.retiming import UNSPACED, match_keys
from models.transcript import Transcript

WORD = re.compile(rf"{UNSPACED.pattern}|[^\W_]+")
# Limits within which a span counts as replaced, and its passage not as rewritten:
MAX_GROWTH = 4  # words that may replace each word of it
MAX_NEIGHBOURS = 2  # other words that were replaced together with it


@dataclass(frozen=True, order=True)
class Place:
    """Characters [start, stop) of one segment's text."""

    segment: str
    start: int
    stop: int


@dataclass(frozen=True)
class Carried:
    """The new position of a span.

    `places`: one, or several if the segment was split within the span; none if it was deleted.
    `is_changed`: the words of the span were changed or deleted.
    """

    places: tuple[Place, ...]
    is_changed: bool


@dataclass(frozen=True)
class _Token:
    text: str
    segment: int
    start: int
    stop: int


class Anchors:
    """The words that two versions of a transcript have in common."""

    def __init__(self, old: Transcript, new: Transcript) -> None:
        self._old = [(segment.id, segment.text) for segment in old.segments]
        self._new = [(segment.id, segment.text) for segment in new.segments]
        self._index = {id: i for i, (id, _) in enumerate(self._old)}
        self._unmoved: set[int] = set()  # indices of old segments that are the same in both
        self._a: list[_Token] = []
        self._b: list[_Token] = []
        self._match: dict[int, int] = {}  # index in _a: index in _b
        self._blocks: list[tuple[int, int, int, int]] = []  # passages that differ, in _a and _b
        self._texts = dict(self._new)
        same = SequenceMatcher(None, self._old, self._new, autojunk=False)
        for tag, i1, i2, j1, j2 in same.get_opcodes():
            if tag == "equal":
                self._unmoved.update(range(i1, i2))
                continue
            a, b = _tokens(self._old, i1, i2), _tokens(self._new, j1, j2)
            pairs = match_keys([token.text for token in a], [token.text for token in b])
            self._match |= {len(self._a) + i: len(self._b) + j for i, j in pairs}
            sizes = len(self._a), len(self._b)
            self._a += a
            self._b += b
            self._blocks.append((sizes[0], len(self._a), sizes[1], len(self._b)))
        self._starts = [(token.segment, token.start) for token in self._a]
        self._stops = [(token.segment, token.stop) for token in self._a]

    def carry(self, place: Place) -> Carried:
        """
        Raises:
            KeyError: the old version has no such segment.
        """
        i = self._index[place.segment]
        if i in self._unmoved:
            return Carried((place,), False)
        first = bisect_right(self._stops, (i, place.start))
        last = bisect_left(self._starts, (i, place.stop))  # exclusive
        if first >= last:
            return Carried((), True)  # punctuation only
        found = [self._match.get(k) for k in range(first, last)]
        matched = [k for k in found if k is not None]
        if len(matched) == len(found) and matched[-1] - matched[0] == len(found) - 1:
            return Carried(tuple(self._same_words(place, first, last)), False)
        return Carried(tuple(self._replaced(first, last)), True)

    def new_places(self) -> list[Place]:
        """The words of the new version that the old one does not have."""
        known = set(self._match.values())
        return list(self._join((k, k + 1) for k in range(len(self._b)) if k not in known))

    def _same_words(self, place: Place, first: int, last: int) -> list[Place]:
        """The place of unchanged words, with the punctuation at its ends if that is unchanged."""
        head, tail = self._a[first], self._a[last - 1]
        new_head, new_tail = self._b[self._match[first]], self._b[self._match[last - 1]]
        pieces = list(self._join([(self._match[first], self._match[last - 1] + 1)]))
        old_text = self._old[head.segment][1]
        start = new_head.start + place.start - head.start
        text = self._texts[pieces[0].segment]
        if start >= 0 and text[start : new_head.start] == old_text[place.start : head.start]:
            pieces[0] = Place(pieces[0].segment, start, pieces[0].stop)
        stop = new_tail.stop + place.stop - tail.stop
        text = self._texts[pieces[-1].segment]
        if text[new_tail.stop : stop] == old_text[tail.stop : place.stop]:
            pieces[-1] = Place(pieces[-1].segment, pieces[-1].start, stop)
        return pieces

    def _replaced(self, first: int, last: int) -> Iterable[Place]:
        """The new words between the unchanged words around a span."""
        a_start, a_stop, start, stop = next(
            block for block in self._blocks if block[0] <= first < block[1]
        )
        before, after = a_start - 1, a_stop
        for k in range(first - 1, a_start - 1, -1):
            if k in self._match:
                before, start = k, self._match[k] + 1
                break
        for k in range(last, a_stop):
            if k in self._match:
                after, stop = k, self._match[k]
                break
        n = last - first
        if stop - start > MAX_GROWTH * n or after - before - 1 - n > MAX_NEIGHBOURS:
            kept = [self._match[k] for k in range(first, last) if k in self._match]
            return self._join((k, k + 1) for k in kept)
        return self._join([(start, stop)])

    def _join(self, runs: Iterable[tuple[int, int]]) -> Iterable[Place]:
        """Places of runs [start, stop) of new tokens, one for each stretch within a segment."""
        open_: tuple[int, int, int, int] | None = None  # segment, start, stop, next token
        for start, stop in runs:
            for k in range(start, stop):
                token = self._b[k]
                if open_ and open_[0] == token.segment and open_[3] == k:
                    open_ = (token.segment, open_[1], token.stop, k + 1)
                    continue
                if open_:
                    yield Place(self._new[open_[0]][0], open_[1], open_[2])
                open_ = (token.segment, token.start, token.stop, k + 1)
        if open_:
            yield Place(self._new[open_[0]][0], open_[1], open_[2])


def _tokens(segments: Sequence[tuple[str, str]], start: int, stop: int) -> list[_Token]:
    return [
        _Token(match[0], i, match.start(), match.end())
        for i in range(start, stop)
        for match in WORD.finditer(segments[i][1])
    ]
