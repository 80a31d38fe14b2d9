"""The routes of jobs: submit, list, wait, cancel, rerun, delete."""

import hashlib
import json
import re
import threading
import time
from dataclasses import fields
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from models.options import JobOptions, SpeakerCount
from models.roster import RosterEntry
from models.weights.catalogue import find_pipeline, find_whisper
from scripts.stand_in.jobs import make_recording, make_token, read_job, read_stages
from service.api.routes.job_views import OptionsView
from service.api.routes.jobs import NewJob
from service.database.tables import STAGES, Job, Recording, Study
from service.domain import job_state
from service.domain.engine_job import VOCABULARY_MISSING
from service.domain.jobs import canonical_fields
from service.domain.recordings import identified
from service.domain.stages import RateCache
from service.vault.store import Artefact
from tests.api import artefact_path, open_api, tone
from tests.finished import begin_job, fail_job, finish_job

MINE = "/v1/jobs"


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def study(api):
    return api.study()["id"]


def recording(api, study, content=b"sound"):
    return str(make_recording(api.services, UUID(study), make_token(api.services), content))


def submit(api, study, key=None, **body):
    body.setdefault("model", "demo")
    if "recordings" not in body:
        body["recordings"] = [recording(api, study)]
    headers = {"Idempotency-Key": key} if key else {}
    return api.post(MINE, json=body, headers=headers)


def submitted(api, study, **body):
    answer = submit(api, study, **body)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def codes(answer):
    return answer.status_code, answer.json()["code"]


# --- submitting -----------------------------------------------------------------------------------


def test_an_upload_becomes_a_queued_job(api, study):
    answer = submit(api, study, language="de", speakers={"min": 2, "max": 3})
    job = answer.json()

    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["ETag"] == f'"{job["version"]}"'
    assert job["status"] == "queued"
    assert [stage["name"] for stage in job["stages"]] == list(STAGES)
    assert {stage["state"] for stage in job["stages"]} == {"pending"}
    assert job["options"]["language"] == "de"
    assert job["options"]["speakers"] == {"min": 2, "max": 3}
    assert job["queue"]["position"] == 0
    assert job["audio_seconds"] == 10.0
    assert job["progress"] == {"fraction": 0.0, "eta_seconds": None, "basis": None}


def test_a_job_pins_the_checksums_of_its_weights(api, study, settings):
    options = submit(api, study).json()["options"]

    assert options["model"]["sha256"] == find_whisper("demo", settings.weights).sha256
    assert options["diarisation"]["sha256"] == find_pipeline("demo", settings.weights).sha256


def test_a_session_is_submitted_with_its_recordings_in_order_and_its_speakers(api, study):
    made = api.post(
        "/v1/sessions",
        json={"study": study, "code": "INT-07", "speakers": {"min": 2, "max": 2}},
    ).json()
    ids = [recording(api, study) for _ in range(3)]
    ids = [ids[2], ids[0], ids[1]]
    api.request("PUT", f"/v1/sessions/{made['id']}/recordings", json={"recordings": ids})

    job = api.post(MINE, json={"study": study, "session": "INT-07", "model": "demo"}).json()

    assert job["recordings"] == ids
    assert job["session_id"] == made["id"]
    assert job["options"]["speakers"] == {"min": 2, "max": 2}
    assert job["audio_seconds"] == 30.0


def test_a_job_of_a_session_takes_the_same_content_once(api, study):
    """Uploaded twice, without an announced checksum, it had every word twice."""
    made = api.post("/v1/sessions", json={"study": study, "code": "INT-20"}).json()
    contents = [tone(1.0), tone(2.0), tone(1.0)]
    ids = [api.upload(study, content)["id"] for content in contents]
    api.request("PUT", f"/v1/sessions/{made['id']}/recordings", json={"recordings": ids})

    job = api.post(MINE, json={"study": study, "session": "INT-20", "model": "demo"}).json()

    assert job["recordings"] == ids[:2]


