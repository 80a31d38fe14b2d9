"""Access control, tested on every route of the OpenAPI document."""

import json
import re
import time
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from service.api.app import ROUTERS, create_app
from service.api.limits import Bucket
from service.commands.connection import find_token
from service.database.tables import ROLES, Handoff, Job, MaskedAudio, Token
from service.doctor import check_database
from service.domain.callers import find_caller
from service.domain.monitoring import NO_WORKER
from service.domain.recordings import identified
from service.domain.tokens import make_first_tokens
from service.services import create_root_keys
from service.settings import Settings
from tests.api import OCTETS, open_api, tone
from tests.finished import finish_job

NOWHERE = Settings(data=Path("/nowhere/data"), keys=Path("/nowhere/keys"))
PATHS = create_app(NOWHERE).openapi()["paths"]
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in PATHS.items()
    for method, operation in methods.items()
]
GUARDED = [(method, path, each) for method, path, each in OPERATIONS if "security" in each]
FOR_ALL = {
    ("OPTIONS", "/v1/uploads"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),  # open to this machine
    ("POST", "/v1/sign-in"),  # has a secret in its body
    ("POST", "/v1/sign-in/check"),
    ("POST", "/v1/packet/open"),  # has a participant's secret in its body
    ("POST", "/v1/packet/answer"),
    ("GET", "/v1/sign-on"),  # the name of a button
    ("POST", "/v1/sign-on"),  # leads to the provider, which asks who it is
}


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        api.app.state.limits.bad_tokens = Bucket(rate=1e6, burst=10**9)
        yield api


@pytest.fixture(scope="module")
def things(api):
    """One object of each kind, in a study that the caller has no access to."""
    study = api.study()
    session = api.post("/v1/sessions", json={"study": study["id"]}).json()
    recording = api.upload(study["id"], tone())
    body = {"recordings": [recording["id"]], "model": "demo"}
    finished = api.post("/v1/jobs", json=body).json()
    transcript = finish_job(api.services, UUID(finished["id"]))
    job = api.post("/v1/jobs", json=body).json()
    with api.services.sessionmaker() as database:
        handoff = database.scalar(select(Handoff).where(Handoff.transcript_id == transcript))
        assert handoff is not None
        masked = MaskedAudio(
            study_id=UUID(study["id"]),
            transcript_id=transcript,
            recording_id=UUID(recording["id"]),
            transcript_version=1,
            review_version=1,
            style="tone",
            untranscribed=False,
            n_unreviewed=0,
            state="failed",
            token_id=handoff.token_id or database.scalars(select(Token.id)).first(),
        )
        database.add(masked)
        database.commit()
    person = {"kind": "person", "names": ["Eva"], "pseudonym": "PERSON-1"}
    entity = api.post(f"/v1/studies/{study['id']}/entities", json=person).json()
    return {
        "masked_audio_id": str(masked.id),
        "entity_id": entity["id"],
        "transcript_id": str(transcript),
        "handoff_id": str(handoff.id),
        "study": study["id"],
        "session_id": session["id"],
        "recording_id": recording["id"],
        "upload_id": recording["id"],
        "job_id": job["id"],
    }


def fill(path, things):
    fixed = {
        "data_class": "consent",
        "basis": "completion",
        "segment_id": "s0001",
        "label": "SPEAKER_00",
        "format": "json",
        "paper": "methods",
    }
    things = {**things, **fixed}
    return re.sub(r"\{(\w+)\}", lambda match: things.get(match[1], str(uuid4())), path)


def ask(api, method, path, token, things, headers=None):
    """Send an empty request: access must be refused before the body is validated."""
    return api.client.request(
        method,
        fill(path, things),
        headers={**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})},
    )


def code_of(method, answer):
    return None if method == "HEAD" else answer.json()["code"]


def test_every_route_but_six_needs_a_token():
    unguarded = {(method, path) for method, path, each in OPERATIONS if "security" not in each}

    assert unguarded == FOR_ALL


def test_the_only_undocumented_route_of_the_api_is_for_browsers_that_come_back():
    """From single sign-on: test_sign_on.py tests what it refuses."""
    hidden = {
        route.path
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and not route.include_in_schema
    }

    assert hidden == {"/v1/sign-on/callback"}


