"""Counts of rows by state, for the metrics."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from service.database.tables import (
    HANDOFF_STATUSES,
    JOB_STATUSES,
    RECORDING_STATES,
    Handoff,
    Job,
    Recording,
)


def count_jobs(session: DbSession) -> dict[str, int]:
    return _count(session, Job.status, JOB_STATUSES)


def count_handoffs(session: DbSession) -> dict[str, int]:
    return _count(session, Handoff.status, HANDOFF_STATUSES)


def count_recordings(session: DbSession) -> dict[str, int]:
    return _count(session, Recording.state, RECORDING_STATES)


def _count(session: DbSession, column: Any, states: tuple[str, ...]) -> dict[str, int]:
    """The number of rows in each state, also in those that no row has."""
    rows = session.execute(select(column, func.count()).group_by(column))
    counts = {state: n for state, n in rows}
    return {state: counts.get(state, 0) for state in states}
