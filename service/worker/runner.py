"""Runs jobs: claims them, has the engine child transcribe them, writes their state and outcome.

A job runs with others of its study if they wait with it (service/domain/groups.py). Each job has an
attempt of its own; the errors of one do not end the others.
"""

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.domain import groups, job_state
from service.domain.engine_job import EngineJob
from service.domain.job_errors import EngineDied, InternalError
from service.domain.queue import POLLING
from service.errors import ServiceError
from service.vault.streaming import Key
from service.worker.attempt import INTERNAL_ERROR_DELAY, Attempt, retry_time
from service.worker.engine_process import EngineProcess
from service.worker.keys import FetchKeys
from service.worker.state import WorkerState
from service.worker.transactions import run_transaction

BEAT_INTERVAL = 1.0  # s between heartbeats of a job
STOP_TIMEOUT = 5.0  # s that the engine has to stop before it is killed
# In s. A job that died here is left to another worker: it is ready just after this worker has asked
# for jobs, so any other that is idle asks before this one does again.
LEAVING_DELAY = POLLING + 0.2

log = logging.getLogger(__name__)
T = TypeVar("T")


class RetryLater(Exception):
    """The job goes back into the queue, to run again at this time of the database's clock."""

    def __init__(self, at: datetime) -> None:
        super().__init__(f"again at {at}")
        self.at = at


