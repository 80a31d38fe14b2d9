"""Runs one job at a time: claims it, has the engine child do it, writes its state and outcome."""

import asyncio
import contextlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.database.queries import read_clock
from service.domain import job_state
from service.domain.job_errors import EngineDied, InternalError
from service.domain.queue import POLLING
from service.errors import ServiceError
from service.vault.streaming import Key
from service.worker.engine_process import EngineProcess
from service.worker.keys import FetchKeys
from service.worker.state import WorkerState

BEAT_INTERVAL = 1.0  # s between heartbeats of a job
STOP_TIMEOUT = 5.0  # s that the engine has to stop before it is killed
OBSTACLE_DELAY = 30.0  # s before a job that met an obstacle is tried again
INTERNAL_ERROR_DELAY = 5.0  # s, so that a bug does not retry in a tight loop
# In s. A job that died here is left to another worker: it is ready just after this worker has asked
# for jobs, so any other that is idle asks before this one does again.
LEAVING_DELAY = POLLING + 0.2
FENCE_LOST = 70  # exit status

OBSTACLES = ("sealed", "disk_full", "out_of_memory")
"""Codes of conditions that pass: a person unseals the vault or frees disk space, or another program
frees GPU memory. A job waits for them as long as it takes."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class RetryLater(Exception):
    """The job goes back into the queue, to run again at this time of the database's clock."""

    def __init__(self, at: datetime) -> None:
        super().__init__(f"again at {at}")
        self.at = at


@dataclass
class Progress:
    stage: str | None = None
    fraction: float = 0.0
    written: tuple[str | None, float] = (None, 0.0)  # stage and fraction in the database