def test_every_route_refuses_a_request_without_a_token(api, things):
    for method, path, _ in GUARDED:
        answer = ask(api, method, path, None, things)
        assert answer.status_code == 401, (method, path)
        assert code_of(method, answer) in (None, "token_missing")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("kind", ["unknown", "expired", "revoked"])
def test_every_route_refuses_an_invalid_token(api, things, kind):
    token = "fieldscribe_guess" if kind == "unknown" else api.token("owner", **{kind: True})
    for method, path, _ in GUARDED:
        answer = ask(api, method, path, token, things)
        assert answer.status_code == 401, (method, path)
        assert code_of(method, answer) in (None, f"token_{kind}")


def test_every_route_refuses_a_token_of_another_role(api, things):
    tokens = {role: api.token(role, all_studies=True) for role in ROLES}
    for (method, path, operation), role in product(GUARDED, ROLES):
        if role in operation["x-roles"]:
            continue
        answer = ask(api, method, path, tokens[role], things)
        assert answer.status_code == 403, (method, path, role)
        assert code_of(method, answer) in (None, "not_allowed")


def test_every_route_refuses_an_unknown_parameter(api, things):
    """`GET /v1/jobs?state=failed` used to list all jobs. Without a token the answer is 401."""
    tokens = {role: api.token(role, all_studies=True) for role in ("owner", "worker")}
    for method, path, operation in GUARDED:
        token = tokens["owner" if "owner" in operation["x-roles"] else "worker"]
        for name in ("Quendolin", ""):
            answer = ask(api, method, f"{path}?{name}=1", token, things)
            assert answer.status_code == 422, (method, path)
            assert code_of(method, answer) in (None, "invalid_request")
            assert "Quendolin" not in answer.text
            assert ask(api, method, f"{path}?{name}=1", None, things).status_code == 401


