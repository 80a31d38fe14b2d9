"""Decoding in slots against `whisper.decode`, with small random weights that respond to audio."""

import inspect
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from whisper import DecodingOptions, DecodingResult, Whisper
from whisper import transcribe as whisper_transcribe
from whisper.decoding import MaximumLikelihoodRanker
from whisper.tokenizer import Tokenizer, get_tokenizer

from models.errors import OutOfMemory
from models.precision import Precision
from models.whisper_engine import DecodingRequest, WhisperEngine, WhisperOptions
from models.whisper_engine.beams import BeamSearch
from models.whisper_engine.decoder import (
    COMPRESSION_RATIO_THRESHOLD,
    LOGPROB_THRESHOLD,
    NO_SPEECH_THRESHOLD,
    TEMPERATURES,
    DecodedText,
    WindowDecoder,
    choose_better,
    ends_in_loop,
    is_bound_to_fail,
    needs_fallback,
)
from models.whisper_engine.engine import build_prompt, count_slots_that_fit
from models.whisper_engine.model import InferenceModel
from models.whisper_engine.rules import read_special_tokens
from models.whisper_engine.slots import Hypothesis, Slots, WindowInput
from models.whisper_engine.word_times import align
from models.windows import Window
from tests.fakes import random_whisper
from tests.plain_whisper import plain_decode

N_WINDOWS = 5


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def whisper() -> Whisper:
    return random_whisper(seed=1)


@pytest.fixture(scope="module")
def mels() -> list[torch.Tensor]:
    """Windows with different audio, so that each has a different text."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(80, 6 + 3 * i, generator=generator).repeat_interleave(500, dim=1)[:, :3000]
        for i in range(N_WINDOWS)
    ]


@pytest.fixture
def greedy(monkeypatch):
    disable_fallback(monkeypatch)


def disable_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights every text is improbable and repetitive."""
    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", lambda text: False)
    monkeypatch.setattr("models.whisper_engine.decoder.ends_in_loop", lambda tokens: False)


def tokenizer_of(model: Whisper) -> Tokenizer:
    return get_tokenizer(
        model.is_multilingual, num_languages=model.num_languages, language="en", task="transcribe"
    )


def decoder_of(model: Whisper, n_slots: int = 2, precision: Precision = "fp32") -> WindowDecoder:
    special, tokenizer = read_special_tokens(model), tokenizer_of(model)
    return WindowDecoder(InferenceModel(model, precision), special, tokenizer, n_slots)


def texts_of(
    decoder: WindowDecoder,
    mels: Sequence[torch.Tensor],
    prompt: str | None = None,
    beams: bool = False,
) -> list[DecodedText]:
    tokens = build_prompt(decoder.tokenizer, prompt, decoder.model.dims.n_text_ctx)
    inputs = (WindowInput(i, mel, tokens, seed=i, beams=beams) for i, mel in enumerate(mels))
    texts: dict[int, DecodedText] = {}
    for decoded in decoder.decode(inputs):
        for window_input, text in zip(decoded.inputs, decoded.texts, strict=True):
            texts[window_input.index] = text
    return [texts[i] for i in range(len(mels))]


def assert_same(text: DecodedText, expected: DecodingResult) -> None:
    assert text.tokens == tuple(expected.tokens)
    assert text.text == expected.text
    assert text.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert text.no_speech_prob == pytest.approx(expected.no_speech_prob, rel=1e-3)
    assert text.compression_ratio == pytest.approx(expected.compression_ratio)


def limit_texts(monkeypatch: pytest.MonkeyPatch, limit: Callable[[WindowInput], int]) -> None:
    reset = Slots._reset_texts

    def with_limit(self: Slots, slot: int, temperature: float) -> None:
        reset(self, slot, temperature)
        self._limit[self._rows(slot)] = limit(self.occupant(slot))

    monkeypatch.setattr(Slots, "_reset_texts", with_limit)


@pytest.mark.parametrize("n_vocab", [51864, 51865, 51866])
def test_texts_equal_those_of_whispers_own_decode(n_vocab, mels, greedy, monkeypatch):
    limit_texts(monkeypatch, lambda window_input: 40)
    model = random_whisper(n_vocab=n_vocab, seed=2)
    decoder = decoder_of(model)
    texts = texts_of(decoder, mels[:3])

    assert len({text.tokens for text in texts}) > 1
    for mel, text in zip(mels, texts, strict=False):
        assert_same(text, plain_decode(model, mel, longest=40))


