from dataclasses import replace

import numpy as np
import pytest
import torch
from whisper import Whisper
from whisper.audio import log_mel_spectrogram, pad_or_trim

from models.audio.recording import SAMPLE_RATE
from models.errors import Stopped, UnknownLanguage, VocabularyTooLong
from models.languages import language_code
from models.transcript import Word
from models.whisper_engine import (
    DecodedWindow,
    DecodingRequest,
    WhisperEngine,
    WhisperOptions,
)
from models.whisper_engine.engine import build_prompt
from models.whisper_engine.mel import compute_log_mel, find_log_mel_maximum
from models.whisper_engine.model import InferenceModel
from models.whisper_engine.slots import Slots
from models.whisper_engine.word_times import Alignment
from models.windows import Window
from tests.fakes import random_whisper
from tests.plain_whisper import decode_session, plain_decode, time_words

CPU = torch.device("cpu")
ENGLISH = WhisperOptions(language="en")


LONGEST = 20  # tokens in a text of these tests


@pytest.fixture(scope="module")
def whisper():
    return random_whisper()


@pytest.fixture(scope="module")
def engine(whisper: Whisper) -> WhisperEngine:
    return WhisperEngine(whisper, precision="fp32", n_slots=2)


@pytest.fixture
def greedy(monkeypatch):
    """Disable fallback: with random weights every window would be decoded six times."""
    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", lambda text: False)
    reset = Slots._reset_texts

    def short(self: Slots, slot: int, temperature: float) -> None:
        reset(self, slot, temperature)
        self._limit[self._rows(slot)] = LONGEST

    monkeypatch.setattr(Slots, "_reset_texts", short)


def test_every_tensor_is_on_the_requested_device(whisper):
    """And the original model stays on its own: torch refuses to mix devices."""
    meta = torch.device("meta")
    model = InferenceModel(whisper, "fp32", meta)
    cross = model.make_cross_kv(model.encode(torch.zeros(2, 80, 3000, device=meta)))
    tokens = torch.zeros(2, 3, dtype=torch.int64, device=meta)
    logits, scores = model.logits_and_scores(tokens, cross, [(1, 0)])
    cache, positions = model.allocate_cache(2), torch.zeros(2, dtype=torch.int64, device=meta)
    model.decoder.step(tokens[:, 0], positions, model.allocate_cross_kv(2), cache, 16)

    assert (logits.device, logits.shape) == (meta, (2, 3, whisper.dims.n_vocab))
    assert scores.device == meta
    assert {parameter.device for parameter in whisper.parameters()} == {CPU}


def make_tones(seconds: float, seed: int = 0) -> np.ndarray:
    """Audio that differs from window to window."""
    rng = np.random.default_rng(seed)
    samples = 0.02 * rng.standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32)
    times = np.arange(len(samples)) / SAMPLE_RATE
    for second in range(int(seconds)):
        here = (times >= second) & (times < second + 1)
        frequency = rng.uniform(100, 3000)
        samples[here] += rng.uniform(0.05, 0.4) * np.sin(2 * np.pi * frequency * times[here])
    return samples.astype(np.float32)


SAMPLES = make_tones(70.0)
WINDOWS = (Window(0.5, 20.5), Window(21.0, 27.0), Window(30.0, 60.0))


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_mel_of_a_window_is_whispers_on_the_scale_of_the_whole_session(n_mels):
    quiet_window = np.concatenate([make_tones(5.0) * 0.01, make_tones(25.0)])
    maximum = find_log_mel_maximum(quiet_window, n_mels, CPU)
    whole = log_mel_spectrogram(quiet_window, n_mels)
    window = compute_log_mel(quiet_window[: 5 * SAMPLE_RATE], n_mels, maximum, CPU)

    # The last frames see silence where the session has audio; the others are equal.
    assert torch.allclose(window[:, :498], whole[:, :498], atol=1e-5)
    assert window.shape == (n_mels, 3000)
    assert window[:, 600:].max() == pytest.approx((maximum - 8 + 4) / 4)


def test_the_maximum_is_found_block_by_block():
    samples = make_tones(150.0)
    power = log_mel_spectrogram(samples, 80)
    maximum = find_log_mel_maximum(samples, 80, CPU)

    assert maximum == pytest.approx(power.max().item() * 4 - 4, abs=1e-4)


def test_the_maximum_of_very_short_audio_is_found():
    assert find_log_mel_maximum(make_tones(1.0)[:100], 80, CPU) > -10


def test_a_window_over_thirty_seconds_is_refused_not_trimmed():
    with pytest.raises(ValueError, match="30 s"):
        compute_log_mel(make_tones(31.0), 80, 0.0, CPU)


