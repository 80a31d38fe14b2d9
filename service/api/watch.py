"""Long-polling: all requests that wait for a job share one database connection that listens.

When a job changes, its state is read once and only the requests whose condition it meets wake up.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service.database.engine import conninfo
from service.database.queries import JOB_CHANNEL
from service.database.tables import FINAL, Job
from service.services import Services, database_url

RECONNECT_AFTER = 1.0  # s

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    status: str
    version: int

    @property
    def has_ended(self) -> bool:
        return self.status in FINAL


Condition = Callable[[State], bool]


@dataclass(eq=False)
class Waiter:
    condition: Condition
    woken: asyncio.Event


class Watch:
    """Wakes requests when their job changes. For the API's event loop only."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiters: dict[UUID, set[Waiter]] = defaultdict(set)
        self._listening = asyncio.Event()

    async def until(self, job_id: UUID, condition: Condition, seconds: float) -> None:
        """Wait until the job's state meets the condition, but no longer than `seconds`."""
        with self._waiting(job_id, condition) as waiter, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._listening.wait()
                # A change from before we listened is not announced again.
                await self._notify({job_id})
                await waiter.woken.wait()

    async def run(self) -> None:
        """Listen until cancelled. After a reconnect, check every job that is waited for."""
        url = conninfo(database_url(self._services.settings))
        while True:
            try:
                async with await connect(url) as listener:
                    await listener.execute(f"LISTEN {JOB_CHANNEL}")
                    self._listening.set()
                    await self._notify(set(self._waiters))
                    async for notice in listener.notifies():
                        await self._notify({UUID(notice.payload)})
            except (psycopg.Error, SQLAlchemyError) as error:
                log.warning(
                    "lost the connection that listens for job changes: %s", type(error).__name__
                )
            self._listening.clear()
            await asyncio.sleep(RECONNECT_AFTER)

    @contextlib.contextmanager
    def _waiting(self, job_id: UUID, condition: Condition) -> Iterator[Waiter]:
        waiter = Waiter(condition, asyncio.Event())
        self._waiters[job_id].add(waiter)
        try:
            yield waiter
        finally:
            self._waiters[job_id].discard(waiter)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    async def _notify(self, job_ids: set[UUID]) -> None:
        waited_for = job_ids & self._waiters.keys()
        if not waited_for:
            return
        states = await asyncio.to_thread(self._read, waited_for)
        for job_id in waited_for:
            state = states.get(job_id)
            for waiter in self._waiters.get(job_id, ()):
                if state is None or waiter.condition(state):
                    waiter.woken.set()

    def _read(self, job_ids: set[UUID]) -> dict[UUID, State]:
        with self._services.sessionmaker() as session:
            rows = session.execute(
                select(Job.id, Job.status, Job.version).where(Job.id.in_(job_ids))
            )
            return {row.id: State(row.status, row.version) for row in rows}


async def connect(url: str) -> psycopg.AsyncConnection[Any]:
    """Connect; if cancelled, finish connecting and close, because psycopg would leave it open."""
    connecting = asyncio.ensure_future(
        psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=5)
    )
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        with contextlib.suppress(psycopg.Error):
            await (await connecting).close()
        raise
