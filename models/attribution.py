"""Attributes words to speakers and joins them into segments.

Each word goes to an exclusive turn. Sentences that a turn's boundary cuts slightly too early or too
late are then corrected, and so are phrases in which another speaker's voice is heard. Words that
are written as one, such as the two of `peer-led`, stay together. No word is ever lost, doubled or
moved.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

from models.diarisation.segmentation import SpeechRegion
from models.transcript import (
    CLOSING,
    SENTENCE_ENDS,
    Segment,
    Turn,
    Word,
    is_continued,
    join_continued,
    mean_probability,
)

MAX_GAP = 1.0  # s; a word further than this from every turn has no speaker
MAX_SNAP = 1.0  # s; boundaries are off by a few words: docs/developer/experiments.md
MAX_WORDS = 50  # in a sentence, as in whisper-diarization; longer ones lack full stops
PAUSE = 2.0  # s without speech that end a segment
OTHERS_TURN = 1.0  # s of another speaker's turn that end a segment, even without words
PARAGRAPH = 60.0  # s, after which a segment ends with the sentence
LONGEST = 2 * PARAGRAPH  # s; the longest segment, because some speech has no full stops
BREATH = 0.3  # s; a longer pause ends a phrase
MIN_CHECKED = 0.1  # s; in a shorter phrase no voice can be recognised
EDGE = 0.1  # s beside a phrase, as far as there is a pause: words are timed too tightly
PHRASE_ENDS = (*SENTENCE_ENDS, ",", ";", ":", "，", "、", "；", "،")

# Words that listeners say without taking the floor, in several languages at once: a false match
# only means that a word stays with the speaker of its turn.
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


@dataclass(frozen=True)
class Phrase:
    """Words of one speaker without punctuation or a pause inside.

    `is_alone`: it is a whole sentence between pauses. Nothing but its turn says whose it is.
    """

    start: float  # with EDGE before the first word
    end: float  # with EDGE after the last one
    speaker: str
    is_alone: bool


RecogniseSpeakers = Callable[[Sequence[Phrase]], Sequence[str]]
"""Returns the speakers whose voices are heard in phrases, which are in order."""


def attribute(
    words: Sequence[Word],
    exclusive_turns: Sequence[Turn],
    regions: Sequence[SpeechRegion],
    *,
    certain: bool = False,
    recognise: RecogniseSpeakers | None = None,
) -> tuple[Segment, ...]:
    """Return segments that hold every word once, in order.

    Args:
        words: in order.
        exclusive_turns: at most one speaker at a time.
        regions: speech, in order. Pauses are measured between them, because Whisper's words reach
            into pauses.
        certain: the turns come from channels, so that nothing is needed to correct them.
        recognise: compares phrases with the speakers' voices; None if there are no voices.
    """
    turns = sorted(exclusive_turns, key=lambda turn: turn.start)
    if certain:
        return build_segments(words, attribute_by_turns(words, turns), turns, regions)
    groups = join_continued(words)
    joined = [_join(group) for group in groups]
    speakers = correct_by_sentences(joined, attribute_by_turns(joined, turns))
    if recognise:
        speakers = correct_by_voices(joined, speakers, recognise)
    repeated = [speaker for group, speaker in zip(groups, speakers, strict=True) for _ in group]
    return build_segments(words, repeated, turns, regions)


def _join(words: Sequence[Word]) -> Word:
    if len(words) == 1:
        return words[0]
    return Word(
        "".join(word.text for word in words),
        words[0].start,
        max(word.end for word in words),
        mean_probability(words),
    )


def attribute_by_turns(words: Sequence[Word], turns: Sequence[Turn]) -> list[str | None]:
    """Return each word's speaker: whose turns cover most of it, else the nearest within MAX_GAP.

    Args:
        turns: by start.
    """
    starts = [turn.start for turn in turns]
    # The turn with the latest end so far, since the ends of overlapping turns may not be in order.
    furthest = list(accumulate(turns, _later_end))
    reach = [turn.end for turn in furthest]

    def find_speaker(word: Word) -> str | None:
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

    return [find_speaker(word) for word in words]


def _later_end(a: Turn, b: Turn) -> Turn:
    return b if b.end > a.end else a


def _gap(word: Word, turn: Turn) -> float:
    return max(turn.start - word.end, word.start - turn.end, 0.0)


def correct_by_sentences(words: Sequence[Word], speakers: Sequence[str | None]) -> list[str | None]:
    """Reattribute a few words to the speaker who says most of their sentence.

    Back-channels keep their speaker, even beside other words. So do stretches longer than MAX_SNAP,
    and sentences of more than MAX_WORDS, because Whisper leaves out full stops. Words without a
    speaker stay without one.

    Source: whisper-diarization, `get_realigned_ws_mapping_with_punctuation`, which moves them all.
    """
    corrected = list(speakers)
    for start, end in split_sentences(words):
        counts = Counter(speakers[start:end])
        owner, n_words = counts.most_common(1)[0]
        is_most = 2 * n_words > end - start
        if owner is None or not is_most or end - start > MAX_WORDS:
            continue
        for i, j in _split_by_speaker(speakers, start, end):
            foreign = speakers[i] not in (owner, None)
            is_short = words[j - 1].end - words[i].start <= MAX_SNAP
            if foreign and is_short and not is_back_channel(words[i:j]):
                for k in range(i, j):
                    if not is_back_channel(words[k : k + 1]):
                        corrected[k] = owner
    return corrected


def split_sentences(words: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """Yield the [start, end) of each sentence; a pause between words also ends one."""
    start = 0
    for i, word in enumerate(words):
        last = i + 1 == len(words)
        if last or ends_sentence(word) or words[i + 1].start - word.end > PAUSE:
            yield start, i + 1
            start = i + 1


def _split_by_speaker(
    speakers: Sequence[str | None], start: int, end: int
) -> Iterator[tuple[int, int]]:
    """Yield the [start, end) of each stretch of one speaker."""
    for _, group in groupby(range(start, end), key=lambda i: speakers[i]):
        run = list(group)
        yield run[0], run[-1] + 1


def correct_by_voices(
    words: Sequence[Word], speakers: Sequence[str | None], recognise: RecogniseSpeakers
) -> list[str | None]:
    """Reattribute the phrases in which another speaker's voice is heard."""
    corrected = list(speakers)
    found = list(find_phrases(words, speakers))
    recognised = recognise([phrase for _, _, phrase in found])
    for (first, after, _), speaker in zip(found, recognised, strict=True):
        corrected[first:after] = [speaker] * (after - first)
    return corrected