@pytest.mark.parametrize(("n_prompt", "longest"), [(100, 224), (300, 222)])
def test_a_prompt_is_truncated_as_by_whisper_and_shortens_the_longest_text(
    whisper, mels, greedy, n_prompt, longest
):
    """A long prompt leaves room for fewer than 224 tokens in the decoder's context."""
    prompt = " and" * n_prompt
    (text,) = texts_of(decoder_of(whisper), mels[:1], prompt)

    assert_same(text, plain_decode(whisper, mels[0], prompt))
    assert len(text.tokens) == longest


def test_a_text_may_end_immediately(mels, greedy, monkeypatch):
    """With weights that end a text as soon as the rules allow it."""
    model = random_whisper(seed=3)
    decoder = decoder_of(model)
    decoder.rules.suppressed[decoder.rules.special.eot] = 50.0
    texts = texts_of(decoder, mels)

    for text in texts:
        assert all(token >= decoder.rules.special.timestamp_begin for token in text.tokens)
        assert len(text.tokens) == 1
        assert (text.text, text.compression_ratio) == ("", 0.0)


def test_a_text_depends_on_its_window_alone(whisper, mels, greedy, monkeypatch):
    """Not on the number of slots, the order, or other windows with longer prompts."""
    limit_texts(monkeypatch, lambda window_input: 30)
    expected = [texts_of(decoder_of(whisper, 1), [mel])[0] for mel in mels]
    for n_slots in (2, 8):
        assert_equal(texts_of(decoder_of(whisper, n_slots), mels), expected)
        assert_equal(texts_of(decoder_of(whisper, n_slots), mels[::-1]), expected[::-1])

    decoder = decoder_of(whisper, 3)
    short = build_prompt(decoder.tokenizer, None, 448)
    long = build_prompt(decoder.tokenizer, "Eva, Cairns, Toowoomba", 448)
    inputs = [WindowInput(i, mel, long if i % 2 else short, i) for i, mel in enumerate(mels)]
    found = {
        window_input.index: text
        for decoded in decoder.decode(iter(inputs))
        for window_input, text in zip(decoded.inputs, decoded.texts, strict=True)
    }
    assert_equal([found[i] for i in (0, 2, 4)], [expected[i] for i in (0, 2, 4)])


@pytest.mark.slow
def test_a_hundred_windows_decoded_together_give_the_same_texts_as_alone(
    whisper, mels, greedy, monkeypatch
):
    limit_texts(monkeypatch, lambda window_input: 8)
    expected = texts_of(decoder_of(whisper, 1), mels)

    assert_equal(texts_of(decoder_of(whisper, 100), mels * 20), expected * 20)


def assert_equal(texts: Sequence[DecodedText], expected: Sequence[DecodedText]) -> None:
    assert [text.tokens for text in texts] == [text.tokens for text in expected]
    assert [text.avg_logprob for text in texts] == pytest.approx(
        [text.avg_logprob for text in expected], abs=1e-4
    )


def vary_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """End texts after 5, 10, 15... tokens, so that slots are refilled at different times."""
    limit_texts(monkeypatch, lambda window_input: 5 + 5 * window_input.index)


@pytest.mark.parametrize("n_slots", [2, 3])
def test_slots_are_refilled_while_the_others_continue(whisper, mels, greedy, monkeypatch, n_slots):
    """With three slots, the last window moves into the slot of one that has ended."""
    vary_lengths(monkeypatch)
    expected = texts_of(decoder_of(whisper, 1), mels)
    texts = texts_of(decoder_of(whisper, n_slots), mels)

    assert [len(text.tokens) for text in texts] == [5, 10, 15, 20, 25]
    assert_equal(texts, expected)


