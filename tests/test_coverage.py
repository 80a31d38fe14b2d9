from dataclasses import replace

import numpy as np
import pytest
import torch

from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import SpeechRegion
from models.transcript import Word
from models.whisper_engine import DecodingRequest, WhisperEngine, WhisperOptions
from models.whisper_engine.coverage import (
    cut_at_gap,
    fill_gaps,
    find_crammed,
    find_gaps,
    is_reliable,
    select_words,
)
from models.whisper_engine.decoder import DecodedBatch, DecodedText
from models.whisper_engine.model import CrossKV
from models.whisper_engine.word_times import Alignment
from models.windows import Window
from tests.fakes import random_whisper
from tests.fakes import words as words_of

WINDOW = Window(0.0, 30.0)


def test_speech_before_between_and_after_words_is_a_gap():
    regions = [SpeechRegion(0.0, 20.0)]
    known = [*words_of("one two", 4.0), *words_of("three four", 12.0)]

    assert [(gap.start, gap.end) for gap in find_gaps(known, regions, WINDOW)] == [
        (0.0, 4.0),
        (pytest.approx(known[1].end), 12.0),
        (pytest.approx(known[3].end), 30.0),
    ]


def test_after_the_last_word_a_shorter_gap_is_enough():
    """Texts often end early: the last words of a window used to be lost."""
    known = [*words_of("one", 2.0 - 0.3), *words_of("two", 3.5)]

    gaps = find_gaps(known, [SpeechRegion(0.5, 5.0)], WINDOW)
    assert [(gap.start, gap.end) for gap in gaps] == [(3.8, 30.0)]


def test_only_speech_counts_towards_a_gap():
    known = words_of("one", 0.0)
    regions = [SpeechRegion(0.0, 0.4), SpeechRegion(5.0, 5.5), SpeechRegion(8.0, 8.2)]

    assert find_gaps(known, regions, WINDOW) == []
    assert len(find_gaps(known, [*regions, SpeechRegion(10.0, 10.5)], WINDOW)) == 1


def test_the_window_of_a_gap_starts_at_its_speech_and_runs_on_into_known_speech():
    """A clipped gap used to be decoded alone; Whisper invented words in it, and lost others."""
    regions = [SpeechRegion(0.0, 10.0), SpeechRegion(15.0, 70.0)]

    assert cut_at_gap(Window(12.0, 20.0), regions, 100.0) == Window(14.8, 44.8)
    assert cut_at_gap(Window(18.0, 20.0), regions, 100.0) == Window(18.0, 48.0)
    assert cut_at_gap(Window(18.0, 20.0), regions, 40.123) == Window(18.0, 40.12)


def test_only_the_words_in_the_gap_are_selected():
    heard = words_of("before in the gap", 9.8)
    inside = select_words(Window(10.1, heard[3].start), heard)

    assert [word.text for word in inside] == [" in", " the"]


def test_words_crammed_into_one_moment_are_not_added():
    """Six words within 0.02 s of each other, which nobody had said, used to be added."""
    crammed = [Word(f" w{i}", 12.0 + i / 300, 12.0 + i / 300, 0.9) for i in range(6)]
    heard = [*words_of("one two", 11.0), *crammed]

    assert find_crammed(heard) == [(2, 8)]
    assert select_words(Window(10.0, 20.0), heard) == []
    assert len(select_words(Window(10.0, 20.0), heard[:5])) == 5  # three are said fast


def test_improbable_words_are_not_added_even_if_their_window_is_probable():
    unsure = [replace(word, probability=0.2) for word in words_of("one two three", 11.0)]

    assert select_words(Window(10.0, 20.0), [*words_of("sure of it", 5.0), *unsure]) == []


def test_a_word_that_was_heard_before_is_not_added_twice():
    known = [*words_of("we all know", 9.0), *words_of("later words", 20.0)]
    heard = [*words_of("Know what came", 10.2), *words_of("later", 19.5)]

    found = fill_gaps(known, [heard])

    assert [word.text for word in found] == [
        *(" we", " all", " know", " what", " came", " later", " words")
    ]
    assert fill_gaps(known, [words_of("overlapping", 9.1)]) == tuple(known)


def test_a_sentence_that_is_said_again_is_added():
    """A sentence said eight times used to be written twice."""
    known = words_of("we all know it", 0.0)
    again = words_of("we all know it", 2.0)

    assert fill_gaps(known, [again]) == (*known, *again)


def test_an_improbable_or_repetitive_text_is_unreliable():
    text = DecodedText((), "", 0.0, -0.3, 0.0, 1.2)

    assert is_reliable(text)
    assert not is_reliable(DecodedText((), "", 1.0, -1.5, 0.0, 1.2))
    assert not is_reliable(DecodedText((), "", 1.0, -0.3, 0.0, 3.0))


# --- in the engine --------------------------------------------------------------------------------