def test_on_every_route_an_object_of_another_study_looks_like_none(api, things):
    """An object of another study and an id that never existed get the same answer."""
    other = api.study()["id"]
    named = [(m, p, each) for m, p, each in GUARDED if "{" in p and p != "/v1/tokens/{token_id}"]
    assert len(named) >= 15
    bodies = {
        "/v1/studies/{study}": {"language": "de"},
        "/v1/studies/{study}/vocabulary": {"words": ["a"]},
        "/v1/studies/{study}/webhooks": {"url": "https://hooks.example.org/"},
        "/v1/studies/{study}/roster": {"entries": []},
        "/v1/studies/{study}/roster/export": {},
        "/v1/studies/{study}/entities": {"kind": "place", "names": ["a"]},
        "/v1/studies/{study}/entities/find": {"name": "a"},
        "/v1/studies/{study}/look-ups": {"reason": "audit"},
        "/v1/studies/{study}/retention/rules/{data_class}": {
            "basis": "completion",
            "years": 1,
            "at_end": "review",
        },
        "/v1/studies/{study}/retention/dates/{basis}": {"on": None},
        "/v1/studies/{study}/holds": {"reason": "audit"},
        "/v1/studies/{study}/destructions": {"data_class": "consent"},
        "/v1/entities/{entity_id}": {"always": True},
        "/v1/entities/{entity_id}/aliases": {"name": "a"},
        "/v1/entities/{entity_id}/aliases/remove": {"name": "a"},
        "/v1/entities/{entity_id}/merge": {"into": str(uuid4())},
        "/v1/entities/{entity_id}/split": {"names": ["a"]},
        "/v1/sessions/{session_id}/recordings": {"recordings": []},
        "/v1/jobs/{job_id}/rerun": {"from": "transcribe"},
        "/v1/transcripts/{transcript_id}/speakers": {"speakers": {}},
        ("PATCH", "/v1/transcripts/{transcript_id}/segments"): {"edits": [{"id": "s0001"}]},
        "/v1/transcripts/{transcript_id}/segments": {"after": None, "text": "", "speaker": None},
        "/v1/transcripts/{transcript_id}/segments/{segment_id}": {"text": "a"},
        "/v1/transcripts/{transcript_id}/segments/{segment_id}/split": {"at": 1},
        "/v1/transcripts/{transcript_id}/segments/{segment_id}/merge": {},
        "/v1/transcripts/{transcript_id}/presence": {"page": "a", "segment": None},
        "/v1/transcripts/{transcript_id}/undo": {},
        "/v1/transcripts/{transcript_id}/import": {"turns": [{"text": "a"}]},
        "/v1/transcripts/{transcript_id}/restore": {"version": 1},
        "/v1/transcripts/{transcript_id}/masked-audio": {},
        "/v1/transcripts/{transcript_id}/releases": {},
        ("POST", "/v1/transcripts/{transcript_id}/review/decisions"): {},
        ("POST", "/v1/transcripts/{transcript_id}/review/samples"): {},
        "/v1/transcripts/{transcript_id}/review/samples/{sample_id}/finish": {"marks": []},
        "/v1/studies/{study}/release-archive": {"password": "a" * 12},
        "/v1/studies/{study}/participants": {"code": "P07"},
        "/v1/studies/{study}/participants/import": {"csv": "code\nP07\n"},
        "/v1/studies/{study}/participants/look-up": {"codes": ["P07"], "reason": "audit"},
        "/v1/participants/{participant_id}": {"contacts": []},
        "/v1/participants/{participant_id}/consents": {
            **{"sheet_version": "1", "given_on": "2031-01-07", "scopes": []}
        },
        "/v1/studies/{study}/withdrawals": {
            **{"participant": "P07", "scope": "data", "confirmation": "P07"}
        },
        "/v1/participants/{participant_id}/packets": {"transcript_id": str(uuid4())},
        "/v1/packets/{packet_id}/decisions": {"segment": "s0001", "accept": False},
        "/v1/studies/{study}/approvals": {
            **{"committee": "a", "number": "1", "valid_from": "2031-01-07"}
        },
        "/v1/studies/{study}/deposit": dict.fromkeys(("title", "abstract", "rights"), "a")
        | {"creators": ["a"]},
        "/v1/handoffs/{handoff_id}/heartbeat": {"fence": 1},
        "/v1/handoffs/{handoff_id}/complete": {"fence": 1, "occurrences": []},
        "/v1/handoffs/{handoff_id}/fail": {"fence": 1, "code": "out_of_memory"},
        "/internal/jobs/{job_id}/keys": {"fence": 1},
    }
    for method, path, operation in named:
        role = sorted(set(operation["x-roles"]) - {"owner"})[0]
        token = api.token(role, other)
        headers = {"Authorization": f"Bearer {token}", "Upload-Offset": "0", **OCTETS}
        headers["If-Match"] = '"1"'
        body = bodies.get((method, path), bodies.get(path))
        content = {"json": body} if body is not None and method != "GET" else {}
        if content:
            headers.pop("Content-Type")
        query = "?participant=P07" if path.endswith("/withdrawal-preview") else ""
        theirs = api.client.request(method, fill(path, things) + query, headers=headers, **content)
        nobodys = api.client.request(method, fill(path, {}) + query, headers=headers, **content)
        expected = 409 if path.startswith("/internal") else 404
        assert theirs.status_code == nobodys.status_code == expected, (method, path, theirs.text)
        assert theirs.content == nobodys.content, (method, path)


def test_lists_show_only_the_callers_studies(api, things):
    own = api.study()
    token = api.token("researcher", own["id"])

    assert [each["id"] for each in api.get("/v1/studies", token=token).json()["items"]] == [
        own["id"]
    ]
    assert api.get("/v1/sessions", token=token).json()["items"] == []
    assert api.get("/v1/jobs", token=token).json()["items"] == []
    stranger = api.token("researcher")
    assert api.get("/v1/studies", token=stranger).json()["items"] == []


def test_an_upload_into_another_study_is_refused(api, things):
    token = api.token("researcher", api.study()["id"])

    answer = api.post(
        f"/v1/uploads?study={things['study']}", token=token, headers={"Upload-Length": "1"}
    )

    assert (answer.status_code, answer.json()["code"]) == (404, "study_not_found")


def test_a_recording_of_another_study_cannot_be_put_into_a_session(api, things):
    study = api.study()["id"]
    session = api.post("/v1/sessions", json={"study": study}).json()

    answer = api.request(
        "PUT",
        f"/v1/sessions/{session['id']}/recordings",
        json={"recordings": [things["recording_id"]]},
    )

    assert (answer.status_code, answer.json()["code"]) == (404, "recording_not_found")