def test_texts_are_yielded_as_they_end_and_the_next_input_is_made_only_then(
    whisper, mels, greedy, monkeypatch
):
    vary_lengths(monkeypatch)
    made = []
    decoder = decoder_of(whisper, 2)
    prompt = build_prompt(decoder.tokenizer, None, 448)

    def inputs():
        for i, mel in enumerate(mels):
            made.append(i)
            yield WindowInput(i, mel, prompt, i)

    yielded = []
    for decoded in decoder.decode(inputs()):
        yielded += [window_input.index for window_input in decoded.inputs]
        assert len(made) <= len(yielded) + 2
    assert yielded == [0, 1, 2, 3, 4]


# --- fallback ---


@pytest.mark.parametrize(
    ("avg_logprob", "no_speech_prob", "compression_ratio", "expected"),
    [
        (-0.3, 0.0, 1.5, False),
        (-1.2, 0.0, 1.5, True),
        (-0.3, 0.0, 3.0, True),
        (-1.2, 0.9, 1.5, False),  # silence
        (-1.2, 0.9, 3.0, False),  # silence, whatever its text
        (-0.3, 0.9, 3.0, True),  # speech, but repetitive
    ],
)
def test_a_window_is_decoded_again_when_openai_whisper_would(
    avg_logprob, no_speech_prob, compression_ratio, expected
):
    text = DecodedText((), "", 0.0, avg_logprob, no_speech_prob, compression_ratio)

    assert needs_fallback(text) is expected


def test_thresholds_and_temperatures_are_those_of_openai_whisper():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(whisper_transcribe).parameters.items()
    }

    assert defaults["temperature"] == TEMPERATURES
    assert defaults["compression_ratio_threshold"] == COMPRESSION_RATIO_THRESHOLD
    assert defaults["logprob_threshold"] == LOGPROB_THRESHOLD
    assert defaults["no_speech_threshold"] == NO_SPEECH_THRESHOLD


@pytest.fixture
def short(monkeypatch):
    vary_lengths(monkeypatch)
    monkeypatch.setattr("models.whisper_engine.decoder.ends_in_loop", lambda tokens: False)


def make_fail(
    monkeypatch: pytest.MonkeyPatch, goals: dict[float, float]
) -> list[tuple[float, float]]:
    """Let windows fail below a temperature.

    Args:
        goals: temperatures at which windows pass, by their no-speech probability.

    Returns:
        Collects the no-speech probability and temperature of each text that is judged.
    """
    judged = []

    def fails(text: DecodedText) -> bool:
        judged.append((text.no_speech_prob, text.temperature))
        goal = [t for p, t in goals.items() if text.no_speech_prob == pytest.approx(p, rel=1e-4)]
        return bool(goal) and text.temperature < goal[0]

    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", fails)
    return judged


def test_only_failing_windows_are_sampled_again_at_rising_temperatures(
    whisper, mels, short, monkeypatch
):
    make_fail(monkeypatch, {})
    first = texts_of(decoder_of(whisper), mels)
    goals = {first[1].no_speech_prob: 0.4, first[3].no_speech_prob: 0.2}
    judged = make_fail(monkeypatch, goals)
    texts = texts_of(decoder_of(whisper), mels)

    assert [text.temperature for text in texts] == [0.0, 0.4, 0.0, 0.2, 0.0]
    assert max(temperature for _, temperature in judged) == 0.4
    assert_equal([texts[i] for i in (0, 2, 4)], [first[i] for i in (0, 2, 4)])
    for i in (1, 3):
        assert texts[i].no_speech_prob == pytest.approx(first[i].no_speech_prob, rel=1e-5)


def test_a_window_that_fails_at_every_temperature_keeps_its_last_text(
    whisper, mels, short, monkeypatch
):
    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", lambda text: True)
    texts = texts_of(decoder_of(whisper), mels)

    assert [text.temperature for text in texts] == [1.0] * N_WINDOWS
    assert all(text.tokens for text in texts)


def test_samples_depend_on_the_window_alone_and_differ_between_temperatures(
    whisper, mels, short, monkeypatch
):
    """Not on the slot, the other windows or how many fail together."""
    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", lambda text: True)
    monkeypatch.setattr("models.whisper_engine.decoder.TEMPERATURES", (0.0, 1.0))
    expected = texts_of(decoder_of(whisper, 1), mels)
    for n_slots in (2, 8):
        assert_equal(texts_of(decoder_of(whisper, n_slots), mels), expected)
    monkeypatch.setattr("models.whisper_engine.decoder.TEMPERATURES", (0.0, 1.001))
    assert texts_of(decoder_of(whisper), mels)[4].tokens != expected[4].tokens


