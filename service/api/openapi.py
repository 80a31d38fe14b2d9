"""The description of the API, and the page that shows it: plain HTML, no CDN, no script."""

import html
import json
import re
from collections import defaultdict
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from models.errors import SpeechError
from service.api.access import Allowed
from service.api.problems import MEDIA_TYPE, Problem, status_of, title_of
from service.database import DatabaseUnreachable
from service.domain.job_state import InternalError
from service.errors import (
    BodyTooLarge,
    InvalidRequest,
    NotAllowed,
    ServiceError,
    TokenExpired,
    TokenMissing,
    TokenRevoked,
    TokenUnknown,
    TooManyRequests,
)
from service.vault.errors import Sealed

BEARER = "bearer"
DESCRIPTION = """Recordings in, speaker-attributed transcripts out. Errors are RFC 9457 problems
with a stable `code`. Every answer under /v1 is `no-store`."""


def problems(*kinds: type[ServiceError | SpeechError]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route, by the errors it may end with besides those that every route has."""
    by_status = defaultdict(list)
    for kind in kinds:
        by_status[status_of(kind)].append(kind)
    return {
        status: {
            "description": "; ".join(f"`{kind.code}`: {title_of(kind)}" for kind in of_status),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, of_status in by_status.items()
    }


def let_in_by(route: APIRoute) -> Allowed | None:
    """Who may use a route; None if it is open to all."""
    for dependency in route.dependant.dependencies:
        if isinstance(dependency.call, Allowed):
            return dependency.call
    return None


def describe(app: FastAPI, routes: list[APIRoute]) -> dict[str, Any]:
    schema = get_openapi(
        title="Fieldscribe", version=app.version, description=DESCRIPTION, routes=app.routes
    )
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(_problem_schemas())
    for name in ("HTTPValidationError", "ValidationError"):  # we answer otherwise
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
        del responses["422"]  # FastAPI's own
    common: list[type[ServiceError]] = [InternalError, DatabaseUnreachable]
    allowed = let_in_by(route)
    if allowed is not None:
        operation["security"] = [{BEARER: []}]
        operation["x-roles"] = sorted(allowed.roles)
        common += [TokenMissing, TokenUnknown, TokenExpired, TokenRevoked, NotAllowed]
        common += [TooManyRequests, *([] if allowed.sealed_too else [Sealed])]
    if allowed is not None or operation.get("parameters"):
        common.append(InvalidRequest)
    if "requestBody" in operation:
        common.append(BodyTooLarge)
    for status, described in problems(*common).items():
        if (own := responses.get(str(status))) is None:
            responses[str(status)] = described
        elif described["description"] not in own["description"]:
            own["description"] += "; " + described["description"]
    if "HEAD" in (route.methods or ()):
        for described in responses.values():
            described.pop("content", None)
    operation["responses"] = dict(sorted(responses.items()))


# --- the page -------------------------------------------------------------------------------------

CODE = re.compile(r"`([^`]+)`")

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}code,pre{background:#f3f3f3}
pre{padding:.7rem;overflow:auto}table{border-collapse:collapse}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}
.method{font-weight:bold;text-transform:uppercase}
"""


def page(schema: dict[str, Any]) -> str:
    """All operations on one page, each with its parameters, examples and answers."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Fieldscribe: the API</title>",
        f"<style>{STYLE}</style><h1>Fieldscribe: the API</h1>",
        f"<p>{_text(schema['info']['description'])}</p>",
        "<p>The same for programs: <a href=openapi.json>openapi.json</a></p><ul>",
    ]
    operations = [
        (path, method, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    for path, method, operation in operations:
        parts.append(
            f"<li><a href='#{operation['operationId']}'><span class=method>{method}</span>"
            f" {_text(path)}</a> {_text(operation.get('summary', ''))}"
        )
    parts.append("</ul>")
    for path, method, operation in operations:
        parts += _operation(schema, path, method, operation)
    return "\n".join(parts)


def _operation(
    schema: dict[str, Any], path: str, method: str, operation: dict[str, Any]
) -> list[str]:
    parts = [
        f"<h2 id='{operation['operationId']}'>",
        f"<span class=method>{method}</span> {_text(path)}</h2>",
        f"<p>{_text(operation.get('description', operation.get('summary', '')))}</p>",
    ]
    if roles := operation.get("x-roles"):
        parts.append(f"<p>For: {_text(', '.join(roles))}</p>")
    if parameters := operation.get("parameters"):
        parts.append("<table><tr><th>parameter<th>in<th>")
        for one in parameters:
            about = one.get("description") or one["schema"].get("description", "")
            needed = " (needed)" if one.get("required") else ""
            parts.append(
                f"<tr><td><code>{_text(one['name'])}</code><td>{one['in']}"
                f"<td>{_text(about)}{needed}"
            )
        parts.append("</table>")
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts += _body(schema, f"Body, {media}", content)
    for status, response in operation["responses"].items():
        parts.append(f"<p><b>{status}</b> {_text(response['description'])}</p>")
        for media, content in response.get("content", {}).items():
            if int(status) < 400:
                parts += _body(schema, media, content)
    return parts


def _body(schema: dict[str, Any], title: str, content: dict[str, Any]) -> list[str]:
    found = content.get("schema", {})
    while "$ref" in found:
        found = schema["components"]["schemas"][found["$ref"].rpartition("/")[2]]
    examples = [content["example"]] if "example" in content else found.get("examples", [])
    parts = [f"<p>{_text(title)}</p>"]
    for example in examples[:2]:
        shown = example if isinstance(example, str) else json.dumps(example, indent=2)
        parts.append(f"<pre>{_text(shown)}</pre>")
    return parts


def _text(value: str) -> str:
    return CODE.sub(r"<code>\1</code>", html.escape(value))
