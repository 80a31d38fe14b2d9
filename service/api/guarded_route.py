"""Routes that check the token before they read the body, and limit bodies by path.

A body of more than a few KB is parsed and validated in a thread, because the event loop answers
nothing meanwhile. Parsing still holds Python's lock, so the number of values is limited too.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.api.access import access_of
from service.errors import BodyTooLarge, RequestTooSlow

MAX_BODY_BYTES = 16 * 2**10
# Routes whose longest valid body is longer: words of a vocabulary, studies of a token, the text of
# a segment, decisions, occurrences.
BODY_BYTES_BY_PATH = {
    "/v1/tokens": 64 * 2**10,
    "/v1/jobs": 2**20,
    "/v1/studies/{study}/vocabulary": 2**20,
    "/v1/transcripts/{transcript_id}/segments": 16 * 2**20,
    "/v1/transcripts/{transcript_id}/segments/{segment_id}": 2**20,
    "/v1/transcripts/{transcript_id}/import": 16 * 2**20,
    "/v1/studies/{study}/roster": 16 * 2**20,
    "/v1/studies/{study}/entities": 2**20,
    "/v1/entities/{entity_id}/split": 2**20,
    "/v1/transcripts/{transcript_id}/review/decisions": 2**20,
    "/v1/transcripts/{transcript_id}/review/samples/{sample_id}/finish": 2**20,
    "/v1/participants/{participant_id}/packets": 2**20,
    "/v1/studies/{study}/participants/import": 4 * 2**20,
    "/v1/packet/answer": 2**20,
    "/v1/packets/{packet_id}/decisions": 2**20,
    "/v1/handoffs/{handoff_id}/complete": 16 * 2**20,
}
# Counted in the text, strings included. The longest list of occurrences has 50,002 and 350,000.
MAX_CONTAINERS = 200_000
MAX_COMMAS = 500_000
EVENT_LOOP_BYTES = 4 * 2**10  # a longer body is parsed in a thread
BODY_SECONDS = 30.0  # for the whole body of a request, uploads excepted


class GuardedRoute(APIRoute):
    """Checks the token, then reads the body within the path's limit, then calls the handler."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        allowed = access_of(self)
        self._body_type: TypeAdapter[Any] | None = None
        if self.body_field is not None:
            annotation: Any = self.body_field.field_info.annotation
            self._body_type = TypeAdapter(annotation)

        async def guard(request: Request) -> Response:
            if allowed is not None:
                request.state.caller = await run_in_threadpool(allowed.check, request)
            if self._body_type is not None:
                await self._read_body(request, self._body_type)
            return await handle(request)

        return guard

    def max_body_bytes(self) -> int:
        return BODY_BYTES_BY_PATH.get(self.path, MAX_BODY_BYTES)

    async def _read_body(self, request: Request, body_type: TypeAdapter[Any]) -> None:
        """Read the body into the request, where FastAPI then finds it.

        Raises:
            BodyTooLarge, RequestTooSlow, RequestValidationError
        """
        body = await receive_body(request, self.max_body_bytes())
        request._body = body
        if len(body) > EVENT_LOOP_BYTES and is_json(request):
            # An instance of a model is not validated again.
            request._json = await run_in_threadpool(parse, body_type, body)


async def receive_body(request: Request, max_bytes: int) -> bytes:
    """
    Raises:
        BodyTooLarge, RequestTooSlow
    """
    refusal = BodyTooLarge(f"A request to this path may have a body of at most {max_bytes} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > max_bytes:
        raise refusal
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for block in request.stream():
                body += block
                if len(body) > max_bytes:
                    raise refusal
    except TimeoutError:
        slow = f"The body took longer than {BODY_SECONDS:.0f} s: send it again"
        raise RequestTooSlow(slow) from None
    except ClientDisconnect:
        raise HTTPException(400) from None  # nobody reads the answer
    return bytes(body)


def is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def parse(body_type: TypeAdapter[Any], body: bytes) -> Any:
    """
    Raises:
        BodyTooLarge: too many values.
        RequestValidationError
    """
    n_containers = body.count(b"[") + body.count(b"{")
    if n_containers > MAX_CONTAINERS or body.count(b",") > MAX_COMMAS:
        raise BodyTooLarge("The body has too many values")
    try:
        return body_type.validate_python(json.loads(body))
    except ValidationError as error:
        listed = error.errors(include_url=False, include_input=False)
        raise RequestValidationError(
            [{**item, "loc": ("body", *item["loc"])} for item in listed]
        ) from None
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body",)}]) from None
