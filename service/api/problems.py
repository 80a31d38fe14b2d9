"""Errors as responses: RFC 9457 problems with a stable code, which never quote the request.

An unexpected exception is logged with its type and place, but without its message, which may quote
the request.
"""

import logging
import re
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import AudioError, OptionError, OutOfMemory, SpeechError
from service.database import DatabaseUnreachable
from service.domain.corrections import SegmentChanged
from service.domain.deciding import MentionChanged
from service.domain.job_errors import InternalError
from service.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NoSuchPath,
    RangeNotSatisfiable,
    ServiceError,
    TooManyRequests,
    TooManyWaiting,
    UnsupportedMediaType,
    locate,
    title_of,
)
from service.web import pages

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5  # s
# The limits that pydantic reports; the rest of its context may quote the input.
LIMITS = (
    "pattern", "expected", "min_length", "max_length", "ge", "gt", "le", "lt", "multiple_of",
)  # fmt: skip
OPENAI_PATHS = "/v1/audio/"
RETRYABLE = (429, 503, 504)
MAX_ERRORS = 20  # in a problem
MAX_SORTED = 1000  # errors beyond these are ignored
FIELD = re.compile(r"[a-z][a-z0-9_]{0,31}")

log = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    where: str = Field(description="`body.code`, `query.study`; * hides a name that the API lacks.")
    problem: str = Field(description="Stable name of the problem, from pydantic.")
    limits: dict[str, Any] = Field(default={}, description="The values that are allowed.")


class ConflictView(BaseModel):
    """What two people have made of one segment. The only content that a problem ever holds."""

    model_config = ConfigDict(from_attributes=True)

    version: int = Field(description="The newest version: send it with your next attempt.")
    base: str | None = Field(description="The text that you began with.")
    theirs: str | None = Field(description="The text now; null if the segment is gone.")
    yours: str | None = Field(description="The text that you sent.")
    merged: str | None = Field(description="Both corrections; null if they change the same words.")


class MentionStateView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    version: int
    state: str
    entity_id: UUID | None


class OpenAiError(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str


class Problem(BaseModel):
    """An RFC 9457 problem."""

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
    detail: str = Field(description="One sentence: what happened and what to do; never content.")
    code: str = Field(description="Stable; docs/reference/errors.md lists them.")
    errors: list[FieldProblem] | None = Field(
        default=None, description="For `invalid_request`: the first 20 fields that are wrong."
    )
    conflict: ConflictView | None = Field(
        default=None, description="For `segment_changed`: both texts, and their merge."
    )
    mentions: list[MentionStateView] | None = Field(
        default=None, description="For `mention_changed`: how those mentions stand now."
    )
    error: OpenAiError | None = Field(
        default=None, description="Under /v1/audio: the same in the shape of OpenAI's API."
    )


def status_of(error: type[SpeechError | ServiceError]) -> int:
    if issubclass(error, ServiceError):
        return error.status
    if issubclass(error, AudioError | OptionError):
        return 422
    return 503 if issubclass(error, OutOfMemory) else 409


def problem(error: SpeechError | ServiceError, fields: list[FieldProblem] | None = None) -> Problem:
    kind = type(error)
    return Problem(
        type=f"urn:fieldscribe:error:{kind.code}",
        title=title_of(kind),
        status=status_of(kind),
        detail=str(error) or title_of(kind),
        code=kind.code,
        errors=fields,
        conflict=ConflictView.model_validate(error.conflict)
        if isinstance(error, SegmentChanged)
        else None,
        mentions=[MentionStateView.model_validate(each) for each in error.mentions]
        if isinstance(error, MentionChanged)
        else None,
    )


def to_response(
    error: SpeechError | ServiceError,
    scope: Scope,
    fields: list[FieldProblem] | None = None,
) -> JSONResponse:
    body = problem(error, fields)
    headers = headers_of(error, body.status)
    if scope["path"].startswith(OPENAI_PATHS):
        body.error = openai_error(body)
        # OpenAI's client would otherwise send a recording again after every 409 and 5xx.
        headers["x-should-retry"] = "true" if body.status in RETRYABLE else "false"
    return JSONResponse(
        body.model_dump(mode="json", exclude_none=True) | _conflict(body),
        status_code=body.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def _conflict(body: Problem) -> dict[str, Any]:
    """With its nulls, which say something."""
    return {"conflict": body.conflict.model_dump()} if body.conflict else {}


def openai_error(body: Problem) -> OpenAiError:
    fields = [field.where.partition(".")[2] for field in body.errors or []]
    return OpenAiError(
        message=body.detail,
        type="invalid_request_error" if body.status < 500 else "server_error",
        param=fields[0] if fields else None,
        code="model_not_found" if body.code in ("unknown_model", "model_missing") else body.code,
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


def install_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, _known)
    app.add_exception_handler(SpeechError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for kind in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(kind, _database)
    app.add_middleware(LastResort)


def _known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError | SpeechError)
    return to_response(error, request.scope)


def _database(request: Request, error: Exception) -> JSONResponse:
    cause = error.orig if isinstance(error, DBAPIError) else error
    log.warning("the database does not respond: %s", type(cause).__name__)
    return to_response(
        DatabaseUnreachable("The database does not respond: try again in a moment"), request.scope
    )


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A problem with the first errors only: there may be thousands, and each takes memory."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    # Unknown fields come last, because their names are input and hidden.
    first = sorted(found[:MAX_SORTED], key=lambda item: item["type"] == "extra_forbidden")
    count = (
        f"the first {MAX_ERRORS} of {len(found)} fields"
        if len(found) > MAX_ERRORS
        else "which field"
    )
    detail = f"The request is invalid; `errors` says {count}"
    return to_response(
        InvalidRequest(detail),
        request.scope,
        [_field_problem(item) for item in first[:MAX_ERRORS]],
    )


def _field_problem(item: dict[str, Any]) -> FieldProblem:
    parts = [_own_name(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        return FieldProblem(where=".".join([*parts[:-1], "*"]), problem=item["type"])
    limits = {
        name: value
        for name, value in item.get("ctx", {}).items()
        if name in LIMITS and isinstance(value, str | int | float)
    }
    return FieldProblem(where=".".join(parts), problem=item["type"], limits=limits)


def _own_name(part: str | int) -> str:
    """The name of one of our fields; keys of a mapping come from the caller and become *."""
    return str(part) if isinstance(part, int) or FIELD.fullmatch(part) else "*"


def _http(request: Request, error: Exception) -> Response:
    """Requests that Starlette refuses itself."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and pages.wants_page(request):
        return pages.not_found()
    kinds: dict[int, ServiceError] = {
        404: NoSuchPath("The API has no such path"),
        405: MethodNotAllowed("This path does not support the method"),
        415: UnsupportedMediaType("This path does not accept a body of this media type"),
    }
    refusal = to_response(
        kinds.get(error.status_code) or InvalidRequest("The request is malformed"), request.scope
    )
    refusal.headers.update(error.headers or {})
    return refusal


class LastResort:
    """Catches every exception: the server would log its message, which may quote the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:  # noqa: BLE001  # the top of the process
            log.error("%s at %s", type(error).__name__, locate(error))
            if not started:
                error = InternalError("An internal error; the log says where")
                await to_response(error, scope)(scope, receive, send)
            # Otherwise the server closes the connection, and the client sees a truncated response.