def test_a_token_in_the_url_is_ignored(api):
    secret = api.token("owner", all_studies=True)

    for query in (f"token={secret}", f"access_token={secret}"):
        assert api.client.get(f"/v1/studies?{query}").status_code == 401


def test_only_the_hash_of_a_token_is_stored(api, module_settings):
    made = api.post("/v1/tokens", json={"role": "researcher"}).json()

    with api.services.sessionmaker() as session:
        row = session.get_one(Token, UUID(made["id"]))
    assert made["secret"].encode() not in row.hash
    assert len(row.hash) == 32
    assert "secret" not in api.get("/v1/tokens").text


def test_a_token_works_until_it_is_revoked(api):
    study = api.study()["id"]
    made = api.post("/v1/tokens", json={"role": "researcher", "studies": [study]}).json()
    own = api.get("/v1/token", token=made["secret"]).json()
    assert own.pop("last_used_at") is not None
    assert made.pop("last_used_at") is None
    assert own == {name: value for name, value in made.items() if name != "secret"}

    assert api.request("DELETE", f"/v1/tokens/{made['id']}").json()["revoked_at"]

    answer = api.get("/v1/token", token=made["secret"])
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")


def test_a_token_works_until_it_expires(api):
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    made = api.post("/v1/tokens", json={"role": "coder", "expires_at": soon.isoformat()}).json()
    time.sleep(0.6)

    answer = api.get("/v1/token", token=made["secret"])

    assert answer.json()["code"] == "token_expired"


@pytest.mark.parametrize(
    "body",
    [
        {"role": "god"},
        {"role": "coder", "expires_at": "2001-01-01T00:00:00Z"},
        {"role": "coder", "expires_at": "2031-01-01T00:00:00"},
        {"role": "coder", "name": "Zacharias Quendolin"},
        {"role": "coder", "label": "somebody"},
        {"role": "coder", "expires_at": "9999-12-31T23:59:59-23:59"},
        {"role": "coder", "expires_at": "2200-01-01T00:00:01Z"},
        {"role": "coder", "studies": ["no study at all"]},
        {},
    ],
)
def test_an_invalid_token_request_is_refused(api, body):
    answer = api.post("/v1/tokens", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_an_admin_cannot_create_an_owner(api):
    admin = api.token("admin", all_studies=True)
    for role in ("owner", "admin"):
        answer = api.post("/v1/tokens", token=admin, json={"role": role})
        assert answer.status_code == 403
    assert api.post("/v1/tokens", token=admin, json={"role": "coder"}).status_code == 201
    owner = api.post("/v1/tokens", json={"role": "owner"}).json()
    assert api.request("DELETE", f"/v1/tokens/{owner['id']}", token=admin).status_code == 403


def test_an_admin_creates_no_token_that_reads_content(api):
    """An admin could once create a researcher's token of all studies for itself."""
    admin = api.token("admin", all_studies=True)
    study = api.study()["code"]
    for role in ("researcher", "deidentifier", "custodian", "worker"):
        for scope in ({"all_studies": True}, {"studies": [study]}, {}):
            answer = api.post("/v1/tokens", token=admin, json={"role": role, **scope})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), role
            assert api.post("/v1/tokens", json={"role": role, **scope}).status_code == 201


def test_an_owner_can_let_admins_create_tokens_for_a_study(api):
    admin = api.token("admin", all_studies=True)
    study, other = api.study()["code"], api.study()["code"]
    grant = {"admins_may_create": ["researcher"]}
    assert api.request("PATCH", f"/v1/studies/{study}", token=admin, json=grant).status_code == 403
    changed = api.request("PATCH", f"/v1/studies/{study}", json=grant)
    assert changed.json()["admins_may_create"] == ["researcher"]

    def create(role, *studies, **fields):
        body = {"role": role, "studies": studies, **fields}
        return api.post("/v1/tokens", token=admin, json=body).status_code

    assert create("researcher", study) == 201
    assert create("researcher", study, other) == 403
    assert create("researcher", study, all_studies=True) == 403
    assert create("deidentifier", study) == 403
    assert api.request("PATCH", f"/v1/studies/{study}", json={"language": "de"}).json()[
        "admins_may_create"
    ] == ["researcher"]
    api.request("PATCH", f"/v1/studies/{study}", json={"admins_may_create": []})
    assert create("researcher", study) == 403