def test_a_sessions_roster_sets_the_number_of_speakers_unless_the_request_does(api, study):
    roster = [{"code": "M1", "role": "moderator"}] + [
        {"code": f"P{i}", "role": "participant"} for i in range(1, 6)
    ]
    body = {"study": study, "speakers": {"max": 12}, "roster": roster}
    made = api.post("/v1/sessions", json=body).json()
    ids = [recording(api, study)]
    of_group = {"recordings": ids, "session": made["id"], "model": "demo"}

    job = api.post(MINE, json=of_group).json()
    with_number = api.post(MINE, json={**of_group, "speakers": {"min": 5, "max": 5}}).json()

    assert job["options"]["speakers"] == {"min": 6, "max": 6}
    assert with_number["options"]["speakers"] == {"min": 5, "max": 5}
    entries = tuple(RosterEntry(**person) for person in roster)
    assert begin_job(api.services, UUID(with_number["id"])).job.options.roster == entries
    begun = begin_job(api.services, UUID(job["id"])).job.options
    assert begun.speakers == SpeakerCount()  # six comes from the roster alone


def test_the_api_offers_and_shows_every_option_of_a_job():
    options = {field.name for field in fields(JobOptions)} - {"roster"}  # set on the session

    assert options <= NewJob.model_fields.keys()
    assert options - {"vocabulary"} <= OptionsView.model_fields.keys()


def test_omitted_options_are_the_studys(api, study):
    api.request("PATCH", f"/v1/studies/{study}", json={"language": "nl", "model": "demo"})
    api.request("PUT", f"/v1/studies/{study}/vocabulary", json={"words": ["Seroquel"]})
    body = {"recordings": [recording(api, study)]}

    job = api.post(MINE, json=body).json()
    auto = api.post(MINE, json={**body, "language": "auto", "vocabulary": []}).json()

    assert (job["options"]["language"], job["options"]["has_vocabulary"]) == ("nl", True)
    assert job["options"]["model"]["name"] == "demo"
    assert (auto["options"]["language"], auto["options"]["has_vocabulary"]) == (None, False)


def vocabulary_file(api, study):
    api.request("PUT", f"/v1/studies/{study}/vocabulary", json={"words": ["Seroquel"]})
    with api.services.sessionmaker() as session:
        artefact_id = session.get_one(Study, UUID(study)).vocabulary_artefact_id
    return artefact_path(identified(api.services)[0], artefact_id)


def test_a_damaged_study_vocabulary_is_reported_as_documented(api, study):
    vocabulary_file(api, study).write_bytes(b"?" * 100)

    assert codes(submit(api, study)) == (500, "artefact_damaged")
    described = api.app.openapi()["paths"][MINE]["post"]["responses"]["500"]["description"]
    assert "`artefact_damaged`" in described
    assert submit(api, study, vocabulary=[]).status_code == 202


def test_a_missing_study_vocabulary_is_a_warning_and_no_error(api, study):
    """A study whose vocabulary was replaced during a backup took no jobs after the restore."""
    vocabulary_file(api, study).unlink()

    id = submitted(api, study)
    finish_job(api.services, UUID(id))

    job = api.get(f"{MINE}/{id}").json()
    assert job["status"] == "succeeded"
    assert job["warnings"] == [VOCABULARY_MISSING]
    assert not job["options"]["has_vocabulary"]


def test_a_rerun_does_without_a_vocabulary_that_is_missing(api, study):
    id = submitted(api, study, vocabulary=["Eva"])
    finish_job(api.services, UUID(id))
    vocabulary = read_job(api.services, UUID(id)).vocabulary_artefact_id
    assert vocabulary is not None
    identified(api.services)[0].delete(vocabulary)

    rerun = api.post(f"{MINE}/{id}/rerun", json={"from": "diarise"})

    assert rerun.status_code == 202, rerun.text
    assert rerun.json()["warnings"] == [VOCABULARY_MISSING]


