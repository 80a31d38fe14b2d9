"""The FastAPI application: routers, middleware and background tasks put together."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import InterfaceError, OperationalError

from service.api import docs_page, openapi, problems
from service.api.limits import Limits
from service.api.metrics import RequestMetrics
from service.api.response_policy import ResponsePolicy
from service.api.routes import (
    administration,
    asr,
    audio,
    audit,
    certificates,
    corrections,
    entities,
    events,
    handoffs,
    health,
    jobs,
    keys,
    masked_audio,
    member_packets,
    models,
    papers,
    participants,
    playback,
    recordings,
    releases,
    retention,
    review,
    seal,
    sessions,
    sign_in,
    sign_on,
    studies,
    study_activity,
    tokens,
    transcripts,
    uploads,
    webhooks,
    withdrawals,
)
from service.api.study_events import StudyEvents
from service.api.watch import Watch
from service.domain import queue
from service.domain import webhooks as webhook_sending
from service.domain.audit_heads import keep_heads
from service.domain.certificates import create_certificate_key
from service.domain.checking import Checker
from service.domain.masked_audio import Masker
from service.domain.playback import PlaybackMaker
from service.domain.presence import Presence
from service.domain.readings import Readings
from service.domain.retention import finish_interrupted
from service.domain.sign_on import create_sign_on_key
from service.domain.stages import RateCache
from service.domain.tokens import make_first_tokens
from service.domain.withdrawal import Withdrawer
from service.errors import locate
from service.exports.releases import render_release
from service.services import open_services
from service.settings import Settings
from service.web import pages

ROUTERS: tuple[APIRouter, ...] = (
    studies.router,
    study_activity.router,
    webhooks.router,
    sessions.router,
    uploads.router,
    recordings.router,
    playback.router,
    jobs.router,
    events.router,
    transcripts.router,
    corrections.router,
    handoffs.router,
    masked_audio.router,
    entities.studies_router,
    entities.router,
    retention.studies_router,
    retention.router,
    releases.studies_router,
    releases.making,
    releases.router,
    papers.router,
    participants.studies_router,
    participants.router,
    member_packets.router,
    certificates.router,
    withdrawals.studies_router,
    withdrawals.router,
    review.router,
    models.router,
    audio.router,
    asr.router,
    sign_in.router,
    sign_on.router,
    tokens.router,
    seal.router,
    administration.router,
    audit.studies_router,
    audit.router,
    health.router,
    keys.router,
)

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(
        title="Fieldscribe",
        version=version("fieldscribe"),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from a CDN
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
    )
    app.state.settings = settings
    app.state.limits = Limits(settings.long_poll_limit)
    app.state.requests = RequestMetrics()
    app.state.rates = RateCache()
    app.state.presence = Presence()
    app.state.provider = None  # of single sign-on, once it is used
    for router in ROUTERS:
        app.include_router(router)
    routes = [
        route
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
    ]
    app.openapi = openapi_document(app, routes)  # type: ignore[method-assign]
    app.add_api_route("/docs", docs_route(app), include_in_schema=False)
    app.include_router(pages.router)
    problems.install_handlers(app)
    # Outermost, so that internal errors are counted and have the headers too.
    app.add_middleware(ResponsePolicy, requests=app.state.requests)
    return app


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    services = await asyncio.to_thread(open_services, app.state.settings)
    try:
        await asyncio.to_thread(make_first_tokens, services)
        await asyncio.to_thread(create_sign_on_key, app.state.settings)
        await asyncio.to_thread(create_certificate_key, app.state.settings)
    except (OperationalError, InterfaceError):  # uvicorn would log the whole traceback
        log.critical("the API cannot start", exc_info=True)
        end_process()
        raise
    await asyncio.to_thread(finish_interrupted, services)
    app.state.services = services
    app.state.readings = Readings(services)
    app.state.checker = Checker(services)
    app.state.playback_maker = PlaybackMaker(services)
    app.state.masker = Masker(services)
    app.state.withdrawer = Withdrawer(services, render_release)
    app.state.study_events = StudyEvents(services, app.state.rates)
    app.state.watch = Watch(services, app.state.study_events)
    tasks = [
        asyncio.create_task(queue.maintain(services), name="queue maintenance"),
        asyncio.create_task(app.state.checker.run(), name="checking uploads"),
        asyncio.create_task(app.state.playback_maker.run(), name="making playback copies"),
        asyncio.create_task(app.state.masker.run(), name="masking audio"),
        asyncio.create_task(app.state.withdrawer.run(), name="withdrawing participants"),
        asyncio.create_task(app.state.watch.run(), name="watching jobs"),
        asyncio.create_task(app.state.study_events.run(), name="sending changes to pages"),
        asyncio.create_task(keep_heads(services), name="keeping heads of the audit trail"),
        asyncio.create_task(webhook_sending.send_events(services), name="sending webhooks"),
    ]
    for task in tasks:
        task.add_done_callback(end_process_with)
    try:
        yield
    finally:
        for task in tasks:
            task.remove_done_callback(end_process_with)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Cancelling a task does not stop its thread, which may hold a database connection.
        await asyncio.to_thread(app.state.checker.close)
        await asyncio.to_thread(app.state.playback_maker.close)
        await asyncio.to_thread(app.state.masker.close)
        await asyncio.to_thread(app.state.withdrawer.close)
        await asyncio.get_running_loop().shutdown_default_executor()
        services.close()


def end_process_with(task: "asyncio.Task[None]") -> None:
    """End the process when a background task ends: `serve` then starts a new one.

    An API that answers but no longer checks uploads or revives jobs would look healthy. The
    process ends at once: nothing is lost, and an orderly shutdown might hang on the same failure.
    """
    error = None if task.cancelled() else task.exception()
    if error is not None:
        kind, place = type(error).__name__, locate(error)
        log.critical("%s failed, so the API ends: %s at %s", task.get_name(), kind, place)
    end_process()


def end_process() -> None:
    os._exit(1)


def openapi_document(app: FastAPI, routes: list[APIRoute]) -> Callable[[], dict[str, Any]]:
    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.describe(app, routes)
        return app.openapi_schema

    return describe


def docs_route(app: FastAPI) -> Callable[[], HTMLResponse]:
    def docs() -> HTMLResponse:
        return HTMLResponse(
            docs_page.render(app.openapi()), headers={"Content-Security-Policy": docs_page.POLICY}
        )

    return docs
