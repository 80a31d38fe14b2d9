"""An HTTP client of the API that retries during an outage.

ServiceError
└── ServiceUnreachable
"""

import ssl
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx2
import typer

from service.errors import ServiceError

RETRY_FOR = 30.0  # s
NOTICE_AFTER = 2.0  # s of silence before the user is told that we are waiting
RETRYABLE_STATUSES = (408, 429, 502, 503, 504)
POLL_SECONDS = 30  # how long the API holds a long poll


class ServiceUnreachable(ServiceError):
    """The service does not answer at its address."""

    code: ClassVar[str] = "service_unreachable"


class Refused(Exception):
    """The API answered with an RFC 9457 problem; docs/reference/errors.md explains its `code`."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.problem = problem
        self.code: str = problem["code"]
        self.status: int = problem["status"]


class Client:
    """An authenticated client of one service.

    Args:
        tls: certificates to trust; those that this machine trusts by default.
        transport: replaces the network in tests.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tls: ssl.SSLContext | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(POLL_SECONDS + 30.0, connect=10.0),
            verify=tls or ssl.create_default_context(),
            trust_env=False,  # no proxy sees what is sent
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        return self.request("GET", path, params=drop_none(parameters)).json()

    def list_all(self, path: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield every item of a list, however many pages it has."""
        cursor = None
        while True:
            page = self.get(path, limit=200, cursor=cursor, **parameters)
            yield from page["items"]
            if (cursor := page["next_cursor"]) is None:
                return

    def list_some(self, path: str, *, limit: int, cursor: str | None, **parameters: Any) -> Any:
        """At most `limit` items of a list as one page: `items` and `next_cursor`."""
        items: list[Any] = []
        while True:
            n_missing = min(200, limit - len(items))
            page = self.get(path, limit=n_missing, cursor=cursor, **parameters)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None or len(items) >= limit:
                return {"items": items, "next_cursor": cursor}

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """
        Args:
            key: an idempotency key; without one the request is not retried after an outage.
        """
        headers = {"Idempotency-Key": key} if key else {}
        response = self.request("POST", path, json=body, headers=headers, retry=key is not None)
        return response.json() if response.content else None

    def delete(self, path: str) -> Any:
        response = self.request("DELETE", path)
        return response.json() if response.content else None

    def request(
        self,
        method: str,
        path: str,
        *,
        retry: bool = True,
        retry_for: float = RETRY_FOR,
        **arguments: Any,
    ) -> httpx2.Response:
        """Send a request; `arguments` are those of `httpx2.Client.request`.

        Args:
            retry: whether the request may be sent twice.
            retry_for: seconds.

        Raises:
            Refused, ServiceUnreachable
        """
        started = time.monotonic()
        end, pause, noticed = started + retry_for, 0.2, False
        while True:
            try:
                response = self._http.request(method, path, **arguments)
            except httpx2.TransportError as error:
                if not retry or time.monotonic() + pause > end:
                    raise ServiceUnreachable(
                        f"No answer from {self.url}: start `fieldscribe serve`, or if it uses "
                        "another address, set FIELDSCRIBE_PORT or FIELDSCRIBE_URL"
                    ) from error
                if not noticed and time.monotonic() > started + NOTICE_AFTER:
                    noticed = True
                    typer.echo(
                        f"No answer from {self.url} yet; retrying for up to {retry_for:.0f} s.",
                        err=True,
                    )
            else:
                if response.is_success or response.status_code == 304:
                    return response
                refusal = Refused(problem_of(response))
                temporary = response.status_code in RETRYABLE_STATUSES and refusal.code != "sealed"
                pause = max(pause, _retry_after(response))
                if not (retry and temporary) or time.monotonic() + pause > end:
                    raise refusal
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def drop_none(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def problem_of(response: httpx2.Response) -> dict[str, Any]:
    """The problem in an error response; one of our own if another program answered."""
    try:
        problem = response.json()
        if isinstance(problem, dict) and {"code", "detail", "status"} <= problem.keys():
            return problem
    except ValueError:
        pass
    return {
        "code": "not_fieldscribe",
        "detail": f"A program other than Fieldscribe answered, with status {response.status_code}: "
        "check the address",
        "status": response.status_code,
    }


def _retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0
