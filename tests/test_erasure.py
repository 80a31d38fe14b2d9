"""Erasure of jobs, recordings, sessions and studies: what is destroyed and what stays."""

from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from scripts.stand_in.jobs import make_recording, make_token, read_job, read_stages
from service.backup import back_up, restore
from service.database.engine import create_database
from service.database.tables import Handoff, Job, StoredTranscript
from service.domain import job_state
from service.domain.recordings import identified
from service.settings import Settings
from service.vault.errors import Erased
from service.vault.store import Artefact
from tests.api import open_api
from tests.finished import begin_job, conversation, finish_job

JOBS = "/v1/jobs"
NAME = {"segment": "s0002", "start": 12, "end": 15, "label": "PERSON", "score": 0.98}


@pytest.fixture
def api(settings):
    with open_api(settings) as api:
        yield api


@pytest.fixture
def study(api):
    return api.study()["id"]


def recording(api, study):
    return str(make_recording(api.services, UUID(study), make_token(api.services), b"sound"))


def submitted(api, *recordings, **body):
    answer = api.post(JOBS, json={"recordings": recordings, "model": "demo", **body})
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["id"])


def codes(answer):
    return answer.status_code, answer.json()["code"]


def delete(api, path):
    answer = api.request("DELETE", path)
    assert answer.is_success, answer.text
    return answer


def artefacts(api):
    return set(identified(api.services)[0].ids())


def made_for(api, job_id):
    """The id and kind of every artefact of a job whose hand-off is completed."""
    with api.services.sessionmaker() as session:
        job = session.get_one(Job, job_id)
        transcript = session.scalar(
            select(StoredTranscript).where(StoredTranscript.job_id == job_id)
        )
        assert transcript is not None
        handoff = session.scalar(select(Handoff).where(Handoff.transcript_id == transcript.id))
        assert handoff is not None
    kinds = {
        row.artefact_id: f"stage_{name}" for name, row in read_stages(api.services, job_id).items()
    }
    kinds |= {
        job.vocabulary_artefact_id: "vocabulary",
        transcript.artefact_id: "transcript",
        handoff.occurrences_artefact_id: "occurrences",
    }
    kinds.pop(None, None)
    return kinds


def complete_handoff(api, study):
    token = api.token("deidentifier", study)
    claimed = api.post("/v1/handoffs/claim", token=token).json()
    body = {"fence": claimed["fence"], "occurrences": [NAME]}
    path = f"/v1/handoffs/{claimed['id']}/complete"
    assert api.post(path, json=body, token=token).status_code == 200


# --- the key of a job -----------------------------------------------------------------------------


def test_everything_made_for_a_job_is_encrypted_with_the_jobs_key(api, study):
    """It used to be under the key of the first recording and survived erasing the others."""
    job_id = submitted(api, recording(api, study), recording(api, study), vocabulary=["Eva"])
    finish_job(api.services, job_id)
    complete_handoff(api, study)
    store, keyring = identified(api.services)

    made = made_for(api, job_id)

    kinds = {"vocabulary", "transcript", "occurrences"}
    kinds |= {f"stage_{stage}" for stage in ("segment", "transcribe", "align", "diarise")}
    assert set(made.values()) == kinds
    for id, kind in made.items():
        key = keyring.data_key(UUID(study), job_id)
        with store.open(Artefact(UUID(study), job_id, kind, id), key) as file:
            assert file.read()


@pytest.mark.parametrize("which", ["first", "second", "job"])
def test_no_backup_restores_what_was_made_from_an_erased_recording(
    api, study, settings, postgres, tmp_path, which
):
    """With an older backup of database, vault and keys, and the current ledger."""
    first, second = recording(api, study), recording(api, study)
    job_id = submitted(api, first, second, vocabulary=["Eva"])
    transcript = finish_job(api.services, job_id)
    (tmp_path / "backup").mkdir()
    (tmp_path / "keys of it").mkdir()
    before = back_up(settings, tmp_path / "backup", tmp_path / "keys of it")
    made = made_for(api, job_id)
    assert before.data is not None
    path = {"first": f"/v1/recordings/{first}", "second": f"/v1/recordings/{second}"}
    delete(api, path.get(which, f"{JOBS}/{job_id}"))

    name = f"empty_{uuid4().hex}"
    create_database(postgres.url("postgres"), name)
    url = postgres.url(name).render_as_string(hide_password=False)
    empty = Settings(
        data=tmp_path / "new/data",
        keys=tmp_path / "new/keys",
        weights=tmp_path / "weights",
        database_url=SecretStr(url),
    )
    empty.keys.mkdir(parents=True)
    settings.ledger.rename(empty.ledger)
    restore(empty, before.data, before.keys)

    with open_api(empty) as restored:
        assert codes(restored.get(f"{JOBS}/{job_id}")) == (410, "erased")
        assert codes(restored.get(f"/v1/transcripts/{transcript}")) == (410, "erased")
        store, keyring = identified(restored.services)
        assert not set(made) & set(store.ids())
        for subject in (job_id, UUID(first)) if which == "first" else (job_id,):
            with pytest.raises(Erased):
                keyring.data_key(UUID(study), subject)
        keyring.data_key(UUID(study), UUID(second if which == "first" else first))