def test_windows_of_a_stopped_job_are_dropped(whisper, mels, short, monkeypatch):
    monkeypatch.setattr(
        "models.whisper_engine.decoder.needs_fallback", lambda text: text.temperature == 0.0
    )
    decoder = decoder_of(whisper)
    tokens = build_prompt(decoder.tokenizer, None, 448)
    stopped = decoder.decode(WindowInput(i, mel, tokens, i) for i, mel in enumerate(mels))
    next(stopped)
    stopped.close()

    assert len(texts_of(decoder, mels[:1])) == 1


def test_the_most_probable_of_five_samples_is_kept(whisper, mels, short, monkeypatch):
    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", lambda text: True)
    monkeypatch.setattr("models.whisper_engine.decoder.TEMPERATURES", (0.0, 1.0))
    samples: list[list[Hypothesis]] = []
    hypotheses = Slots.hypotheses

    def note(self: Slots, slot: int) -> list[Hypothesis]:
        found = hypotheses(self, slot)
        if self.n_candidates > 1:
            samples.append(found)
        return found

    monkeypatch.setattr(Slots, "hypotheses", note)
    texts = texts_of(decoder_of(whisper), mels)
    best = [max(five, key=lambda one: one.sum_logprobs / len(one.tokens)) for five in samples]

    assert [len({one.tokens for one in five}) for five in samples] == [5] * N_WINDOWS
    assert {text.tokens for text in texts} == {one.tokens for one in best}


def test_the_best_sample_is_the_one_that_whispers_ranker_chooses(whisper):
    decoder = decoder_of(whisper)
    samples = [
        Hypothesis((7, 8), -1.1, 0.1),
        Hypothesis(
            (7, 8, 9, 7, 8, 9), -2.4, 0.1
        ),  # less probable in total, more probable per token
        Hypothesis((), -0.5, 0.1),
        Hypothesis((5, 6, 7), -1.4, 0.1),
    ]
    (best,) = MaximumLikelihoodRanker(None).rank(
        [[torch.tensor(one.tokens) for one in samples if one.tokens]],
        [[one.sum_logprobs for one in samples if one.tokens]],
    )
    expected = [one for one in samples if one.tokens][best]
    slots = SimpleNamespace(hypotheses=lambda slot: samples)

    assert decoder._choose_text(slots, 0, 0.2).tokens == expected.tokens  # type: ignore[arg-type]


def test_an_ended_text_stays_unchanged_while_others_of_its_window_continue(whisper, mels):
    decoder = decoder_of(whisper)
    slots = Slots(decoder.model, decoder.rules, 1, 5)
    slots.add([WindowInput(0, mels[0], build_prompt(decoder.tokenizer, None, 448), seed=0)])
    slots.restart(1.0)
    slots._limit[:] = torch.arange(3, 8)
    for _ in range(3):
        slots.run()
    first = slots.hypotheses(0)[0]
    for _ in range(4):
        slots.run()

    assert slots.ended == [0]
    assert [len(one.tokens) for one in slots.hypotheses(0)] == [3, 4, 5, 6, 7]
    assert slots.hypotheses(0)[0] == first


def test_tokens_are_sampled_in_proportion_to_their_probabilities(whisper):
    decoder = decoder_of(whisper)
    slots = Slots(decoder.model, decoder.rules, 80, 5)
    logits = torch.full((400, 51865), -torch.inf)
    logits[:, [7, 100, 51000]] = torch.tensor([0.2, 0.5, 0.3]).log()
    slots._temperature[:] = 1.0
    slots._uniform[:] = torch.rand(slots._uniform.shape, generator=torch.Generator().manual_seed(0))
    drawn = slots._sample(logits, torch.zeros(400, dtype=torch.long))
    shares = [(drawn == token).float().mean().item() for token in (7, 100, 51000)]

    assert shares == pytest.approx([0.2, 0.5, 0.3], abs=0.08)
    assert sum(shares) == pytest.approx(1.0)
    slots._temperature[:] = 0.01
    assert (slots._sample(logits, torch.zeros(400, dtype=torch.long)) == 100).all()


