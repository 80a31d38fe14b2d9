"""A name sent in any field of any route appears in no error, log, database row or file."""

import base64
import copy
import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import select

from service.database.engine import conninfo
from service.database.tables import Handoff
from tests.api import OCTETS, metadata, open_api, tone
from tests.finished import finish_job

CANARY = "Zacharias Quendolin"
TRACE = re.compile(rb"quendolin|zacharias", re.I)
ENCODED = base64.b64encode(CANARY.encode())


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def things(api):
    study = api.study()
    session = api.post("/v1/sessions", json={"study": study["id"]}).json()
    recording = api.upload(
        study["id"], tone(), headers={"Upload-Metadata": metadata(filename=f"{CANARY}.wav")}
    )
    path = f"/v1/studies/{study['id']}/vocabulary"
    assert api.request("PUT", path, json={"words": [CANARY]}).status_code == 200
    body = {"recordings": [recording["id"]], "model": "demo", "vocabulary": [CANARY]}
    finished = api.post("/v1/jobs", json=body)
    assert finished.status_code == 202, finished.text
    transcript = finish_job(api.services, UUID(finished.json()["id"]))
    job = api.post("/v1/jobs", json=body).json()
    path = f"/v1/studies/{study['id']}/entities"
    entity = api.post(path, json={"kind": "person", "names": [CANARY, "Zacharias"]})
    assert entity.status_code == 201, entity.text
    review = f"/v1/transcripts/{transcript}/review"
    assert api.post(review).status_code == 200
    sample = api.post(f"{review}/samples", json={"segments": 5})
    assert sample.status_code == 201, sample.text
    with api.services.sessionmaker() as database:
        handoff = database.scalar(select(Handoff).where(Handoff.transcript_id == transcript))
        assert handoff is not None
    return {
        "study": study["id"],
        "session_id": session["id"],
        "recording_id": recording["id"],
        "upload_id": recording["id"],
        "job_id": job["id"],
        "transcript_id": str(transcript),
        "handoff_id": str(handoff.id),
        "sample_id": sample.json()["id"],
        "token_id": recording["id"],
        "entity_id": entity.json()["id"],
    }


def with_canary(value: Any) -> Iterator[Any]:
    """Copies of a body with the canary in one place each: as a value, a key or a new field."""
    yield CANARY
    if isinstance(value, dict):
        yield {**value, CANARY: CANARY}
        for key, inner in value.items():
            yield {**{k: v for k, v in value.items() if k != key}, CANARY: inner}
            for worse in with_canary(inner):
                yield {**value, key: worse}
    elif isinstance(value, list):
        yield [*value, CANARY]
        for i, inner in enumerate(value):
            for worse in with_canary(inner):
                yield [*value[:i], worse, *value[i + 1 :]]


def example_of(schema: dict[str, Any], content: dict[str, Any]) -> Any:
    found = content.get("schema", {})
    while "$ref" in found:
        found = schema["components"]["schemas"][found["$ref"].rpartition("/")[2]]
    return copy.deepcopy(found["examples"][0]) if found.get("examples") else {}


# Committees and their sites, of which docs/researcher/participants.md says so.
IN_THE_CLEAR = ("/v1/studies/{study}/approvals",)


def requests(api, things):
    schema = api.app.openapi()
    for path, methods in schema["paths"].items():
        plain = re.sub(r"\{(\w+)\}", lambda match: things.get(match[1], "x"), path)
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                name = parameter["name"]
                if parameter["in"] == "path":
                    yield method, path.replace(f"{{{name}}}", quote(CANARY)), {}
                elif parameter["in"] == "query":
                    yield method, f"{plain}?{name}={quote(CANARY)}", {}
                else:
                    for value in (CANARY.encode(), b"Quendolin", ENCODED, b"sha1 " + ENCODED):
                        yield method, plain, {"headers": {name: value, **OCTETS}}
            yield method, f"{plain}?{quote(CANARY)}={quote(CANARY)}", {}
            yield method, plain, {"headers": {"Authorization": f"Bearer {CANARY}"}}
            yield method, plain, {"content": CANARY.encode(), "headers": OCTETS}
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                if media == "application/json" and path not in IN_THE_CLEAR:
                    for body in with_canary(example_of(schema, content)):
                        yield method, plain, {"json": body}
    yield "GET", f"/{quote(CANARY)}", {}


def test_a_name_in_any_field_of_any_route_appears_nowhere(
    api, things, postgres, module_settings, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    n = 0
    stored = set()
    for method, path, options in requests(api, things):
        if method.upper() == "DELETE" and CANARY not in str(options) and "Zacharias" not in path:
            continue
        answer = api.request(method.upper(), path, **options)
        n += 1
        if answer.status_code >= 400:
            shown = answer.content + str(answer.headers).encode()
            assert not TRACE.search(shown), (method, path, options, answer.text)
            assert ENCODED not in shown
            assert answer.status_code != 500, (method, path, options, caplog.text[-2000:])
        else:
            stored.add(f"{method} {path.partition('?')[0]}")
    assert n > 200
    assert len(stored) > 3  # accepted content

    own = [each for each in caplog.records if not each.name.startswith(("httpx", "httpcore"))]
    logs = "\n".join(logging.Formatter("%(message)s %(args)s").format(each) for each in own)
    assert not TRACE.search(logs.encode()), TRACE.search(logs.encode())
    captured = capfd.readouterr()
    assert not TRACE.search((captured.out + captured.err).encode())
    assert rows_with_a_trace(module_settings.database_url.get_secret_value()) == []
    checkpoint(module_settings.database_url.get_secret_value())
    for folder in (postgres.folder, module_settings.data, module_settings.keys):
        found = [path for path in folder.rglob("*") if path.is_file() and has_trace(path)]
        assert found == []


def has_trace(path, trace=TRACE):
    content = path.read_bytes()
    return bool(trace.search(content)) or ENCODED in content


def rows_with_a_trace(url: str, trace: re.Pattern[bytes] = TRACE) -> list[str]:
    with psycopg.connect(conninfo(url)) as connection:
        tables = connection.execute(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname = 'public'"
        ).fetchall()
        assert len(tables) > 15
        return [
            table
            for (table,) in tables
            for (row,) in connection.execute(f"SELECT t::text FROM {table} t").fetchall()
            if trace.search(row.encode())
        ]


def checkpoint(url: str) -> None:
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        connection.execute("CHECKPOINT")


def test_the_search_finds_a_name_in_a_row(api, things, module_settings):
    """Otherwise the test above would prove nothing."""
    url = module_settings.database_url.get_secret_value()
    with psycopg.connect(conninfo(url)) as connection:
        connection.execute("CREATE TABLE public.slip AS SELECT 'Zacharias' AS name")
        connection.commit()
        found = rows_with_a_trace(url)
        connection.execute("DROP TABLE public.slip")
        connection.commit()

    assert found == ["public.slip"]