def test_a_role_that_sees_every_study_cannot_be_granted(api):
    study = api.study()["code"]
    for role in ("worker", "owner", "admin", "coder"):
        body = {"admins_may_create": [role]}
        assert api.request("PATCH", f"/v1/studies/{study}", json=body).status_code == 422


def test_an_admin_lists_jobs_and_sessions_but_reads_none(api, things):
    admin = api.token("admin", all_studies=True)

    listed = api.get("/v1/jobs", token=admin).json()["items"]

    assert things["job_id"] in [job["id"] for job in listed]
    assert api.get("/v1/sessions", token=admin).status_code == 200
    for path in ("/v1/jobs/{job_id}", "/v1/transcripts/{transcript_id}", "/v1/recordings"):
        assert api.get(fill(path, things), token=admin).status_code == 403


def test_the_last_use_of_a_token_is_written_once_a_minute(api):
    made = api.post("/v1/tokens", json={"role": "coder", "name": "upload-laptop"}).json()
    assert made["name"] == "upload-laptop"

    def last_used():
        api.get("/v1/studies", token=made["secret"])
        with api.services.sessionmaker() as session:
            return session.get_one(Token, UUID(made["id"])).last_used_at

    first = last_used()
    assert datetime.now(UTC) - first < timedelta(minutes=1)
    assert last_used() == first
    with api.services.sessionmaker.begin() as session:
        session.get_one(Token, UUID(made["id"])).last_used_at = first - timedelta(seconds=61)
    assert last_used() > first


def test_a_token_without_a_study_says_that_it_sees_nothing(api):
    study = api.study()["code"]

    assert "sees nothing" in api.post("/v1/tokens", json={"role": "coder"}).json()["warning"]
    for useful in ({"role": "coder", "studies": [study]}, {"role": "admin"}):
        assert api.post("/v1/tokens", json=useful).json()["warning"] is None


def test_an_expiry_is_taken_to_utc(api):
    body = {"role": "coder", "expires_at": "2031-01-01T00:30:00+01:00"}

    made = api.post("/v1/tokens", json=body).json()

    assert made["expires_at"] == "2030-12-31T23:30:00Z"


def test_unknown_tokens_and_studies_are_reported(api):
    assert api.request("DELETE", f"/v1/tokens/{uuid4()}").json()["code"] == "token_not_found"
    answer = api.post("/v1/tokens", json={"role": "coder", "studies": ["NOWHERE"]})
    assert answer.json()["code"] == "study_not_found"


def test_bad_tokens_are_rate_limited_and_good_ones_are_not(api, monkeypatch):
    monkeypatch.setattr(api.app.state.limits, "bad_tokens", Bucket(rate=10 / 60, burst=10))
    answers = [api.get("/v1/studies", token="guess") for _ in range(11)]

    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert answers[-1].json()["code"] == "too_many_requests"
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert api.get("/v1/studies").status_code == 200


def test_uploads_parts_and_polls_are_rate_limited(api, things, monkeypatch):
    limits = api.app.state.limits
    for name in ("uploads", "parts", "polls"):
        monkeypatch.setattr(limits, name, Bucket(rate=0.001, burst=1))
    upload = f"/v1/uploads/{things['upload_id']}"
    path = f"/v1/uploads?study={things['study']}"
    part = {**OCTETS, "Upload-Offset": "0"}

    for _ in range(2):
        begun = api.post(path, headers={"Upload-Length": "1"})
        brought = api.request("PATCH", upload, headers=part)
        polled = api.get(f"/v1/recordings/{things['recording_id']}")

    assert [begun.status_code, brought.status_code, polled.status_code] == [429] * 3


def test_waiting_requests_beyond_the_limit_are_refused(api, things, monkeypatch):
    monkeypatch.setattr(api.app.state.limits, "max_waiting", 0)

    answer = api.get(f"/v1/recordings/{things['recording_id']}?wait=5")

    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_waiting")


