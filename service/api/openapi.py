"""The OpenAPI document: every error a route may answer, and the roles that may use it."""

from collections import defaultdict
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from models.errors import SpeechError
from service.api.access import access_of
from service.api.problems import MEDIA_TYPE, Problem, status_of
from service.database import DatabaseUnreachable
from service.domain.job_errors import InternalError
from service.errors import (
    BodyTooLarge,
    InvalidRequest,
    NotAllowed,
    RequestTooSlow,
    ServiceError,
    TokenExpired,
    TokenMissing,
    TokenRevoked,
    TokenUnknown,
    TooManyRequests,
    title_of,
)
from service.vault.errors import Sealed, StorageUnreachable

BEARER = "bearer"
DESCRIPTION = """Upload recordings, get speaker-attributed transcripts. Errors are RFC 9457 problems
with a stable `code`. Every response under /v1 is `no-store`."""


# For handlers whose own name says too little beside those of the other resources.
OPERATION_IDS = {
    "extend_lease": "extend_handoff_lease",
    "healthz": "check_health",
    "metrics": "read_metrics",
    "put_recordings": "set_session_recordings",
    "put_speakers": "name_speakers",
    "read_audio": "download_recording",
    "read_keys": "read_job_keys",
    "read_offset": "read_upload_offset",
    "read_recordings": "list_recordings",
    "read_vocabulary": "read_study_vocabulary",
    "readyz": "check_readiness",
    "replace_vocabulary": "replace_study_vocabulary",
    "terminate_upload": "delete_upload",
    "tus_options": "read_upload_options",
}


def operation_id(route: APIRoute) -> str:
    """The id of an operation, which is the name of its function in generated clients."""
    return OPERATION_IDS.get(route.name, route.name)


def problems(*kinds: type[ServiceError | SpeechError]) -> dict[int | str, dict[str, Any]]:
    """`responses` for a route: the errors it may raise besides those that every route may."""
    by_status = defaultdict(list)
    for kind in dict.fromkeys(kinds):  # groups may overlap
        by_status[status_of(kind)].append(kind)
    return {
        status: {
            "description": " ".join(f"`{kind.code}`: {title_of(kind)}" for kind in of_status),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, of_status in by_status.items()
    }


def describe(app: FastAPI, routes: list[APIRoute]) -> dict[str, Any]:
    schema = get_openapi(
        title="Fieldscribe", version=app.version, description=DESCRIPTION, routes=app.routes
    )
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(_problem_schemas())
    for name in ("HTTPValidationError", "ValidationError"):  # we answer with a Problem
        components["schemas"].pop(name, None)
    components["securitySchemes"] = {BEARER: {"type": "http", "scheme": "bearer"}}
    for route in routes:
        for method in route.methods or ():
            operation = schema["paths"][route.path].get(method.lower())
            if operation is not None:
                _complete(operation, route)
    return schema


def _problem_schemas() -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    nested = schema.pop("$defs", {})
    return {"Problem": schema, **nested}


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    responses = operation.setdefault("responses", {})
    if responses.get("422", {}).get("content", {}).get("application/json"):
        del responses["422"]  # FastAPI's default
    common: list[type[ServiceError]] = [InternalError, DatabaseUnreachable]
    allowed = access_of(route)
    if allowed is not None:
        common.append(StorageUnreachable)
        operation["security"] = [{BEARER: []}]
        operation["x-roles"] = sorted(allowed.roles)
        common += [TokenMissing, TokenUnknown, TokenExpired, TokenRevoked, NotAllowed]
        common += [TooManyRequests, *([] if allowed.sealed_too else [Sealed])]
    if allowed is not None or operation.get("parameters") or "requestBody" in operation:
        common.append(InvalidRequest)
    if "requestBody" in operation:
        common += [BodyTooLarge, RequestTooSlow]
    for status, described in problems(*common).items():
        if (own := responses.get(str(status))) is None:
            responses[str(status)] = described
        elif described["description"] not in own["description"]:
            own["description"] += " " + described["description"]
    if "HEAD" in (route.methods or ()):
        for described in responses.values():
            described.pop("content", None)
    operation["responses"] = dict(sorted(responses.items()))
