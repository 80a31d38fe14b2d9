"""The stages of a job: its overall progress and its remaining time."""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, union_all
from sqlalchemy.orm import Session as DbSession

from service.database.tables import StageTiming

STORED_STAGES = ("segment", "transcribe", "align", "diarise")  # their results are artefacts
TIMED_STAGES = ("ingest", *STORED_STAGES)
# Shares of the whole until this installation has timings.
DEFAULT_SHARES = {"ingest": 0.03, "segment": 0.1, "transcribe": 0.5, "align": 0.12, "diarise": 0.25}
HISTORY = 20  # the latest timings of a stage that are used
MIN_JOBS = 3  # then their timings replace those of the trial
TRIAL_MARGIN = 2.0  # a trial may be off by this factor: decoding time depends on what is said
RATES_MAX_AGE = 5.0  # s; rates change slowly and are read often


@dataclass(frozen=True)
class RemainingTime:
    """Seconds until a job is done, not counting its time in the queue.

    `basis`: "history" of earlier jobs, or "self-test".
    """

    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class StageRate:
    """Seconds of work per second of audio."""

    low: float
    middle: float
    high: float
    trial: bool


@dataclass(frozen=True)
class StageState:
    name: str
    state: str
    fraction: float
    started_at: datetime | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "StageState":
        """
        Args:
            row: columns of a JobStage as JSON.
        """
        started = row["started_at"]
        return cls(
            row["name"],
            row["state"],
            row["fraction"],
            None if started is None else datetime.fromisoformat(started),
        )


def overall_progress(stage: str, fraction: float, rates: Mapping[str, StageRate]) -> float:
    """The fraction of the job that is done, 0 to 1, at this fraction of this stage."""
    weights = _weights(rates)
    if stage not in weights:
        return 1.0  # the stages after the costly ones take hardly any time
    before = TIMED_STAGES[: TIMED_STAGES.index(stage)]
    done = sum(weights[name] for name in before) + weights[stage] * fraction
    return min(1.0, done / sum(weights.values()))


def remaining_time(
    stages: Sequence[StageState],
    audio_seconds: float,
    rates: Mapping[str, StageRate],
    now: datetime,
    group_seconds: float = 0.0,
) -> RemainingTime | None:
    """None if there is no rate for a stage that is still to run.

    Args:
        now: by the clock that the stages' times come from.
        group_seconds: of the audio of all jobs that are transcribed together with this one, each of
            which may wait for all others.
    """
    longest_audio = max(audio_seconds, group_seconds)
    left = {stage.name: stage for stage in stages if stage.state in ("pending", "running")}
    missing = [name for name in STORED_STAGES if name in left and name not in rates]
    if missing:
        return None
    low = high = 0.0
    for name, stage in left.items():
        if name not in rates:
            continue
        rate, share = rates[name], 1.0 - stage.fraction
        shortest, longest = rate.low * audio_seconds * share, rate.high * longest_audio * share
        if stage.state == "running" and stage.started_at and stage.fraction > 0.05:
            # By now its own progress says how long it takes.
            elapsed = (now - stage.started_at).total_seconds()
            measured = elapsed / stage.fraction * share
            shortest, longest = min(measured, longest), max(measured, shortest)
        low, high = low + shortest, high + longest
    trial = any(rates[name].trial for name in left if name in rates)
    return RemainingTime(round(low, 1), round(high, 1), "self-test" if trial else "history")


class RateCache:
    """The rates of each Whisper model on each device, read again after a few seconds."""

    def __init__(self) -> None:
        self._rates: dict[tuple[str, str | None], tuple[float, Mapping[str, StageRate]]] = {}

    def read(self, session: DbSession, model: str, device: str | None) -> Mapping[str, StageRate]:
        read_at, rates = self._rates.get((model, device), (0.0, {}))
        if time.monotonic() > read_at + RATES_MAX_AGE:
            rates = read_rates(session, model, device)
            self._rates[model, device] = (time.monotonic(), rates)
        return rates


def read_rates(session: DbSession, model: str, device: str | None) -> dict[str, StageRate]:
    """Rates by stage, from this installation's timings. Stages that never ran are missing.

    Args:
        device: of the job; None, before a worker has it: the device that was used last.
    """
    if device is None:
        latest = select(StageTiming.device).where(StageTiming.model == model)
        device = session.scalar(latest.order_by(StageTiming.at.desc()).limit(1))
    timings = defaultdict(list)
    for row in session.execute(union_all(*(_timings_of(s, model, device) for s in TIMED_STAGES))):
        timings[row.stage].append(row)
    rates = {}
    for stage, rows in timings.items():
        rows.sort(key=lambda row: row.at, reverse=True)
        measured = sorted(row.seconds / row.audio_seconds for row in rows if not row.trial)
        tried = [row.seconds / row.audio_seconds for row in rows if row.trial]
        if len(measured) >= MIN_JOBS or (measured and not tried):
            middle = statistics.median(measured)
            low, high = measured[len(measured) // 10], measured[-1 - len(measured) // 10]
            rates[stage] = StageRate(low, middle, high, trial=False)
        elif tried:
            rates[stage] = StageRate(
                tried[0] / TRIAL_MARGIN, tried[0], tried[0] * TRIAL_MARGIN, trial=True
            )
    return rates


def _timings_of(stage: str, model: str, device: str | None) -> Select[*tuple[Any, ...]]:
    """The latest timings of a stage, jobs before trials."""
    return (
        select(
            StageTiming.stage,
            StageTiming.seconds,
            StageTiming.audio_seconds,
            StageTiming.trial,
            StageTiming.at,
        )
        .where(StageTiming.stage == stage, StageTiming.model == model)
        .where(StageTiming.device == device)
        .where(StageTiming.audio_seconds > 0)
        .order_by(StageTiming.trial, StageTiming.at.desc())
        .limit(HISTORY)
    )


def _weights(rates: Mapping[str, StageRate]) -> dict[str, float]:
    known = {stage: rates[stage].middle if stage in rates else 0.0 for stage in TIMED_STAGES}
    if all(stage in rates for stage in STORED_STAGES) and sum(known.values()) > 0:
        return known
    return DEFAULT_SHARES
