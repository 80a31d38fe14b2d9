"""Queries that more than one module makes."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.database.tables import Job

JOB_CHANNEL = "fieldscribe_job"  # NOTIFY with the job's id


def touch_job(session: Session, job: Job) -> None:
    """Every change of a job: its version, which is the ETag, and a word to those who wait."""
    job.version = Job.version + 1
    session.flush()
    notify_job(session, job.id)


def notify_job(session: Session, job_id: UUID) -> None:
    """Sent when the transaction commits."""
    session.execute(select(func.pg_notify(JOB_CHANNEL, str(job_id))))


def locked_job(session: Session, job_id: UUID) -> Job | None:
    """The job as it is now; nobody else changes it before this transaction ends."""
    return session.scalar(
        select(Job)
        .where(Job.id == job_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