# --- loops ---


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3] * 4, True),
        ([9, 8, *[1, 2, 3] * 4], True),
        ([1, 2, 3] * 3, False),
        ([*[1, 2, 3] * 4, 9], False),  # the loop has ended
        (list(range(100)), False),
        ([5] * 4, True),
    ],
)
def test_a_loop_is_a_short_sequence_repeated_four_times_at_the_end(tokens, expected):
    assert ends_in_loop(tokens) is expected


def test_a_loop_is_stopped_only_if_ordinary_text_up_to_the_limit_cannot_make_it_pass():
    loop = "I do not know. " * 20
    ordinary = (
        "We met at the library in spring, and she told me about her garden, the neighbours, a "
        "quarrel over fences and how her brother had moved away to the coast years before that. "
    )
    assert not is_bound_to_fail(loop, 200)
    assert is_bound_to_fail(loop * 2, 60)
    saved = loop * 2 + ordinary
    assert len(saved) / len(zlib.compress(saved.encode())) > COMPRESSION_RATIO_THRESHOLD


def test_a_stopped_loop_is_sampled_again_as_if_it_had_reached_its_limit(whisper, mels, monkeypatch):
    monkeypatch.setattr("models.whisper_engine.decoder.TEMPERATURES", (0.0, 0.2))
    stopped: list[int] = []
    stop = Slots.stop

    def note(self: Slots, slot: int) -> None:
        stopped.append(int(self._state.length[slot]))
        stop(self, slot)

    monkeypatch.setattr(Slots, "stop", note)
    (text,) = texts_of(decoder_of(whisper), mels[:1])

    assert stopped and stopped[0] < 200
    assert text.temperature == 0.2


@pytest.fixture(scope="module")
def texts_on_this_processor(whisper: Whisper, mels: list[torch.Tensor]) -> list[DecodedText]:
    with pytest.MonkeyPatch.context() as monkeypatch, torch.inference_mode():
        disable_fallback(monkeypatch)
        limit_texts(monkeypatch, lambda window_input: 60)
        return texts_of(decoder_of(whisper), mels)


@pytest.mark.parametrize(
    ("is_mkl_fast", "has_avx512"), [(True, True), (True, False), (False, True)]
)
def test_texts_are_the_same_in_the_memory_layout_of_any_processor(
    whisper, mels, greedy, monkeypatch, is_mkl_fast, has_avx512, texts_on_this_processor
):
    for module in ("models.whisper_engine.model", "models.whisper_engine.linear"):
        monkeypatch.setattr(f"{module}.is_mkl_fast", lambda: is_mkl_fast)
        monkeypatch.setattr(f"{module}.has_avx512", lambda: has_avx512)
    limit_texts(monkeypatch, lambda window_input: 60)

    assert_equal(texts_of(decoder_of(whisper), mels), texts_on_this_processor)


# --- memory ---


def test_when_memory_runs_out_the_slots_are_halved_and_no_window_is_lost(
    whisper, mels, greedy, monkeypatch
):
    vary_lengths(monkeypatch)
    expected = texts_of(decoder_of(whisper), mels)
    add, decoder = Slots.add, decoder_of(whisper, 4)

    def add_at_most_two(self: Slots, inputs: list[WindowInput]) -> None:
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("too many")
        add(self, inputs)

    monkeypatch.setattr(Slots, "add", add_at_most_two)
    assert_equal(texts_of(decoder, mels), expected)
    assert (decoder.halvings.count, decoder.n_slots) == (1, 2)


def test_memory_may_run_out_after_some_texts_have_ended(whisper, mels, greedy, monkeypatch):
    vary_lengths(monkeypatch)
    expected = texts_of(decoder_of(whisper, 4), mels)
    run, n_runs = Slots.run, iter(range(1000))

    def run_out_once(self: Slots) -> None:
        if next(n_runs) == 12:  # the first two texts have ended
            raise torch.OutOfMemoryError("no more")
        run(self)

    monkeypatch.setattr(Slots, "run", run_out_once)
    decoder = decoder_of(whisper, 4)
    assert_equal(texts_of(decoder, mels), expected)
    assert decoder.halvings.count == 1


