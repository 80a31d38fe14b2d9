"""Studies, sessions, models, errors and the description of the API."""

import base64
import html
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import whisper.tokenizer
from fastapi.testclient import TestClient
from sqlalchemy.event import listen
from sqlalchemy.exc import OperationalError

from models.languages import LANGUAGES, language_code
from models.weights.catalogue import DEMO
from scripts.stand_in.installation import ROOT
from service.api import openapi, problems
from service.database.tables import Study
from service.errors import ServiceError
from service.vault.errors import Erased
from tests.api import ADDRESS, BASE_URL, open_api

CANARY = "Zacharias Quendolin"


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def study(api):
    return api.study()


# --- studies --------------------------------------------------------------------------------------


def test_a_study_has_defaults_that_can_be_changed(api):
    made = api.post("/v1/studies", json={"code": "PEER-1", "language": "de", "model": "demo"})
    assert made.status_code == 201
    assert (made.json()["language"], made.json()["model"]) == ("de", DEMO)

    changed = api.request("PATCH", "/v1/studies/PEER-1", json={"language": None})

    assert changed.json()["language"] is None
    assert changed.json()["model"] == DEMO
    assert api.get(f"/v1/studies/{made.json()['id']}").json() == changed.json()
    assert changed.json() in api.get("/v1/studies").json()["items"]


def test_a_code_belongs_to_one_study(api):
    api.post("/v1/studies", json={"code": "TWICE"})

    answer = api.post("/v1/studies", json={"code": "TWICE"})

    assert (answer.status_code, answer.json()["code"]) == (409, "study_code_taken")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"code": CANARY}, "invalid_request"),
        ({"code": "peer"}, "invalid_request"),
        ({"code": "P\x00"}, "invalid_request"),
        ({"code": "NEW", "language": "xx"}, "invalid_request"),
        ({"code": "NEW", "language": "Klingon"}, "invalid_request"),
        ({"code": "NEW", "model": "../../etc/passwd"}, "invalid_request"),
        ({"code": "NEW", "model": "no-such-model"}, "unknown_model"),
        ({"code": "NEW", "title": CANARY}, "invalid_request"),
        ([], "invalid_request"),
        (None, "invalid_request"),
    ],
)
def test_an_invalid_study_is_refused(api, body, code):
    answer = api.post("/v1/studies", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert "NEW" not in api.get("/v1/studies").text


def test_a_study_keeps_its_vocabulary_in_the_vault(api, study):
    path = f"/v1/studies/{study['code']}/vocabulary"
    assert api.get(path).json() == {"words": []}

    assert api.request("PUT", path, json={"words": ["Quendolin", "Seroquel"]}).status_code == 200
    assert api.request("PUT", path, json={"words": ["Quendolin"]}).status_code == 200

    assert api.get(path).json() == {"words": ["Quendolin"]}
    assert api.get(f"/v1/studies/{study['id']}").json()["has_vocabulary"]
    assert api.request("PUT", path, json={"words": []}).status_code == 200
    assert api.get(path).json() == {"words": []}
    for bad in (["a\nb"], [""], ["x" * 101], ["x"] * 501, "word"):
        assert api.request("PUT", path, json={"words": bad}).status_code == 422


def test_an_erased_study_is_gone(api, study):
    with api.services.sessionmaker.begin() as session:
        row = session.get_one(Study, study["id"])
        row.erased_at = row.created_at

    answer = api.get(f"/v1/studies/{study['code']}")

    assert (answer.status_code, answer.json()["code"]) == (410, "erased")


# --- sessions -------------------------------------------------------------------------------------


def test_a_session_gets_the_given_code_or_the_next_free_one(api, study):
    def code(**wish):
        answer = api.post("/v1/sessions", json={"study": study["code"], **wish})
        assert answer.status_code == 201, answer.text
        return answer.json()["code"]

    assert code() == "INT-01"
    assert code(code="INT-07") == "INT-07"
    assert code() == "INT-08"
    assert code(kind="focus_group") == "FG-1"
    assert code(kind="focus_group") == "FG-2"
    assert code(code="PILOT-1") == "PILOT-1"
    taken = api.post("/v1/sessions", json={"study": study["id"], "code": "INT-07"})
    assert (taken.status_code, taken.json()["code"]) == (409, "session_code_taken")


def test_a_session_has_speakers_and_a_roster(api, study):
    roster = [{"code": "I1", "role": "interviewer"}, {"code": "P07", "role": "participant"}]
    wish = {"study": study["code"], "speakers": {"min": 2, "max": 3}, "roster": roster}

    made = api.post("/v1/sessions", json=wish).json()

    assert made["roster"] == roster
    assert made["speakers"] == {"min": 2, "max": 3}
    assert made["study_id"] == study["id"]
    assert api.get(f"/v1/sessions/{made['id']}").json() == made
    assert api.get(f"/v1/sessions?study={study['code']}").json() == {
        "items": [made],
        "next_cursor": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        {"code": CANARY},
        {"kind": "party"},
        {"speakers": {"min": 0}},
        {"speakers": {"min": 3, "max": 2}},
        {"speakers": {"max": 21}},
        {"roster": [{"code": CANARY, "role": "participant"}]},
        {"roster": [{"code": "P1", "role": CANARY}]},
        {"roster": [{"code": "P1", "role": "other"}, {"code": "P1", "role": "other"}]},
        {"roster": [{"code": "P1", "role": "other", "name": CANARY}]},
        {"roster": [{"code": f"P{i}", "role": "other"} for i in range(13)]},
        {"roster": [{"code": "P1", "role": "other"}], "speakers": {"min": 2}},
        {"roster": [{"code": f"P{i}", "role": "other"} for i in range(3)], "speakers": {"max": 2}},
        {CANARY: 1},
    ],
)
def test_an_invalid_session_is_refused(api, study, body):
    answer = api.post("/v1/sessions", json={"study": study["code"], **body})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert CANARY not in answer.text
    assert api.get(f"/v1/sessions?study={study['code']}").json()["items"] == []


