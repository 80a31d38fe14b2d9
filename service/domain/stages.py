"""The stages of a job: how far it is as a whole, and how long it will still take."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from service.database.tables import StageTiming

KEPT_STAGES = ("segment", "transcribe", "align", "diarise")  # whose results are artefacts
TIMED_STAGES = ("ingest", *KEPT_STAGES)
# Share of the whole until this installation has timings of its own.
FIRST_GUESS = {"ingest": 0.03, "segment": 0.1, "transcribe": 0.5, "align": 0.12, "diarise": 0.25}
HISTORY = 20  # timings of a stage that count
ENOUGH = 3  # jobs after which their timings replace the trial's
MARGIN = 2.0  # what people say decides how long decoding takes: a trial may be off by this factor


@dataclass(frozen=True)
class RemainingTime:
    """Seconds until the job is done, once it runs. `basis`: "history" or "self-test"."""

    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Rate:
    """Seconds of work per second of audio."""

    low: float
    middle: float
    high: float
    trial: bool


class StageRow(Protocol):
    """How far a stage is: a row of the database, or the API's view of it."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def fraction(self) -> float: ...
    @property
    def started_at(self) -> datetime | None: ...


def whole(stage: str, fraction: float, rates: Mapping[str, Rate]) -> float:
    """How far a job is, 0 to 1, when it is this far in this stage."""
    weights = _weights(rates)
    if stage not in weights:
        return 1.0  # those after the costly ones take no time to speak of
    before = TIMED_STAGES[: TIMED_STAGES.index(stage)]
    done = sum(weights[name] for name in before) + weights[stage] * fraction
    return min(1.0, done / sum(weights.values()))


def remaining(
    stages: Sequence[StageRow], audio_seconds: float, rates: Mapping[str, Rate]
) -> RemainingTime | None:
    left = {stage.name: stage for stage in stages if stage.state in ("pending", "running")}
    missing = [name for name in KEPT_STAGES if name in left and name not in rates]
    if missing:
        return None
    low = high = 0.0
    for name, stage in left.items():
        if name not in rates:
            continue
        rate, share = rates[name], 1.0 - stage.fraction
        shortest, longest = rate.low * audio_seconds * share, rate.high * audio_seconds * share
        if stage.state == "running" and stage.started_at and stage.fraction > 0.05:
            # By now the stage itself says how long it takes.
            elapsed = (datetime.now(UTC) - stage.started_at).total_seconds()
            measured = elapsed / stage.fraction * share
            shortest, longest = min(measured, longest), max(measured, shortest)
        low, high = low + shortest, high + longest
    trial = any(rates[name].trial for name in left if name in rates)
    return RemainingTime(round(low, 1), round(high, 1), "self-test" if trial else "history")


def rates_of(session: DbSession, model: str) -> dict[str, Rate]:
    """By this installation's own history; stages that never ran are missing."""
    rates = {}
    for stage in TIMED_STAGES:
        timings = session.execute(
            select(StageTiming.seconds, StageTiming.audio_seconds, StageTiming.trial)
            .where(StageTiming.stage == stage, StageTiming.model == model)
            .where(StageTiming.audio_seconds > 0)
            .order_by(StageTiming.trial, StageTiming.at.desc())
            .limit(HISTORY)
        ).all()
        measured = sorted(row.seconds / row.audio_seconds for row in timings if not row.trial)
        tried = [row.seconds / row.audio_seconds for row in timings if row.trial]
        if len(measured) >= ENOUGH or (measured and not tried):
            middle = statistics.median(measured)
            low, high = measured[len(measured) // 10], measured[-1 - len(measured) // 10]
            rates[stage] = Rate(low, middle, high, trial=False)
        elif tried:
            rates[stage] = Rate(tried[0] / MARGIN, tried[0], tried[0] * MARGIN, trial=True)
    return rates


def _weights(rates: Mapping[str, Rate]) -> dict[str, float]:
    known = {stage: rates[stage].middle if stage in rates else 0.0 for stage in TIMED_STAGES}
    if all(stage in rates for stage in KEPT_STAGES) and sum(known.values()) > 0:
        return known
    return FIRST_GUESS