class Runner:
    """Runs one group of jobs at a time."""

    def __init__(
        self,
        sessions: sessionmaker[DbSession],
        engine: EngineProcess,
        fetch_keys: FetchKeys,
        state: WorkerState | None = None,
    ) -> None:
        self._sessions, self._engine, self._fetch_keys = sessions, engine, fetch_keys
        self.state = state or WorkerState()

    async def run(self, job_id: UUID) -> None:
        """Run a job from the queue, and the jobs that join it.

        Raises:
            RetryLater: the queue must run the job again.
        """
        if self.state.doubtful.is_set():  # it was fetched before the worker stopped fetching
            raise RetryLater(await retry_time(self._sessions, 0.0))
        if await self._transaction(self.state.should_leave, job_id):
            raise RetryLater(await retry_time(self._sessions, LEAVING_DELAY))
        claim = await self._transaction(job_state.claim_job, job_id)
        if claim is None:
            return
        lead = Attempt(self._sessions, claim)
        self.state.job_id = job_id
        self.state.changed.set()
        try:
            await self._run_group([lead])
        finally:
            self.state.job_id = None
            self.state.changed.set()
        if lead.retry_at is not None:
            raise RetryLater(lead.retry_at)

    async def _run_group(self, group: list[Attempt]) -> None:
        """Add companions to the lead and run all attempts to their ends."""
        started = time.monotonic()
        try:
            newest = await self._add_companions(group)
            for attempt in group:
                log.info("job %s: attempt %d", attempt.id, attempt.claim.attempt)
            await self._run_attempts(group, newest)
        except asyncio.CancelledError:
            # The worker is stopping. Only once the child is gone may another worker have the jobs.
            await self._hand_back(group, "because the worker is stopping")
            raise
        except job_state.JobGone:
            # Killing the engine is the surest way to free the recordings of the erased job.
            await self._hand_back(group, "because another job of its group was erased")
        except Exception as error:
            # A bug. Its message is not logged, because it may quote anything.
            log.error(
                "job %s: %s\n%s",
                ", ".join(str(attempt.id) for attempt in group),
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
            )
            await self._engine.kill()  # nothing reads its messages any more
            if all(attempt.has_ended for attempt in group):
                raise
            for attempt in _running(group):
                await attempt.record_crash(InternalError.code, INTERNAL_ERROR_DELAY)
        finally:
            for attempt in group:
                await attempt.close()
        seconds = time.monotonic() - started
        log.info("job %s: %d jobs took %.1f s", group[0].id, len(group), seconds)

    async def _add_companions(self, group: list[Attempt]) -> int:
        """Claim the jobs that join the lead.

        Returns:
            The row of the queue that was the last then.
        """
        companions = await self._transaction(groups.take_companions, group[0].id)
        for i, companion in enumerate(companions):
            try:
                claim = await self._transaction(job_state.claim_job, companion.job_id)
            except Exception:
                for each in companions[i:]:
                    at = await retry_time(self._sessions, INTERNAL_ERROR_DELAY)
                    await self._transaction(groups.release, each, at)
                raise
            if claim is None:  # it was cancelled meanwhile
                await self._transaction(groups.release, companion, None)
            else:
                group.append(Attempt(self._sessions, claim, companion))
        return await self._transaction(groups.read_newest) if companions else 0

    async def _run_attempts(self, group: Sequence[Attempt], newest: int) -> None:
        work = asyncio.create_task(self._run_engine(group))
        beats = asyncio.create_task(self._send_heartbeats(group, newest))
        try:
            await asyncio.wait({work, beats}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
                return
            await beats
        finally:
            for task in (work, beats):
                task.cancel()
            await asyncio.gather(work, beats, return_exceptions=True)
        await self._hand_back(group, "because the engine process had to be killed")

    async def _run_engine(self, group: Sequence[Attempt]) -> None:
        """Have the engine transcribe the group, and write each of its messages to the database."""
        jobs = []
        for attempt in group:
            try:
                keys = await self._get_keys(attempt.claim)
            except ServiceError as error:
                await attempt.fail(error.code)
                await attempt.release()
            else:
                jobs.append(replace(attempt.claim.job, keys=keys))
        if jobs:
            await self._transcribe(jobs, {attempt.id: attempt for attempt in group})

    async def _transcribe(self, jobs: Sequence[EngineJob], group: dict[UUID, Attempt]) -> None:
        is_broken = must_restart = False
        async for message in self._engine.run(jobs):
            attempt = group[UUID(message["job"])]
            if attempt.has_ended:
                continue
            event, code = message["event"], message.get("code", "")
            if event == "done":
                self.state.record_success()
                await attempt.finish(message)
            elif event == "stopped":
                await attempt.record_cancelled()
            elif event == "handed_back":
                await attempt.put_back()
                log.info("job %s: returned to the queue for a job of another study", attempt.id)
            elif event == "failed":
                if code == InternalError.code:
                    is_broken = True
                    self.state.record_death({attempt.id: attempt.claim.attempt})
                must_restart = must_restart or code in (InternalError.code, "out_of_memory")
                await attempt.write_progress()
                await attempt.fail(code, retryable=message["retryable"])
            else:
                await attempt.record(event, message)
            await attempt.release()
        left = _running(group.values())
        if is_broken:
            await self._hand_back(left, "because the engine failed at another job of its group")
        elif left:
            await self._record_engine_death(left)
        elif must_restart:
            await self._engine.kill()  # its state cannot be trusted any more

    async def _record_engine_death(self, left: Sequence[Attempt]) -> None:
        """Count a crash for each job that the engine had begun: any of them may be the cause."""
        begun = [attempt for attempt in left if attempt.stage is not None] or left
        for attempt in begun:
            await attempt.write_progress()
        await self._engine.kill()
        log.warning("job %s: the engine process died", ", ".join(str(each.id) for each in begun))
        self.state.record_death({attempt.id: attempt.claim.attempt for attempt in begun})
        for attempt in begun:
            await attempt.record_crash(EngineDied.code)
        await self._hand_back(left, "because the engine died before it began")

    async def _hand_back(self, group: Sequence[Attempt], why: str) -> None:
        """Kill the engine and put back the jobs that it was running; a cancelled one has ended."""
        await self._engine.kill()
        for attempt in _running(group):
            with contextlib.suppress(job_state.JobGone):
                await attempt.put_back()
            log.info("job %s: stopped or returned to the queue %s", attempt.id, why)

    async def _send_heartbeats(self, group: Sequence[Attempt], newest: int) -> None:
        """Write heartbeats and pass on requests to stop, until a job does not stop in time."""
        study_id, has_yielded = group[0].claim.job.study_id, len(group) == 1
        while True:
            for attempt in _running(group):
                if await attempt.write_progress() != "cancelling":
                    continue
                if attempt.stop_by is None:
                    attempt.stop_by = time.monotonic() + STOP_TIMEOUT
                    self._engine.request_stop(attempt.id)
                elif time.monotonic() > attempt.stop_by:
                    return
            if not has_yielded and await self._transaction(groups.has_newcomer, study_id, newest):
                self._engine.request_yield()
                has_yielded = True
            await asyncio.sleep(BEAT_INTERVAL)

    async def _get_keys(self, claim: job_state.JobClaim) -> dict[UUID, Key]:
        while True:
            try:
                return await asyncio.to_thread(self._fetch_keys, claim.job.id, claim.fence)
            except OSError as error:  # the API may be restarting
                log.warning(
                    "job %s: cannot fetch its keys yet: %s", claim.job.id, type(error).__name__
                )
                await asyncio.sleep(1)

    async def _transaction(self, work: Callable[..., T], *arguments: Any) -> T:
        return await run_transaction(self._sessions, work, *arguments)


def _running(group: Iterable[Attempt]) -> list[Attempt]:
    return [attempt for attempt in group if not attempt.has_ended]