def test_memory_may_run_out_while_an_input_is_made(whisper, mels, greedy, monkeypatch):
    """A generator of inputs used to end with the error, and later windows got no text."""
    vary_lengths(monkeypatch)
    engine = WhisperEngine(whisper, precision="fp32", n_slots=4)
    samples = np.random.default_rng(0).standard_normal(60 * 16_000, dtype=np.float32)
    windows = [Window(12.0 * i, 12.0 * i + 12.0) for i in range(5)]
    session = DecodingRequest(samples, windows, WhisperOptions(language="en"), 0.0)
    (expected,) = engine.decode([session])
    mel, n_made = engine._compute_mel, iter(range(1000))

    def run_out_once(*arguments):
        if next(n_made) == 2:  # two inputs are waiting
            raise torch.OutOfMemoryError("no more")
        return mel(*arguments)

    monkeypatch.setattr(engine, "_compute_mel", run_out_once)
    before = engine.halvings.count
    (decoded,) = engine.decode([session])

    assert [result.tokens for result in decoded] == [result.tokens for result in expected]
    assert engine.halvings.count == before + 1


def test_memory_may_run_out_while_texts_are_aligned(whisper, mels, greedy, monkeypatch):
    vary_lengths(monkeypatch)
    engine = WhisperEngine(whisper, precision="fp32", n_slots=4)
    texts = [[50, 60, 70], [80, 90], [100, 110, 120, 130]]
    windows = [Window(0.0, 20.0)] * 3
    cross = engine.model.make_cross_kv(engine.model.encode(torch.stack(mels[:3])))
    expected = engine._align_windows(engine._tokenizer("en"), windows, texts, cross)
    sizes = []

    def one_at_a_time(model, tokenizer, texts, *arguments):
        sizes.append(len(texts))
        if len(texts) > 1:
            raise torch.OutOfMemoryError("too many")
        return align(model, tokenizer, texts, *arguments)

    monkeypatch.setattr("models.whisper_engine.engine.align", one_at_a_time)
    found = engine._align_windows(engine._tokenizer("en"), windows, texts, cross)

    assert sizes == [3, 1, 1, 1]
    for one, other in zip(found, expected, strict=True):
        assert one.times == pytest.approx(other.times, abs=0.021)


def test_if_no_window_fits_the_job_fails_with_a_code(whisper, mels, greedy, monkeypatch):
    """In whichever part of transcription memory runs out."""
    engine = WhisperEngine(whisper, precision="fp32", n_slots=1)
    samples = np.random.default_rng(0).standard_normal(12 * 16_000, dtype=np.float32)

    def never(*arguments):
        raise torch.OutOfMemoryError("nothing fits")

    monkeypatch.setattr("models.whisper_engine.engine.align", never)
    session = DecodingRequest(samples, [Window(0.0, 12.0)], WhisperOptions(language="en"), 0.0)
    with pytest.raises(OutOfMemory):
        engine.decode([session])
    monkeypatch.setattr(engine, "_compute_mel", never)
    with pytest.raises(OutOfMemory):
        engine.detect_language(samples, session.windows, 0.0)


@pytest.mark.parametrize(("gigabytes", "n_slots"), [(200.0, 128), (40.0, 64), (5.0, 4), (0.5, 1)])
def test_as_many_slots_are_used_as_fit_together_with_fallback_slots(
    gigabytes, n_slots, monkeypatch
):
    """In large-v3 in bf16 a slot takes 0.32 GB, a fallback slot 0.61 GB."""
    dims = SimpleNamespace(
        n_audio_ctx=1500, n_text_ctx=448, n_text_layer=32, n_text_state=1280, n_vocab=51866
    )
    model = SimpleNamespace(dims=dims, device=torch.device("cuda"), dtype=torch.bfloat16)
    free = int(gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))

    assert count_slots_that_fit(model) == n_slots  # type: ignore[arg-type]


def test_a_single_window_that_does_not_fit_is_an_error(whisper, mels, monkeypatch):
    def never(self: Slots, inputs: list[WindowInput]) -> None:
        raise torch.OutOfMemoryError("nothing fits")

    monkeypatch.setattr(Slots, "add", never)
    with pytest.raises(OutOfMemory, match="One window"):
        texts_of(decoder_of(whisper, 4), mels)


