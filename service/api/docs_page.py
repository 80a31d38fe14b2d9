"""The page at /docs: the OpenAPI document as plain HTML, without scripts and without a CDN."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

CODE = re.compile(r"`([^`]+)`")
MAX_DEPTH = 6  # levels of nested objects; none of ours is deeper
LIMITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "maxProperties": "at most {} entries",
    "pattern": "pattern `{}`",
}
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem;overflow-wrap:anywhere}
h3{font-size:1rem;margin-bottom:.3rem}
code,pre{background:#f3f3f3}code{overflow-wrap:anywhere}pre{padding:.7rem;overflow:auto}
.table{overflow-x:auto}table{border-collapse:collapse}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}
td:first-child{white-space:nowrap}
.method{font-weight:bold;text-transform:uppercase}
summary{cursor:pointer}
"""
# Nothing is loaded, run, framed or sent: only this one style sheet is applied.
POLICY = (
    "default-src 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(document: Schema) -> str:
    """All operations on one page, each with its parameters, fields, examples and responses."""
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><title>Fieldscribe API</title>",
        f"<style>{STYLE}</style><h1>Fieldscribe API</h1>",
        f"<p>{_text(document['info']['description'])}</p>",
        "<p>For programs: <a href=openapi.json>openapi.json</a></p><ul>",
    ]
    for path, method, operation in operations:
        parts.append(
            f"<li><a href='#{operation['operationId']}'><span class=method>{method}</span>"
            f" {_text(path)}</a> {_text(operation.get('summary', ''))}"
        )
    parts.append("</ul>")
    for path, method, operation in operations:
        parts += _operation(document, path, method, operation)
    return "\n".join(parts)


def _operation(document: Schema, path: str, method: str, operation: Schema) -> Iterator[str]:
    yield f"<h2 id='{operation['operationId']}'>"
    yield f"<span class=method>{method}</span> {_text(path)}</h2>"
    yield f"<p>{_text(operation['description'])}</p>"
    if roles := operation.get("x-roles"):
        yield f"<p>Roles: {_text(', '.join(roles))}</p>"
    if parameters := operation.get("parameters"):
        yield "<h3>Parameters</h3>"
        yield from _table(
            _row(document, one["name"], one["schema"], one.get("required", False), one)
            + f"<td>{one['in']}"
            for one in parameters
        )
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _body(document, f"Request body, {media}", content)
    yield "<h3>Responses</h3>"
    for status, response in operation["responses"].items():
        yield f"<p><b>{status}</b> {_text(response['description'])}</p>"
        for media, content in response.get("content", {}).items():
            if int(status) < 400 and content:
                yield f"<details><summary>{_text(media)}</summary>"
                yield from _body(document, "", content, in_request=False)
                yield "</details>"


def _body(
    document: Schema, title: str, content: Schema, *, in_request: bool = True
) -> Iterator[str]:
    schema = _resolved(document, content.get("schema", {}))
    if title:
        yield f"<h3>{_text(title)}</h3>"
    if rows := list(_fields(document, schema, in_request)):
        yield from _table(rows)
    examples = [content["example"]] if "example" in content else schema.get("examples", [])
    for example in examples[:2]:
        shown = example if isinstance(example, str) else json.dumps(example, indent=2)
        yield f"<pre>{_text(shown)}</pre>"


def _table(rows: "Iterator[str] | list[str]") -> Iterator[str]:
    yield "<div class=table><table>"
    yield from (f"<tr>{row}" for row in rows)
    yield "</table></div>"


def _fields(
    document: Schema, schema: Schema, in_request: bool, prefix: str = "", depth: int = 0
) -> Iterator[str]:
    """A row for each field of an object, those of nested objects after it (`speakers.min`)."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        need = name in required if in_request else None
        yield _row(document, prefix + name, field, need)
        if depth < MAX_DEPTH:
            for suffix, inner in _inner(document, field):
                yield from _fields(
                    document, inner, in_request, f"{prefix}{name}{suffix}.", depth + 1
                )


def _inner(document: Schema, field: Schema) -> Iterator[tuple[str, Schema]]:
    """Objects in a field: itself, an alternative of it, its items (`[]`) or its values (`{}`)."""
    for each in _alternatives(document, field):
        if "properties" in each:
            yield "", each
        for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
            if isinstance(each.get(key), dict):
                yield from (
                    (suffix + deeper, inner) for deeper, inner in _inner(document, each[key])
                )


def _row(
    document: Schema,
    name: str,
    field: Schema,
    required: bool | None,
    outer: Schema | None = None,
) -> str:
    """
    Args:
        required: None for a field of a response.
        outer: the parameter around a field's schema, which may hold the description.
    """
    notes: list[str] = []
    for each in _alternatives(document, field):
        items = _resolved(document, each.get("items", {}))
        notes += _restrictions(each, "")
        notes += _restrictions(items, " each")
    if required is not None:
        default = f"default `{json.dumps(field.get('default'))}`"
        notes.append("required" if required else default)
    about = (outer or {}).get("description") or field.get("description") or ""
    kind = " or ".join(dict.fromkeys(map(_kind, _alternatives(document, field))))
    return (
        f"<td><code>{_text(name)}</code><td>{_text(kind)}"
        f"<td>{_text(about)} <i>{_text('; '.join(notes))}</i>"
    )


def _restrictions(schema: Schema, suffix: str) -> Iterator[str]:
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        yield " or ".join(f"`{value}`" for value in values) + suffix
    for key, words in LIMITS.items():
        if key in schema:
            value = schema[key]
            yield words.format(value if isinstance(value, str) else f"{value:g}") + suffix


def _kind(schema: Schema) -> str:
    kind = str(schema.get("type", "object" if "properties" in schema else "any"))
    if kind == "array":
        return "array of " + str(schema.get("items", {}).get("type", "objects"))
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _alternatives(document: Schema, field: Schema) -> list[Schema]:
    field = _resolved(document, field)
    choices = field.get("anyOf") or field.get("oneOf") or field.get("allOf")
    if not choices:
        return [field]
    return [each for choice in choices for each in _alternatives(document, choice)]


def _resolved(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _text(value: Any) -> str:
    return CODE.sub(r"<code>\1</code>", html.escape(str(value)))
