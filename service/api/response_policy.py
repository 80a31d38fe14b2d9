"""What every response must have: headers, and a count for /metrics."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.metrics import RequestMetrics
from service.api.routes import uploads

UPLOADS = "/v1/uploads"


class ResponsePolicy:
    """Adds no-store, nosniff and Tus-Resumable; counts responses."""

    def __init__(self, app: ASGIApp, requests: RequestMetrics) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        is_upload = scope["path"].startswith(UPLOADS)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.count(scope, message["status"], time.monotonic() - started)
                headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
                headers += [(b"tus-resumable", uploads.VERSION.encode())] if is_upload else []
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in headers if header[0] not in given),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)
