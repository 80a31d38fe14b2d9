"""The queue: jobs of the database put in line for the workers. It carries ids, never content."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import procrastinate
import psycopg
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.database.queries import touch_job
from service.database.tables import FINAL, Job

QUEUE = "gpu"
TASK = "fieldscribe.job"
NOT_BEGUN = ("queued", "waiting")

# Only writes rows through the caller's connection; it opens none of its own.
_deferrer = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())


def defer_job(session: Session, job_id: UUID, study_id: UUID) -> None:
    """Put a job in line, in the transaction that made it.

    The more unfinished jobs a study has, the later its next one comes, so that a batch of thirty
    does not keep everybody else waiting.
    """
    session.flush()
    outstanding = session.scalar(
        select(func.count())
        .select_from(Job)
        .where(Job.study_id == study_id, Job.status.not_in(FINAL))
    )
    job = session.get_one(Job, job_id)
    job.queue_job_id = _deferrer.configure_task(
        TASK,
        queue=QUEUE,
        priority=-(outstanding or 0),
        lock=str(
            job_id
        ),  # two rows for one job, should they ever be there, run one after the other
        connection=raw_connection(session),
    ).defer(job_id=str(job_id))
    touch_job(session, job)


def request_cancel(session: Session, job: Job) -> None:
    """Cancel a job at once if nobody has begun it, else ask its worker to stop.

    Leaves a job alone that has ended.

    Args:
        job: from `locked_job`.
    """
    if job.status in NOT_BEGUN:
        # A worker that fetches the queue's row at this moment finds that there is nothing to do.
        if job.queue_job_id is not None:
            _deferrer.job_manager.cancel_job_by_id(
                job.queue_job_id, connection=raw_connection(session)
            )
        job.status, job.finished_at = "cancelled", datetime.now(UTC)
        touch_job(session, job)
    elif job.status == "running":
        job.status = "cancelling"  # its worker looks every second
        touch_job(session, job)


def raw_connection(session: Session) -> psycopg.Connection[Any]:
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection
