"""The round trip: passages are spoken, transcribed, de-identified and masked, then compared.

Recognised text differs from what was said, so an identifier is looked for where it was spoken: it
is found if all words that were recognised there are inside occurrences.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from models.audio.masking import TextSpan, find_passages, plan_masks
from models.audio.recording import SAMPLE_RATE
from models.deidentification.detect import detect
from models.deidentification.occurrences import Detector, KnownEntity, Occurrence, SpokenSegment
from models.retiming import match_keys, normal_form
from models.transcript import Transcript, Word
from scripts.deid_evaluation import CONTENT, NOT_NEEDED, Passage
from scripts.espeak import SpokenWord, espeak
from scripts.synthetic_speech import VOICES

GAP = 0.8  # s between passages, each by the next of the eight voices
NOISE = 1e-3  # standard deviation
STEP = 0.01  # s, resolution in which masked time is counted
WHOLE = 0.95  # share of an identifier's time above which nobody hears it


@dataclass(frozen=True)
class SpokenGold:
    """An identifier as it was spoken: reference words [first, after)."""

    label: str
    first: int
    after: int
    start: float
    end: float


@dataclass(frozen=True)
class Spoken:
    """Spoken passages. `samples`: float32, (n_samples,), 16 kHz."""

    samples: np.ndarray
    words: tuple[SpokenWord, ...]
    gold: tuple[SpokenGold, ...]


def speak(passages: Iterable[Passage]) -> Spoken:
    """Speak passages one after another."""
    parts: list[np.ndarray] = []
    words: list[SpokenWord] = []
    gold: list[SpokenGold] = []
    n_samples = 0
    for i, passage in enumerate(passages):
        voice = VOICES[i % len(VOICES)]
        speech = espeak().speak(passage.text, voice.espeak, rate=voice.rate, pitch=voice.pitch)
        offset = n_samples / SAMPLE_RATE
        spoken = [SpokenWord(w.text, w.start + offset, w.end + offset) for w in speech.words]
        gold += place_gold(passage, spoken, len(words))
        words += spoken
        pause = np.zeros(round(GAP * SAMPLE_RATE), dtype=np.float32)
        parts += [speech.samples, pause]
        n_samples += len(speech.samples) + len(pause)
    samples = np.concatenate(parts)
    noise = NOISE * np.random.default_rng(0).standard_normal(len(samples))
    return Spoken((samples + noise).astype(np.float32), tuple(words), tuple(gold))


def place_gold(
    passage: Passage, words: Sequence[SpokenWord], n_before: int = 0
) -> list[SpokenGold]:
    """
    Args:
        words: of the passage, in order.
        n_before: words of earlier passages.
    """
    starts, at = [], 0
    for word in words:
        at = passage.text.index(word.text, at)
        starts.append(at)
        at += len(word.text)
    placed = []
    for gold in passage.gold:
        first = max(0, bisect_right(starts, gold.start) - 1)
        after = max(first + 1, bisect_right(starts, gold.end - 1))
        times = words[first].start, words[after - 1].end
        placed.append(SpokenGold(gold.label, first + n_before, after + n_before, *times))
    return placed


@dataclass
class RoundTripScore:
    """Counts of identifiers by label, and seconds.

    `spelt` were recognised as they are written in the passage, `changed` in other words, `lost` not
    at all. `masked`, `wholly`: identifiers' time that is masked, and identifiers that are masked
    for all but 5 % of their time.
    """

    n_words: int = 0
    n_wrong: int = 0  # recognised words that are not in the passages, or the other way round
    spelt: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    found_spelt: Counter[str] = field(default_factory=Counter)
    found_changed: Counter[str] = field(default_factory=Counter)
    n_false: int = 0
    gold_seconds: float = 0.0
    masked_seconds: float = 0.0
    wholly: int = 0
    other_seconds: float = 0.0  # of speech
    masked_other_seconds: float = 0.0
    missed: list[str] = field(default_factory=list)

    @property
    def n_gold(self) -> int:
        return self.n_spelt + self.n_changed + sum(self.lost.values())

    @property
    def n_spelt(self) -> int:
        return sum(self.spelt.values())

    @property
    def n_changed(self) -> int:
        return sum(self.changed.values())


def measure(
    spoken: Spoken,
    transcript: Transcript,
    roster: Sequence[KnownEntity],
    detectors: Sequence[Detector] = (),
    *,
    sure_only: bool = False,
) -> RoundTripScore:
    """Find the identifiers in a transcript of the spoken passages, and mask what is found."""
    segments = [
        SpokenSegment(each.id, each.speaker, each.text, _word_ends(each.words))
        for each in transcript.segments
    ]
    found = [
        each
        for each in detect(segments, roster, detectors).occurrences
        if not sure_only or each.tier == "sure"
    ]
    return score(spoken, transcript, found)


def _word_ends(words: Sequence[Word]) -> tuple[int, ...]:
    lead = len(words[0].text) - len(words[0].text.lstrip()) if words else 0
    return tuple(end - lead for end in accumulate(len(word.text) for word in words))


def score(spoken: Spoken, transcript: Transcript, found: Sequence[Occurrence]) -> RoundTripScore:
    heard = [word for segment in transcript.segments for word in segment.words]
    partners = align(spoken.words, heard)
    hidden = hidden_words(transcript, found)
    result = RoundTripScore(n_words=len(spoken.words))
    result.n_wrong = count_wrong(spoken.words, heard)
    is_gold = [False] * len(heard)
    for gold in spoken.gold:
        indices = [i for i, ref in enumerate(partners) if ref is not None]
        own = [i for i in indices if gold.first <= (partners[i] or 0) < gold.after]
        for i in own:
            is_gold[i] = True
        if gold.label == "?":
            continue
        needed = [i for i in own if _needs_hiding(heard[i].text)]
        said = _keys(word.text for word in spoken.words[gold.first : gold.after])
        if not needed:
            result.lost[gold.label] += 1
            continue
        as_spelt = _keys(heard[i].text for i in own) == said
        counts, hits = (
            (result.spelt, result.found_spelt)
            if as_spelt
            else (result.changed, result.found_changed)
        )
        counts[gold.label] += 1
        if all(hidden[i] for i in needed):
            hits[gold.label] += 1
        else:
            written = " ".join(heard[i].text.strip() for i in own)
            result.missed.append(f"{gold.label} {' '.join(said)!r} heard as {written!r}")
    _count_false(result, transcript, found, is_gold)
    _score_sound(result, spoken, transcript, found)
    return result


def align(said: Sequence[SpokenWord], heard: Sequence[Word]) -> list[int | None]:
    """Return for each heard word the index of the word that was said.

    Equal words are aligned in order. Those between are aligned with the word said at that time,
    None if none was said there.
    """
    keys = [normal_form(word.text) for word in said], [normal_form(w.text.strip()) for w in heard]
    pairs = [*match_keys(*keys), (len(said), len(heard))]
    partners: list[int | None] = [None] * len(heard)
    i = j = 0
    for next_i, next_j in pairs:
        block = range(i, next_i)
        for k in range(j, next_j):
            middle = (heard[k].start + heard[k].end) / 2
            if block:
                partners[k] = min(block, key=lambda at: _distance(said[at], middle))
        if next_j < len(heard):
            partners[next_j] = next_i
        i, j = next_i + 1, next_j + 1
    return partners


def _distance(word: SpokenWord, time: float) -> float:
    return max(word.start - time, time - word.end, 0.0)


def count_wrong(said: Sequence[SpokenWord], heard: Sequence[Word]) -> int:
    keys = [normal_form(word.text) for word in said], [normal_form(w.text.strip()) for w in heard]
    return max(len(said), len(heard)) - len(match_keys(*keys))


def hidden_words(transcript: Transcript, found: Sequence[Occurrence]) -> list[bool]:
    """Whether every letter that matters of each word is inside occurrences."""
    by_segment: dict[int, set[int]] = {}
    for each in found:
        by_segment.setdefault(each.segment, set()).update(range(each.start, each.end))
    hidden = []
    for number, segment in enumerate(transcript.segments):
        covered = by_segment.get(number, set())
        raw = "".join(word.text for word in segment.words)
        at = len(raw.lstrip()) - len(raw)
        for word in segment.words:
            needed = {
                at + match.start() + k
                for match in CONTENT.finditer(word.text)
                if match[0].lower() != "s"
                for k in range(len(match[0]))
            }
            hidden.append(needed <= covered)
            at += len(word.text)
    return hidden


def _needs_hiding(text: str) -> bool:
    words = [match[0].lower() for match in CONTENT.finditer(text)]
    return any(word not in NOT_NEEDED for word in words)


def _keys(texts: Iterable[str]) -> list[str]:
    return [normal_form(text.strip()) for text in texts]


def _count_false(
    result: RoundTripScore,
    transcript: Transcript,
    found: Sequence[Occurrence],
    is_gold: Sequence[bool],
) -> None:
    firsts = [0, *accumulate(len(segment.words) for segment in transcript.segments)]
    for each in found:
        first, after = each.words or (0, 0)
        start = firsts[each.segment]
        result.n_false += not any(is_gold[start + first : start + after])


def _score_sound(
    result: RoundTripScore, spoken: Spoken, transcript: Transcript, found: Sequence[Occurrence]
) -> None:
    ids = [segment.id for segment in transcript.segments]
    spans = [TextSpan(ids[each.segment], each.start, each.end, each.label) for each in found]
    (masks,) = plan_masks(find_passages(transcript, spans), transcript.sources)
    n_steps = round(len(spoken.samples) / SAMPLE_RATE / STEP) + 1
    masked, speech, gold = (np.zeros(n_steps, dtype=bool) for _ in range(3))
    for mask in masks:
        masked[_steps(mask.start, mask.end)] = True
    for word in spoken.words:
        speech[_steps(word.start, word.end)] = True
    for each in spoken.gold:
        steps = _steps(each.start, each.end)
        gold[steps] = True
        if each.label != "?":
            result.gold_seconds += STEP * (steps.stop - steps.start)
            result.masked_seconds += STEP * int(masked[steps].sum())
            result.wholly += bool(masked[steps].mean() >= WHOLE)
    result.other_seconds = STEP * int((speech & ~gold).sum())
    result.masked_other_seconds = STEP * int((speech & ~gold & masked).sum())


def _steps(start: float, end: float) -> slice:
    first = round(start / STEP)
    return slice(first, max(first + 1, round(end / STEP)))


def accepted_by_a_careful_reviewer(spoken: Spoken, transcript: Transcript) -> list[Occurrence]:
    """The occurrences that would hide exactly the words that were recognised of identifiers."""
    heard = [(i, word) for i, each in enumerate(transcript.segments) for word in each.words]
    partners = align(spoken.words, [word for _, word in heard])
    labels = {ref: each.label for each in spoken.gold for ref in range(each.first, each.after)}
    accepted: list[Occurrence] = []
    at: Counter[int] = Counter()
    numbers: Counter[int] = Counter()
    for (segment, word), ref in zip(heard, partners, strict=True):
        words = transcript.segments[segment].words
        lead = len(words[0].text) - len(words[0].text.lstrip())
        start = at[segment] - lead + len(word.text) - len(word.text.lstrip())
        at[segment] += len(word.text)
        number = numbers[segment]
        numbers[segment] += 1
        if ref is not None and labels.get(ref, "?") != "?":
            id = transcript.segments[segment].id
            end = start + len(word.text.strip())
            accepted.append(
                Occurrence(
                    segment, id, start, end, (number, number + 1), labels[ref], 1.0, "sure", "gold"
                )
            )
    return accepted