NUMBERS = (" zero", " one", " two", " three", " four", " five", " six", " seven", " eight", " nine")


class ScriptedDecoder:
    """Writes a text for each window: a number per second from its start, as many as it is told."""

    def __init__(self, engine: WhisperEngine, n_words: dict[float, int], avg_logprob: float = -0.3):
        self.engine, self.n_words, self.avg_logprob = engine, n_words, avg_logprob
        self.inputs: list[tuple[float, float | None]] = []

    def decode(self, inputs):
        tokenizer = self.engine._tokenizer("en")
        for one in inputs:  # one after another: an input may be added after the last
            start = one.seed / 100
            self.inputs.append((start, one.needed))
            seconds = range(int(start), int(start) + self.n_words.get(start, 0))
            tokens = tuple(
                token for second in seconds for token in tokenizer.encode(NUMBERS[second % 10])
            )
            text = DecodedText(tokens, "", 0.0, self.avg_logprob, 0.0, 1.2)
            yield DecodedBatch((one,), (text,), CrossKV((), ()))


@pytest.fixture
def engine(monkeypatch):
    engine = WhisperEngine(random_whisper(), precision="fp32", n_slots=1)
    monkeypatch.setattr(engine, "_compute_mel", lambda *_: torch.zeros(80, 3000))
    monkeypatch.setattr(  # a word per second
        engine,
        "_align_windows",
        lambda tokenizer, windows, texts, cross: [
            Alignment(np.arange(len(text) + 1, dtype=float), np.ones(len(text))) for text in texts
        ],
    )
    monkeypatch.setattr(CrossKV, "rows", lambda self, rows: self)
    return engine


def decode(engine, decoder, windows, regions, bounds=(), seconds=60.0):
    engine._decoder = decoder
    samples = np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
    options = WhisperOptions(language="en")
    request = DecodingRequest(samples, windows, options, 0.0, regions, bounds)
    reached: list[float] = []
    (decoded,) = engine.decode([request], reached.append)
    assert reached == sorted(reached) and reached[-1] == 1.0
    return decoded


def starts(engine, decoded, regions):
    options = WhisperOptions(language="en")
    return [word.start for word in engine.time_words(decoded, options, regions)]


def test_a_window_whose_text_ends_early_is_continued_into_what_follows(engine):
    """A window used to be given up there; openai-whisper goes on from the last word."""
    regions = [SpeechRegion(0.0, 28.0), SpeechRegion(30.0, 50.0)]
    decoder = ScriptedDecoder(engine, {0.0: 10, 10.0: 15, 25.0: 9, 30.0: 20})
    decoded = decode(engine, decoder, [Window(0.0, 28.2), Window(30.0, 50.0)], regions)

    assert [(r.window, r.gap) for r in decoded] == [
        (Window(0.0, 28.2), None),
        (Window(30.0, 50.0), None),
        (Window(10.0, 40.0), Window(10.0, 28.2)),
        (Window(25.0, 55.0), Window(25.0, 28.2)),
    ]
    needed = [needed for _, needed in decoder.inputs[2:]]
    assert needed == [pytest.approx(18.2), pytest.approx(3.2)]
    assert starts(engine, decoded, regions) == [*range(28), *range(30, 50)]


def test_listening_again_ends_when_no_word_is_gained(engine):
    regions = [SpeechRegion(0.0, 28.0)]
    decoder = ScriptedDecoder(engine, {0.0: 10})
    decoded = decode(engine, decoder, [Window(0.0, 28.2)], regions)

    assert len(decoder.inputs) == 2
    assert starts(engine, decoded, regions) == [*range(10)]


def test_no_window_of_a_gap_crosses_a_bound(engine):
    regions = [SpeechRegion(0.0, 20.0), SpeechRegion(21.0, 50.0)]
    decoder = ScriptedDecoder(engine, {0.0: 10, 10.0: 10, 21.0: 29})
    decoded = decode(engine, decoder, [Window(0.0, 20.2), Window(21.0, 50.0)], regions, (20.5,))

    assert [r.window for r in decoded if r.gap] == [Window(10.0, 20.5)]


def test_a_window_without_any_word_is_not_decoded_again_unchanged(engine):
    regions = [SpeechRegion(0.0, 30.0)]
    decoder = ScriptedDecoder(engine, {})
    decode(engine, decoder, [Window(0.0, 30.0)], regions)

    assert len(decoder.inputs) == 1


def test_no_words_of_an_unreliable_text_are_added(engine):
    regions = [SpeechRegion(0.0, 28.0)]
    decoder = ScriptedDecoder(engine, {0.0: 10, 10.0: 15}, avg_logprob=-1.5)
    decoded = decode(engine, decoder, [Window(0.0, 28.2)], regions)

    assert len(decoder.inputs) == 2
    assert starts(engine, decoded, regions) == [*range(10)]
