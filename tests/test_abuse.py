"""Requests that are meant to exhaust the API: bodies, errors, uploads and connections."""

import asyncio
import json
import threading
import time
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.event import listen

from service.api import guarded_route
from service.api.app import ROUTERS
from service.api.guarded_route import BODY_BYTES_BY_PATH, MAX_BODY_BYTES, GuardedRoute
from service.api.limits import MAX_RECEIVING, MAX_RECEIVING_PER_TOKEN, Limits
from service.api.routes import uploads
from service.api.routes.handoffs import ClaimedView
from service.database.tables import Recording
from service.errors import TooManyRequests, TooManyWaiting
from tests.api import OCTETS, open_api, tone
from tests.finished import finish_job

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


async def call(
    app: Any, path: str, headers: dict[str, str], receive: Any, query: bytes = b""
) -> list[dict[str, Any]]:
    """The messages that the application sends in answer to a POST."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
        "scheme": "http",
    }
    await app(scope, receive, send)
    return sent


def test_a_request_without_a_token_is_refused_before_its_body_is_read(api):
    """16 MB of JSON without a token once kept the API busy for 8 s."""

    async def receive():
        raise AssertionError("the body was read")

    sent = asyncio.run(call(api.app, "/v1/jobs", JSON, receive))

    assert sent[0]["status"] == 401
    assert json.loads(sent[1]["body"])["code"] == "token_missing"


def test_every_route_checks_the_token_before_the_body():
    routes = [route for router in ROUTERS for route in router.routes]

    assert routes
    assert all(isinstance(route, GuardedRoute) for route in routes)


def test_every_path_with_a_limit_of_its_own_exists():
    paths = {route.path for router in ROUTERS for route in router.routes}  # type: ignore[attr-defined]

    assert set(BODY_BYTES_BY_PATH) <= paths


def test_a_body_may_be_as_long_as_its_path_needs_and_no_longer(api):
    study = api.study()["code"]
    words = ["\U0001f600" * 100] * 500  # the longest vocabulary, escaped
    put = f"/v1/studies/{study}/vocabulary"
    assert api.request("PUT", put, json={"words": words}).status_code == 200
    ids = [str(uuid4()) for _ in range(100)]
    assert api.post("/v1/jobs", json={"recordings": ids, "vocabulary": words}).status_code == 404
    token = {"role": "coder", "studies": [str(uuid4()) for _ in range(1000)]}
    assert api.post("/v1/tokens", json=token).status_code == 404

    long = api.post("/v1/sessions", content=b"[" + b" " * MAX_BODY_BYTES + b"]", headers=JSON)

    assert (long.status_code, long.json()["code"]) == (413, "body_too_large")


def test_a_body_of_unknown_length_is_refused_where_it_becomes_too_long(api):
    n_read = 0

    async def receive():
        nonlocal n_read
        n_read += 1
        return {"type": "http.request", "body": b"x" * 1024, "more_body": True}

    sent = asyncio.run(call(api.app, "/v1/sessions", {**JSON, **api.headers}, receive))

    assert sent[0]["status"] == 413
    assert n_read == MAX_BODY_BYTES // 1024 + 1


def test_a_body_that_does_not_arrive_is_given_up(api, monkeypatch):
    monkeypatch.setattr(guarded_route, "BODY_SECONDS", 0.1)

    async def receive():
        await asyncio.sleep(60)

    sent = asyncio.run(call(api.app, "/v1/sessions", {**JSON, **api.headers}, receive))

    assert sent[0]["status"] == 408


def test_a_body_with_very_many_values_is_refused_before_it_is_parsed(api):
    body = b'{"fence":1,"occurrences":[' + b"[]," * 5_000_000 + b"[]]}"
    token = api.token("deidentifier", all_studies=True)
    started = time.monotonic()

    answer = api.post(f"/v1/handoffs/{uuid4()}/complete", content=body, headers=JSON, token=token)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert time.monotonic() - started < 3


def test_a_long_body_is_parsed_and_validated_in_a_thread(api, monkeypatch):
    in_loop = []

    def parse(model, body):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            in_loop.append(False)
        else:
            in_loop.append(True)
        return real(model, body)

    real = guarded_route.parse
    monkeypatch.setattr(guarded_route, "parse", parse)
    study = api.study()["code"]

    answer = api.request(
        "PUT", f"/v1/studies/{study}/vocabulary", json={"words": ["word" * 20] * 100}
    )

    assert answer.status_code == 200
    assert in_loop == [False]


def test_every_kind_of_body_can_be_long_enough_for_the_thread(api):
    """Also one that is no model, but a mapping."""
    body = {f"SPEAKER_{i:02d}": {"role": "participant", "code": f"P{i}"} for i in range(100)}
    assert len(json.dumps(body)) > guarded_route.EVENT_LOOP_BYTES
    path = f"/v1/transcripts/{uuid4()}/speakers"

    assert api.request("PUT", path, json=body).json()["code"] == "transcript_not_found"
    invalid = api.request("PUT", path, json={**body, "SPEAKER_00": {"name": "x"}})
    assert invalid.json()["code"] == "invalid_request"
    assert invalid.json()["errors"][0]["where"] == "body.*.*"


def test_a_long_transcript_is_written_in_a_thread(api, monkeypatch):
    """A claim of eight hours would otherwise hold up every other request."""
    written = []
    real = ClaimedView.model_dump_json

    def note(self, **options):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            written.append("in a thread")
        else:
            written.append("in the event loop")
        return real(self, **options)

    monkeypatch.setattr(ClaimedView, "model_dump_json", note)
    study = api.study()
    recording = api.upload(study["id"], tone())
    job = api.post("/v1/jobs", json={"recordings": [recording["id"]], "model": "demo"}).json()
    finish_job(api.services, UUID(job["id"]))

    claimed = api.post("/v1/handoffs/claim", token=api.token("deidentifier", study["id"]))

    assert claimed.status_code == 200
    assert claimed.json()["transcript"]["segments"]
    assert written == ["in a thread"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 6000, b'{"words": 1' + b"0" * 5000])
def test_a_long_body_that_is_not_json_is_refused(api, content):
    study = api.study()["code"]

    answer = api.request(
        "PUT",
        f"/v1/studies/{study}/vocabulary",
        content=content + b" " * 5000,
        headers=JSON,
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


# --- errors ---------------------------------------------------------------------------------------


def test_a_problem_lists_twenty_errors_at_most(api):
    """A million unknown fields once cost 66 s and 2.1 GB."""
    words = {"words": [""] * 500}
    study = api.study()["code"]

    answer = api.request("PUT", f"/v1/studies/{study}/vocabulary", json=words)

    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert "the first 20 of 500" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/tokens", f"/v1/handoffs/{UUID(int=1)}/complete", "/v1/sessions"]
)
def test_very_many_unknown_fields_are_one_error(api, path):
    limit = BODY_BYTES_BY_PATH.get(path, 2**20 if "handoffs" in path else MAX_BODY_BYTES)
    fields = {f"f{i}": 1 for i in range(limit // 12)}
    token = api.token("owner", all_studies=True)

    answer = api.post(path, json=fields, token=token)

    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"where": "body", "problem": "too_many_fields", "limits": {}}
    ]


def test_very_many_invalid_occurrences_are_one_error(api):
    body = {"fence": 1, "occurrences": [{}] * 50_000}

    answer = api.post(f"/v1/handoffs/{uuid4()}/complete", json=body)

    assert answer.status_code == 422
    assert {error["where"][:19] for error in answer.json()["errors"]} == {"body.occurrences.0."}


# --- internal errors ------------------------------------------------------------------------------


def test_an_internal_error_is_counted_and_has_the_headers_of_every_response(api, monkeypatch):
    def broken(*_):
        raise ValueError

    monkeypatch.setattr("service.api.routes.studies.find_study", broken)

    answer = api.get("/v1/studies/PEER")

    assert answer.status_code == 500
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert 'route="/v1/studies/{study}",status="500"' in api.get("/metrics").text


# --- uploads --------------------------------------------------------------------------------------


def upload_slowly(api, token, *, seconds, blocks=10_000, size=1):
    """The answer to an upload that sends a block every `seconds`, in the API's event loop."""
    study = api.study()["id"]

    async def receive():
        nonlocal blocks
        await asyncio.sleep(seconds)
        blocks -= 1
        return {"type": "http.request", "body": b"x" * size, "more_body": blocks > 0}

    headers = {**OCTETS, "Upload-Length": "1000000", "Authorization": f"Bearer {token}"}
    return call(api.app, "/v1/uploads", headers, receive, query=f"study={study}".encode())


