import pytest

from models.pipeline import StageProgress
from service.batch.eta import EtaEstimator


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


RATES = {"segment": 0.1, "transcribe": 0.2, "align": 0.1, "diarise": 1.0}


def eta() -> tuple[EtaEstimator, Clock]:
    clock = Clock()
    return EtaEstimator(RATES, clock), clock


def test_before_anything_is_known_the_trial_says_how_long_it_takes():
    guess, _ = eta()
    guess.start(100.0)

    assert guess.remaining() == pytest.approx(140.0)
    assert guess.estimate(50.0) == pytest.approx(70.0)


def test_a_stage_under_way_says_itself_how_long_it_takes():
    guess, clock = eta()
    guess.start(100.0)
    guess.update(StageProgress("segment", 0.0))
    clock.now = 10.0
    guess.update(StageProgress("segment", 0.5))

    assert guess.remaining() == pytest.approx(10.0 + 130.0)


def test_the_slow_stage_counts_long_before_it_begins():
    """Stock diarisation takes an hour per hour on a laptop, which nobody should learn late."""
    guess, clock = eta()
    guess.start(3600.0)
    guess.update(StageProgress("segment", 0.0))
    clock.now = 60.0
    guess.update(StageProgress("segment", 0.2))

    assert guess.remaining() > 3600.0


def test_finished_stages_no_longer_count():
    guess, clock = eta()
    guess.start(100.0)
    for stage in ("segment", "transcribe", "align"):
        guess.update(StageProgress(stage, 0.0))
        clock.now += 5.0
    guess.update(StageProgress("diarise", 0.0))

    assert guess.remaining() == pytest.approx(100.0)


def test_finished_sessions_replace_the_trial():
    guess, clock = eta()
    guess.start(100.0)
    for stage, seconds in (("segment", 20), ("transcribe", 40), ("align", 20), ("diarise", 300)):
        guess.update(StageProgress(stage, 0.0))
        clock.now += seconds
    guess.update(StageProgress("check", 0.0))
    guess.finish()

    assert guess.estimate(100.0) == pytest.approx(380.0)