def test_a_rerun_has_its_own_copies_and_survives_the_erasure_of_the_first_job(api, study):
    id = submitted(api, recording(api, study), vocabulary=["Eva"])
    finish_job(api.services, id)
    again = UUID(api.post(f"{JOBS}/{id}/rerun", json={"from": "diarise"}).json()["id"])
    held = begin_job(api.services, again)
    kept = {*held.job.stored.values(), held.job.vocabulary_artefact_id}
    old = {row.artefact_id for row in read_stages(api.services, id).values()}

    assert len(kept) == 5
    assert not kept & old
    delete(api, f"{JOBS}/{id}")

    assert kept <= artefacts(api)
    store, keyring = identified(api.services)
    key = keyring.data_key(UUID(study), again)
    for stage, artefact_id in held.job.stored.items():
        with store.open(held.job.stage_artefact(stage, artefact_id), key) as file:
            assert file.read() == b"a result"
    delete(api, f"{JOBS}/{again}?force=true")
    assert not kept & artefacts(api)


def test_a_rerun_is_refused_only_if_results_that_it_needs_are_damaged(api, study):
    id = submitted(api, recording(api, study))
    finish_job(api.services, id)
    artefact_id = read_stages(api.services, id)["segment"].artefact_id
    assert artefact_id is not None
    identified(api.services)[0].delete(artefact_id)

    refused = api.post(f"{JOBS}/{id}/rerun", json={"from": "transcribe"})

    assert codes(refused) == (500, "artefact_missing")
    assert api.post(f"{JOBS}/{id}/rerun", json={"from": "segment"}).status_code == 202


# --- deleting a job -------------------------------------------------------------------------------


def test_deleting_reports_what_was_destroyed_and_leaves_a_tombstone(api, study):
    sound = recording(api, study)
    id = submitted(api, sound, vocabulary=["Eva"])
    transcript = finish_job(api.services, id)

    gone = delete(api, f"{JOBS}/{id}")

    assert gone.json() == {
        "job_id": str(id),
        "transcript": True,
        "stage_results": 4,
        "vocabulary": True,
        "occurrences": 0,
        "releases": 0,
        "recordings_kept": [sound],
    }
    assert artefacts(api) == {UUID(sound)}
    for method, path in (
        ("GET", f"{JOBS}/{id}"),
        ("POST", f"{JOBS}/{id}/cancel"),
        ("DELETE", f"{JOBS}/{id}"),
        ("GET", f"/v1/transcripts/{transcript}"),
    ):
        assert codes(api.request(method, path)) == (410, "erased")
    listed = f"{JOBS}?study={study}"
    assert api.get(listed).json()["items"] == []
    erased = api.get(f"{listed}&status=erased").json()["items"]
    assert [item["id"] for item in erased] == [str(id)]


def test_a_running_job_is_deleted_only_with_force(api, study):
    id = submitted(api, recording(api, study))
    held = begin_job(api.services, id)

    assert codes(api.request("DELETE", f"{JOBS}/{id}")) == (423, "job_running")
    delete(api, f"{JOBS}/{id}?force=true")
    with pytest.raises(job_state.JobGone), api.services.sessionmaker.begin() as session:
        job_state.record_heartbeat(session, held)


def test_a_deleted_queued_job_never_starts(api, study):
    id = submitted(api, recording(api, study))

    delete(api, f"{JOBS}/{id}")
    with api.services.sessionmaker.begin() as session:
        assert job_state.claim_job(session, id) is None


# --- deleting a recording -------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_deleting_any_recording_of_a_job_deletes_the_job(api, study, which):
    sounds = [recording(api, study), recording(api, study)]
    id = submitted(api, *sounds)
    finish_job(api.services, id)
    again = UUID(api.post(f"{JOBS}/{id}/rerun", json={"from": "attribute"}).json()["id"])
    finish_job(api.services, again, conversation())

    delete(api, f"/v1/recordings/{sounds[which]}")

    for job_id in (id, again):
        assert codes(api.get(f"{JOBS}/{job_id}")) == (410, "erased")
        assert read_job(api.services, job_id).status == "erased"
        with pytest.raises(Erased):
            identified(api.services)[1].data_key(UUID(study), job_id)
    assert artefacts(api) == {UUID(sounds[1 - which])}


