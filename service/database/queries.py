"""Queries shared by several modules."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Job

RECORDING_CHANNEL = "fieldscribe_recording"  # NOTIFY with the id of a recording whose state changed
JOB_CHANNEL = "fieldscribe_job"  # NOTIFY with the job's id


def read_clock(session: DbSession) -> datetime:
    """The database's time, for times that are compared: other machines' clocks may be wrong."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now


def touch_job(session: DbSession, job: Job) -> None:
    """Record a change of a job: raise its version (the ETag) and notify waiting requests."""
    job.version = Job.version + 1
    session.flush()
    notify_job(session, job.id)


def notify_job(session: DbSession, job_id: UUID) -> None:
    """Notify waiting requests when the transaction commits."""
    session.execute(select(func.pg_notify(JOB_CHANNEL, str(job_id))))


def lock_job(session: DbSession, job_id: UUID) -> Job | None:
    """Read a job afresh and lock it until the transaction ends. None if there is no such job."""
    return session.scalar(
        select(Job)
        .where(Job.id == job_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
