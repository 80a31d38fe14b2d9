"""Words and turns to segments: who said which words."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from models.transcript import Overlap, Segment, Turn, Word

MAX_GAP = 1.0  # s; a word this far from every turn has no speaker
PAUSE = 2.0  # s of silence that end a segment
PARAGRAPH = 60.0  # s, from which on a segment ends with the sentence
SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")


def attribute(words: Sequence[Word], exclusive_turns: Sequence[Turn]) -> tuple[Segment, ...]:
    """Each word goes to the speaker whose turns cover most of it, else to the nearest within 1 s.

    No word is lost, doubled or reordered.

    Args:
        words: in order.
        exclusive_turns: at most one speaker at a time.
    """
    turns = sorted(exclusive_turns, key=lambda turn: turn.start)
    speakers = [speaker_of(word, turns) for word in words]
    segments = []
    start = 0
    for end in range(1, len(words) + 1):
        if end == len(words) or _breaks(words, speakers, start, end):
            own = tuple(words[start:end])
            last = max(word.end for word in own)
            segments.append(Segment(speakers[start], own[0].start, last, own))
            start = end
    return tuple(segments)


def speaker_of(word: Word, turns: Sequence[Turn]) -> str | None:
    shares: dict[str, float] = {}
    for turn in turns:
        shared = min(word.end, turn.end) - max(word.start, turn.start)
        if shared > 0:
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared
    if shares:
        return max(shares, key=lambda speaker: shares[speaker])
    nearest = min(turns, key=lambda turn: _gap(word, turn), default=None)
    if nearest is None or _gap(word, nearest) > MAX_GAP:
        return None
    return nearest.speaker


def _gap(word: Word, turn: Turn) -> float:
    return max(turn.start - word.end, word.start - turn.end, 0.0)


def _breaks(words: Sequence[Word], speakers: Sequence[str | None], start: int, i: int) -> bool:
    """Whether the segment that began at `start` ends before word i."""
    before, word = words[i - 1], words[i]
    ends_sentence = before.text.endswith(SENTENCE_ENDS)
    return (
        speakers[i] != speakers[i - 1]
        or word.start - before.end > PAUSE
        or (before.end - words[start].start > PARAGRAPH and ends_sentence)
    )


def overlaps(turns: Iterable[Turn]) -> tuple[Overlap, ...]:
    """Where two or more speak at once, and who."""
    turns = list(turns)
    times = sorted({time for turn in turns for time in (turn.start, turn.end)})
    return tuple(_joined(_stretches(turns, times)))


def _stretches(turns: Sequence[Turn], times: Sequence[float]) -> Iterator[Overlap]:
    for start, end in pairwise(times):
        speaking = {turn.speaker for turn in turns if turn.start < end and turn.end > start}
        if len(speaking) > 1:
            yield Overlap(start, end, tuple(sorted(speaking)))


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