# --- on a GPU ---


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """A GPU's numbers of slots, spans and steps, without recording graphs."""
    monkeypatch.setattr(Slots, "_uses_graphs", True)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    sizes: list[tuple[int, int]] = []

    def note(self: Slots, n_slots: int, span: int) -> None:
        sizes.append((n_slots, span))
        self._step(n_slots, span)

    monkeypatch.setattr(Slots, "_replay_graph", note)
    return sizes


def test_the_steps_of_a_gpu_give_the_same_texts(whisper, mels, greedy, monkeypatch, as_on_a_gpu):
    limit_texts(monkeypatch, lambda window_input: 110 + 10 * window_input.index)
    texts = texts_of(decoder_of(whisper, 4), mels)
    sizes = set(as_on_a_gpu)
    monkeypatch.setattr(Slots, "_uses_graphs", False)

    assert sizes == {(4, 128), (4, 256), (2, 256), (1, 128), (1, 256)}
    assert_equal(texts, texts_of(decoder_of(whisper, 4), mels))


def test_unused_slots_do_not_break_sampling(whisper, mels, short, monkeypatch, as_on_a_gpu):
    """Three failing windows are sampled in a graph of four slots.

    The unused slot used to have a temperature of 0, so its draw was no valid token, and an index
    outside a tensor ends the process on a GPU.
    """
    monkeypatch.setattr("models.whisper_engine.decoder.needs_fallback", lambda text: True)
    monkeypatch.setattr("models.whisper_engine.decoder.TEMPERATURES", (0.0, 1.0))
    monkeypatch.setattr("models.whisper_engine.decoder.count_fallback_slots", lambda n_slots: 4)
    texts = texts_of(decoder_of(whisper, 8), mels[:3])
    monkeypatch.setattr(Slots, "_uses_graphs", False)

    assert (4, 128) in as_on_a_gpu
    assert_equal(texts, texts_of(decoder_of(whisper, 8), mels[:3]))


def test_a_text_without_a_possible_token_still_draws_a_valid_one(whisper):
    """An ended text is computed along until its slot is free."""
    slots = Slots(decoder_of(whisper).model, decoder_of(whisper).rules, 1, 5)
    nothing = torch.full((5, 51865), -torch.inf)

    assert (slots._sample(nothing, torch.zeros(5, dtype=torch.long)) < 51865).all()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_give_the_same_texts_as_single_steps(mels, greedy, monkeypatch, precision):
    """CUDA graphs of several sizes and spans, refilled and drained, against no graphs."""
    limit_texts(monkeypatch, lambda window_input: 150 + 10 * window_input.index)
    model = random_whisper(seed=1).cuda()
    recorded = texts_of(decoder_of(model, 4, precision), mels)
    monkeypatch.setattr(Slots, "_replay_graph", Slots._step)

    assert_equal(texts_of(decoder_of(model, 4, precision), mels), recorded)


@pytest.mark.gpu
def test_texts_on_a_gpu_equal_those_of_whispers_own_decode(mels, greedy, monkeypatch):
    limit_texts(monkeypatch, lambda window_input: 40)
    torch.backends.cuda.matmul.allow_tf32 = False
    model = random_whisper(seed=2).cuda()
    for mel, text in zip(mels, texts_of(decoder_of(model), mels), strict=True):
        assert_same(text, plain_decode(model, mel.cuda(), longest=40))


# --- beams ----------------------------------------------------------------------------------------


@pytest.fixture
def only_beams(monkeypatch, greedy):
    """Search every window with beams, and keep what they find."""
    module = "models.whisper_engine.decoder"
    monkeypatch.setattr(f"{module}.DOUBTFUL_LOGPROB", math.inf)
    monkeypatch.setattr(f"{module}.choose_better", lambda first, second: second)


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # whisper's own: numpy sorts a tensor
@pytest.mark.parametrize("n_slots", [1, 8])
def test_beams_find_the_texts_of_whispers_beam_search(mels, monkeypatch, only_beams, n_slots):
    limit_texts(monkeypatch, lambda window_input: 12)
    whisper = random_whisper(seed=2)
    texts = texts_of(decoder_of(whisper, n_slots), mels[:3], beams=True)
    alone = texts_of(decoder_of(whisper), mels[:3])

    assert [text.tokens for text in texts] != [text.tokens for text in alone]
    for mel, text in zip(mels, texts, strict=False):
        options = DecodingOptions(language="en", beam_size=5, sample_len=12, fp16=False)
        assert_same(text, whisper.decode(mel, options))