# --- deleting a session, a study ------------------------------------------------------------------


def session_with(api, study, *recordings):
    made = api.post("/v1/sessions", json={"study": study, "roster": [P07]}).json()
    order = {"recordings": list(recordings)}
    assert api.request("PUT", f"/v1/sessions/{made['id']}/recordings", json=order).is_success
    return made["id"]


P07 = {"code": "P07", "role": "participant"}


def erased_keys(api, study, *subjects):
    keyring = identified(api.services)[1]
    found = []
    for subject in subjects:
        try:
            keyring.data_key(UUID(study), UUID(str(subject)))
        except Erased:
            found.append(subject)
    return found


def test_deleting_a_session_destroys_its_recordings_and_everything_made_from_them(api, study):
    own, other = [recording(api, study) for _ in range(2)], recording(api, study)
    id = session_with(api, study, *own)
    whole = submitted(api, session=id)
    with_another = submitted(api, own[1], other)
    untouched = submitted(api, other)
    for job_id in (whole, with_another, untouched):
        finish_job(api.services, job_id)

    delete(api, f"/v1/sessions/{id}")

    gone = [*own, whole, with_another]
    assert erased_keys(api, study, *gone, other, untouched) == gone
    assert UUID(other) in artefacts(api) and not {UUID(each) for each in own} & artefacts(api)
    paths = [f"/v1/sessions/{id}", *(f"/v1/recordings/{each}" for each in own)]
    for path in (*paths, f"{JOBS}/{whole}", f"{JOBS}/{with_another}"):
        assert codes(api.get(path)) == (410, "erased")
    assert api.get(f"/v1/sessions?study={study}").json()["items"] == []
    headers = {"Upload-Length": "1"}
    late = api.post(f"/v1/uploads?study={study}&session={id}", headers=headers)
    assert codes(late) == (410, "erased")
    assert api.get(f"{JOBS}/{untouched}").json()["status"] == "succeeded"


def test_nothing_of_a_session_with_an_unfinished_job_is_deleted(api, study):
    own = [recording(api, study) for _ in range(2)]
    id = session_with(api, study, *own)
    finish_job(api.services, submitted(api, own[0]))
    queued = submitted(api, own[1])

    assert codes(api.request("DELETE", f"/v1/sessions/{id}")) == (409, "recording_in_use")
    assert erased_keys(api, study, *own, queued) == []
    api.post(f"{JOBS}/{queued}/cancel")
    delete(api, f"/v1/sessions/{id}")


def test_deleting_a_study_destroys_all_its_keys_and_no_others(api, study):
    other = api.study()["id"]
    theirs = recording(api, other)
    api.request("PUT", f"/v1/studies/{study}/vocabulary", json={"words": ["Eva"]})
    own = recording(api, study)
    id = session_with(api, study, own)
    job_id = submitted(api, session=id)
    finish_job(api.services, job_id)

    delete(api, f"/v1/studies/{study}")

    assert erased_keys(api, study, own, job_id, study) == [own, job_id, study]
    assert erased_keys(api, other, theirs, other) == []
    assert artefacts(api) == {UUID(theirs)}
    for path in (
        f"/v1/studies/{study}",
        f"/v1/studies/{study}/vocabulary",
        f"/v1/sessions/{id}",
        f"/v1/recordings/{own}",
        f"{JOBS}/{job_id}",
        f"{JOBS}?study={study}",
    ):
        assert codes(api.get(path)) == (410, "erased")
    for path in ("/v1/sessions", JOBS, "/v1/recordings"):
        assert all(each["study_id"] != study for each in api.get(path).json()["items"])
    late = api.post(f"/v1/uploads?study={study}", headers={"Upload-Length": "1"})
    assert codes(late) == (410, "erased")


def test_the_callers_recordings_are_listed_newest_first_a_page_at_a_time(api, study):
    made = [recording(api, study) for _ in range(3)]
    recording(api, api.study()["id"])
    gone = recording(api, study)
    delete(api, f"/v1/recordings/{gone}")
    token = api.token("researcher", study)

    first = api.get("/v1/recordings?limit=2", token=token).json()
    second = api.get(f"/v1/recordings?limit=2&cursor={first['next_cursor']}", token=token).json()

    listed = [each["id"] for each in first["items"] + second["items"]]
    assert listed == made[::-1]
    assert second["next_cursor"] is None
    assert codes(api.get("/v1/recordings?cursor=x")) == (422, "bad_cursor")