def test_a_bucket_refills_and_forgets_full_keys():
    now = [0.0]
    bucket = Bucket(rate=1, burst=2, clock=lambda: now[0])
    for _ in range(2):
        bucket.require("a")
    with pytest.raises(Exception, match="wait 1 s"):
        bucket.require("a")
    bucket.require("b")
    now[0] = 1.5
    bucket.require("a")
    bucket._forget_full(10)
    assert bucket._levels == {}


def test_the_first_start_creates_an_owners_and_a_workers_token(settings, services):
    make_first_tokens(services)

    with services.sessionmaker() as session:
        for role, path in (("worker", settings.worker_token), ("owner", settings.owner_token)):
            if path.exists():  # the module's database had an owner before
                assert path.stat().st_mode & 0o777 == 0o600
                caller = find_caller(session, path.read_text().strip())
                assert caller.role == role
                assert caller.all_studies
    make_first_tokens(services)  # and the next one leaves them


def test_a_token_file_from_before_a_restore_is_accepted_again(settings, services):
    settings.owner_token.write_text("fieldscribe_from_before\n")

    make_first_tokens(services)

    with services.sessionmaker() as session:
        assert find_caller(session, "fieldscribe_from_before").role == "owner"


def test_the_owners_token_does_not_stay_where_workers_can_read_it(settings, services):
    """It used to be in the data folder, which workers on other machines share."""
    settings.data.mkdir(exist_ok=True)
    (settings.data / "owner.token").write_text("fieldscribe_from_the_data_folder\n")

    make_first_tokens(services)

    assert [path.name for path in settings.data.glob("*.token")] == ["worker.token"]
    assert find_token(settings) == "fieldscribe_from_the_data_folder"
    assert settings.owner_token.stat().st_mode & 0o777 == 0o600
    with services.sessionmaker() as session:
        assert find_caller(session, find_token(settings)).role == "owner"


def test_a_sealed_service_answers_sealed_until_it_is_unsealed(
    module_settings, tmp_path, cheap_argon2
):
    settings = module_settings.model_copy(
        update={"data": tmp_path / "data", "keys": tmp_path / "keys"}
    )
    create_root_keys(settings, "correct horse battery staple")
    with open_api(settings) as api:
        sealed = api.post("/v1/studies", json={"code": "SEALED"})
        assert (sealed.status_code, sealed.json()["code"]) == (503, "sealed")
        assert sealed.headers["Retry-After"]
        assert api.get("/v1/jobs").json()["code"] == "sealed"
        assert api.get("/readyz").json()["code"] == "sealed"
        assert api.get("/healthz").status_code == 200
        assert api.get("/v1/tokens").status_code == 200
        assert api.client.post("/v1/unseal", json={"passphrase": "x"}).status_code == 401

        wrong = api.post("/v1/unseal", json={"passphrase": "wrong"})
        assert (wrong.status_code, wrong.json()["code"]) == (403, "wrong_passphrase")
        right = api.post("/v1/unseal", json={"passphrase": "correct horse battery staple"})

        assert right.status_code == 204
        assert api.post("/v1/studies", json={"code": "SEALED"}).status_code == 201
        assert api.get("/readyz").status_code == 200


def test_passphrase_attempts_are_rate_limited(api, monkeypatch):
    monkeypatch.setattr(type(api.services.vault), "sealed", property(lambda self: True))
    monkeypatch.setattr("service.services.unseal", lambda services, passphrase: None)
    answers = [api.post("/v1/unseal", json={"passphrase": "x"}) for _ in range(6)]

    assert answers[-1].json()["code"] == "too_many_requests"


def test_metrics_are_for_this_machine_or_an_admin(api, module_settings):
    text = api.client.get("/metrics").text
    assert 'fieldscribe_jobs{status="queued"}' in text
    assert "fieldscribe_sealed 0" in text
    assert 'route="/v1/studies",status="201"' in text
    afar = TestClient(api.app, client=("192.0.2.7", 1))
    assert afar.get("/metrics").status_code == 401
    for role, status in (("admin", 200), ("researcher", 403)):
        headers = {"Authorization": f"Bearer {api.token(role)}"}
        assert afar.get("/metrics", headers=headers).status_code == status
    behind = module_settings.model_copy(update={"behind_proxy": True})
    object.__setattr__(api.services, "settings", behind)
    assert api.client.get("/metrics").status_code == 401
    object.__setattr__(api.services, "settings", module_settings)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8321", 200),
        ("localhost", 200),
        ("LOCALHOST:8321", 200),
        ("[::1]:8321", 200),
        ("rebound.example:8321", 401),
        ("127.0.0.1.rebound.example", 401),
        ("127.0.0.1@rebound.example", 401),
        ("", 401),
    ],
)
def test_without_a_token_metrics_answer_only_to_this_machines_names(api, host, status):
    """A page in a browser on this machine could otherwise read them under a name of its own."""
    assert api.client.get("/metrics", headers={"Host": host}).status_code == status
    assert api.get("/metrics", headers={"Host": host}).status_code == 200  # with a token


