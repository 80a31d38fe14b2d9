"""A study's changes as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.limits import Limits
from service.api.openapi import problems
from service.api.routes.views import StudyName
from service.api.study_events import StudyEvents
from service.domain.callers import Caller, require_valid_token
from service.domain.studies import find_study
from service.errors import ServiceError, StudyNotFound, TooManyWaiting
from service.services import Services
from service.vault.errors import Erased

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
HEARTBEAT = 20.0  # s; proxies close connections on which nothing is sent
MAX_SECONDS = 600.0
EVENT_STREAM = "text/event-stream"


@router.get(
    "",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `job` with a job as `GET /v1/jobs/{id}` has it, "
            "`recording` with `id`, `session_id` and `state`. The stream ends after ten minutes or "
            "when changes may have been missed: read the lists again, and connect again.",
            "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
        },
        **problems(StudyNotFound, Erased, TooManyWaiting),
    },
)
async def follow_study(
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName, Query()],
) -> StreamingResponse:
    """Changes of a study's jobs and recordings, as they happen."""
    study_id = await asyncio.to_thread(_find, services, caller, study)
    events: StudyEvents = request.app.state.study_events
    waiting = limits.waiting(caller.token_id)
    waiting.__enter__()  # refused before the answer begins
    waiting.__exit__(None, None, None)
    return StreamingResponse(
        stream(events, limits, services, caller, study_id),
        media_type=EVENT_STREAM,
        headers={"X-Accel-Buffering": "no"},
    )


async def stream(
    events: StudyEvents, limits: Limits, services: Services, caller: Caller, study_id: UUID
) -> AsyncIterator[str]:
    end = time.monotonic() + MAX_SECONDS
    with limits.waiting(caller.token_id), events.follow(study_id) as queue:
        yield "retry: 3000\n\n"
        while time.monotonic() < end:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    event = await queue.get()
            except TimeoutError:
                event = ": still here\n\n"
                try:
                    await asyncio.to_thread(require_valid_token, services, caller)
                except ServiceError:
                    return
            if event is None:
                return
            yield event


def _find(services: Services, caller: Caller, study: str) -> UUID:
    with services.sessionmaker() as session:
        return find_study(session, caller, study).id
