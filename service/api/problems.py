"""Errors as answers: RFC 9457 problems that hold a code, and no input.

An exception that nobody expected is logged with its place and its type. Its message is not: it may
quote what somebody sent.
"""

import logging
import re
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import AudioError, OptionError, OutOfMemory, SpeechError
from service.database import DatabaseUnreachable
from service.domain.job_state import InternalError
from service.errors import (
    BodyTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    NoSuchPath,
    RangeNotSatisfiable,
    ServiceError,
    TooManyRequests,
    TooManyWaiting,
    UnsupportedMediaType,
    locate,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5  # s
# What pydantic says of a limit; its other context may quote the input.
LIMITS = (
    "pattern", "expected", "min_length", "max_length", "ge", "gt", "le", "lt", "multiple_of",
)  # fmt: skip
FIELD = re.compile(r"[a-z][a-z0-9_]{0,31}")

log = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    where: str = Field(description="`body.code`, `query.study`; * stands for what is not ours.")
    problem: str = Field(description="Stable name of what is wrong, from pydantic.")
    limits: dict[str, Any] = Field(default={}, description="What would have been right.")


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:fieldscribe:error:study_not_found",
                    "title": "There is no such study, or it is not yours.",
                    "status": 404,
                    "detail": "There is no such study, or it is not yours.",
                    "code": "study_not_found",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str = Field(description="One sentence; numbers and remedies, never content.")
    code: str = Field(description="Stable; docs/reference/errors.md lists them.")
    errors: list[FieldProblem] | None = Field(
        default=None, description="Of `invalid_request`: what is wrong where."
    )


def status_of(error: type[SpeechError | ServiceError]) -> int:
    if issubclass(error, ServiceError):
        return error.status
    if issubclass(error, AudioError | OptionError):
        return 422
    return 503 if issubclass(error, OutOfMemory) else 409


def title_of(error: type[Exception]) -> str:
    return (error.__doc__ or "").strip().partition("\n")[0]


def problem(error: SpeechError | ServiceError, fields: list[FieldProblem] | None = None) -> Problem:
    kind = type(error)
    return Problem(
        type=f"urn:fieldscribe:error:{kind.code}",
        title=title_of(kind),
        status=status_of(kind),
        detail=str(error) or title_of(kind),
        code=kind.code,
        errors=fields,
    )


def answer(
    error: SpeechError | ServiceError, fields: list[FieldProblem] | None = None
) -> JSONResponse:
    body = problem(error, fields)
    return JSONResponse(
        body.model_dump(exclude_none=True),
        status_code=body.status,
        headers=headers_of(error, body.status),
        media_type=MEDIA_TYPE,
    )


def headers_of(error: Exception, status: int) -> dict[str, str]:
    if isinstance(error, TooManyRequests):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, RangeNotSatisfiable):
        return {"Content-Range": f"bytes */{error.size}"}
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status == 503 or isinstance(error, TooManyWaiting):
        return {"Retry-After": str(RETRY_AFTER)}
    return {}


def install(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, _known)
    app.add_exception_handler(SpeechError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for kind in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(kind, _database)
    app.add_middleware(LastResort)


def _known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError | SpeechError)
    return answer(error)


def _database(request: Request, error: Exception) -> JSONResponse:
    cause = error.orig if isinstance(error, DBAPIError) else error
    log.warning("the database does not answer: %s", type(cause).__name__)
    return answer(DatabaseUnreachable("The database does not answer: try again in a moment"))


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fields = [
        FieldProblem(
            where=".".join(_ours(part) for part in item["loc"]),
            problem=item["type"],
            limits={
                name: value
                for name, value in item.get("ctx", {}).items()
                if name in LIMITS and isinstance(value, str | int | float)
            },
        )
        for item in error.errors()
        if item["type"] != "extra_forbidden"
    ]
    # The name of a field that we do not know is input.
    fields += [
        FieldProblem(where=".".join([*map(_ours, item["loc"][:-1]), "*"]), problem=item["type"])
        for item in error.errors()
        if item["type"] == "extra_forbidden"
    ]
    return answer(InvalidRequest("Something in the request is not as it should be"), fields)


def _ours(part: str | int) -> str:
    """Names of fields; keys of a mapping come from the caller."""
    return str(part) if isinstance(part, int) or FIELD.fullmatch(part) else "*"


def _http(request: Request, error: Exception) -> JSONResponse:
    """What Starlette refuses by itself."""
    assert isinstance(error, HTTPException)
    kinds: dict[int, ServiceError] = {
        404: NoSuchPath("The API has nothing at this path"),
        405: MethodNotAllowed("The API has no such method at this path"),
        413: BodyTooLarge("A body that is no recording has at most 16 MiB"),
        415: UnsupportedMediaType("The body is of another media type than this path takes"),
    }
    refusal = answer(kinds.get(error.status_code) or InvalidRequest("The request is malformed"))
    refusal.headers.update(error.headers or {})
    return refusal


class LastResort:
    """Nothing gets past this to the server's log, which would quote the exception's message."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:  # noqa: BLE001  # the top of the process
            log.error("%s at %s", type(error).__name__, locate(error))
            if not begun:
                error = InternalError("A mistake in Fieldscribe; the log has its place")
                await answer(error)(scope, receive, send)
            # Else the server closes the connection: the answer is visibly cut off.
