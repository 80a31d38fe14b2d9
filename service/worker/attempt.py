"""One attempt at a claimed job, and everything that the worker writes to the job's rows in it."""

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.database.queries import read_clock
from service.domain import groups, job_state
from service.worker.transactions import run_transaction

OBSTACLE_DELAY = 30.0  # s before a job that met an obstacle is tried again
INTERNAL_ERROR_DELAY = 5.0  # s, so that a bug does not retry in a tight loop
FENCE_LOST = 70  # exit status

OBSTACLES = ("sealed", "disk_full", "storage_unreachable", "out_of_memory")
"""Codes of conditions that pass: a person unseals the vault or frees disk space, the storage of the
vault comes back, or another program frees GPU memory. A job waits for them as long as it takes."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class Attempt:
    """
    Args:
        companion: the job's row in the queue, if the job was taken to join another.

    Attributes:
        stage, fraction: progress; None until the engine has begun.
        has_ended: whether the attempt's last write has begun.
        retry_at: when the queue must run the job again, by the database's clock; None: never.
        stop_by: when the engine must have stopped the job; None: it need not stop.
    """

    def __init__(
        self,
        sessions: sessionmaker[DbSession],
        claim: job_state.JobClaim,
        companion: groups.Companion | None = None,
    ) -> None:
        self.claim = claim
        self.stage: str | None = None
        self.fraction = 0.0
        self.has_ended = False
        self.retry_at: datetime | None = None
        self.stop_by: float | None = None
        self._sessions, self._companion = sessions, companion
        self._written: tuple[str | None, float] = (None, 0.0)
        # One write at a time, and none after an attempt's last: a heartbeat that came after it
        # would look like one of a worker that was presumed dead.
        self._writing = asyncio.Lock()

    @property
    def id(self) -> UUID:
        return self.claim.job.id

    async def record(self, event: str, message: dict[str, Any]) -> None:
        """Write what a message says that is not the job's last."""
        if event == "progress":
            is_new_stage = message["stage"] != self.stage
            self.stage, self.fraction = message["stage"], message["fraction"]
            if is_new_stage:  # not at the next heartbeat: a short stage may be over by then
                await self.write_progress()
        elif event == "loaded":
            await self._write(job_state.record_loaded, message["device"], message["trial"])
        elif event == "saved":
            artefact_id, seconds = UUID(message["artefact_id"]), message["seconds"]
            await self._write(job_state.record_result, message["stage"], artefact_id, seconds)
        elif event == "discarded":
            await self._write(job_state.record_discarded)

    async def write_progress(self) -> str:
        """Write a heartbeat, with the progress if it has changed.

        Returns:
            The job's status.
        """
        now = (self.stage, self.fraction)
        stage = self.stage if now != self._written else None
        self._written = now
        status = await self._write(job_state.record_heartbeat, stage, self.fraction)
        return status or "running"

    async def finish(self, message: dict[str, Any]) -> None:
        outcome = job_state.Outcome(
            UUID(message["artefact_id"]),
            tuple(message["speakers"]),
            tuple(message["warnings"]),
            message["audio_seconds"],
        )
        await self._write_last(job_state.finish_job, uuid4(), outcome)
        log.info("job %s: succeeded", self.id)

    async def record_cancelled(self) -> None:
        await self._write_last(job_state.record_cancelled)

    async def fail(self, code: str, *, retryable: bool = False) -> None:
        """Record an error: the job waits if it is an obstacle, is tried again, or fails."""
        if code in OBSTACLES:
            log.warning(
                "job %s: waiting; trying again in %.0f s: %s", self.id, OBSTACLE_DELAY, code
            )
            await self.put_back(code, OBSTACLE_DELAY)
        elif retryable:
            await self.record_crash(code)
        else:
            await self._write_last(job_state.record_failure, code)
            log.info("job %s: failed: %s", self.id, code)

    async def record_crash(self, code: str, delay: float = 0.0) -> None:
        if await self._write_last(job_state.record_crash, code):
            await self._retry_after(delay)

    async def put_back(self, code: str | None = None, delay: float = 0.0) -> None:
        """End an attempt that does not count."""
        if await self._write_last(job_state.put_back_job, code):
            await self._retry_after(delay)

    async def close(self) -> None:
        """Release the queue's row even if the end of the attempt could not be recorded."""
        if not self.has_ended:
            self.has_ended = True
            await self._retry_after(INTERNAL_ERROR_DELAY)
        await self.release()

    async def release(self) -> None:
        """End the queue's row of a companion that has ended, or put it back."""
        if self._companion is not None and self.has_ended:
            companion, self._companion = self._companion, None
            await run_transaction(self._sessions, groups.release, companion, self.retry_at)

    async def _retry_after(self, seconds: float) -> None:
        self.retry_at = await retry_time(self._sessions, seconds)

    async def _write_last(self, write: Callable[..., T], *arguments: Any) -> T:
        async with self._writing:
            self.has_ended = True
            return await self._write_under_fence(write, *arguments)

    async def _write(self, write: Callable[..., T], *arguments: Any) -> T | None:
        """None if the attempt has ended."""
        async with self._writing:
            return None if self.has_ended else await self._write_under_fence(write, *arguments)

    async def _write_under_fence(self, write: Callable[..., T], *arguments: Any) -> T:
        try:
            return await run_transaction(self._sessions, write, self.claim, *arguments)
        except job_state.FenceLost:
            log.error("job %s: another worker has claimed it; this worker exits", self.id)
            os._exit(FENCE_LOST)  # before the queue writes a status for the job
        except job_state.JobGone:
            log.info("job %s: erased while it was running", self.id)
            self.has_ended = True
            raise


async def retry_time(sessions: sessionmaker[DbSession], seconds: float) -> datetime:
    """By the database's clock, which the queue compares with: this machine's may be wrong."""
    return await run_transaction(sessions, read_clock) + timedelta(seconds=seconds)