def test_tokens_equal_those_of_whispers_own_decode(engine, whisper, greedy):
    maximum = engine.find_maximum(SAMPLES)
    decoded = decode_session(engine, SAMPLES, WINDOWS, ENGLISH, maximum)
    for window, result in zip(WINDOWS, decoded, strict=True):
        mel = compute_log_mel(window.cut(SAMPLES), 80, maximum, CPU)
        expected = plain_decode(whisper, mel, longest=LONGEST)
        assert result.tokens == tuple(expected.tokens)
        assert result.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert len({(r.tokens, round(r.avg_logprob, 3)) for r in decoded}) == len(WINDOWS)


def test_texts_are_in_the_order_of_their_windows_whichever_ends_first(engine, monkeypatch, greedy):
    reset = Slots._reset_texts

    def make_first_longest(self: Slots, slot: int, temperature: float) -> None:
        reset(self, slot, temperature)
        self._limit[self._rows(slot)] = LONGEST - 6 * self.occupant(slot).index

    monkeypatch.setattr(Slots, "_reset_texts", make_first_longest)
    decoded = decode_session(engine, SAMPLES, WINDOWS, ENGLISH, 0.0)

    assert [result.window for result in decoded] == list(WINDOWS)
    assert [len(result.tokens) for result in decoded] == [20, 14, 8]


def test_sessions_decoded_together_give_the_same_texts_as_alone(engine, greedy):
    other = make_tones(40.0, seed=5)
    dutch = WhisperOptions("nl", ("Eva",))
    requests = [
        DecodingRequest(SAMPLES, WINDOWS, ENGLISH, engine.find_maximum(SAMPLES)),
        DecodingRequest(SAMPLES, (), ENGLISH, 0.0),
        DecodingRequest(other, WINDOWS[:1], dutch, engine.find_maximum(other)),
    ]
    together = engine.decode(requests)
    for request, decoded in zip(requests, together, strict=True):
        (alone,) = engine.decode([request])
        assert [result.window for result in decoded] == list(request.windows)
        assert [result.tokens for result in decoded] == [result.tokens for result in alone]
        for result, expected in zip(decoded, alone, strict=True):
            assert result.alignment.times == pytest.approx(expected.alignment.times, abs=0.021)


def test_a_session_of_one_window_equals_whispers_mel_of_padded_audio(engine):
    samples = make_tones(20.0, seed=3)
    mel = compute_log_mel(samples, 80, engine.find_maximum(samples), CPU)
    expected = log_mel_spectrogram(pad_or_trim(samples), 80)

    assert torch.allclose(mel, expected, atol=1e-5)


def test_decoding_reports_progress_between_batches_and_can_be_stopped(engine, greedy):
    seen: list[float] = []

    def stop_after_first(fraction: float) -> None:
        seen.append(fraction)
        raise Stopped

    with pytest.raises(Stopped):
        decode_session(engine, SAMPLES, WINDOWS, ENGLISH, 0.0, stop_after_first)

    assert seen == [pytest.approx(2 / 3)]
    # None of the stopped job's windows come back.
    decoded = decode_session(engine, SAMPLES, WINDOWS, ENGLISH, 0.0)
    assert [result.window for result in decoded] == list(WINDOWS)


def test_words_are_in_order_inside_their_windows_with_probabilities(engine, greedy):
    decoded = decode_session(engine, SAMPLES, WINDOWS, ENGLISH, engine.find_maximum(SAMPLES))
    words = engine.time_words(decoded, ENGLISH)

    assert (
        "".join(word.text for word in words).split()
        == " ".join(result.text for result in decoded).split()
    )
    assert all(a.start <= b.start for a, b in zip(words, words[1:], strict=False))
    assert all(any(w.start <= x.start < x.end <= w.end for w in WINDOWS) for x in words)
    assert all(0 <= word.probability <= 1 for word in words)


def test_words_equal_those_of_windows_aligned_alone(engine, whisper, greedy):
    maximum = engine.find_maximum(SAMPLES)
    decoded = decode_session(engine, SAMPLES, WINDOWS, ENGLISH, maximum)
    tokenizer = engine._tokenizer("en")
    expected: list[Word] = []
    for result in decoded:
        mel = engine._compute_mel(SAMPLES, result.window, maximum)
        with torch.inference_mode():
            cross = engine.model.make_cross_kv(engine.model.encode(mel[None]))
        heads = [(layer, head) for layer, head in whisper.alignment_heads.indices().T.tolist()]
        tokens = [result.tokens]
        expected += time_words(engine.model, tokenizer, [result.window], tokens, cross, heads)[0]

    for word, other in zip(engine.time_words(decoded, ENGLISH), expected, strict=True):
        assert word.text == other.text
        assert word.start == pytest.approx(other.start, abs=0.021)


