"""The queue of jobs for the workers. It holds ids, never content.

With Procrastinate's defaults, hour-long jobs get lost or run twice. The times below, a connector
that survives database outages, `reap` and `sweep` in the API process, and the fence of job_state.py
prevent that. The state of a job is in its own row, not in the queue's.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

import procrastinate
import psycopg
import psycopg_pool
from procrastinate.exceptions import ConnectorException
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.database.queries import lock_job, read_clock, touch_job
from service.database.tables import FINAL, Job
from service.domain.clock import correct_future_times
from service.domain.job_state import requeue_orphan
from service.domain.outbox import emit_job
from service.domain.sign_in import delete_old_sign_ins
from service.domain.strays import remove_strays
from service.domain.turns import TASK, close_gaps, next_turn
from service.errors import ServiceError
from service.services import Services

QUEUE = "gpu"
NOT_STARTED = ("queued", "waiting")

HEARTBEAT = 5.0  # s
STALLED = 30.0  # s without a heartbeat after which a worker is presumed dead
DRAINING = 15.0  # s that a stopping worker may continue, without heartbeats: less than STALLED
POLLING = 2.0  # s; no notification is sent for a job that is put back
REAP_EVERY = 2.0  # s
SWEEP_EVERY = 20.0  # s
TIDY_EVERY = 3600.0  # s

# Atomic, and only one process at a time runs it. After the database starts, every heartbeat is old:
# it waits until running workers have had time for one.
REAP = text("""
WITH me AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('fieldscribe:reaper')) AS ok),
dead AS MATERIALIZED (
  SELECT j.id FROM procrastinate_jobs j
    LEFT JOIN procrastinate_workers w ON w.id = j.worker_id, me
   WHERE me.ok AND NOT now() BETWEEN pg_postmaster_start_time()
                               AND pg_postmaster_start_time() + make_interval(secs => :stalled)
     AND j.status = 'doing'
     AND (w.id IS NULL OR w.last_heartbeat < now() - make_interval(secs => :stalled))
   FOR UPDATE OF j SKIP LOCKED)
SELECT id, procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL)::text FROM dead
""")

# A heartbeat from the future, written while the database's clock was wrong, would be taken for that
# of a living worker until then. A worker that is alive replaces it within STALLED.
FUTURE = text("""
UPDATE procrastinate_workers SET last_heartbeat = now()
 WHERE last_heartbeat > now() + make_interval(secs => :stalled)
""")

# Jobs without a row in the queue: a worker presumed dead came back and ended that row.
LOST = text("""
SELECT j.id FROM job j
 WHERE j.status IN ('queued', 'running', 'cancelling', 'waiting')
   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs q
                    WHERE q.id = j.queue_job_id AND q.status IN ('todo', 'doing'))
 FOR UPDATE OF j SKIP LOCKED
""")

PRIORITY = text("SELECT priority FROM procrastinate_jobs WHERE id = :id")

log = logging.getLogger(__name__)

# Only writes rows through the caller's connection; it opens none itself.
_deferrer = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())


def defer_job(session: DbSession, job_id: UUID, study_id: UUID) -> None:
    """Queue a job, in the transaction that creates it. A job that was queued keeps its turn."""
    session.flush()
    job = session.get_one(Job, job_id)
    priority = None
    if job.queue_job_id is not None:
        priority = session.scalar(PRIORITY, {"id": job.queue_job_id})
    job.queue_job_id = _deferrer.configure_task(
        TASK,
        queue=QUEUE,
        priority=-next_turn(session, study_id) if priority is None else priority,
        # Should there ever be two rows for one job, they run one after the other.
        lock=str(job_id),
        connection=raw_connection(session),
    ).defer(job_id=str(job_id))
    touch_job(session, job)


def request_cancel(session: DbSession, job: Job) -> None:
    """Cancel a job at once if it has not started, otherwise ask its worker to stop.

    A job that has ended is left alone.

    Args:
        job: from `lock_job`.
    """
    if job.status in NOT_STARTED:
        # A worker that fetches the queue's row at this moment will find nothing to do.
        if job.queue_job_id is not None:
            _deferrer.job_manager.cancel_job_by_id(
                job.queue_job_id, connection=raw_connection(session)
            )
        job.status, job.finished_at = "cancelled", read_clock(session)
        touch_job(session, job)
        emit_job(session, job)
    elif job.status == "running":
        job.status = "cancelling"  # its worker checks every second
        touch_job(session, job)


async def maintain(services: Services) -> None:
    """Reap, sweep and tidy until cancelled. The API runs it, because a worker may be busy."""
    swept = tidied = -TIDY_EVERY
    while True:
        try:
            await asyncio.to_thread(reap, services.sessionmaker)
            if time.monotonic() > swept + SWEEP_EVERY:
                await asyncio.to_thread(sweep, services.sessionmaker)
                await asyncio.to_thread(
                    correct_future_times, services.sessionmaker, services.settings
                )
                await asyncio.to_thread(close_gaps, services.sessionmaker)
                swept = time.monotonic()
            if time.monotonic() > tidied + TIDY_EVERY:
                await asyncio.to_thread(delete_old_sign_ins, services)
                await asyncio.to_thread(remove_strays, services)
                tidied = time.monotonic()
        except (SQLAlchemyError, ConnectorException) as error:
            cause = getattr(error, "orig", None) or error.__cause__ or error
            log.warning("the queue cannot be maintained: %s", type(cause).__name__)
        except (ServiceError, OSError) as error:
            tidied = time.monotonic()  # retried later: the queue must not wait for the disk
            log.warning("the vault cannot be tidied: %s", type(error).__name__)
        await asyncio.sleep(REAP_EVERY)


def reap(sessions: sessionmaker[DbSession], stalled: float = STALLED) -> int:
    """Put the jobs of dead workers back into the queue.

    Returns:
        The number of jobs.
    """
    with sessions.begin() as session:
        session.execute(FUTURE, {"stalled": stalled})
        rows = [row.id for row in session.execute(REAP, {"stalled": stalled})]
        for job_id in session.scalars(select(Job.id).where(Job.queue_job_id.in_(rows))).all():
            job = lock_job(session, job_id)
            assert job is not None
            log.warning("job %s: its worker died; back to the queue", job_id)
            requeue_orphan(session, job)
    return len(rows)


def sweep(sessions: sessionmaker[DbSession]) -> int:
    """Queue jobs again that have lost their row in the queue.

    Returns:
        The number of jobs.
    """
    with sessions.begin() as session:
        lost = session.scalars(LOST).all()
        for job_id in lost:
            job = lock_job(session, job_id)
            assert job is not None
            log.warning("job %s: lost by the queue; queued again", job_id)
            requeue_orphan(session, job)
            if job.status not in FINAL:
                defer_job(session, job.id, job.study_id)
    return len(lost)


def raw_connection(session: DbSession) -> psycopg.Connection[Any]:
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


class ResilientConnector(procrastinate.PsycopgConnector):
    """A connector whose heartbeats, listener and final writes survive a database outage.

    Fetching a job is not retried: if its response was lost, a running worker would hold a job that
    it does not know of, which would never be noticed.
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
                    "the database is unavailable; trying again: %s", type(error.__cause__).__name__
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
                log.warning(
                    "the listener lost its connection; connecting again: %s",
                    type(error.__cause__).__name__,
                )
                await asyncio.sleep(1)


def _is_transient(error: ConnectorException) -> bool:
    kinds = (psycopg.OperationalError, psycopg_pool.PoolTimeout, psycopg.InterfaceError)
    return isinstance(error.__cause__, kinds)
