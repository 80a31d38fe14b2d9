import numpy as np
import pytest
import torch
from whisper.audio import log_mel_spectrogram, pad_or_trim
from whisper.decoding import DecodingOptions, DecodingResult

from models.audio import SAMPLE_RATE
from models.errors import Stopped
from models.whisper_engine import DecodedWindow, WhisperEngine, WhisperOptions, language_code
from models.whisper_engine.engine import (
    UnknownLanguage,
    VocabularyTooLong,
    needs_fallback,
    whisper_segments,
)
from models.whisper_engine.mel import log_mel, log_mel_maximum
from models.windows import Window
from tests.fakes import random_whisper

CPU = torch.device("cpu")
ENGLISH = WhisperOptions(language="en")


@pytest.fixture(scope="module")
def engine() -> WhisperEngine:
    return WhisperEngine(random_whisper(), batch_size=2)


@pytest.fixture
def greedy(monkeypatch):
    """Random weights are never sure of anything: every window would be decoded six times."""
    monkeypatch.setattr("models.whisper_engine.engine.needs_fallback", lambda result: False)


def tones(seconds: float, seed: int = 0) -> np.ndarray:
    """Something that differs from window to window."""
    rng = np.random.default_rng(seed)
    samples = 0.02 * rng.standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32)
    times = np.arange(len(samples)) / SAMPLE_RATE
    for second in range(int(seconds)):
        here = (times >= second) & (times < second + 1)
        frequency = rng.uniform(100, 3000)
        samples[here] += rng.uniform(0.05, 0.4) * np.sin(2 * np.pi * frequency * times[here])
    return samples.astype(np.float32)


SAMPLES = tones(70.0)
WINDOWS = (Window(0.5, 20.5), Window(21.0, 27.0), Window(30.0, 60.0))


@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_of_a_window_is_whispers_on_the_scale_of_the_whole_session(n_mels):
    quiet_window = np.concatenate([tones(5.0) * 0.01, tones(25.0)])
    maximum = log_mel_maximum(quiet_window, n_mels, CPU)
    whole = log_mel_spectrogram(quiet_window, n_mels)
    window = log_mel(quiet_window[: 5 * SAMPLE_RATE], n_mels, maximum, CPU)

    # Frames at the window's end see silence where the session has sound; the others are equal.
    assert torch.allclose(window[:, :498], whole[:, :498], atol=1e-5)
    assert window.shape == (n_mels, 3000)
    assert window[:, 600:].max() == pytest.approx((maximum - 8 + 4) / 4)


def test_the_maximum_is_found_block_by_block():
    samples = tones(150.0)
    power = log_mel_spectrogram(samples, 80)
    maximum = log_mel_maximum(samples, 80, CPU)

    assert maximum == pytest.approx(power.max().item() * 4 - 4, abs=1e-4)


def test_the_maximum_of_very_short_sound_is_found_too():
    assert log_mel_maximum(tones(1.0)[:100], 80, CPU) > -10


def test_a_window_over_thirty_seconds_is_refused_rather_than_trimmed():
    with pytest.raises(ValueError, match="30 s"):
        log_mel(tones(31.0), 80, 0.0, CPU)


def test_decode_gives_the_tokens_of_whispers_own_decode(engine, greedy):
    maximum = engine.maximum(SAMPLES)
    decoded = engine.decode(SAMPLES, WINDOWS, ENGLISH, maximum)
    for window, result in zip(WINDOWS, decoded, strict=True):
        mel = log_mel(window.cut(SAMPLES), 80, maximum, CPU)
        options = DecodingOptions(language="en", fp16=False, temperature=0.0)
        expected = engine.model.decode(mel, options)
        assert result.tokens == tuple(expected.tokens)
        assert result.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert len({(r.tokens, round(r.avg_logprob, 3)) for r in decoded}) == len(WINDOWS)


def test_a_window_alone_equals_whispers_decode_of_its_padded_sound(engine):
    samples = tones(20.0, seed=3)
    maximum = engine.maximum(samples)
    mel = log_mel(samples, 80, maximum, CPU)
    expected = log_mel_spectrogram(pad_or_trim(samples), 80)

    assert torch.allclose(mel, expected, atol=1e-5)


def test_decode_reports_progress_between_batches_and_stops_when_told(engine, greedy):
    seen: list[float] = []

    def stop_after_first(fraction: float) -> None:
        seen.append(fraction)
        raise Stopped

    with pytest.raises(Stopped):
        engine.decode(SAMPLES, WINDOWS, ENGLISH, 0.0, stop_after_first)

    assert seen == [pytest.approx(2 / 3)]


def test_word_times_are_in_order_inside_their_windows_with_probabilities(engine):
    maximum = engine.maximum(SAMPLES)
    tokenizer = engine._tokenizer("en")
    decoded = [
        DecodedWindow(
            window,
            (
                tokenizer.timestamp_begin,
                *tokenizer.encode(" It was not easy, she said."),
                tokenizer.timestamp_begin + 200,
            ),
            " It was not easy, she said.",
            0.0,
            -0.5,
            0.0,
            1.0,
        )
        for window in WINDOWS
    ]
    words = engine.word_times(SAMPLES, decoded, ENGLISH, maximum)

    assert "".join(word.text for word in words) == " It was not easy, she said." * 3
    assert all(a.start <= b.start for a, b in zip(words, words[1:], strict=False))
    for i, window in enumerate(WINDOWS):
        for word in words[6 * i : 6 * i + 6]:
            assert window.start <= word.start < word.end <= window.end
            assert 0 <= word.probability <= 1