def test_an_upload_that_trickles_loses_its_slot_and_resumes(api, monkeypatch):
    """33 uploads that sent a byte every 25 s once locked everybody else out."""
    monkeypatch.setattr(uploads, "MIN_BYTES_SECONDS", 0.5)

    sent = asyncio.run(upload_slowly(api, api.token("owner", all_studies=True), seconds=0.1))

    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 201
    n_stored = int(headers[b"upload-offset"])
    assert 0 < n_stored < 10
    resumed = api.request("HEAD", headers[b"location"].decode())
    assert resumed.headers["Upload-Offset"] == str(n_stored)


def test_an_upload_at_the_slowest_permitted_speed_is_kept(api, monkeypatch):
    monkeypatch.setattr(uploads, "MIN_BYTES_SECONDS", 0.5)
    token = api.token("owner", all_studies=True)

    sent = asyncio.run(upload_slowly(api, token, seconds=0.3, blocks=5, size=uploads.MIN_BYTES))

    assert dict(sent[0]["headers"])[b"upload-offset"] == str(5 * uploads.MIN_BYTES).encode()


def test_a_token_has_a_share_of_the_slots(api):
    """And the others have the rest."""
    limits = Limits(max_waiting=1)
    ours, theirs = uuid4(), uuid4()
    with ExitStack() as stack:
        for _ in range(MAX_RECEIVING_PER_TOKEN):
            stack.enter_context(limits.receive(ours))
        with pytest.raises(TooManyRequests, match="A token may send 8 parts"):
            stack.enter_context(limits.receive(ours))
        stack.enter_context(limits.receive(theirs))
        for _ in range(MAX_RECEIVING - MAX_RECEIVING_PER_TOKEN - 1):
            stack.enter_context(limits.receive(uuid4()))
        with pytest.raises(TooManyRequests, match="Too many uploads"):
            stack.enter_context(limits.receive(theirs))
    with limits.receive(ours):
        pass
    assert not limits._receiving_by_token


