"""The running workers, as they report themselves: device, current job, and whether it is retired.

The queue has its own list of workers, from which it decides whose jobs to requeue. This list is for
people, and tells a worker whether another one could take a job on which its device fails.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Job, Worker
from service.domain.queue import STALLED

FORGOTTEN_AFTER = timedelta(days=1)  # rows of workers that were killed

# A worker reports the first job of its group; the queue knows the others.
DEVICES = text("""
SELECT job.id, worker.device
  FROM worker
  JOIN job lead ON lead.id = worker.job_id
  JOIN job ON job.id = ANY(:jobs)
  LEFT JOIN procrastinate_jobs first ON first.id = lead.queue_job_id AND first.status = 'doing'
  LEFT JOIN procrastinate_jobs held ON held.id = job.queue_job_id AND held.status = 'doing'
 WHERE (job.id = lead.id OR held.worker_id = first.worker_id)
   AND abs(extract(epoch FROM clock_timestamp() - worker.heartbeat_at)) < :stalled
""")


def _is_alive() -> ColumnElement[bool]:
    """By the database's clock; a heartbeat well ahead of it was written with a wrong clock."""
    age = func.extract("epoch", func.clock_timestamp() - Worker.heartbeat_at)
    return func.abs(age) < STALLED


def report(
    session: DbSession,
    worker_id: UUID,
    host: str,
    device: str,
    job_id: UUID | None,
    retired_because: str | None,
) -> None:
    """Write a worker's heartbeat. Its row may be new, or missing after a restore."""
    values = {
        "host": host,
        "device": device,
        "job_id": job_id,
        "retired_because": retired_because,
        "heartbeat_at": func.clock_timestamp(),
    }
    statement = insert(Worker).values(id=worker_id, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))


def remove(session: DbSession, worker_id: UUID) -> None:
    """Remove the row of a worker that ends, and old rows of workers that were killed."""
    old = Worker.heartbeat_at < func.clock_timestamp() - FORGOTTEN_AFTER
    session.execute(delete(Worker).where((Worker.id == worker_id) | old))


def list_workers(session: DbSession) -> Sequence[Worker]:
    """The workers that are running, in the order of their hosts and devices."""
    rows = select(Worker).where(_is_alive()).order_by(Worker.host, Worker.device, Worker.started_at)
    return session.scalars(rows).all()


def devices_of_jobs(session: DbSession, job_ids: Sequence[UUID]) -> dict[UUID, str]:
    """The devices of jobs that a worker is running."""
    rows = session.execute(DEVICES, {"jobs": list(job_ids), "stalled": STALLED})
    return {row.id: row.device for row in rows}


def has_another(session: DbSession, worker_id: UUID) -> bool:
    """Whether another worker is running and takes jobs."""
    others = select(Worker.id).where(
        Worker.id != worker_id, Worker.retired_because.is_(None), _is_alive()
    )
    return bool(session.scalar(select(exists(others))))


def count_available(session: DbSession) -> int:
    """How many workers are running and take jobs."""
    rows = select(func.count(Worker.id)).where(Worker.retired_because.is_(None), _is_alive())
    return session.scalar(rows) or 0


def retire_unless_last(session: DbSession, worker_id: UUID, reason: str) -> bool:
    """Retire a worker if another one is running and takes jobs.

    Returns:
        Whether it is retired now.
    """
    lock = func.hashtextextended("fieldscribe:retire", 0)
    session.execute(select(func.pg_advisory_xact_lock(lock)))  # two must not retire each other
    row = session.get(Worker, worker_id)
    if row is None or not has_another(session, worker_id):
        return False
    row.retired_because = reason
    return True


def read_attempt(session: DbSession, job_id: UUID) -> int | None:
    """The number of a job's latest attempt."""
    return session.scalar(select(Job.attempt).where(Job.id == job_id))
