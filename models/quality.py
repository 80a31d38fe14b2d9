"""Flags the places of a transcript that a person should listen to, with the evidence.

Whisper invents text where nobody speaks and loses words where somebody does. Flags do not change
the transcript: they say what was measured and where. docs/reference/transcript.md
lists the kinds.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np

from models.diarisation.segmentation import SpeechRegion
from models.transcript import Flag, Segment, Word, mean_probability
from models.whisper_engine import DecodedWindow
from models.whisper_engine.coverage import find_crammed
from models.whisper_engine.decoder import LOGPROB_THRESHOLD, is_silence
from models.whisper_engine.engine import CLEAR_LANGUAGE

MISSED_SPEECH = 1.5  # s of speech without a word; shorter stretches are breaths or back-channels
INVENTED = 0.2  # speech's share of a segment's time, below which the words are doubtful
LOOP_RATIO = 2.4  # whisper's own threshold for the compression ratio
IMPROBABLE = 0.4  # mean probability of a segment's words
FAR_BELOW = 0.4  # avg_logprob below the median of the session's windows
MIN_WINDOWS = 4  # in a session, for the median to be usual
MAX_WORDS_PER_SECOND = 7.0  # people do not speak faster for a whole segment of ten words
MIN_WORDS_PER_SECOND = 0.7  # of speech; people who think aloud say twice as many
DRAWN_OUT = 2.0  # s of speech; one word with a breath or a laugh takes less


def find_flags(
    segments: Sequence[Segment],
    regions: Sequence[SpeechRegion],
    decoded: Sequence[DecodedWindow],
    language: str,
) -> tuple[Flag, ...]:
    """Find all flags of a session, by time.

    Args:
        language: the session's.
    """
    words = [word for segment in segments for word in segment.words]
    decoded = [result for result in decoded if result.gap is None]  # gaps are parts of windows
    flags = [
        *flag_speech_without_words(words, regions),
        *flag_few_words(words, regions),
        *flag_words_without_speech(segments, regions),
        *flag_loops(decoded),
        *flag_silent_windows(decoded),
        *flag_improbable_windows(decoded),
        *flag_crammed_words(segments),
        *flag_other_languages(decoded, language),
        *flag_unsure_languages(decoded),
        *flag_improbable(segments),
        *flag_too_fast(segments),
    ]
    return tuple(sorted(flags, key=lambda flag: (flag.start, flag.end, flag.kind)))


def flag_speech_without_words(
    words: Sequence[Word], regions: Sequence[SpeechRegion]
) -> Iterator[Flag]:
    """Flag stretches of speech, between words or beside them, that have no words."""
    for start, end in _find_gaps(words, regions):
        evidence = {"speech_seconds": round(end - start, 2)}
        yield Flag("speech_without_words", round(start, 3), round(end, 3), evidence)


def _find_gaps(
    words: Sequence[Word], regions: Sequence[SpeechRegion]
) -> Iterator[tuple[float, float]]:
    """Yield the [start, end) of each stretch of at least MISSED_SPEECH without a word."""
    ordered = sorted(words, key=lambda word: word.start)
    i = 0  # the first word that may reach into the region
    for region in regions:
        while i < len(ordered) and ordered[i].end <= region.start:
            i += 1
        covered = region.start
        j = i
        while j < len(ordered) and ordered[j].start < region.end:
            if ordered[j].start - covered >= MISSED_SPEECH:
                yield covered, ordered[j].start
            covered = max(covered, ordered[j].end)
            j += 1
        if region.end - covered >= MISSED_SPEECH:
            yield covered, region.end


def flag_few_words(words: Sequence[Word], regions: Sequence[SpeechRegion]) -> Iterator[Flag]:
    """Flag stretches with far fewer words than people say in so much speech.

    Whisper can skip most of a sentence and keep one word of it, whose time is then drawn out over
    the missing words, so that there is no gap.
    """
    ordered = sorted(words, key=lambda word: word.start)
    middles = [(word.start + word.end) / 2 for word in ordered]
    for speech in _split_speech(regions, list(_find_gaps(ordered, regions))):
        begin, end = speech[0].start, speech[-1].end
        own = ordered[bisect_left(middles, begin) : bisect_left(middles, end)]
        if not own:
            continue
        # Speech counts for the word before it; speech before the first word counts for that one.
        times = np.array([begin, *(min(word.start, end) for word in own[1:]), end])
        seconds = np.diff(speech_before(times, speech))
        for first, after in _find_positive_runs(seconds - 1 / MIN_WORDS_PER_SECOND):
            spoken = float(seconds[first:after].sum())
            if spoken >= DRAWN_OUT:
                evidence = {"words": after - first, "speech_seconds": round(spoken, 2)}
                start, stop = float(times[first]), float(times[after])
                yield Flag("few_words", round(start, 3), round(stop, 3), evidence)


def _split_speech(
    regions: Sequence[SpeechRegion], gaps: Sequence[tuple[float, float]]
) -> Iterator[list[SpeechRegion]]:
    """Yield the speech outside the gaps, split at the gaps and at silences of that length."""
    stretch: list[SpeechRegion] = []
    left = list(reversed(gaps))
    for region in regions:
        start, inside = region.start, []
        while left and left[-1][1] <= region.end:
            inside.append(left.pop())
        for begin, end in [*inside, (region.end, region.end)]:
            if begin > start:
                if stretch and start - stretch[-1].end >= MISSED_SPEECH:
                    yield stretch
                    stretch = []
                stretch.append(SpeechRegion(start, begin))
            start = end
    if stretch:
        yield stretch


def _find_positive_runs(scores: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the [first, after) of each run whose sum is positive, up to its greatest sum."""
    total = greatest = 0.0
    begin = after = 0
    for i, score in enumerate(scores.tolist()):
        total += score
        if total > greatest:
            greatest, after = total, i + 1
        if total <= 0 or i + 1 == len(scores):
            if greatest > 0:
                yield begin, after
            total = greatest = 0.0
            begin = i + 1