def test_the_vocabulary_is_stored_as_an_artefact_and_in_no_row(api, study):
    id = submitted(api, study, vocabulary=["Eva Muster", "Birkenau"])

    job = read_job(api.services, UUID(id))
    store, keyring = identified(api.services)
    key = keyring.data_key(job.study_id, job.id)
    assert job.vocabulary_artefact_id is not None
    artefact = Artefact(job.study_id, job.id, "vocabulary", job.vocabulary_artefact_id)
    with store.open(artefact, key) as file:
        assert file.read().decode() == "Eva Muster\nBirkenau"
    assert "Eva" not in str(vars(job))


def test_the_same_key_and_request_return_the_same_job(api, study):
    body = {"recordings": [recording(api, study)], "vocabulary": ["Eva"]}
    first = submit(api, study, key="k1", **body)
    second = submit(api, study, key="k1", **body)

    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]


def test_an_idempotency_key_is_stored_only_as_a_keyed_hash(api, study):
    """Clients use file names as keys."""
    submit(api, study, key="Eva-Muster.m4a")

    with api.services.engine.connect() as connection:
        (kept,) = connection.scalars(
            text("SELECT key FROM idempotency WHERE study_id = :id"), {"id": study}
        )
    assert re.fullmatch("[0-9a-f]{64}", kept)
    assert kept != hashlib.sha256(b"Eva-Muster.m4a").hexdigest()


def test_the_same_key_with_a_different_request_is_refused(api, study):
    body = {"recordings": [recording(api, study)]}
    submit(api, study, key="k1", **body)

    assert codes(submit(api, study, key="k1", language="de", **body)) == (
        422,
        "idempotency_key_reused",
    )


def test_the_fields_that_are_compared_under_a_key_are_those_of_earlier_versions():
    """An upgrade made every key that was in use refuse the very request that it belongs to."""
    recording = UUID("4ccb2884-7ad6-4555-9944-6c6c70bfdcf8")
    defaults = {"channels": "auto", "mixed_languages": False, "translate": False}
    unset = dict.fromkeys(
        ["study", "session", "language", "model", "speakers_min", "speakers_max", "vocabulary"]
    )
    chosen = {"language": "auto", "vocabulary": ("Ada",), "channels": "split"}
    bounds = {"speakers_min": None, "speakers_max": 3}

    def canonical(**fields):
        return json.loads(json.dumps(canonical_fields(NewJob(**fields).to_request()), default=str))

    assert canonical(recordings=[recording], speakers={}) == {
        **defaults,
        **unset,
        "recordings": [str(recording)],
    }
    assert canonical(study="PEER", session="INT-07", speakers={"max": 3}, **chosen) == {
        **defaults,
        **unset,
        **bounds,
        **chosen,
        "vocabulary": ["Ada"],
        "recordings": [],
        "study": "PEER",
        "session": "INT-07",
    }


def test_a_key_belongs_to_its_token_and_its_study(api, study):
    other = api.study()["id"]
    sound = recording(api, study)
    first = submit(api, study, key="k1", recordings=[sound]).json()["id"]
    theirs = api.post(
        MINE,
        json={"recordings": [sound], "model": "demo"},
        headers={"Idempotency-Key": "k1"},
        token=api.token("researcher", study),
    )
    elsewhere = submit(api, other, key="k1")

    assert theirs.status_code == elsewhere.status_code == 202
    assert len({first, theirs.json()["id"], elsewhere.json()["id"]}) == 3


