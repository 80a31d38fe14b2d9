"""The queue: jobs of the database put in line for the workers. It carries ids, never content.

Procrastinate's defaults lose and double jobs of an hour. What closes the gaps: the times below, a
connector that outlives an outage of the database, `reap` and `sweep` run by the API process, and
the fence of job_state.py. The row of the job, not that of the queue, says what is done.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import procrastinate
import psycopg
import psycopg_pool
from procrastinate.exceptions import ConnectorException
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.database.queries import lock_job, touch_job
from service.database.tables import FINAL, Job
from service.domain.job_state import requeue_orphan
from service.domain.strays import remove_strays
from service.errors import ServiceError
from service.services import Services

QUEUE = "gpu"
TASK = "fieldscribe.job"
NOT_BEGUN = ("queued", "waiting")

HEARTBEAT = 5.0  # s
STALLED = 30.0  # s without a heartbeat, then a worker is taken for dead
DRAINING = 15.0  # s that a stopping worker may still work; it has no heartbeat then: < STALLED
POLLING = 2.0  # s; a job that was put back notifies nobody
REAP_EVERY = 2.0  # s
SWEEP_EVERY = 20.0  # s
TIDY_EVERY = 3600.0  # s

# Atomic, one runner at a time. After a start of the database every heartbeat is old: it waits until
# the living have had time for one.
REAP = text("""
WITH me AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('fieldscribe:reaper')) AS ok),
dead AS MATERIALIZED (
  SELECT j.id FROM procrastinate_jobs j
    LEFT JOIN procrastinate_workers w ON w.id = j.worker_id, me
   WHERE me.ok AND now() > pg_postmaster_start_time() + make_interval(secs => :stalled)
     AND j.status = 'doing'
     AND (w.id IS NULL OR w.last_heartbeat < now() - make_interval(secs => :stalled))
   FOR UPDATE OF j SKIP LOCKED)
SELECT id, procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL)::text FROM dead
""")

# Nothing in the queue stands for them: a worker taken for dead came back and ended their row.
LOST = text("""
SELECT j.id FROM job j
 WHERE j.status IN ('queued', 'running', 'cancelling', 'waiting')
   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs q
                    WHERE q.id = j.queue_job_id AND q.status IN ('todo', 'doing'))
 FOR UPDATE OF j SKIP LOCKED
""")

log = logging.getLogger(__name__)

# Only writes rows through the caller's connection; it opens none of its own.
_deferrer = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())


def defer_job(session: DbSession, job_id: UUID, study_id: UUID) -> None:
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


def request_cancel(session: DbSession, job: Job) -> None:
    """Cancel a job at once if nobody has begun it, else ask its worker to stop.

    Leaves a job alone that has ended.

    Args:
        job: from `lock_job`.
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


async def maintain(services: Services) -> None:
    """Reap, sweep and tidy until cancelled; run by the API: a busy worker could not."""
    swept = tidied = -TIDY_EVERY
    while True:
        try:
            await asyncio.to_thread(reap, services.sessionmaker)
            if time.monotonic() > swept + SWEEP_EVERY:
                await asyncio.to_thread(sweep, services.sessionmaker)
                swept = time.monotonic()
            if time.monotonic() > tidied + TIDY_EVERY:
                await asyncio.to_thread(remove_strays, services)
                tidied = time.monotonic()
        except (SQLAlchemyError, ConnectorException) as error:
            cause = getattr(error, "orig", None) or error.__cause__ or error
            log.warning("the queue is not looked after: %s", type(cause).__name__)
        except (ServiceError, OSError) as error:
            tidied = time.monotonic()  # the queue must not wait for the disk
            log.warning("the vault is not tidied: %s", type(error).__name__)
        await asyncio.sleep(REAP_EVERY)


def reap(sessions: sessionmaker[DbSession], stalled: float = STALLED) -> int:
    """Put the jobs of dead workers back into the queue.

    Returns:
        How many.
    """
    with sessions.begin() as session:
        rows = [row.id for row in session.execute(REAP, {"stalled": stalled})]
        for job_id in session.scalars(select(Job.id).where(Job.queue_job_id.in_(rows))).all():
            job = lock_job(session, job_id)
            assert job is not None
            log.warning("job %s: its worker died, it goes back into the queue", job_id)
            requeue_orphan(session, job)
    return len(rows)


def sweep(sessions: sessionmaker[DbSession]) -> int:
    """Put jobs back into the queue that have no row there."""
    with sessions.begin() as session:
        lost = session.scalars(LOST).all()
        for job_id in lost:
            job = lock_job(session, job_id)
            assert job is not None
            log.warning("job %s: was lost by the queue", job_id)
            requeue_orphan(session, job)
            if job.status not in FINAL:
                defer_job(session, job.id, job.study_id)
    return len(lost)


def raw_connection(session: DbSession) -> psycopg.Connection[Any]:
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


class ResilientConnector(procrastinate.PsycopgConnector):
    """Heartbeats, the listener and the end of a job outlive an outage of the database.

    Fetching a job is not repeated: with its answer lost, the job would be under a living worker
    that does not know of it, which nobody would ever notice.
    """

    retry_for = 600.0  # s

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        end, delay = time.monotonic() + self.retry_for, 0.2
        while True:
            try:
                await super().execute_query_async(query, **arguments)
                return
            except ConnectorException as error:
                if not _is_transient(error) or time.monotonic() > end:
                    raise
                log.warning(
                    "database unavailable, trying again: %s", type(error.__cause__).__name__
                )
                await asyncio.sleep(delay)
                delay = min(2 * delay, 2.0)

    async def listen_notify(
        self, on_notification: Callable[..., Awaitable[None]], channels: Iterable[str]
    ) -> None:
        channels = list(channels)
        while True:
            try:
                await super().listen_notify(on_notification, channels)
                return
            except ConnectorException as error:
                if not _is_transient(error):
                    raise
                log.warning("listener lost, connecting again: %s", type(error.__cause__).__name__)
                await asyncio.sleep(1)


def _is_transient(error: ConnectorException) -> bool:
    kinds = (psycopg.OperationalError, psycopg_pool.PoolTimeout, psycopg.InterfaceError)
    return isinstance(error.__cause__, kinds)
