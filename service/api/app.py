"""The API: wiring, and nothing else."""

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import openapi, problems
from service.api.limits import Limits
from service.api.routes import (
    handoffs,
    health,
    jobs,
    keys,
    models,
    recordings,
    seal,
    sessions,
    studies,
    tokens,
    transcripts,
    uploads,
)
from service.api.watch import Watch
from service.domain import queue
from service.domain.callers import make_first_tokens
from service.domain.recordings import Checker
from service.errors import BodyTooLarge, locate
from service.services import open_services
from service.settings import Settings

ROUTERS: tuple[APIRouter, ...] = (
    studies.router,
    sessions.router,
    uploads.router,
    recordings.router,
    jobs.router,
    transcripts.router,
    handoffs.router,
    models.router,
    tokens.router,
    seal.router,
    health.router,
    keys.router,
)
MAX_BODY = 16 * 2**20  # bytes; a hand-off's occurrences are the longest
UPLOADS = "/v1/uploads"

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(
        title="Fieldscribe",
        version=version("fieldscribe"),
        lifespan=lifespan,
        docs_url=None,  # its page comes from a CDN
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.limits = Limits(settings.long_poll_limit)
    app.state.requests = Requests()
    app.state.rates = jobs.Rates()
    for router in ROUTERS:
        app.include_router(router)
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    app.add_api_route("/docs", docs_page(app), include_in_schema=False, response_class=HTMLResponse)
    app.openapi = describe_once(app, routes)  # type: ignore[method-assign]
    app.add_middleware(Manners, requests=app.state.requests)
    problems.install(app)
    return app


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    services = await asyncio.to_thread(open_services, app.state.settings)
    await asyncio.to_thread(make_first_tokens, services)
    app.state.services = services
    app.state.checker = Checker(services)
    app.state.watch = Watch(services)
    tasks = [
        asyncio.create_task(queue.look_after(services), name="the queue's"),
        asyncio.create_task(app.state.checker.run(), name="the checker's"),
        asyncio.create_task(app.state.watch.run(), name="the watch's"),
    ]
    for task in tasks:
        task.add_done_callback(end_with)
    try:
        yield
    finally:
        for task in tasks:
            task.remove_done_callback(end_with)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A cancelled task leaves its thread behind, which may have a connection.
        await asyncio.to_thread(app.state.checker.close)
        await asyncio.get_running_loop().shutdown_default_executor()
        services.close()


def end_with(task: "asyncio.Task[None]") -> None:
    """An API that looks healthy and looks after nothing is worse than none, which is started again.

    At once: nothing is lost by it, and what has gone wrong may be in the way of an orderly end.
    """
    error = None if task.cancelled() else task.exception()
    if error is not None:
        kind, place = type(error).__name__, locate(error)
        log.critical("%s work ended, and the API with it: %s at %s", task.get_name(), kind, place)
    end_process()


def end_process() -> None:
    os._exit(1)


def describe_once(app: FastAPI, routes: list[APIRoute]) -> Any:
    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.describe(app, routes)
        return app.openapi_schema

    return describe


def docs_page(app: FastAPI) -> Any:
    def docs() -> HTMLResponse:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(
            openapi.page(app.openapi()), headers={"Content-Security-Policy": policy}
        )

    return docs


class Requests:
    """Answers by route and status, for /metrics. A path that is no route is not counted by name."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()

    def count(self, scope: Scope, status: int) -> None:
        route = scope.get("route")
        path = route.path if isinstance(route, APIRoute) else "other"
        method = scope["method"] if isinstance(route, APIRoute) else "other"
        self._counts[(method, path, status)] += 1

    def lines(self) -> list[str]:
        name = "fieldscribe_http_requests_total"
        return [f"# TYPE {name} counter"] + [
            f'{name}{{method="{method}",route="{path}",status="{status}"}} {n}'
            for (method, path, status), n in sorted(self._counts.items())
        ]


class Manners:
    """Of every answer: nobody keeps it, uploads speak tus, a body is not longer than it may be."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"].startswith(UPLOADS)
        n_received = 0

        async def limited() -> Message:
            nonlocal n_received
            message = await receive()
            n_received += len(message.get("body", b""))
            if n_received > MAX_BODY and not is_upload:
                raise HTTPException(BodyTooLarge.status)  # FastAPI lets no other through
            return message

        async def polite(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.count(scope, message["status"])
                headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
                headers += [(b"tus-resumable", uploads.VERSION.encode())] if is_upload else []
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in headers if header[0] not in given),
                ]
            await send(message)

        await self._app(scope, limited, polite)