def flag_words_without_speech(
    segments: Sequence[Segment], regions: Sequence[SpeechRegion]
) -> Iterator[Flag]:
    for segment in segments:
        times = np.array([(word.start, word.end) for word in segment.words])
        length = float((times[:, 1] - times[:, 0]).sum())
        speech = float(np.diff(speech_before(times, regions)).sum())
        if length > 0 and speech < INVENTED * length:
            evidence = {"speech_share": round(speech / length, 3), "words": len(segment.words)}
            yield Flag("words_without_speech", segment.start, segment.end, evidence)


def speech_before(times: np.ndarray, regions: Sequence[SpeechRegion]) -> np.ndarray:
    """Return the seconds of speech before each time.

    Args:
        times: of any shape.
        regions: in order, without overlap.
    """
    if not regions:
        return np.zeros_like(times)
    edges = np.array([(region.start, region.end) for region in regions])
    ends = np.cumsum(edges[:, 1] - edges[:, 0])
    seconds = np.stack([np.concatenate([[0.0], ends[:-1]]), ends], axis=1)
    before: np.ndarray = np.interp(times, edges.ravel(), seconds.ravel())
    return before


def flag_loops(decoded: Sequence[DecodedWindow]) -> Iterator[Flag]:
    for result in decoded:
        if result.compression_ratio > LOOP_RATIO:
            evidence = {"compression_ratio": round(result.compression_ratio, 2)}
            yield Flag("loop", result.window.start, result.window.end, evidence)


def flag_silent_windows(decoded: Sequence[DecodedWindow]) -> Iterator[Flag]:
    """Flag windows that Whisper takes for silence: their text, which it invents, was left out."""
    for result in decoded:
        if result.text and is_silence(result):
            evidence = {
                "avg_logprob": round(result.avg_logprob, 2),
                "no_speech_prob": round(result.no_speech_prob, 2),
            }
            yield Flag("taken_for_silence", result.window.start, result.window.end, evidence)


def flag_improbable_windows(decoded: Sequence[DecodedWindow]) -> Iterator[Flag]:
    """Flag windows whose text failed at every temperature, or is far less probable than usual."""
    spoken = [result for result in decoded if result.text and not is_silence(result)]
    if not spoken:
        return
    usual = float(np.median([result.avg_logprob for result in spoken]))
    for result in spoken:
        failed = result.avg_logprob < LOGPROB_THRESHOLD
        unusual = len(spoken) >= MIN_WINDOWS and result.avg_logprob < usual - FAR_BELOW
        if failed or unusual:
            evidence = {
                "avg_logprob": round(result.avg_logprob, 2),
                "usual": round(usual, 2),
                "temperature": result.temperature,
            }
            yield Flag("improbable_window", result.window.start, result.window.end, evidence)


def flag_crammed_words(segments: Sequence[Segment]) -> Iterator[Flag]:
    """Flag words that start at the same time: they may be invented, or their times are unknown."""
    for segment in segments:
        for first, after in find_crammed(segment.words):
            words = segment.words[first:after]
            start, end = words[0].start, max(word.end for word in words)
            spread = words[-1].start - start
            evidence = {"words": len(words), "seconds": round(spread, 3)}
            yield Flag("crammed_words", start, end, evidence)


def flag_other_languages(decoded: Sequence[DecodedWindow], language: str) -> Iterator[Flag]:
    for result in decoded:
        own, probability = result.language, result.language_probability
        if own is not None and probability is not None and own != language:
            evidence: dict[str, float | str] = {"language": own, "probability": probability}
            yield Flag("other_language", result.window.start, result.window.end, evidence)


def flag_unsure_languages(decoded: Sequence[DecodedWindow]) -> Iterator[Flag]:
    """Flag windows without a clear language, which were decoded in the session's language."""
    for result in decoded:
        own, probability = result.language, result.language_probability
        if own is not None and probability is not None and probability <= CLEAR_LANGUAGE:
            evidence: dict[str, float | str] = {"language": own, "probability": probability}
            yield Flag("unsure_language", result.window.start, result.window.end, evidence)


def flag_improbable(segments: Sequence[Segment]) -> Iterator[Flag]:
    for segment in segments:
        probability = mean_probability(segment.words)
        if probability is not None and probability < IMPROBABLE:
            evidence = {"mean_word_probability": round(probability, 3)}
            yield Flag("low_probability", segment.start, segment.end, evidence)


def flag_too_fast(segments: Sequence[Segment]) -> Iterator[Flag]:
    for segment in segments:
        duration = max(segment.end - segment.start, 0.01)
        rate = len(segment.words) / duration
        if len(segment.words) >= 10 and rate > MAX_WORDS_PER_SECOND:
            evidence = {"words_per_second": round(rate, 2)}
            yield Flag("too_fast", segment.start, segment.end, evidence)
