"""What a worker knows of itself: its device, its job, and the jobs that its engine died of."""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from sqlalchemy.orm import Session as DbSession

from service.domain import workers

MAX_DEAD_JOBS = 3
"""Different jobs in a row at which the engine died; then the device is retired."""
CHECK_FAILED, JOBS_DIED = "check_failed", "jobs_died"  # why a device is retired


@dataclass
class WorkerState:
    """
    Attributes:
        doubtful: set from the death of the engine until its device has passed a check. No job is
            started meanwhile.
        changed: set when the row in the database is out of date.
    """

    device: str | None = None  # such as cuda:1; None until the engine has said which it uses
    id: UUID = field(default_factory=uuid4)
    host: str = field(default_factory=socket.gethostname)
    job_id: UUID | None = None
    retired_because: str | None = None
    doubtful: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _deaths: dict[UUID, int] = field(default_factory=dict)  # the attempt, by job
    _dead_jobs: set[UUID] = field(default_factory=set)  # since a job was finished

    def record_death(self, attempts: Mapping[UUID, int]) -> None:
        """Record that the engine died, and during which attempts, by job."""
        self._deaths.update(attempts)
        self._dead_jobs.add(next(iter(attempts)))  # one death, of however many jobs
        self.doubtful.set()

    def record_success(self) -> None:
        """Record that a job was finished: the device works."""
        self._dead_jobs.clear()

    @property
    def keeps_failing(self) -> bool:
        return len(self._dead_jobs) >= MAX_DEAD_JOBS

    def should_leave(self, session: DbSession, job_id: UUID) -> bool:
        """Whether to leave a job to another worker, because its latest attempt died here."""
        return (
            job_id in self._deaths
            and workers.read_attempt(session, job_id) == self._deaths[job_id]
            and workers.has_another(session, self.id)
        )

    def report(self, session: DbSession) -> None:
        workers.report(
            session, self.id, self.host, self.device or "", self.job_id, self.retired_because
        )