class Runner:
    """Runs jobs, one at a time."""

    def __init__(
        self,
        sessions: sessionmaker[DbSession],
        engine: EngineProcess,
        fetch_keys: FetchKeys,
        state: WorkerState | None = None,
    ) -> None:
        self._sessions, self._engine, self._fetch_keys = sessions, engine, fetch_keys
        self.state = state or WorkerState()
        # One write at a time, and none after an attempt's last: a heartbeat that came after it
        # would look like one of a worker that was presumed dead.
        self._writing = asyncio.Lock()
        self._ended = True

    async def run(self, job_id: UUID) -> None:
        """
        Raises:
            RetryLater: the queue must run the job again.
        """
        if self.state.doubtful.is_set():  # it was fetched before the worker stopped fetching
            raise await self._retry_after(0.0)
        if await self._transaction(self.state.should_leave, job_id):
            raise await self._retry_after(LEAVING_DELAY)
        claim = await self._transaction(job_state.claim_job, job_id)
        if claim is None:
            return
        self._ended = False
        self.state.job_id = job_id
        self.state.changed.set()
        try:
            await self._run_claimed(claim)
        finally:
            self.state.job_id = None
            self.state.changed.set()

    async def _run_claimed(self, claim: job_state.JobClaim) -> None:
        job_id = claim.job.id
        log.info("job %s: attempt %d", job_id, claim.attempt)
        started = time.monotonic()
        try:
            await self._run_attempt(claim)
        except asyncio.CancelledError:
            # The worker is stopping. Only once the child is gone may another worker have the job.
            await self._engine.kill()
            if not self._ended:
                with contextlib.suppress(job_state.JobGone):
                    await self._write_last(job_state.put_back_job, claim)
                log.info("job %s: returned to the queue because the worker is stopping", job_id)
            raise
        except job_state.JobGone:
            await self._engine.kill()
            log.info("job %s: erased while it was running", job_id)
        except RetryLater:
            raise
        except Exception as error:
            # A bug. Its message is not logged, because it may quote anything.
            log.error(
                "job %s: %s\n%s",
                job_id,
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
            )
            await self._engine.kill()  # nothing reads its messages any more
            if self._ended:
                raise
            await self._record_crash(claim, InternalError.code, INTERNAL_ERROR_DELAY)
        seconds = time.monotonic() - started
        log.info("job %s: attempt %d took %.1f s", job_id, claim.attempt, seconds)

    async def _run_attempt(self, claim: job_state.JobClaim) -> None:
        progress = Progress()
        stop = asyncio.Event()
        work = asyncio.create_task(self._run_engine(claim, progress))
        beats = asyncio.create_task(self._send_heartbeats(claim, progress, stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, beats, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if beats.done() and not work.done():
                beats.result()
            if not work.done() and await self._stop(claim, work):
                return
            await work
        finally:
            for task in (work, beats, stopped):
                task.cancel()
            await asyncio.gather(work, beats, stopped, return_exceptions=True)

    async def _run_engine(self, claim: job_state.JobClaim, progress: Progress) -> None:
        """Have the engine run the job, and write each of its messages to the database."""
        try:
            keys = await self._get_keys(claim)
        except ServiceError as error:
            await self._wait_or_fail(claim, error.code)
            return
        job = replace(claim.job, keys=keys)
        async for message in self._engine.run(job):
            event = message["event"]
            if event == "progress":
                is_new_stage = message["stage"] != progress.stage
                progress.stage, progress.fraction = message["stage"], message["fraction"]
                if is_new_stage:  # not at the next heartbeat: a short stage may be over by then
                    await self._write_progress(claim, progress)
            elif event == "loaded":
                await self._write(
                    job_state.record_loaded, claim, message["device"], message["trial"]
                )
            elif event == "saved":
                id = UUID(message["artefact_id"])
                await self._write(
                    job_state.record_result, claim, message["stage"], id, message["seconds"]
                )
            elif event == "discarded":
                await self._write(job_state.record_discarded, claim)
            elif event == "done":
                self.state.record_success()
                outcome = job_state.Outcome(
                    UUID(message["artefact_id"]),
                    tuple(message["speakers"]),
                    tuple(message["warnings"]),
                    message["audio_seconds"],
                )
                await self._write_last(job_state.finish_job, claim, uuid4(), outcome)
                log.info("job %s: succeeded", claim.job.id)
                return
            elif event == "stopped":
                await self._write_last(job_state.record_cancelled, claim)
                return
            elif event == "failed":
                if message["code"] == InternalError.code:
                    self.state.record_death(claim.job.id, claim.attempt)
                await self._write_progress(claim, progress)
                await self._handle_failure(claim, message["code"], message["retryable"])
                return
        await self._write_progress(claim, progress)
        await self._engine.kill()
        log.warning("job %s: the engine process died", claim.job.id)
        self.state.record_death(claim.job.id, claim.attempt)
        await self._record_crash(claim, EngineDied.code)

    async def _stop(self, claim: job_state.JobClaim, work: "asyncio.Task[None]") -> bool:
        """Stop a cancelled job.

        Returns:
            Whether the engine had to be killed, because it did not stop in time.
        """
        self._engine.request_stop()
        done, _ = await asyncio.wait({work}, timeout=STOP_TIMEOUT)
        if done:
            return False
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await self._engine.kill()
        await self._write_last(job_state.record_cancelled, claim)
        log.info("job %s: cancelled; the engine process had to be killed", claim.job.id)
        return True

    async def _send_heartbeats(
        self, claim: job_state.JobClaim, progress: Progress, stop: asyncio.Event
    ) -> None:
        while True:
            if await self._write_progress(claim, progress) == "cancelling":
                stop.set()
            await asyncio.sleep(BEAT_INTERVAL)

    async def _write_progress(self, claim: job_state.JobClaim, progress: Progress) -> str:
        """Write a heartbeat, with the progress if it has changed.

        Returns:
            The job's status.
        """
        now = (progress.stage, progress.fraction)
        stage = progress.stage if now != progress.written else None
        progress.written = now
        async with self._writing:
            if self._ended:
                return "running"
            return await self._write_under_fence(job_state.record_heartbeat, claim, stage, now[1])

    async def _get_keys(self, claim: job_state.JobClaim) -> dict[UUID, Key]:
        while True:
            try:
                return await asyncio.to_thread(self._fetch_keys, claim.job.id, claim.fence)
            except OSError as error:  # the API may be restarting
                log.warning(
                    "job %s: cannot fetch its keys yet: %s", claim.job.id, type(error).__name__
                )
                await asyncio.sleep(1)

    async def _handle_failure(self, claim: job_state.JobClaim, code: str, retryable: bool) -> None:
        if code == InternalError.code or code == "out_of_memory":
            await self._engine.kill()  # its state cannot be trusted any more
        if code in OBSTACLES:
            await self._wait_or_fail(claim, code)
        elif retryable:
            await self._record_crash(claim, code)
        else:
            await self._write_last(job_state.record_failure, claim, code)
            log.info("job %s: failed: %s", claim.job.id, code)

    async def _wait_or_fail(self, claim: job_state.JobClaim, code: str) -> None:
        if code not in OBSTACLES:
            await self._write_last(job_state.record_failure, claim, code)
            return
        await self._write_last(job_state.put_back_job, claim, code)
        log.warning(
            "job %s: waiting; trying again in %.0f s: %s", claim.job.id, OBSTACLE_DELAY, code
        )
        raise await self._retry_after(OBSTACLE_DELAY)

    async def _record_crash(self, claim: job_state.JobClaim, code: str, delay: float = 0.0) -> None:
        if await self._write_last(job_state.record_crash, claim, code):
            raise await self._retry_after(delay)

    async def _retry_after(self, seconds: float) -> RetryLater:
        """By the database's clock, which the queue compares with: this machine's may be wrong."""
        return RetryLater(await self._transaction(read_clock) + timedelta(seconds=seconds))

    async def _write_last(
        self, write: Callable[..., T], claim: job_state.JobClaim, *arguments: Any
    ) -> T:
        """The last write of an attempt."""
        async with self._writing:
            self._ended = True
            return await self._write_under_fence(write, claim, *arguments)

    async def _write(
        self, write: Callable[..., T], claim: job_state.JobClaim, *arguments: Any
    ) -> T:
        async with self._writing:
            return await self._write_under_fence(write, claim, *arguments)

    async def _write_under_fence(
        self, write: Callable[..., T], claim: job_state.JobClaim, *arguments: Any
    ) -> T:
        try:
            return await self._transaction(write, claim, *arguments)
        except job_state.FenceLost:
            log.error("job %s: another worker has claimed it; this worker exits", claim.job.id)
            os._exit(FENCE_LOST)  # before the queue writes a status for the job

    async def _transaction(self, write: Callable[..., T], *arguments: Any) -> T:
        """Write in a thread and a transaction; repeat until the database is back from an outage."""

        def write_once() -> T:
            with self._sessions.begin() as session:
                return write(session, *arguments)

        is_waiting = False
        while True:
            try:
                return await _finish_before_cancelling(asyncio.to_thread(write_once))
            except DBAPIError as error:
                if not _is_outage(error):
                    raise
                if not is_waiting:
                    log.warning(
                        "the database is not reachable; waiting for it: %s",
                        type(error.orig).__name__,
                    )
                is_waiting = True
                await asyncio.sleep(0.5)


async def _finish_before_cancelling(work: Coroutine[Any, Any, T]) -> T:
    """Await a thread to its end even if the caller is cancelled, so that writes stay in order."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _is_outage(error: DBAPIError) -> bool:
    return error.connection_invalidated or isinstance(
        error.orig, psycopg.OperationalError | psycopg.InterfaceError
    )