# --- waiting requests -----------------------------------------------------------------------------


def test_a_token_has_a_share_of_the_waiting_slots():
    """One token could hold all 1,000, and everybody else was told not to wait."""
    limits = Limits(max_waiting=10)
    ours, theirs = uuid4(), uuid4()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(limits.waiting(ours))
        with pytest.raises(TooManyWaiting, match="A token may have 3 requests waiting"):
            stack.enter_context(limits.waiting(ours))
        for _ in range(3):
            stack.enter_context(limits.waiting(theirs))
        for _ in range(4):
            stack.enter_context(limits.waiting(uuid4()))
        assert limits.n_waiting == 10
        with pytest.raises(TooManyWaiting, match="Too many requests are waiting"):
            stack.enter_context(limits.waiting(uuid4()))
    with limits.waiting(ours):
        pass
    assert not limits._waiting_by_token


def test_waiting_for_recordings_asks_the_database_nothing(api):
    """Each of 1,000 waiting requests once read the database and the vault twice a second."""
    study = api.study()["id"]
    begun = api.post(f"/v1/uploads?study={study}", headers={"Upload-Length": "1000"}).json()
    statements: list[str] = []

    def note(*call):
        if "recording.state" in call[2]:
            statements.append(call[2])

    answers: list[Any] = []
    path = f"/v1/recordings/{begun['id']}?wait=30"
    threads = [
        threading.Thread(target=lambda: answers.append(api.get(path)), daemon=True)
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    while api.app.state.limits.n_waiting < 10:
        time.sleep(0.05)
    time.sleep(1)
    listen(api.services.engine, "before_cursor_execute", note)
    time.sleep(3)
    assert not [each for each in statements if "WHERE recording.id" in each]

    changed_at = time.monotonic()
    with api.services.sessionmaker.begin() as session:
        session.get_one(Recording, UUID(begun["id"])).state = "refused"
    for thread in threads:
        thread.join()

    assert time.monotonic() - changed_at < 5
    assert [answer.json()["state"] for answer in answers] == ["refused"] * 10


def test_a_waiting_request_answers_when_its_time_is_up(api):
    study = api.study()["id"]
    begun = api.post(f"/v1/uploads?study={study}", headers={"Upload-Length": "1000"}).json()

    assert api.get(f"/v1/recordings/{begun['id']}?wait=0.3").json()["state"] == "receiving"


def test_a_token_that_is_revoked_meanwhile_gets_no_answer(api):
    study = api.study()["id"]
    made = api.post("/v1/tokens", json={"role": "researcher", "studies": [study]}).json()
    begun = api.post(f"/v1/uploads?study={study}", headers={"Upload-Length": "1000"}).json()
    revoke = threading.Timer(0.3, api.request, ("DELETE", f"/v1/tokens/{made['id']}"))
    revoke.start()

    answer = api.get(f"/v1/recordings/{begun['id']}?wait=1.5", token=made["secret"])

    revoke.join()
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
