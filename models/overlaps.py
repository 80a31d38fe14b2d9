"""Finds where several people speak at once, and whose words are missing there.

Works on plain data and imports no models.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from models.transcript import Overlap, Segment, Turn

MIN_UNHEARD = 0.5  # s; in a shorter overlap a speaker may not have said a word


def find_overlaps(turns: Iterable[Turn], segments: Sequence[Segment] = ()) -> tuple[Overlap, ...]:
    """Find where two or more people speak at once, and whose words are missing there.

    Args:
        turns: the full turns.
        segments: hold the words, for `unheard`.
    """
    overlaps = list(_join(_find_stretches(turns)))
    words = sorted(
        (word.start, word.end, segment.speaker) for segment in segments for word in segment.words
    )
    if not words:
        return tuple(overlaps)
    reach = list(accumulate((end for _, end, _ in words), max))
    silent = [set(overlap.speakers) - _find_heard(overlap, words, reach) for overlap in overlaps]
    unheard = _keep_long(overlaps, silent)
    return tuple(
        replace(overlap, unheard=tuple(who for who in overlap.speakers if who in missing))
        for overlap, missing in zip(overlaps, unheard, strict=True)
    )


def _find_stretches(turns: Iterable[Turn]) -> Iterator[Overlap]:
    """Yield the stretches with two or more speakers, split wherever the speakers change."""
    changes: dict[float, Counter[str]] = {}
    for turn in turns:
        if turn.end > turn.start:
            changes.setdefault(turn.start, Counter())[turn.speaker] += 1
            changes.setdefault(turn.end, Counter())[turn.speaker] -= 1
    speaking: Counter[str] = Counter()
    for start, end in pairwise(sorted(changes)):
        speaking.update(changes[start])
        now = tuple(sorted(speaker for speaker, n in speaking.items() if n > 0))
        if len(now) > 1:
            yield Overlap(start, end, now)


def _join(stretches: Iterable[Overlap]) -> Iterator[Overlap]:
    """Join neighbours with the same speakers."""
    current: Overlap | None = None
    for stretch in stretches:
        if current and current.end == stretch.start and current.speakers == stretch.speakers:
            current = Overlap(current.start, stretch.end, current.speakers)
            continue
        if current:
            yield current
        current = stretch
    if current:
        yield current


def _find_heard(
    overlap: Overlap, words: Sequence[tuple[float, float, str | None]], reach: Sequence[float]
) -> set[str | None]:
    """Return the speakers who have words in the overlap.

    Args:
        words: start, end and speaker of each, by start.
        reach: for each word, the latest end up to it.
    """
    heard = set()
    for i in range(bisect_right(reach, overlap.start), len(words)):
        start, end, speaker = words[i]
        if start >= overlap.end:
            break
        if end > overlap.start:
            heard.add(speaker)
    return heard


def _keep_long(overlaps: Sequence[Overlap], silent: Sequence[set[str]]) -> list[set[str]]:
    """Keep the silent speakers who are silent for at least MIN_UNHEARD.

    Adjoining overlaps count together: a third voice splits an overlap of two, but the one who is
    missing in it is still missing.
    """
    unheard: list[set[str]] = [set() for _ in overlaps]
    for speaker in set().union(*silent):
        since = reached = -1.0
        waiting: list[int] = []  # overlaps that are too short so far
        for i, overlap in enumerate(overlaps):
            if speaker not in silent[i]:
                continue
            if overlap.start != reached:
                since, waiting = overlap.start, []
            reached = overlap.end
            waiting.append(i)
            if reached - since >= MIN_UNHEARD:
                for piece in waiting:
                    unheard[piece].add(speaker)
                waiting = []
    return unheard