def test_a_window_without_text_has_no_words(engine):
    empty = DecodedWindow(WINDOWS[0], (), "", 0.0, -0.5, 0.9, 1.0)

    assert engine.word_times(SAMPLES, [empty], ENGLISH, 0.0) == ()


def test_text_without_timestamps_still_has_its_words(engine):
    tokens = tuple(engine._tokenizer("en").encode(" Yes, I do."))
    untimed = DecodedWindow(WINDOWS[1], tokens, " Yes, I do.", 0.0, -0.5, 0.0, 1.0)
    words = engine.word_times(SAMPLES, [untimed], ENGLISH, engine.maximum(SAMPLES))

    assert [word.text for word in words] == [" Yes,", " I", " do."]


def test_whispers_segments_are_cut_at_timestamps(engine):
    tokenizer = engine._tokenizer("en")
    begin = tokenizer.timestamp_begin
    result = DecodedWindow(
        Window(0.0, 8.0), (begin + 50, 100, 101, begin + 100, begin + 150, 102), "", 0, 0, 0, 1
    )

    assert whisper_segments(result, tokenizer) == [
        {"seek": 0, "start": 1.0, "end": 2.0, "tokens": [100, 101]},
        {"seek": 0, "start": 3.0, "end": 8.0, "tokens": [102]},
    ]


class Result:
    def __init__(self, avg_logprob: float, no_speech_prob: float, compression_ratio: float):
        self.avg_logprob = avg_logprob
        self.no_speech_prob = no_speech_prob
        self.compression_ratio = compression_ratio


@pytest.mark.parametrize(
    ("result", "again"),
    [
        (Result(-0.3, 0.0, 1.5), False),
        (Result(-1.2, 0.0, 1.5), True),
        (Result(-0.3, 0.0, 3.0), True),
        (Result(-1.2, 0.9, 1.5), False),  # silence
        (Result(-0.3, 0.9, 3.0), True),  # loud and repeated
    ],
)
def test_a_window_is_decoded_again_as_openai_whisper_would(result, again):
    assert needs_fallback(result) is again


def test_failing_windows_alone_are_decoded_at_higher_temperatures(engine, monkeypatch):
    batches = []

    def run(mel, options):
        batches.append((len(mel), options.temperature, options.best_of))
        probability = -2.0 if options.temperature < 0.4 else -0.1
        return [
            DecodingResult(
                audio_features=mel[i],
                language="en",
                avg_logprob=probability if i == 0 else -0.1,
                compression_ratio=1.0,
                temperature=options.temperature,
            )
            for i in range(len(mel))
        ]

    monkeypatch.setattr(engine, "_run", run)
    decoded = engine.decode(SAMPLES, WINDOWS[:2], ENGLISH, 0.0)

    assert batches == [(2, 0.0, None), (1, 0.2, 5), (1, 0.4, 5)]
    assert [result.temperature for result in decoded] == [0.4, 0.0]


@pytest.mark.slow
def test_a_sampled_window_comes_from_its_own_sound(engine, monkeypatch):
    """whisper.decode takes best_of samples of a batch of windows from the wrong ones, or fails."""
    monkeypatch.setattr("models.whisper_engine.engine.TEMPERATURES", (0.0, 0.2))
    decoded = engine.decode(SAMPLES, WINDOWS[:2], ENGLISH, engine.maximum(SAMPLES))

    assert [result.temperature for result in decoded] == [0.2, 0.2]


def test_language_is_the_most_probable_over_several_windows(engine, monkeypatch):
    probabilities = iter([{"en": 0.4, "de": 0.6}, {"en": 0.9, "de": 0.1}, {"en": 0.8, "de": 0.2}])
    monkeypatch.setattr(
        engine.model,
        "detect_language",
        lambda mel: (None, [next(probabilities) for _ in mel]),
        raising=False,
    )
    guess = engine.detect_language(SAMPLES, WINDOWS, 0.0)

    assert (guess.language, guess.probability) == ("en", 0.7)


def test_an_english_model_needs_no_guess_and_refuses_other_languages():
    english = WhisperEngine(random_whisper(n_vocab=51864))

    assert english.detect_language(SAMPLES, WINDOWS, 0.0).language == "en"
    with pytest.raises(UnknownLanguage):
        english.check(WhisperOptions(language="nl"))


@pytest.mark.parametrize("name", ["en", "EN", "English", " english "])
def test_a_language_may_be_given_by_code_or_name(name):
    assert language_code(name) == "en"


def test_an_unknown_language_is_refused():
    with pytest.raises(UnknownLanguage):
        language_code("klingon")


def test_a_vocabulary_that_whisper_would_cut_off_is_refused(engine):
    engine.check(WhisperOptions(vocabulary=("Toowoomba", "Bundaberg")))
    with pytest.raises(VocabularyTooLong, match="223"):
        engine.check(WhisperOptions(vocabulary=("Toowoomba",) * 100))


def test_the_vocabulary_reaches_every_window(engine, monkeypatch):
    prompts = []

    def decode_nothing(mel, options):
        prompts.append(options.prompt)
        return [DecodingResult(audio_features=m, language="en", avg_logprob=0.0) for m in mel]

    monkeypatch.setattr(engine, "_run", decode_nothing)
    options = WhisperOptions(language="en", vocabulary=("Eva", "Cairns"))
    engine.decode(SAMPLES, WINDOWS, options, 0.0)

    assert prompts == ["Eva, Cairns", "Eva, Cairns"]