def test_two_simultaneous_requests_with_one_key_create_one_job(api, study):
    body = {"recordings": [recording(api, study)]}
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(submit(api, study, key="k", **body)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_missing_weights_are_refused_with_the_command_that_fetches_them(api, study):
    answer = submit(api, study, model="tiny")

    assert codes(answer) == (409, "model_missing")
    assert "fieldscribe models fetch tiny" in answer.json()["detail"]
    assert codes(submit(api, study, model=None)) == (409, "model_missing")


def test_a_model_is_a_name_never_a_path(api, study):
    assert codes(submit(api, study, model="/etc/passwd")) == (422, "invalid_request")
    assert codes(submit(api, study, model="nonsense.pt")) == (422, "unknown_model")


@pytest.mark.parametrize(
    "body",
    [
        {"recordings": []},
        {"recordings": ["no id"]},
        {"language": "klingon"},
        {"speakers": {"min": 3, "max": 2}},
        {"speakers": {"min": 0}},
        {"channels": "left"},
        {"vocabulary": ["two\nlines"]},
        {"session": "INT-07"},
        {"prompt": "Eva Muster"},
    ],
    ids=str,
)
def test_bad_input_is_refused_and_nothing_is_stored(api, study, body):
    answer = submit(api, study, **body)

    assert codes(answer) == (422, "invalid_request")
    assert "Muster" not in answer.text
    assert api.get(f"{MINE}?study={study}").json()["items"] == []


def test_a_recording_that_is_not_ready_is_refused(api, study):
    sound = recording(api, study)
    for state, status in (("checking", 409), ("refused", 409), ("erased", 410)):
        with api.services.sessionmaker.begin() as session:
            session.get_one(Recording, UUID(sound)).state = state
        assert submit(api, study, recordings=[sound]).status_code == status


def test_a_recording_that_is_being_checked_is_refused_at_once(api, study):
    """The submission used to wait for the check, occupying a thread and a connection."""
    sound = UUID(recording(api, study))
    with api.services.sessionmaker.begin() as session:
        session.get_one(Recording, sound).state = "checking"
    with api.services.sessionmaker.begin() as check:
        lock = select(Recording).where(Recording.id == sound).with_for_update(key_share=True)
        check.scalars(lock).one()
        impatient = threading.Timer(3, check.rollback)
        impatient.start()
        started = time.monotonic()
        answer = submit(api, study, recordings=[str(sound)])
        took = time.monotonic() - started
        impatient.cancel()

    assert codes(answer) == (409, "recording_not_ready")
    assert took < 2


def test_an_empty_session_is_refused(api, study):
    api.post("/v1/sessions", json={"study": study, "code": "INT-07"})

    answer = api.post(MINE, json={"study": study, "session": "INT-07", "model": "demo"})

    assert codes(answer) == (409, "session_empty")


def test_recordings_of_two_studies_are_refused(api, study):
    other = api.study()["id"]
    both = [recording(api, study), recording(api, other)]

    assert codes(submit(api, study, recordings=both)) == (422, "studies_mixed")


# --- access ---------------------------------------------------------------------------------------

ROUTES = [
    ("POST", "/v1/jobs", {"recordings": [str(UUID(int=1))]}),
    ("GET", "/v1/jobs", None),
    ("GET", "/v1/jobs/{id}", None),
    ("POST", "/v1/jobs/{id}/cancel", None),
    ("POST", "/v1/jobs/{id}/rerun", {"from": "diarise"}),
    ("DELETE", "/v1/jobs/{id}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda v: str(v))
def test_every_route_needs_a_researchers_token(api, study, method, path, body):
    path = path.format(id=submitted(api, study))

    assert api.client.request(method, path, json=body).status_code == 401
    admin = () if (method, path) == ("GET", "/v1/jobs") else ("admin",)  # who lists them
    for role in ("coder", "custodian", "deidentifier", *admin, "worker"):
        token = api.token(role, study)
        assert api.request(method, path, json=body, token=token).status_code == 403, role


@pytest.mark.parametrize(("method", "path", "body"), ROUTES[2:], ids=lambda v: str(v))
def test_someone_elses_job_looks_like_no_job(api, study, method, path, body):
    token = api.token("researcher", api.study()["id"])
    theirs = api.request(method, path.format(id=submitted(api, study)), json=body, token=token)
    none = api.request(method, path.format(id=uuid4()), json=body, token=token)

    assert codes(theirs) == codes(none) == (404, "job_not_found")
    assert theirs.json() == none.json()


def test_someone_elses_recording_looks_like_no_recording(api, study):
    token = api.token("researcher", api.study()["id"])
    body = {"recordings": [recording(api, study)], "model": "demo"}

    assert codes(api.post(MINE, json=body, token=token)) == (404, "recording_not_found")


# --- listing --------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_a_page_at_a_time(api, study):
    made = [submitted(api, study) for _ in range(5)]
    seen, path = [], f"{MINE}?study={study}&limit=2"
    page = api.get(path).json()
    while True:
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        page = api.get(f"{path}&cursor={page['next_cursor']}").json()

    assert seen == made[::-1]


def test_the_list_can_be_filtered_and_shows_only_the_callers_jobs(api, study):
    other = api.study()["id"]
    queued, done = submitted(api, study), submitted(api, study)
    finish_job(api.services, UUID(done))
    submitted(api, other)
    token = api.token("researcher", study)

    def listed(query=""):
        return [item["id"] for item in api.get(f"{MINE}{query}", token=token).json()["items"]]

    assert listed() == [done, queued]
    assert listed("?status=succeeded") == [done]
    assert listed("?status=queued&status=running") == [queued]
    assert api.get(f"{MINE}?study={other}", token=token).status_code == 404


def test_the_list_takes_a_session_by_id_or_by_code_with_its_study(api, study):
    """Commands speak of codes, and the filter once took ids only."""
    made = api.post("/v1/sessions", json={"study": study, "kind": "interview"}).json()
    ids = {"recordings": [recording(api, study)]}
    api.request("PUT", f"/v1/sessions/{made['id']}/recordings", json=ids)
    wanted = {"study": study, "session": made["code"], "model": "demo"}
    inside = api.post(MINE, json=wanted).json()["id"]
    submitted(api, study)

    def listed(query):
        return [item["id"] for item in api.get(f"{MINE}?{query}").json()["items"]]

    assert listed(f"session={made['id']}") == [inside]
    assert listed(f"study={study}&session={made['code']}") == [inside]
    assert codes(api.get(f"{MINE}?session={made['code']}")) == (422, "invalid_request")
    assert codes(api.get(f"{MINE}?study={study}&session=INT-99")) == (404, "session_not_found")


@pytest.mark.parametrize("cursor", ["nonsense", "bm8gY3Vyc29y", "é", "a" * 199])
def test_an_invalid_cursor_is_refused(api, cursor):
    assert codes(api.get(MINE, params={"cursor": cursor})) == (422, "bad_cursor")


# --- reading one ----------------------------------------------------------------------------------


def test_a_running_job_shows_its_progress(api, study):
    id = submitted(api, study)
    held = begin_job(api.services, UUID(id))
    with api.services.sessionmaker.begin() as session:
        job_state.record_loaded(
            session, held, "cpu", dict.fromkeys(read_stages(api.services, UUID(id)), 0.5)
        )
        job_state.record_heartbeat(session, held, "transcribe", 0.5)
    api.app.state.rates = RateCache()
    job = api.get(f"{MINE}/{id}").json()
    stage = next(stage for stage in job["stages"] if stage["name"] == "transcribe")

    assert (job["status"], job["stage"], job["attempt"]) == ("running", "transcribe", 1)
    assert (stage["state"], stage["fraction"], stage["audio_seconds_done"]) == ("running", 0.5, 5.0)
    assert 0 < job["progress"]["fraction"] < 1
    assert 0 < job["progress"]["eta_seconds"]["low"] < job["progress"]["eta_seconds"]["high"]
    assert job["progress"]["basis"] == "self-test"
    assert job["heartbeat_at"] is not None
    assert job["queue"]["position"] is None

    with api.services.sessionmaker.begin() as session:
        session.get_one(Job, UUID(id)).status = "cancelled"
    assert api.get(f"{MINE}/{id}").json()["progress"]["eta_seconds"] is None  # it has ended


def test_a_failed_job_shows_its_errors_and_what_to_do(api, study):
    id = submitted(api, study)
    fail_job(api.services, UUID(id), "no_speech")
    job = api.get(f"{MINE}/{id}").json()
    (error,) = job["errors"]

    assert job["status"] == "failed"
    assert (error["code"], error["attempt"], error["retryable"]) == ("no_speech", 1, False)
    assert error["title"] and error["user_action"]


def test_a_waiting_job_shows_what_it_waits_for(api, study):
    id = submitted(api, study)
    for code, reason in (("sealed", "person"), ("out_of_memory", "card")):
        held = begin_job(api.services, UUID(id))
        with api.services.sessionmaker.begin() as session:
            job_state.put_back_job(session, held, code)
        job = api.get(f"{MINE}/{id}").json()
        assert job["status"] == "waiting"
        assert job["waiting_for"]["reason"] == reason
        assert job["waiting_for"]["code"] == code


def test_an_unchanged_job_is_answered_with_304(api, study):
    id = submitted(api, study)
    etag = api.get(f"{MINE}/{id}").headers["ETag"]

    same = api.get(f"{MINE}/{id}", headers={"If-None-Match": etag})
    begin_job(api.services, UUID(id))
    changed = api.get(f"{MINE}/{id}", headers={"If-None-Match": etag})

    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag


def test_a_long_poll_ends_when_the_job_does(api, study):
    id = submitted(api, study)
    timer = threading.Timer(0.5, finish_job, (api.services, UUID(id)))
    timer.start()
    started = time.monotonic()
    job = api.get(f"{MINE}/{id}?wait=30").json()
    timer.join()

    assert job["status"] == "succeeded"
    assert 0.4 < time.monotonic() - started < 10


def test_a_long_poll_with_an_etag_ends_at_the_next_change(api, study):
    id = submitted(api, study)
    etag = api.get(f"{MINE}/{id}").headers["ETag"]
    timer = threading.Timer(0.5, begin_job, (api.services, UUID(id)))
    timer.start()
    started = time.monotonic()
    answer = api.get(f"{MINE}/{id}?wait=30", headers={"If-None-Match": etag})
    timer.join()

    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert time.monotonic() - started < 10


def test_a_token_that_is_revoked_during_a_long_poll_gets_no_job(api, study):
    id = submitted(api, study)
    made = api.post("/v1/tokens", json={"role": "researcher", "studies": [study]}).json()

    def revoke_and_begin():
        api.request("DELETE", f"/v1/tokens/{made['id']}")
        finish_job(api.services, UUID(id))

    timer = threading.Timer(0.5, revoke_and_begin)
    timer.start()
    answer = api.get(f"{MINE}/{id}?wait=30", token=made["secret"])
    timer.join()

    assert codes(answer) == (401, "token_revoked")


def test_a_long_poll_without_a_change_ends_in_time(api, study):
    id = submitted(api, study)
    etag = api.get(f"{MINE}/{id}").headers["ETag"]
    started = time.monotonic()

    assert api.get(f"{MINE}/{id}?wait=0.3").json()["status"] == "queued"
    assert api.get(f"{MINE}/{id}?wait=0.3", headers={"If-None-Match": etag}).status_code == 304
    assert time.monotonic() - started < 5


def test_a_job_that_has_ended_is_not_waited_for(api, study):
    id = submitted(api, study)
    finish_job(api.services, UUID(id))
    etag = api.get(f"{MINE}/{id}").headers["ETag"]
    started = time.monotonic()

    assert api.get(f"{MINE}/{id}?wait=60").status_code == 200
    assert api.get(f"{MINE}/{id}?wait=60", headers={"If-None-Match": etag}).status_code == 304
    assert time.monotonic() - started < 5


def test_long_polls_share_one_connection_and_are_limited_in_number(api, study):
    id = submitted(api, study)
    api.app.state.limits.max_waiting = 80  # a token has a quarter of them
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(api.get(f"{MINE}/{id}?wait=20")), daemon=True
        )
        for _ in range(25)
    ]
    for thread in threads:
        thread.start()
    while len(answers) < 5:
        time.sleep(0.05)
    with api.services.engine.connect() as connection:
        listening = connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN fieldscribe%'"
            )
        )
    finish_job(api.services, UUID(id))
    for thread in threads:
        thread.join()

    assert listening == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 20 + [429] * 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "too_many_waiting"
    assert "Retry-After" in refused.headers