def test_a_window_without_text_has_no_words(engine):
    nothing = Alignment(np.zeros(1), np.zeros(0))
    empty = DecodedWindow(WINDOWS[0], (), "", 0.0, -0.5, 0.9, 1.0, nothing)

    assert engine.time_words([empty], ENGLISH) == ()


def test_a_window_that_whisper_takes_for_silence_has_no_words(engine):
    """openai-whisper leaves out such a window; we kept what it invents for music."""
    (said, *_) = decode_session(engine, SAMPLES, WINDOWS, ENGLISH, engine.find_maximum(SAMPLES))
    likely = replace(said, avg_logprob=-0.5, no_speech_prob=0.9)

    assert engine.time_words([likely], ENGLISH)
    assert engine.time_words([replace(likely, avg_logprob=-1.19)], ENGLISH) == ()


def test_the_language_is_the_most_probable_over_several_windows(engine, whisper):
    maximum = engine.find_maximum(SAMPLES)
    guess = engine.detect_language(SAMPLES, WINDOWS, maximum)
    mels = [compute_log_mel(window.cut(SAMPLES), 80, maximum, CPU) for window in WINDOWS]
    _, probabilities = whisper.detect_language(torch.stack(mels))
    mean = {code: np.mean([p[code] for p in probabilities]) for code in probabilities[0]}

    assert guess.language == max(mean, key=lambda code: mean[code])
    assert guess.probability == pytest.approx(max(mean.values()), abs=1e-4)


def test_windows_whose_language_was_heard_are_encoded_once(engine, monkeypatch, greedy):
    """A short recording was encoded twice: for its language, then for its words."""
    maximum = engine.find_maximum(SAMPLES)
    encoded: dict[Window, torch.Tensor] = {}
    request = DecodingRequest(SAMPLES, WINDOWS, ENGLISH, maximum)
    expected = engine.decode([request])
    encode, n_encoded = engine.model.encode, []

    def count(mels):
        n_encoded.append(len(mels))
        return encode(mels)

    monkeypatch.setattr(engine.model, "encode", count)
    engine.detect_language(SAMPLES, WINDOWS, maximum, encoded)
    found = engine.decode([replace(request, encoded=encoded)])

    assert sum(n_encoded) == len(WINDOWS)
    assert [window.tokens for window in found[0]] == [window.tokens for window in expected[0]]


def test_an_english_only_model_skips_detection_and_refuses_other_languages():
    english = WhisperEngine(random_whisper(n_vocab=51864))

    assert english.detect_language(SAMPLES, WINDOWS, 0.0).language == "en"
    with pytest.raises(UnknownLanguage):
        english.check(WhisperOptions(language="nl"))


def test_a_language_that_only_newer_models_know_is_refused_by_older_ones():
    of_99, of_100 = (WhisperEngine(random_whisper(n_vocab=n)) for n in (51865, 51866))
    with pytest.raises(UnknownLanguage, match="Cantonese"):
        of_99.check(WhisperOptions(language="yue"))
    of_100.check(WhisperOptions(language="yue"))


@pytest.mark.parametrize("name", ["en", "EN", "English", " english "])
def test_a_language_may_be_given_by_code_or_name(name):
    assert language_code(name) == "en"


def test_an_unknown_language_is_refused():
    with pytest.raises(UnknownLanguage):
        language_code("klingon")


def test_a_vocabulary_that_whisper_would_truncate_is_refused(engine):
    engine.check(WhisperOptions(vocabulary=("Toowoomba", "Bundaberg")))
    with pytest.raises(VocabularyTooLong, match="223"):
        engine.check(WhisperOptions(vocabulary=("Toowoomba",) * 100))


def test_the_vocabulary_reaches_every_window(engine, greedy):
    options = WhisperOptions(language="en", vocabulary=("Eva", "Cairns"))
    request = DecodingRequest(SAMPLES, WINDOWS, options, 0.0)
    tokenizer = engine._tokenizer("en")
    expected = build_prompt(tokenizer, "Eva, Cairns", 448)

    assert tokenizer.decode(list(expected[1:3])) == " Eva,"
    assert [one.prompt for one in engine._make_inputs([request])] == [expected] * 3


@pytest.mark.parametrize("n_slots", [1, 2, 5])
def test_the_measured_speed_is_plausible(n_slots):
    assert 0 < WhisperEngine(random_whisper(), n_slots=n_slots).measure_speed() < 100
