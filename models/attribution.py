"""Words and turns to segments: who said which words.

Words go to exclusive turns one by one; then sentences that a boundary cuts a little too early or
too late are put right. A word is never lost, doubled or moved to another place.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

from models.diarisation.segmentation import SpeechRegion
from models.transcript import CLOSING, SENTENCE_ENDS, Segment, Turn, Word

MAX_GAP = 1.0  # s; a word this far from every turn has no speaker
MAX_SNAP = 1.0  # s; a boundary is late or early by a few words: docs/developer/experiments.md
MAX_WORDS = 50  # of a sentence, as whisper-diarization has it; more lack full stops
PAUSE = 2.0  # s without speech that end a segment
OTHERS_TURN = 1.0  # s of another's turn without words that end a segment all the same
PARAGRAPH = 60.0  # s, from which on a segment ends with the sentence
LONGEST = 2 * PARAGRAPH  # s; no segment is longer: some speech has no full stops

# What listeners say without taking the floor, in a few languages at once: a wrong match only means
# that a word stays where the turns put it.
BACK_CHANNELS = frozenset(
    "mm|mmm|mmmm|mhm|mhmm|mmhm|mmhmm|hm|hmm|hmhm|huh|uhhuh|uhuh|uh|um|ah|"
    "aha|oh|yeah|yes|yep|yup|no|nope|nah|okay|ok|right|"
    "sure|exactly|true|wow|really|i see|of course|got it|"  # English
    "ja|jo|nein|nee|genau|doch|stimmt|klar|ach|ach so|richtig|"  # German
    "oui|ouais|non|daccord|voilà|bon|si|"  # French
    "sí|claro|vale|ya|bueno|certo|già|sì|va bene|sim|não|pois|"  # Spanish, Italian, Portuguese
    "precies|nej|nei|tak|nie|да|нет|ага|угу|"  # Dutch, Nordic, Polish, Russian
    "はい|ええ|うん|そう|嗯|对|是|好|네|응".split("|")  # Japanese, Chinese, Korean
)


def attribute(
    words: Sequence[Word],
    exclusive_turns: Sequence[Turn],
    regions: Sequence[SpeechRegion],
    *,
    certain: bool = False,
) -> tuple[Segment, ...]:
    """Segments that hold every word once, in order.

    Args:
        words: in order.
        exclusive_turns: at most one speaker at a time.
        regions: speech, in order: pauses are measured there, since Whisper's words reach into them.
        certain: the turns are channels, and no sentence says better whose a word is.
    """
    turns = sorted(exclusive_turns, key=lambda turn: turn.start)
    speakers = by_turns(words, turns)
    if not certain:
        speakers = by_sentences(words, speakers)
    return segments_of(words, speakers, turns, regions)


def by_turns(words: Sequence[Word], turns: Sequence[Turn]) -> list[str | None]:
    """Whose turns cover most of each word; else the nearest within MAX_GAP, else None.

    Args:
        turns: by start.
    """
    starts = [turn.start for turn in turns]
    # The turn that reaches furthest up to each one: ends need not be in order where turns overlap.
    furthest = list(accumulate(turns, _further))
    reach = [turn.end for turn in furthest]

    def speaker(word: Word) -> str | None:
        first, after = bisect_right(reach, word.start), bisect_left(starts, word.end)
        shares: dict[str, float] = {}
        for turn in turns[first:after]:
            shared = min(word.end, turn.end) - max(word.start, turn.start)
            if shared > 0:
                shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared
        if shares:
            return max(shares, key=lambda speaker: shares[speaker])
        beside = [*furthest[max(0, first - 1) : first], *turns[first : after + 1]]
        nearest = min(beside, key=lambda turn: _gap(word, turn), default=None)
        return nearest.speaker if nearest and _gap(word, nearest) <= MAX_GAP else None

    return [speaker(word) for word in words]


def _further(a: Turn, b: Turn) -> Turn:
    return b if b.end > a.end else a


def _gap(word: Word, turn: Turn) -> float:
    return max(turn.start - word.end, word.start - turn.end, 0.0)


def by_sentences(words: Sequence[Word], speakers: Sequence[str | None]) -> list[str | None]:
    """A few words of a sentence that is mostly somebody else's go to them.

    Back-channels stay where they were said, also beside other words. Longer stretches stay too, and
    all of more than MAX_WORDS: Whisper leaves out full stops. A word without a speaker gets none.
    Source: whisper-diarization, `get_realigned_ws_mapping_with_punctuation`, which moves them all.
    """
    corrected = list(speakers)
    for start, end in sentences(words):
        counts = Counter(speakers[start:end])
        owner, n_words = counts.most_common(1)[0]
        is_most = 2 * n_words > end - start
        if owner is None or not is_most or end - start > MAX_WORDS:
            continue
        for i, j in _runs(speakers, start, end):
            foreign = speakers[i] not in (owner, None)
            is_short = words[j - 1].end - words[i].start <= MAX_SNAP
            if foreign and is_short and not is_back_channel(words[i:j]):
                for k in range(i, j):
                    if not is_back_channel(words[k : k + 1]):
                        corrected[k] = owner
    return corrected


def sentences(words: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """[start, end) of each; a pause of Whisper's ends one too."""
    start = 0
    for i, word in enumerate(words):
        last = i + 1 == len(words)
        if last or ends_sentence(word) or words[i + 1].start - word.end > PAUSE:
            yield start, i + 1
            start = i + 1