def test_sessions_come_in_pages_by_code_and_in_one_statement(api, study):
    """It once made one statement for each session, and had no pages."""
    for number in range(5):
        code = f"INT-{number:02d}"
        api.post("/v1/sessions", json={"study": study["code"], "code": code})
    statements = []
    listen(api.services.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))

    seen, path = [], f"/v1/sessions?study={study['code']}&limit=2"
    page = api.get(path).json()
    of_sessions = [each for each in statements if "FROM session" in each]
    while True:
        seen += [item["code"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        page = api.get(f"{path}&cursor={page['next_cursor']}").json()

    assert seen == [f"INT-{number:02d}" for number in range(5)]
    assert len(of_sessions) == 1
    assert not [each for each in statements if each.startswith("SELECT recording")]


def read_pages(api, path, limit, **options):
    """The items of each page of a list."""
    pages: list[list[dict[str, Any]]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = api.get(f"{path}?limit={limit}{cursor}", **options)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages.append(page["items"])
        cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else None
    return pages


def test_studies_come_in_pages_by_code(api):
    studies = sorted([api.study() for _ in range(5)], key=lambda study: study["code"])
    token = api.token("researcher", *[study["id"] for study in studies])

    pages = read_pages(api, "/v1/studies", 2, token=token)

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [study for page in pages for study in page] == studies


def test_tokens_come_in_pages_newest_first_with_their_studies(api):
    studies = [api.study()["id"] for _ in range(3)]
    made = []
    for number in range(5):
        body = {"role": "coder", "studies": studies[: number % 4]}
        token = api.post("/v1/tokens", json=body).json()
        del token["secret"]
        made.append({**token, "studies": sorted(token["studies"])})

    pages = read_pages(api, "/v1/tokens", 2)

    assert {len(page) for page in pages[:-1]} == {2}
    assert [token for page in pages for token in page][:5] == made[::-1]


@pytest.mark.parametrize(
    "plain", ["x", "a b", f"{UUID(int=1)} \0", "9999-12-31T23:59:59-23:59 x", "\xff"]
)
@pytest.mark.parametrize(
    "path",
    ["/v1/sessions", "/v1/jobs", "/v1/recordings", "/v1/handoffs", "/v1/studies", "/v1/tokens"],
)
def test_an_invented_cursor_is_refused(api, path, plain):
    cursor = base64.urlsafe_b64encode(plain.encode("latin-1")).decode().rstrip("=")

    answer = api.get(f"{path}?cursor={cursor}")

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_cursor")


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_a_cursor_with_a_time_that_utc_lacks_is_refused(api, time):
    cursor = base64.urlsafe_b64encode(f"{time} {uuid4()}".encode()).decode().rstrip("=")

    assert api.get(f"/v1/jobs?cursor={cursor}").json()["code"] == "bad_cursor"


def test_an_unknown_session_is_not_found(api):
    answer = api.get(f"/v1/sessions/{uuid4()}")

    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


# --- models ---------------------------------------------------------------------------------------


def test_the_demo_weights_are_always_there(api):
    items = api.get("/v1/models").json()["items"]

    assert {"name": DEMO, "kind": "whisper", "demo": True} in items
    assert {"name": DEMO, "kind": "pyannote", "demo": True} in items


def test_languages_are_those_of_whisper():
    assert whisper.tokenizer.LANGUAGES == LANGUAGES
    for name, code in whisper.tokenizer.TO_LANGUAGE_CODE.items():
        assert language_code(name.title()) == code


# --- errors ---------------------------------------------------------------------------------------


def test_an_unknown_path_or_method_is_a_problem_too(api):
    nowhere = api.get("/v1/nothing")
    method = api.request("PATCH", "/v1/studies")

    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "no_such_path")
    assert (method.status_code, method.json()["code"]) == (405, "method_not_allowed")
    assert method.headers["Allow"]
    for answer in (nowhere, method):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Cache-Control"] == "no-store"
        body = answer.json()
        assert body["type"] == f"urn:fieldscribe:error:{body['code']}"
        assert body["status"] == answer.status_code


def test_a_body_that_is_not_json_is_refused(api):
    for content in (b"{", b"\xff\xfe", CANARY.encode()):
        answer = api.post(
            "/v1/studies", content=content, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert CANARY not in answer.text


def test_a_body_that_is_too_long_is_refused(api):
    answer = api.post("/v1/studies", content=b'"' + b"x" * (17 * 2**20))

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_an_invalid_request_says_which_values_are_allowed(api):
    answer = api.post("/v1/studies", json={"code": "peer", CANARY: 1})

    errors = answer.json()["errors"]
    assert errors[0]["where"] == "body.code"
    assert errors[0]["problem"] == "string_pattern_mismatch"
    assert errors[0]["limits"]["pattern"].startswith("^[A-Z]")
    assert errors[1] == {"where": "body.*", "problem": "extra_forbidden", "limits": {}}


def test_an_internal_error_is_logged_without_its_message(api, monkeypatch, caplog):
    def broken(*_):
        raise ValueError(f"bad name: {CANARY}")

    monkeypatch.setattr("service.api.routes.studies.find_study", broken)

    answer = api.get("/v1/studies/PEER")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert CANARY not in caplog.text + answer.text
    assert "ValueError at test_api.py" in caplog.text


def test_an_unreachable_database_is_reported(api, monkeypatch):
    def gone(*_):
        raise OperationalError("SELECT", {}, Exception(CANARY))

    monkeypatch.setattr("service.api.routes.studies.find_study", gone)

    answer = api.get("/v1/studies/PEER")

    assert (answer.status_code, answer.json()["code"]) == (503, "database_unreachable")
    assert answer.headers["Retry-After"]
    assert CANARY not in answer.text


def test_every_error_has_the_status_in_the_docs(api):
    """The status beside a code in docs/reference/errors.md is the one that is answered."""
    text = (Path(__file__).parent.parent / "docs/reference/errors.md").read_text()
    documented = {code: int(n) for code, n in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.M)}
    assert len(documented) > 25

    def children(parent):
        for child in parent.__subclasses__():
            yield child
            yield from children(child)

    statuses = {each.code: problems.status_of(each) for each in children(ServiceError)}
    assert {code: statuses[code] for code in documented} == documented


# --- the description ------------------------------------------------------------------------------


def test_every_operation_says_what_it_does_and_every_body_has_an_example(api):
    schema = api.app.openapi()
    components = schema["components"]["schemas"]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["description"], where
            for content in operation.get("requestBody", {}).get("content", {}).values():
                reference = content["schema"].get("$ref")
                if reference:
                    assert components[reference.rpartition("/")[2]].get("examples"), where


def test_the_docs_page_loads_nothing_from_elsewhere(api):
    answer = api.client.get("/docs")

    assert answer.status_code == 200
    assert not re.search(
        r"<script|https?://(?!tus\.io|hooks\.example\.org)|src=|@import", answer.text
    )
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    for path in api.app.openapi()["paths"]:
        assert path in answer.text
    assert "INT-07" in answer.text


def test_the_docs_page_shows_every_field_of_every_request(api):
    """The page once had the examples alone: no fields, no enums and no defaults."""
    schema = api.app.openapi()
    components = schema["components"]["schemas"]
    sections = dict(
        re.findall(r"<h2 id='([^']+)'>(.*?)(?=<h2 |\Z)", api.client.get("/docs").text, re.S)
    )
    n_fields = 0

    def look(name, field, section, where):
        nonlocal n_fields
        n_fields += 1
        assert f"{name}</code>" in section, (where, name)
        for each in (field, *field.get("anyOf", ()), field.get("items", {})):
            for value in each.get("enum", [each["const"]] if "const" in each else []):
                assert f"<code>{value}</code>" in section, (where, name, value)
            if reference := each.get("$ref"):
                fields(components[reference.rpartition("/")[2]], section, where)
        if "default" in field:
            default = html.escape(json.dumps(field["default"]))
            assert f"default <code>{default}</code>" in section, (where, name)

    def fields(body, section, where):
        for name, field in body.get("properties", {}).items():
            look(name, field, section, where)

    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            section, where = sections[operation["operationId"]], f"{method} {path}"
            for parameter in operation.get("parameters", ()):
                look(parameter["name"], parameter["schema"], section, where)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                reference = content["schema"].get("$ref", "").rpartition("/")[2]
                fields(components.get(reference, content["schema"]), section, where)
    assert n_fields > 100


def test_no_response_may_be_cached(api):
    for path in ("/v1/studies", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        assert api.get(path).headers["Cache-Control"] == "no-store"


def test_problems_of_one_status_are_described_together():
    described = openapi.problems(Erased)

    assert "`erased`" in described[410]["description"]


def test_a_request_from_elsewhere_is_not_local(api):
    client = TestClient(api.app, client=("192.0.2.1", 1))

    assert client.get("/metrics").status_code == 401
    assert TestClient(api.app, BASE_URL, client=ADDRESS).get("/metrics").status_code == 200


def test_a_request_leaves_nothing_in_the_log(api, caplog):
    caplog.set_level(logging.DEBUG)

    api.get(f"/v1/studies?name={CANARY}")

    ours = [each.getMessage() for each in caplog.records if each.name.startswith("service")]
    assert CANARY not in " ".join(ours)


# --- its process ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work",
    [
        "service.domain.checking.Checker.run",
        "service.api.watch.Watch.run",
        "service.domain.queue.maintain",
    ],
)
def test_the_api_ends_when_a_background_task_fails(module_settings, work):
    """It once answered for hours while no upload was checked and no dead job revived."""
    package, room, module, name = work.split(".", 3)
    package = f"{package}.{room}"
    program = f"""
from service.api import process
from {package} import {module}
from service.settings import read_settings

async def fail(*_):
    raise RuntimeError({CANARY!r})

{module}.{name} = fail
process.main(read_settings())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **module_settings.as_environment()},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert "failed, so the API ends: RuntimeError" in ended.stderr
    assert CANARY not in ended.stderr


def test_an_outage_while_the_api_starts_is_one_line(module_settings):
    program = f"""
from sqlalchemy.exc import OperationalError
from service.api import app, process
from service.settings import read_settings

def fail(services):
    raise OperationalError("SELECT {CANARY}", {{}}, Exception())

app.make_first_tokens = fail
process.main(read_settings())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **module_settings.as_environment()},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert "the API cannot start: the database does not respond (OperationalError)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert CANARY not in ended.stderr
