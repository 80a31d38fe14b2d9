"""A job's progress and remaining time."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from service.database.tables import STAGES, JobStage, StageTiming
from service.domain.stages import (
    STORED_STAGES,
    StageRate,
    overall_progress,
    read_rates,
    remaining_time,
)

NOW = datetime(2031, 1, 7, 9, 12, tzinfo=UTC)


def rates(trial=False, **seconds):
    return {
        name: StageRate(middle / 2, middle, middle * 2, trial)
        for name, middle in (dict.fromkeys(STORED_STAGES, 0.1) | seconds).items()
    }


def stages(**states):
    return [JobStage(name=name, state=states.get(name, "pending"), fraction=0.0) for name in STAGES]


def test_overall_progress_grows_from_stage_to_stage():
    known: dict[str, StageRate]
    for known in ({}, rates(transcribe=2.0)):
        seen = [
            overall_progress(stage, fraction, known)
            for stage in STAGES
            for fraction in (0.0, 0.5, 1.0)
        ]

        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == (0.0, 1.0)


def test_stages_that_take_no_time_are_allowed():
    assert (
        overall_progress("align", 0.5, rates(segment=0.0, transcribe=0.0, align=0.0, diarise=0.0))
        < 1.0
    )


def test_a_slow_stage_is_a_large_share_of_the_whole():
    known = rates(transcribe=0.7)

    assert overall_progress("transcribe", 1.0, known) - overall_progress(
        "transcribe", 0.0, known
    ) == pytest.approx(0.7)


def test_the_remaining_time_covers_the_stages_that_are_left():
    everything = remaining_time(stages(), 100.0, rates(), NOW)
    half = remaining_time(stages(segment="succeeded", transcribe="succeeded"), 100.0, rates(), NOW)

    assert everything and (everything.low, everything.high) == (20.0, 80.0)
    assert half and (half.low, half.high) == (10.0, 40.0)


def test_a_stage_that_is_slower_than_all_earlier_ones_widens_the_interval():
    running = stages(segment="succeeded", transcribe="running", align="succeeded")
    running = [stage for stage in running if stage.name != "diarise"]
    for stage in running:
        if stage.name == "transcribe":
            stage.fraction, stage.started_at = 0.5, NOW - timedelta(seconds=100)

    left = remaining_time(running, 100.0, rates(), NOW)
    assert left and left.low == pytest.approx(10.0) and left.high == pytest.approx(100.0, abs=1)


def test_the_longest_time_covers_the_jobs_that_are_transcribed_together():
    alone = remaining_time(stages(), 100.0, rates(), NOW)
    together = remaining_time(stages(), 100.0, rates(), NOW, 300.0)

    assert alone is not None and together is not None
    assert together.low == alone.low
    assert together.high == pytest.approx(3 * alone.high)


def test_an_estimate_from_a_trial_says_so():
    tried = remaining_time(stages(), 100.0, rates(trial=True), NOW)
    measured = remaining_time(stages(), 100.0, rates(), NOW)

    assert tried and tried.basis == "self-test"
    assert measured and measured.basis == "history"


def test_without_rates_there_is_no_estimate():
    assert remaining_time(stages(), 100.0, {}, NOW) is None


def timing(stage, seconds, model, trial=False, device="cpu"):
    return StageTiming(
        id=uuid4(),
        stage=stage,
        model=model,
        device=device,
        seconds=seconds,
        audio_seconds=1.0 if trial else 100.0,
        trial=trial,
    )


def test_the_timings_of_a_few_jobs_replace_the_trial(services):
    model = uuid4().hex
    with services.sessionmaker.begin() as session:
        session.add(timing("segment", 9.0, model, trial=True))
        session.add_all(timing("segment", seconds, model) for seconds in (10, 20))
    with services.sessionmaker() as session:
        assert read_rates(session, model, "cpu")["segment"] == StageRate(4.5, 9.0, 18.0, True)
    with services.sessionmaker.begin() as session:
        session.add(timing("segment", 30, model))
    with services.sessionmaker() as session:
        assert read_rates(session, model, "cpu") == {"segment": StageRate(0.1, 0.2, 0.3, False)}


def test_timings_of_other_models_do_not_count(services):
    with services.sessionmaker.begin() as session:
        session.add(timing("segment", 9.0, "another"))
    with services.sessionmaker() as session:
        assert read_rates(session, "this one", "cpu") == {}


def test_timings_of_another_device_do_not_count(services):
    """After a move from a CPU to a GPU, the estimate was wrong for twenty jobs."""
    model = uuid4().hex
    with services.sessionmaker.begin() as session:
        session.add_all(timing("segment", 1000, model) for _ in range(20))
        session.flush()
        session.add(timing("segment", 0.5, model, trial=True, device="cuda"))
    with services.sessionmaker() as session:
        assert read_rates(session, model, "cuda")["segment"].middle == 0.5
        assert read_rates(session, model, "cpu")["segment"].middle == 10.0
        assert read_rates(session, model, None) == read_rates(session, model, "cuda")
