"""Long-polling: all requests that wait share one database connection that listens.

When a job or a recording changes, its state is read once and only the requests whose condition it
meets wake up.
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
from sqlalchemy.orm import Session as DbSession

from service.api.study_events import StudyEvents
from service.database.engine import conninfo
from service.database.queries import JOB_CHANNEL, RECORDING_CHANNEL
from service.database.tables import FINAL, Job, Recording
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


Condition = Callable[[Any], bool]


@dataclass(frozen=True)
class Topic:
    """A kind of row that requests wait for: where its changes are announced, how it is read."""

    channel: str  # of NOTIFY with the row's id
    read: Callable[[DbSession, set[UUID]], dict[UUID, Any]]


def _read_jobs(session: DbSession, ids: set[UUID]) -> dict[UUID, State]:
    rows = session.execute(select(Job.id, Job.status, Job.version).where(Job.id.in_(ids)))
    return {row.id: State(row.status, row.version) for row in rows}


def _read_recordings(session: DbSession, ids: set[UUID]) -> dict[UUID, str]:
    rows = session.execute(select(Recording.id, Recording.state).where(Recording.id.in_(ids)))
    return {row.id: row.state for row in rows}


JOBS = Topic(JOB_CHANNEL, _read_jobs)  # a condition gets a State
RECORDINGS = Topic(RECORDING_CHANNEL, _read_recordings)  # a condition gets a Recording's state
TOPICS = {topic.channel: topic for topic in (JOBS, RECORDINGS)}


@dataclass(eq=False)
class Waiter:
    condition: Condition
    woken: asyncio.Event


class Watch:
    """Wakes requests when their job or recording changes. For the API's event loop only."""

    def __init__(self, services: Services, events: StudyEvents) -> None:
        self._services, self._events = services, events
        self._waiters: dict[Topic, dict[UUID, set[Waiter]]] = {
            topic: defaultdict(set) for topic in TOPICS.values()
        }
        self._listening = asyncio.Event()

    async def until(self, topic: Topic, id: UUID, condition: Condition, seconds: float) -> None:
        """Wait until the row's state meets the condition, but no longer than `seconds`."""
        with self._waiting(topic, id, condition) as waiter, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._listening.wait()
                # A change from before we listened is not announced again.
                await self._notify(topic, {id})
                await waiter.woken.wait()

    async def run(self) -> None:
        """Listen until cancelled. After a reconnect, check every row that is waited for."""
        url = conninfo(database_url(self._services.settings))
        while True:
            try:
                async with await connect(url) as listener:
                    for channel in TOPICS:
                        await listener.execute(f"LISTEN {channel}")
                    self._listening.set()
                    self._events.end_all()
                    for topic, waiters in self._waiters.items():
                        await self._notify(topic, set(waiters))
                    async for notice in listener.notifies():
                        id = UUID(notice.payload)
                        self._events.note(notice.channel, id)
                        await self._notify(TOPICS[notice.channel], {id})
            except (psycopg.Error, SQLAlchemyError) as error:
                log.warning(
                    "lost the connection that listens for changes: %s", type(error).__name__
                )
            self._listening.clear()
            await asyncio.sleep(RECONNECT_AFTER)

    @contextlib.contextmanager
    def _waiting(self, topic: Topic, id: UUID, condition: Condition) -> Iterator[Waiter]:
        waiter, waiters = Waiter(condition, asyncio.Event()), self._waiters[topic]
        waiters[id].add(waiter)
        try:
            yield waiter
        finally:
            waiters[id].discard(waiter)
            if not waiters[id]:
                del waiters[id]

    async def _notify(self, topic: Topic, ids: set[UUID]) -> None:
        waiters = self._waiters[topic]
        waited_for = ids & waiters.keys()
        if not waited_for:
            return
        states = await asyncio.to_thread(self._read, topic, waited_for)
        for id in waited_for:
            state = states.get(id)
            for waiter in waiters.get(id, ()):
                if state is None or waiter.condition(state):
                    waiter.woken.set()

    def _read(self, topic: Topic, ids: set[UUID]) -> dict[UUID, Any]:
        with self._services.sessionmaker() as session:
            return topic.read(session, ids)


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