def test_beams_that_end_are_kept_until_there_are_as_many_as_beams():
    """As in whisper, the texts that end first are the candidates, not the most probable ones."""
    end = 9
    search = BeamSearch(2, end, limit=5)
    search.add([[-1.0, -2.0, -3.0]] * 2, [[1, 2, 3]] * 2)  # at first, both beams are equal
    assert (search.sequences, search.sources) == ([(1,), (2,)], [0, 0])

    search.add([[-0.1, -5.0, -6.0], [-0.2, -0.3, -7.0]], [[end, 4, 5], [6, end, 7]])
    assert (search.sequences, search.sources) == ([(2, 6), (1, 4)], [1, 0])
    assert search.is_done

    search.add([[-0.1, -0.2, -0.3]] * 2, [[1, 2, 3]] * 2)
    assert [tokens for tokens, _ in search.finish()] == [(1,), (2,)]
    assert [score for _, score in search.finish()] == pytest.approx([-1.1, -2.3])


def test_beams_at_their_limit_are_candidates_themselves():
    search = BeamSearch(2, 9, limit=2)
    search.add([[-1.0, -2.0, -3.0]] * 2, [[1, 2, 3]] * 2)
    search.add([[-1.0, -2.0, -3.0], [-5.0, -6.0, -7.0]], [[9, 4, 5]] * 2)

    assert [tokens for tokens, _ in search.finish()] == [(1,), (1, 4)]


def test_only_a_doubtful_text_is_searched_with_beams_and_only_on_request(
    whisper, mels, short, monkeypatch
):
    make_fail(monkeypatch, {})
    greedy = texts_of(decoder_of(whisper), mels)
    doubtful = sorted(text.avg_logprob for text in greedy)[2]
    monkeypatch.setattr("models.whisper_engine.decoder.DOUBTFUL_LOGPROB", doubtful)
    monkeypatch.setattr("models.whisper_engine.decoder.LOGPROB_THRESHOLD", -math.inf)
    searched: list[int] = []
    run_beams = Slots.run_beams

    def record(self):
        searched.extend(one.index for one in self.occupants if one is not None)
        run_beams(self)

    monkeypatch.setattr(Slots, "run_beams", record)
    assert_equal(texts_of(decoder_of(whisper), mels), greedy)
    assert searched == []
    texts_of(decoder_of(whisper), mels, beams=True)
    assert sorted(searched) == [i for i, text in enumerate(greedy) if text.avg_logprob < doubtful]


def test_beams_stop_where_the_text_is_not_needed_any_more():
    search = BeamSearch(2, 9, limit=50, enough=120)
    search.add([[-1.0, -2.0, -3.0]] * 2, [[100, 101, 102]] * 2)
    assert not search.is_done
    search.add([[-1.0, -2.0, -3.0]] * 2, [[125, 4, 5]] * 2)

    assert search.is_done
    assert [tokens for tokens, _ in search.finish()] == [(100, 125), (100, 4)]


def test_beams_that_lose_words_do_not_replace_the_greedy_text():
    """Five beams on all windows used to lose more words than greedy texts did."""
    greedy = DecodedText((), "we went to the clinic, and then we left", 0.0, -0.4, 0.0, 1.2)
    shorter = replace(greedy, text="we went to the clinic", avg_logprob=-0.3)
    better = replace(greedy, text="we went to the clinic and then it left", avg_logprob=-0.3)

    assert choose_better(greedy, shorter) is greedy
    assert choose_better(greedy, better) is better
    assert choose_better(greedy, replace(better, avg_logprob=-0.5)) is greedy
    assert choose_better(replace(greedy, avg_logprob=-1.2), shorter) is shorter  # it had failed
