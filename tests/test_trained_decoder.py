"""Decoding with trained weights against `whisper.decode`, and at lower precision."""

from pathlib import Path

import numpy as np
import pytest
from whisper import Whisper

from models.metrics import word_errors
from models.weights.catalogue import find_whisper
from models.weights.whisper import load_whisper
from models.whisper_engine import DecodingRequest, WhisperEngine, WhisperOptions
from models.whisper_engine.decoder import COMPRESSION_RATIO_THRESHOLD
from models.whisper_engine.linear import has_avx512
from models.windows import Window
from scripts.make_interview import make_interview
from tests.plain_whisper import plain_decode_with_fallback


@pytest.fixture(scope="module")
def demo() -> Whisper:
    return load_whisper(find_whisper("demo", Path()))


@pytest.fixture(scope="module")
def interview():
    return make_interview(820_001, seconds=120)


def cut_into_windows(samples: np.ndarray) -> list[Window]:
    return [Window(12.0 * i, 12.0 * i + 12.0) for i in range(len(samples) // (12 * 16_000))]


def make_request(engine: WhisperEngine, samples: np.ndarray) -> DecodingRequest:
    options = WhisperOptions(language="en")
    return DecodingRequest(
        samples, cut_into_windows(samples), options, engine.find_maximum(samples)
    )


@pytest.mark.slow
def test_trained_weights_give_the_same_texts_as_in_whisper(demo, interview):
    engine = WhisperEngine(demo, precision="fp32", n_slots=4)
    request = make_request(engine, interview.samples)
    (decoded,) = engine.decode([request])
    equal = 0
    for result in decoded:
        mel = engine._compute_mel(request.samples, result.window, request.maximum)
        expected = plain_decode_with_fallback(demo, mel)
        assert (result.temperature > 0) == (expected.temperature > 0)
        if result.temperature == 0:
            assert result.tokens == tuple(expected.tokens)
            assert result.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)
            equal += 1
    assert equal >= len(decoded) / 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_lower_precision_costs_at_most_a_tenth_of_a_percent_of_the_words(
    demo, interview, precision
):
    """And no more windows are empty or repetitive."""
    if precision == "bf16" and not has_avx512():
        pytest.skip("oneDNN does not even emulate bf16 on this processor")
    rates, bad = {}, {}
    reference = " ".join(word.text for word in interview.words)
    for each in ("fp32", precision):
        engine = WhisperEngine(demo, precision=each, n_slots=8)
        (decoded,) = engine.decode([make_request(engine, interview.samples)])
        text = " ".join(result.text for result in decoded)
        rates[each] = word_errors(reference, text).rate
        bad[each] = sum(
            not r.text or r.compression_ratio > COMPRESSION_RATIO_THRESHOLD for r in decoded
        )
    assert rates[precision] - rates["fp32"] <= 0.001
    assert bad[precision] <= bad["fp32"]