@pytest.mark.parametrize("query", ["?wait=-1", "?wait=61", "?wait=soon"])
def test_a_wait_out_of_range_is_refused(api, study, query):
    id = submitted(api, study)

    assert codes(api.get(f"{MINE}/{id}{query}")) == (422, "invalid_request")


# --- cancelling, rerunning ------------------------------------------------------------------------


def test_cancelling_can_be_repeated(api, study):
    id = submitted(api, study)
    first = api.post(f"{MINE}/{id}/cancel")
    second = api.post(f"{MINE}/{id}/cancel")

    assert (first.status_code, first.json()["status"]) == (202, "cancelled")
    assert (second.status_code, second.json()["version"]) == (202, first.json()["version"])


def test_a_running_job_is_asked_to_stop(api, study):
    id = submitted(api, study)
    begin_job(api.services, UUID(id))

    assert api.post(f"{MINE}/{id}/cancel").json()["status"] == "cancelling"


def test_a_rerun_reuses_the_results_before_its_stage_and_no_others(api, study):
    id = submitted(api, study, language="en")
    finish_job(api.services, UUID(id))
    answer = api.post(
        f"{MINE}/{id}/rerun", json={"from": "align", "speakers": {"min": 3, "max": 3}}
    )
    again = answer.json()
    old, new = read_stages(api.services, UUID(id)), read_stages(api.services, UUID(again["id"]))

    assert answer.status_code == 202
    assert again["id"] != id
    assert again["rerun_from"] == "align"
    assert again["options"]["language"] == "en"
    assert again["options"]["speakers"] == {"min": 3, "max": 3}
    kept = {name for name, row in new.items() if row.state == "succeeded"}
    assert kept == {"segment", "transcribe"}
    assert all(new[name].artefact_id != old[name].artefact_id for name in kept)
    assert new["align"].artefact_id is new["diarise"].artefact_id is None
    assert old["diarise"].artefact_id is not None


