"""What every response must have: headers, and a count for /metrics."""

from collections import Counter

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.routes import uploads

UPLOADS = "/v1/uploads"


class RequestCounts:
    """Responses by route and status. Paths that match no route are counted as "other"."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()

    def count(self, scope: Scope, status: int) -> None:
        route = scope.get("route")
        path = route.path if isinstance(route, APIRoute) else "other"
        method = scope["method"] if isinstance(route, APIRoute) else "other"
        self._counts[(method, path, status)] += 1

    def lines(self) -> list[str]:
        """In the text format of Prometheus."""
        name = "fieldscribe_http_requests_total"
        return [f"# TYPE {name} counter"] + [
            f'{name}{{method="{method}",route="{path}",status="{status}"}} {n}'
            for (method, path, status), n in sorted(self._counts.items())
        ]


class ResponsePolicy:
    """Adds no-store, nosniff and Tus-Resumable; counts responses."""

    def __init__(self, app: ASGIApp, requests: RequestCounts) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"].startswith(UPLOADS)

        async def send_with_headers(message: Message) -> None:
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

        await self._app(scope, receive, send_with_headers)
