"""Hand-offs: claimed with a lease and a fence, completed or failed, by de-identifiers only."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from scripts.stand_in.jobs import make_job
from service.database.tables import Handoff, StoredTranscript
from service.domain.recordings import identified
from service.vault.store import Artefact
from tests.api import artefact_path, open_api
from tests.finished import finish_job
from tests.test_jobs import codes

CLAIM = "/v1/handoffs/claim"
EVA = {"segment": "s0002", "start": 11, "end": 21, "label": "PERSON", "score": 0.9, "entity": "Eva"}


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def study(api):
    return api.study()["id"]


@pytest.fixture
def token(api, study):
    return api.token("deidentifier", study)


def offer(api, study):
    """Finish a job; return its id."""
    job_id = make_job(api.services, UUID(study))
    finish_job(api.services, job_id)
    return job_id


def claim(api, token):
    answer = api.post(CLAIM, token=token)
    assert answer.status_code == 200, answer.text
    return answer.json()


def expire_lease(api, handoff_id):
    with api.services.sessionmaker.begin() as session:
        row = session.get_one(Handoff, UUID(handoff_id))
        row.lease_until = datetime.now(UTC) - timedelta(seconds=1)


def test_a_finished_transcript_is_claimed_with_a_lease_and_a_fence(api, study, token):
    offer(api, study)
    claimed = claim(api, token)

    assert claimed["status"] == "claimed"
    assert claimed["fence"] == 1
    assert datetime.fromisoformat(claimed["lease_until"]) > datetime.now(UTC)
    assert claimed["transcript"]["segments"][1]["text"] == "My name is Eva Muster."
    assert set(claimed["speakers"]) == {"SPEAKER_00", "SPEAKER_01"}


def test_with_nothing_to_claim_the_answer_is_no_content(api, study, token):
    answer = api.post(CLAIM, token=token)

    assert (answer.status_code, answer.content) == (204, b"")


def test_a_hand_off_is_claimed_once_oldest_first(api, study, token):
    offered = [offer(api, study) for _ in range(2)]
    transcripts = [api.get(f"/v1/jobs/{job}").json()["transcript_id"] for job in offered]

    assert [claim(api, token)["transcript_id"] for _ in offered] == transcripts
    assert api.post(CLAIM, token=token).status_code == 204


def test_occurrences_are_stored_as_an_artefact_and_in_no_row(api, study, token):
    job_id = offer(api, study)
    claimed = claim(api, token)
    body = {"fence": 1, "occurrences": [EVA]}
    answer = api.post(f"/v1/handoffs/{claimed['id']}/complete", json=body, token=token)

    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    with api.services.sessionmaker() as session:
        row = session.get_one(Handoff, UUID(claimed["id"]))
    assert "Eva" not in str(vars(row))
    store, keyring = identified(api.services)
    artefact = Artefact(row.study_id, job_id, "occurrences", row.occurrences_artefact_id)
    with store.open(artefact, keyring.data_key(row.study_id, job_id)) as file:
        assert json.loads(file.read()) == [{**EVA, "rule": None, "tier": None, "words": None}]


def test_completing_twice_has_no_further_effect(api, study, token):
    offer(api, study)
    path = f"/v1/handoffs/{claim(api, token)['id']}/complete"
    body = {"fence": 1, "occurrences": []}
    answers = [api.post(path, json=body, token=token) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()


def test_a_heartbeat_renews_the_lease(api, study, token):
    offer(api, study)
    claimed = claim(api, token)
    expire_lease(api, claimed["id"])
    answer = api.post(f"/v1/handoffs/{claimed['id']}/heartbeat", json={"fence": 1}, token=token)

    assert answer.status_code == 200
    assert datetime.fromisoformat(answer.json()["lease_until"]) > datetime.now(UTC)
    assert api.post(CLAIM, token=token).status_code == 204


def test_after_the_lease_expires_the_next_claimant_gets_the_hand_off_and_the_old_fence_is_refused(
    api, study, token
):
    offer(api, study)
    first = claim(api, token)
    expire_lease(api, first["id"])
    other = api.token("deidentifier", study)
    second = claim(api, other)

    assert (second["id"], second["fence"]) == (first["id"], 2)
    for rest, body in (
        ("heartbeat", {}),
        ("complete", {"occurrences": []}),
        ("fail", {"code": "timed_out"}),
    ):
        late = api.post(
            f"/v1/handoffs/{first['id']}/{rest}", json={"fence": 1, **body}, token=token
        )
        assert codes(late) == (409, "handoff_taken"), rest
    done = {"fence": 2, "occurrences": [EVA]}
    answer = api.post(f"/v1/handoffs/{first['id']}/complete", json=done, token=other)
    assert answer.status_code == 200


def test_a_fence_works_only_for_the_token_that_claimed(api, study, token):
    offer(api, study)
    claimed = claim(api, token)
    other = api.token("deidentifier", study)
    answer = api.post(
        f"/v1/handoffs/{claimed['id']}/complete",
        json={"fence": 1, "occurrences": []},
        token=other,
    )

    assert codes(answer) == (409, "handoff_taken")


def test_a_failed_hand_off_stores_a_code_and_no_text(api, study, token):
    offer(api, study)
    path = f"/v1/handoffs/{claim(api, token)['id']}/fail"
    text = api.post(path, json={"fence": 1, "code": "eva_muster"}, token=token)
    answer = api.post(path, json={"fence": 1, "code": "unsupported_language"}, token=token)

    assert codes(text) == (422, "invalid_request")
    assert answer.json()["status"] == "failed"
    assert answer.json()["failure_code"] == "unsupported_language"
    assert api.post(CLAIM, token=token).status_code == 204


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"segment": "s0099"}, "bad_occurrence"),
        ({"end": 99}, "bad_occurrence"),
        ({"start": 21}, "invalid_request"),
        ({"segment": 1}, "invalid_request"),
        ({"segment": "Eva"}, "invalid_request"),
        ({"label": "Eva Muster"}, "invalid_request"),
        ({"score": 2}, "invalid_request"),
        ({"text": "Eva Muster"}, "invalid_request"),
    ],
    ids=str,
)
def test_an_occurrence_outside_its_transcript_is_refused(api, study, token, wrong, code):
    offer(api, study)
    claimed = claim(api, token)
    body = {"fence": 1, "occurrences": [{**EVA, **wrong}]}
    answer = api.post(f"/v1/handoffs/{claimed['id']}/complete", json=body, token=token)

    assert codes(answer) == (422, code)
    assert "Muster" not in answer.text
    with api.services.sessionmaker() as session:
        assert session.get_one(Handoff, UUID(claimed["id"])).status == "claimed"


def test_an_erased_transcript_is_not_offered(api, study, token):
    erased, kept = offer(api, study), offer(api, study)
    claimed = claim(api, token)
    assert api.request("DELETE", f"/v1/jobs/{erased}").status_code == 200

    body = {"fence": 1, "occurrences": [EVA]}
    late = api.post(f"/v1/handoffs/{claimed['id']}/complete", json=body, token=token)
    listed = api.get("/v1/handoffs?status=failed", token=token).json()["items"]

    assert codes(late) == (410, "erased")
    assert [(item["id"], item["failure_code"]) for item in listed] == [(claimed["id"], "erased")]
    assert api.get(f"/v1/jobs/{kept}").json()["transcript_id"] == claim(api, token)["transcript_id"]


def test_an_unreadable_transcript_does_not_block_the_others(api, study, token):
    first, second = offer(api, study), offer(api, study)
    path = artefact_path(identified(api.services)[0], read_artefact_id(api, first))
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    claimed = claim(api, token)

    assert claimed["transcript_id"] == api.get(f"/v1/jobs/{second}").json()["transcript_id"]
    (failed,) = api.get("/v1/handoffs?status=failed", token=token).json()["items"]
    assert failed["failure_code"] == "artefact_damaged"


@pytest.mark.parametrize(
    ("folder", "code"), [("vault", "artefact_missing"), ("wrapped_keys", "key_missing")]
)
def test_hand_offs_stay_open_while_a_folder_is_not_mounted(api, study, token, folder, code):
    """A single request used to fail all of them permanently."""
    offered = [offer(api, study) for _ in range(3)]
    place = getattr(api.services.settings, folder)
    away = place.rename(place.with_name("away"))
    answer = api.post(CLAIM, token=token)
    away.rename(place)

    assert codes(answer) == (500, code)
    transcripts = [api.get(f"/v1/jobs/{job}").json()["transcript_id"] for job in offered]
    assert [claim(api, token)["transcript_id"] for _ in offered] == transcripts


def test_a_missing_transcript_stays_open_and_does_not_block_the_others(api, study, token):
    first, second = offer(api, study), offer(api, study)
    identified(api.services)[0].delete(read_artefact_id(api, first))

    claimed = claim(api, token)

    assert claimed["transcript_id"] == api.get(f"/v1/jobs/{second}").json()["transcript_id"]
    assert len(api.get("/v1/handoffs?status=open", token=token).json()["items"]) == 1


def read_artefact_id(api, job_id):
    with api.services.sessionmaker() as session:
        found = session.scalar(
            select(StoredTranscript.artefact_id).where(StoredTranscript.job_id == job_id)
        )
    assert found is not None
    return found


def test_a_claim_states_the_version_and_occurrences_refer_to_it(api, study, token):
    """A correction between the claim and its completion used to move the spans."""
    job_id = offer(api, study)
    transcript = f"/v1/transcripts/{api.get(f'/v1/jobs/{job_id}').json()['transcript_id']}"
    patch = {"json": {"text": "My name is Ida."}, "headers": {"If-Match": '"1"'}}
    api.request("PATCH", f"{transcript}/segments/s0002", **patch)
    claimed = claim(api, token)
    patch = {"json": {"text": "Hm."}, "headers": {"If-Match": '"2"'}}
    assert api.request("PATCH", f"{transcript}/segments/s0002", **patch).status_code == 200
    ida = {"segment": "s0002", "start": 11, "end": 14, "label": "PERSON"}
    body = {"fence": 1, "occurrences": [ida]}
    done = api.post(f"/v1/handoffs/{claimed['id']}/complete", json=body, token=token)

    assert claimed["transcript_version"] == claimed["transcript"]["version"] == 2
    assert claimed["transcript"]["segments"][1]["text"] == "My name is Ida."
    assert (done.status_code, done.json()["transcript_version"]) == (200, 2)


def test_offsets_count_code_points(api, study, token):
    job_id = offer(api, study)
    transcript = f"/v1/transcripts/{api.get(f'/v1/jobs/{job_id}').json()['transcript_id']}"
    patch = {"json": {"text": "𝄞😀 Eva"}, "headers": {"If-Match": '"1"'}}
    api.request("PATCH", f"{transcript}/segments/s0002", **patch)
    path = f"/v1/handoffs/{claim(api, token)['id']}/complete"
    eva = {"segment": "s0002", "start": 3, "end": 6, "label": "PERSON"}
    utf16 = {**eva, "start": 5, "end": 8}

    refused = api.post(path, json={"fence": 1, "occurrences": [utf16]}, token=token)
    assert codes(refused) == (422, "bad_occurrence")
    assert api.post(path, json={"fence": 1, "occurrences": [eva]}, token=token).status_code == 200


def test_a_failed_hand_off_can_be_opened_again(api, study, token):
    job_id = offer(api, study)
    handoff = f"/v1/handoffs/{claim(api, token)['id']}"
    researcher = api.token("researcher", study)
    early = api.post(f"{handoff}/reopen", token=researcher)
    api.post(f"{handoff}/fail", json={"fence": 1, "code": "model_missing"}, token=token)
    answers = [api.post(f"{handoff}/reopen", token=researcher) for _ in range(2)]

    assert codes(early) == (409, "handoff_not_failed")
    assert [answer.json()["status"] for answer in answers] == ["open", "open"]
    assert answers[0].json()["failure_code"] is None
    assert claim(api, token)["fence"] == 2
    late = api.post(f"{handoff}/fail", json={"fence": 1, "code": "model_missing"}, token=token)
    assert codes(late) == (409, "handoff_taken")
    assert api.request("DELETE", f"/v1/jobs/{job_id}").status_code == 200
    assert codes(api.post(f"{handoff}/reopen", token=researcher)) == (410, "erased")


def test_only_researchers_and_admins_open_a_hand_off_again(api, study, token):
    offer(api, study)
    path = f"/v1/handoffs/{claim(api, token)['id']}/reopen"
    for role in ("deidentifier", "coder", "custodian", "worker"):
        assert api.post(path, token=api.token(role, study)).status_code == 403, role
    stranger = api.token("researcher", api.study()["id"])
    assert codes(api.post(path, token=stranger)) == (404, "handoff_not_found")


def test_a_hand_off_is_claimed_by_study(api, study):
    other = api.study()
    both = api.token("deidentifier", study, other["id"])
    offer(api, study)
    offered = offer(api, other["id"])

    for name in (other["id"], other["code"]):
        answer = api.post(f"{CLAIM}?study={name}", token=both)
        if name == other["id"]:
            assert answer.json()["study_id"] == other["id"]
        else:
            assert answer.status_code == 204
    assert claim(api, both)["study_id"] == study
    unknown = api.post(f"{CLAIM}?study=NONE", token=both)
    assert codes(unknown) == (404, "study_not_found")
    assert offered


def test_hand_offs_are_listed_newest_first_without_content(api, study, token):
    for _ in range(3):
        offer(api, study)
    page = api.get("/v1/handoffs?limit=2", token=token).json()
    rest = api.get(f"/v1/handoffs?limit=2&cursor={page['next_cursor']}", token=token)

    assert len(page["items"]) == 2 and len(rest.json()["items"]) == 1
    assert rest.json()["next_cursor"] is None
    assert "Muster" not in rest.text
    assert api.get("/v1/handoffs?status=completed", token=token).json()["items"] == []
    assert codes(api.get("/v1/handoffs?cursor=x")) == (422, "bad_cursor")


ROUTES = [
    ("/v1/handoffs/claim", None),
    ("/v1/handoffs/{id}/heartbeat", {"fence": 1}),
    ("/v1/handoffs/{id}/complete", {"fence": 1, "occurrences": []}),
    ("/v1/handoffs/{id}/fail", {"fence": 1, "code": "timed_out"}),
]


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_only_a_deidentifier_can_claim(api, study, token, path, body):
    offer(api, study)
    path = path.format(id=claim(api, token)["id"])

    assert api.client.post(path, json=body).status_code == 401
    for role in ("researcher", "coder", "custodian", "admin", "worker"):
        assert api.post(path, json=body, token=api.token(role, study)).status_code == 403, role


def test_only_researchers_and_deidentifiers_can_list(api, study):
    assert api.client.get("/v1/handoffs").status_code == 401
    for role in ("coder", "custodian", "worker"):
        assert api.get("/v1/handoffs", token=api.token(role, study)).status_code == 403
    assert api.get("/v1/handoffs", token=api.token("researcher", study)).status_code == 200


def test_hand_offs_of_other_studies_are_neither_claimed_nor_listed(api, study, token):
    offer(api, study)
    claimed = claim(api, token)
    expire_lease(api, claimed["id"])
    stranger = api.token("deidentifier", api.study()["id"])

    assert api.post(CLAIM, token=stranger).status_code == 204
    assert api.get("/v1/handoffs", token=stranger).json()["items"] == []
    for id in (claimed["id"], uuid4()):
        answer = api.post(f"/v1/handoffs/{id}/heartbeat", json={"fence": 1}, token=stranger)
        assert codes(answer) == (404, "handoff_not_found")