def test_a_rerun_from_diarisation_reuses_the_embeddings(api, study):
    id = submitted(api, study)
    finish_job(api.services, UUID(id))
    again = api.post(f"{MINE}/{id}/rerun", json={"from": "diarise"}).json()["id"]

    held = begin_job(api.services, UUID(again))

    assert set(held.job.stored) == {"segment", "transcribe", "align", "embeddings"}


def test_results_of_other_weights_are_not_reused(api, study):
    id = submitted(api, study)
    finish_job(api.services, UUID(id))
    with api.services.sessionmaker.begin() as session:
        session.get_one(Job, UUID(id)).whisper_sha256 = "0" * 64
    again = api.post(f"{MINE}/{id}/rerun", json={"from": "check"}).json()

    assert {stage["state"] for stage in again["stages"]} == {"pending"}
    assert again["options"]["model"]["sha256"] != "0" * 64


def test_a_rerun_with_an_idempotency_key_is_created_once(api, study):
    id = submitted(api, study)
    finish_job(api.services, UUID(id))
    key = {"Idempotency-Key": "again"}
    answers = [
        api.post(f"{MINE}/{id}/rerun", json={"from": stage}, headers=key)
        for stage in ("diarise", "diarise", "align")
    ]

    assert [answer.status_code for answer in answers] == [202, 200, 422]
    assert answers[0].json()["id"] == answers[1].json()["id"]


def test_an_unfinished_job_cannot_be_rerun(api, study):
    id = submitted(api, study)

    answer = api.post(f"{MINE}/{id}/rerun", json={"from": "diarise"})

    assert codes(answer) == (409, "job_unfinished")


@pytest.mark.parametrize(
    "body",
    [{}, {"from": "handoff"}, {"from": "x"}, {"from": "check", "speakers": {"min": 2}}],
    ids=str,
)
def test_an_invalid_rerun_is_refused(api, study, body):
    id = submitted(api, study)

    assert codes(api.post(f"{MINE}/{id}/rerun", json=body)) == (422, "invalid_request")
