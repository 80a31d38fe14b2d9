"""Languages of individual windows, and translation."""

import pytest
import torch
from whisper import DecodingOptions, Whisper

from models.errors import CannotTranslate
from models.whisper_engine import DecodingRequest, WhisperEngine, WhisperOptions
from models.whisper_engine.mel import compute_log_mel
from models.whisper_engine.slots import Slots
from models.windows import Window
from tests.fakes import random_whisper
from tests.plain_whisper import decode_session
from tests.test_whisper_engine import SAMPLES, WINDOWS

CPU = torch.device("cpu")
LONGEST = 12  # tokens


@pytest.fixture(scope="module")
def whisper():
    return random_whisper()


@pytest.fixture(scope="module")
def engine(whisper: Whisper) -> WhisperEngine:
    return WhisperEngine(whisper, precision="fp32", n_slots=2)


@pytest.fixture(autouse=True)
def greedy_and_short(monkeypatch):
    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", lambda text: False)
    reset = Slots._reset_texts

    def short(self, slot, temperature):
        reset(self, slot, temperature)
        self._limit[self._rows(slot)] = LONGEST

    monkeypatch.setattr(Slots, "_reset_texts", short)


def plain(whisper: Whisper, window: Window, maximum: float, **options: str) -> tuple[int, ...]:
    mel = compute_log_mel(window.cut(SAMPLES), 80, maximum, CPU)
    result = whisper.decode(mel, DecodingOptions(fp16=False, sample_len=LONGEST, **options))
    return tuple(result.tokens)


def test_translations_are_those_of_whisper(engine, whisper):
    maximum = engine.find_maximum(SAMPLES)
    options = WhisperOptions(language="nl", task="translate")
    decoded = decode_session(engine, SAMPLES, WINDOWS, options, maximum)
    words = engine.time_words(decoded, options)

    assert words
    for result in decoded:
        expected = plain(whisper, result.window, maximum, language="nl", task="translate")
        assert result.tokens == expected
    # Random weights hardly react to the task, so the prompt is compared as well.
    (window_input, *_) = engine._make_inputs([DecodingRequest(SAMPLES, WINDOWS, options, maximum)])
    assert window_input.prompt == engine._tokenizer("nl", "translate").sot_sequence
    assert window_input.prompt != engine._tokenizer("nl").sot_sequence


def test_a_window_clearly_in_another_language_is_decoded_in_it(engine, whisper, monkeypatch):
    votes = iter([("nl", 0.9), ("de", 0.5), ("en", 0.95)])  # the second is not clear enough

    def vote(mels, tokenizer):
        language, probability = next(votes)
        n = len(tokenizer.all_language_codes)
        found = torch.full((n,), (1 - probability) / n)
        found[tokenizer.all_language_codes.index(language)] = probability
        return found[None]

    monkeypatch.setattr(engine, "_language_probabilities", vote)
    maximum = engine.find_maximum(SAMPLES)
    options = WhisperOptions(language="en", language_per_window=True)
    decoded = decode_session(engine, SAMPLES, WINDOWS, options, maximum)

    assert [result.language for result in decoded] == ["nl", "en", "en"]
    assert [result.language_probability for result in decoded] == [0.9, 0.5, 0.95]
    for result in decoded:
        assert result.language is not None
        assert result.tokens == plain(whisper, result.window, maximum, language=result.language)
    assert engine.time_words(decoded, options)


def test_an_english_model_refuses_to_translate():
    english = WhisperEngine(random_whisper(n_vocab=51864), precision="fp32", n_slots=1)

    with pytest.raises(CannotTranslate):
        english.check(WhisperOptions(task="translate"))
