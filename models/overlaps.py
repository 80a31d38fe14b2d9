"""Where several people speak at once: who, and whose words are missing. No more than plain data."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from models.transcript import Overlap, Segment, Turn

UNHEARD = 0.5  # s; who speaks for less beside others need not have said a word


def overlaps(turns: Iterable[Turn], segments: Sequence[Segment] = ()) -> tuple[Overlap, ...]:
    """Where two or more speak at once, who, and whose words are missing there.

    Args:
        turns: in full.
        segments: the words, for `unheard`.
    """
    found = list(_joined(_stretches(turns)))
    said = sorted(
        (word.start, word.end, segment.speaker) for segment in segments for word in segment.words
    )
    if not said:
        return tuple(found)
    reach = list(accumulate((end for _, end, _ in said), max))
    silent = [set(overlap.speakers) - _heard(overlap, said, reach) for overlap in found]
    unheard = _long_enough(found, silent)
    return tuple(
        replace(overlap, unheard=tuple(who for who in overlap.speakers if who in missing))
        for overlap, missing in zip(found, unheard, strict=True)
    )


def _stretches(turns: Iterable[Turn]) -> Iterator[Overlap]:
    """Between each change of who speaks and the next."""
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


def _joined(stretches: Iterable[Overlap]) -> Iterator[Overlap]:
    """Neighbours with the same speakers become one."""
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


def _heard(
    overlap: Overlap, said: Sequence[tuple[float, float, str | None]], reach: Sequence[float]
) -> set[str | None]:
    """Whose words are in it."""
    heard = set()
    for i in range(bisect_right(reach, overlap.start), len(said)):
        start, end, speaker = said[i]
        if start >= overlap.end:
            break
        if end > overlap.start:
            heard.add(speaker)
    return heard


def _long_enough(found: Sequence[Overlap], silent: Sequence[set[str]]) -> list[set[str]]:
    """Who of the silent ones is so for UNHEARD, over as many overlaps as adjoin each other.

    A third voice cuts an overlap into pieces, and the second one is no less missing for it.
    """
    unheard: list[set[str]] = [set() for _ in found]
    for speaker in set().union(*silent):
        since = reached = -1.0
        waiting: list[int] = []  # for the half second to be full
        for i, overlap in enumerate(found):
            if speaker not in silent[i]:
                continue
            if overlap.start != reached:
                since, waiting = overlap.start, []
            reached = overlap.end
            waiting.append(i)
            if reached - since >= UNHEARD:
                for piece in waiting:
                    unheard[piece].add(speaker)
                waiting = []
    return unheard
