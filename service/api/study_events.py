"""Changes of a study's jobs and recordings, for the pages that show them.

However many pages are open, a change is read and rendered once. `Watch` reports the changes.
"""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import select

from service.api.routes.job_views import JobView
from service.database.queries import JOB_CHANNEL
from service.database.tables import Job, Recording
from service.domain.job_details import read_details
from service.domain.stages import RateCache
from service.services import Services

PAUSE = 0.5  # s in which changes are collected, so that a job is rendered at most twice a second
MAX_QUEUED = 200  # events for a page that reads too slowly: its stream ends

Queue = asyncio.Queue[str | None]


class StudyEvents:
    """For the API's event loop only."""

    def __init__(self, services: Services, rates: RateCache) -> None:
        self._services, self._rates = services, rates
        self._followers: dict[UUID, set[Queue]] = defaultdict(set)
        self._changed: set[tuple[str, UUID]] = set()
        self._woken = asyncio.Event()

    @contextlib.contextmanager
    def follow(self, study_id: UUID) -> Iterator[Queue]:
        """A queue of events, each as server-sent text; None ends it."""
        queue: Queue = asyncio.Queue(MAX_QUEUED)
        self._followers[study_id].add(queue)
        try:
            yield queue
        finally:
            self._followers[study_id].discard(queue)
            if not self._followers[study_id]:
                del self._followers[study_id]

    def note(self, channel: str, id: UUID) -> None:
        """Note that a row has changed."""
        if self._followers:
            self._changed.add((channel, id))
            self._woken.set()

    def end_all(self) -> None:
        """End every stream, because changes may have been missed: clients connect again."""
        for queues in self._followers.values():
            for queue in queues:
                end(queue)

    async def run(self) -> None:
        """Render changes and hand them out, until cancelled."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(PAUSE)
            self._woken.clear()
            changed, self._changed = self._changed, set()
            followed = frozenset(self._followers)
            for study_id, event in await asyncio.to_thread(self._render, changed, followed):
                for queue in self._followers.get(study_id, ()):
                    if queue.full():
                        end(queue)
                    else:
                        queue.put_nowait(event)

    def _render(
        self, changed: set[tuple[str, UUID]], followed: frozenset[UUID]
    ) -> list[tuple[UUID, str]]:
        events = []
        with self._services.sessionmaker() as session:
            ids = [id for channel, id in changed if channel == JOB_CHANNEL]
            for job in session.scalars(select(Job).where(Job.id.in_(ids))):
                if job.study_id in followed:
                    view = JobView.of(read_details(session, self._rates, job))
                    events.append((job.study_id, event_text("job", view.model_dump_json())))
            ids = [id for channel, id in changed if channel != JOB_CHANNEL]
            for recording in session.scalars(select(Recording).where(Recording.id.in_(ids))):
                if recording.study_id in followed:
                    data = {
                        "id": str(recording.id),
                        "session_id": recording.session_id and str(recording.session_id),
                        "state": recording.state,
                    }
                    events.append((recording.study_id, event_text("recording", json.dumps(data))))
        return events


def event_text(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


def end(queue: Queue) -> None:
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(None)
