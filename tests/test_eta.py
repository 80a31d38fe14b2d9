"""Estimates of the time that a session will still take."""

import pytest

from models.pipeline import StageProgress
from service.batch.eta import EtaEstimator


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


RATES = {"segment": 0.1, "transcribe": 0.2, "align": 0.1, "diarise": 1.0}


def make_estimator() -> tuple[EtaEstimator, Clock]:
    clock = Clock()
    return EtaEstimator(RATES, clock), clock


def test_the_first_estimate_comes_from_the_given_rates():
    estimator, _ = make_estimator()
    estimator.start(100.0)

    assert estimator.remaining() == pytest.approx(140.0)
    assert estimator.estimate(50.0) == pytest.approx(70.0)


def test_a_running_stage_is_estimated_from_its_own_speed():
    estimator, clock = make_estimator()
    estimator.start(100.0)
    estimator.update(StageProgress("segment", 0.0))
    clock.now = 10.0
    estimator.update(StageProgress("segment", 0.5))

    assert estimator.remaining() == pytest.approx(10.0 + 130.0)


def test_a_slow_stage_counts_before_it_begins():
    """Stock diarisation takes an hour per hour of audio on a laptop: say so from the start."""
    estimator, clock = make_estimator()
    estimator.start(3600.0)
    estimator.update(StageProgress("segment", 0.0))
    clock.now = 60.0
    estimator.update(StageProgress("segment", 0.2))

    assert estimator.remaining() > 3600.0


def test_finished_stages_no_longer_count():
    estimator, clock = make_estimator()
    estimator.start(100.0)
    for stage in ("segment", "transcribe", "align"):
        estimator.update(StageProgress(stage, 0.0))
        clock.now += 5.0
    estimator.update(StageProgress("diarise", 0.0))

    assert estimator.remaining() == pytest.approx(100.0)


def test_finished_sessions_replace_the_given_rates():
    estimator, clock = make_estimator()
    estimator.start(100.0)
    for stage, seconds in (("segment", 20), ("transcribe", 40), ("align", 20), ("diarise", 300)):
        estimator.update(StageProgress(stage, 0.0))
        clock.now += seconds
    estimator.update(StageProgress("check", 0.0))
    estimator.finish()

    assert estimator.estimate(100.0) == pytest.approx(380.0)