def test_metrics_have_help_and_durations(api):
    api.get("/v1/studies")

    text = api.client.get("/metrics").text

    assert "# HELP fieldscribe_jobs Jobs by status." in text
    bucket = 'fieldscribe_http_request_seconds_bucket{le="60.0",method="GET",route="/v1/studies"}'
    assert bucket in text
    assert "_created" not in text
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {"fieldscribe_workers_alive", "fieldscribe_queue_oldest_seconds"} <= families


def test_metrics_and_readiness_show_jobs_that_no_worker_takes(api, things, module_settings):
    def value(name):
        lines = api.client.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name))

    def beat(seconds):
        with api.services.sessionmaker.begin() as session:
            session.execute(text("DELETE FROM procrastinate_workers"))
            session.execute(
                text(
                    "INSERT INTO procrastinate_workers (last_heartbeat) "
                    "VALUES (now() + make_interval(secs => :seconds))"
                ),
                {"seconds": seconds},
            )

    api.post("/v1/jobs", json={"recordings": [things["recording_id"]], "model": "demo"})
    for seconds in (-60, 3600):  # a dead worker, and one with a wrong clock
        beat(seconds)
        assert value("fieldscribe_workers_alive ") == 0
        assert api.get("/readyz").json()["warnings"] == [NO_WORKER]
    checks = {check.name: check for check in check_database(module_settings)}
    assert (checks["worker"].status, checks["worker"].message) == ("warning", NO_WORKER)
    beat(-1)
    assert value("fieldscribe_workers_alive ") == 1
    assert value("fieldscribe_queue_oldest_seconds ") > 0
    assert api.get("/readyz").json() == {"status": "ok", "warnings": []}
    assert [check.status for check in check_database(module_settings)] == ["ok", "ok"]


@pytest.mark.parametrize("content", ["{}", "[", '{"at": "9999-12-31T23:59:59-23:59"}'])
def test_a_damaged_note_of_the_backup_is_no_backup(api, module_settings, content):
    module_settings.data.mkdir(exist_ok=True)
    note = module_settings.data / "backup.json"
    note.write_text(json.dumps({"at": datetime.now(UTC).isoformat()}))
    assert "\nfieldscribe_backup_age_seconds " in api.client.get("/metrics").text

    note.write_text(content)

    assert "fieldscribe_backup_age_seconds" not in api.client.get("/metrics").text
    note.unlink()


def test_only_a_worker_with_the_current_fence_gets_the_keys_of_a_running_job(api, things):
    worker = api.token("worker", all_studies=True)
    path = f"/internal/jobs/{things['job_id']}/keys"

    def keys(fence):
        return api.post(path, token=worker, json={"fence": fence})

    assert keys(0).json()["code"] == "stale_fence"  # queued
    with api.services.sessionmaker.begin() as session:
        job = session.get_one(Job, UUID(things["job_id"]))
        job.status, job.fence = "running", 7
    assert keys(6).json()["code"] == "stale_fence"
    assert api.post(path, json={"fence": 7}).status_code == 403  # not even the owner
    keyring = identified(api.services)[1]
    given = keys(7).json()["keys"]  # those of its recording and itself, not those of another job
    assert {id: b64decode(value) for id, value in given.items()} == {
        id: keyring.data_key(UUID(things["study"]), UUID(id)).secret
        for id in (things["recording_id"], things["job_id"])
    }
    answer = api.request("DELETE", f"/v1/recordings/{things['recording_id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "recording_in_use")
    with api.services.sessionmaker.begin() as session:
        session.get_one(Job, UUID(things["job_id"])).status = "failed"
    assert keys(7).json()["code"] == "stale_fence"