def _runs(speakers: Sequence[str | None], start: int, end: int) -> Iterator[tuple[int, int]]:
    """[start, end) of each stretch of one speaker."""
    for _, group in groupby(range(start, end), key=lambda i: speakers[i]):
        run = list(group)
        yield run[0], run[-1] + 1


def ends_sentence(word: Word) -> bool:
    return word.text.rstrip(CLOSING).endswith(SENTENCE_ENDS)


def is_back_channel(words: Sequence[Word]) -> bool:
    """Whether these words are only what a listener says."""
    bare = ["".join(c for c in word.text.lower() if c.isalnum()) for word in words]
    return " ".join(bare) in BACK_CHANNELS or all(word in BACK_CHANNELS for word in bare)


def segments_of(
    words: Sequence[Word],
    speakers: Sequence[str | None],
    turns: Sequence[Turn],
    regions: Sequence[SpeechRegion],
) -> tuple[Segment, ...]:
    """Consecutive words of one speaker; a segment also ends at a pause or as a paragraph."""
    pauses = _pause_centres(regions)
    others = _Turns(turns)
    segments = []
    start = 0
    for i in range(1, len(words) + 1):
        if (
            i == len(words)
            or speakers[i] != speakers[i - 1]
            or _is_paragraph(words[start], words[i - 1], words[i])
            or _pause_between(pauses, words[i - 1], words[i])
            or others.between(words[i - 1], words[i], speakers[i]) > OTHERS_TURN
        ):
            own = tuple(words[start:i])
            segments.append(
                Segment(speakers[start], own[0].start, max(word.end for word in own), own)
            )
            start = i
    return tuple(segments)


def _is_paragraph(first: Word, last: Word, after: Word) -> bool:
    too_long = after.end - first.start > LONGEST
    return too_long or (last.end - first.start > PARAGRAPH and ends_sentence(last))


def _pause_centres(regions: Sequence[SpeechRegion]) -> list[float]:
    edges = [time for region in regions for time in (region.start, region.end)]
    silences = zip(edges[1::2], edges[2::2], strict=False)
    return [(start + end) / 2 for start, end in silences if end - start > PAUSE]


def _pause_between(centres: Sequence[float], before: Word, after: Word) -> bool:
    """Whether one's centre lies between the middles of two words.

    Not between their ends: Whisper stretches words over the pause before or after them.
    """
    first = bisect_left(centres, (before.start + before.end) / 2)
    return first < len(centres) and centres[first] < (after.start + after.end) / 2


class _Turns:
    """Turns by start, to ask who spoke between two words."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.turns = turns
        self.reach = list(accumulate((turn.end for turn in turns), max))

    def between(self, before: Word, after: Word, speaker: str | None) -> float:
        """Seconds of the longest turn of anybody else."""
        longest = 0.0
        for i in range(bisect_right(self.reach, before.end), len(self.turns)):
            turn = self.turns[i]
            if turn.start >= after.start:
                break
            if turn.speaker != speaker:
                longest = max(longest, min(after.start, turn.end) - max(before.end, turn.start))
        return longest
