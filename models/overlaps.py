"""Where several people speak at once: who, and whose words are missing. No more than plain data."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from models.transcript import Overlap, Segment, Turn

UNHEARD = 0.5  # s; in a shorter overlap a second voice need not have said a word


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
    reach = list(accumulate((end for _, end, _ in said), max))
    return tuple(_with_unheard(overlap, said, reach) for overlap in found)


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


def _with_unheard(
    overlap: Overlap, said: Sequence[tuple[float, float, str | None]], reach: Sequence[float]
) -> Overlap:
    if overlap.end - overlap.start < UNHEARD or not said:
        return overlap
    heard = set()
    for i in range(bisect_right(reach, overlap.start), len(said)):
        start, end, speaker = said[i]
        if start >= overlap.end:
            break
        if end > overlap.start:
            heard.add(speaker)
    missing = tuple(speaker for speaker in overlap.speakers if speaker not in heard)
    return replace(overlap, unheard=missing)