def find_phrases(
    words: Sequence[Word], speakers: Sequence[str | None]
) -> Iterator[tuple[int, int, Phrase]]:
    """Yield the phrases of at least MIN_CHECKED, with the [first, after) of their words."""
    pauses = [after.start - before.end for before, after in pairwise(words)]
    pauses = [math.inf, *pauses, math.inf]  # before each word, and after the last one
    first = 0
    for after in range(1, len(words) + 1):
        is_last = after == len(words)
        ended = words[after - 1].text.rstrip(CLOSING).endswith(PHRASE_ENDS)
        if not (is_last or ended or pauses[after] > BREATH or speakers[after] != speakers[first]):
            continue
        begin, end, speaker = words[first].start, words[after - 1].end, speakers[first]
        if speaker is not None and end - begin >= MIN_CHECKED:
            is_sentence = ends_sentence(words[after - 1]) and (
                first == 0 or ends_sentence(words[first - 1])
            )
            beside = pauses[first], pauses[after]
            edges = [min(EDGE, max(pause / 2, 0.0)) for pause in beside]
            yield (
                first,
                after,
                Phrase(
                    max(begin - edges[0], 0.0),
                    end + edges[1],
                    speaker,
                    is_alone=is_sentence and min(beside) > BREATH,
                ),
            )
        first = after


def ends_sentence(word: Word) -> bool:
    return word.text.rstrip(CLOSING).endswith(SENTENCE_ENDS)


def is_back_channel(words: Sequence[Word]) -> bool:
    """Return whether these words are only back-channels."""
    bare = ["".join(c for c in word.text.lower() if c.isalnum()) for word in words]
    return " ".join(bare) in BACK_CHANNELS or all(word in BACK_CHANNELS for word in bare)


def build_segments(
    words: Sequence[Word],
    speakers: Sequence[str | None],
    turns: Sequence[Turn],
    regions: Sequence[SpeechRegion],
) -> tuple[Segment, ...]:
    """Join consecutive words of one speaker; long pauses and paragraphs also end a segment."""
    pauses = _pause_centres(regions)
    turn_index = _TurnIndex(turns)
    segments = []
    start = 0
    for i in range(1, len(words) + 1):
        if (
            i < len(words)
            and speakers[i] == speakers[i - 1]
            and is_continued(*words[i - 1 : i + 1])
        ):
            continue
        if (
            i == len(words)
            or speakers[i] != speakers[i - 1]
            or _ends_paragraph(words[start], words[i - 1], words[i])
            or _has_pause_between(pauses, words[i - 1], words[i])
            or turn_index.longest_other(words[i - 1], words[i], speakers[i]) > OTHERS_TURN
        ):
            own = tuple(words[start:i])
            segments.append(
                Segment(speakers[start], own[0].start, max(word.end for word in own), own)
            )
            start = i
    return tuple(segments)


def _ends_paragraph(first: Word, last: Word, after: Word) -> bool:
    too_long = after.end - first.start > LONGEST
    return too_long or (last.end - first.start > PARAGRAPH and ends_sentence(last))


def _pause_centres(regions: Sequence[SpeechRegion]) -> list[float]:
    edges = [time for region in regions for time in (region.start, region.end)]
    silences = zip(edges[1::2], edges[2::2], strict=False)
    return [(start + end) / 2 for start, end in silences if end - start > PAUSE]


def _has_pause_between(centres: Sequence[float], before: Word, after: Word) -> bool:
    """Return whether the centre of a pause lies between the middles of two words.

    Their ends would not do: Whisper stretches words over the pause before or after them.
    """
    first = bisect_left(centres, (before.start + before.end) / 2)
    return first < len(centres) and centres[first] < (after.start + after.end) / 2


class _TurnIndex:
    """Turns by start, for finding who speaks between two words."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.turns = turns
        self.reach = list(accumulate((turn.end for turn in turns), max))

    def longest_other(self, before: Word, after: Word, speaker: str | None) -> float:
        """Return the seconds of the longest turn between two words by anyone but `speaker`."""
        longest = 0.0
        for i in range(bisect_right(self.reach, before.end), len(self.turns)):
            turn = self.turns[i]
            if turn.start >= after.start:
                break
            if turn.speaker != speaker:
                longest = max(longest, min(after.start, turn.end) - max(before.end, turn.start))
        return longest
