"""Bounds on the figures in docs/researcher/accuracy.md, with a margin for other machines."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.error_rates import ErrorRate, sum_rates
from models.options import JobOptions
from models.pipeline import Pipeline
from models.weights.catalogue import find_pipeline, find_whisper
from scripts.evaluate import FIRST_SEED, KINDS, WITHOUT_SPEECH, measure, measure_one
from scripts.evaluation import Measurement
from scripts.make_interview import recording_of
from scripts.references import Annotation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(
        find_whisper("demo", Path()), find_pipeline("demo", Path()), torch.device("cpu")
    )


@pytest.fixture(scope="module")
def interviews(pipeline: Pipeline) -> list[Measurement]:
    return [measure(pipeline, KINDS[0], FIRST_SEED + i, 30.0) for i in range(3)]


def total(measured: list[Measurement], name: str) -> ErrorRate:
    return sum_rates([m.rates[name] for m in measured])


def test_the_words_of_clean_interviews_have_the_right_speaker(interviews):
    assert total(interviews, "wrong_speaker").rate <= 0.05
    assert total(interviews, "no_speaker").rate <= 0.01


def test_hardly_any_speech_of_clean_interviews_is_without_words(interviews):
    assert total(interviews, "speech_without_words").rate <= 0.10


def test_nothing_is_invented_between_the_turns_of_clean_interviews(interviews):
    assert total(interviews, "invented").rate <= 0.02


def test_the_cpwer_of_clean_interviews_is_low(interviews):
    pytest.importorskip("meeteval", reason="comes with scripts/evaluate")

    assert total(interviews, "cpwer").rate <= 0.15


# The demo weights were not trained on telephone audio, and are bad at counting voices.
HARDER = [kind for kind in KINDS[1:] if kind.is_count_given and not kind.phone]


@pytest.mark.parametrize("kind", HARDER, ids=lambda kind: kind.name)
def test_noise_interruptions_and_six_voices_cost_little_accuracy(pipeline, kind):
    measured = [measure(pipeline, kind, FIRST_SEED + i, 30.0) for i in range(2)]

    assert total(measured, "wer").rate <= (0.35 if kind.overlap else 0.10)
    assert total(measured, "der").rate <= 0.25
    assert total(measured, "wrong_speaker").rate <= 0.25


@pytest.mark.parametrize("sound", ["silence", "noise", "hum"])
def test_no_words_are_found_in_silence_noise_and_hum(pipeline, sound):
    samples = WITHOUT_SPEECH[sound](20 * 16_000, np.random.default_rng(0)).astype(np.float32)
    measured = measure_one(pipeline, recording_of(samples), Annotation(), JobOptions(language="en"))

    assert measured.rates["invented"] == ErrorRate(0.0, 20.0)
