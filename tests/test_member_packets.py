"""Member checking: what a participant gets to read, who gets in, and what becomes of proposals."""

import io
import zipfile
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from service.api.limits import Bucket
from service.database import tables
from service.database.tables import AuditEntry, Correction, Job, MemberPacket, StoredTranscript
from service.domain.erasure import delete_job
from tests.api import Api, open_api
from tests.deidentified import INTERVIEW, Case, accept_all, open_case, suggest

CONSENT = ",2.1,2031-01-07,recording;transcription;recontact\n"
HEADER = "code,sessions,consent_version,consent_date,consent_scopes\n"
NAMES = ("Siobhan", "Gallagher", "Tomasz", "Riverbend")


@pytest.fixture(scope="module")
def api(module_settings: Any) -> Any:
    with open_api(module_settings) as api:
        yield api


def prepare(api: Api, *codes: str, consent: str = CONSENT, reviewed: bool = True) -> Case:
    """A transcript of INTERVIEW in a session with these participants, named by code."""
    case = open_case(api.services)
    suggest(case)
    if reviewed:
        accept_all(case)
    with api.services.sessionmaker.begin() as session:
        interview = tables.Session(study_id=case.study_id, code="INT-01", roster=[])
        session.add(interview)
        session.flush()
        session.execute(update(Job).where(Job.id == case.job_id).values(session_id=interview.id))
    lines = "".join(f"{code},INT-01{consent}" for code in codes)
    path = f"/v1/studies/{case.study_id}/participants/import"
    loaded = api.post(path, json={"csv": HEADER + lines})
    assert loaded.status_code == 200, loaded.text
    named = api.request(
        "PUT",
        f"/v1/transcripts/{case.transcript_id}/speakers",
        json={
            "SPEAKER_00": {"code": "I1", "role": "interviewer"},
            "SPEAKER_01": {"code": "P07", "role": "participant"},
        },
    )
    assert named.status_code == 200, named.text
    return case


def participant(api: Api, case: Case, code: str = "P07") -> str:
    listed = api.get(f"/v1/studies/{case.study_id}/participants").json()["items"]
    id: str = next(each["id"] for each in listed if each["code"] == code)
    return id


def make(api: Api, case: Case, code: str = "P07", **body: Any) -> Any:
    path = f"/v1/participants/{participant(api, case, code)}/packets"
    return api.post(path, json={"transcript_id": str(case.transcript_id), **body})


def secret_of(made: Any) -> str:
    assert made.status_code == 201, made.text
    secret: str = made.json()["link"].partition("#")[2]
    return secret


def read(api: Api, secret: str) -> Any:
    return api.client.post("/v1/packet/open", json={"link": secret})


def answer(api: Api, secret: str, *changes: tuple[str, str], comment: str | None = None) -> Any:
    body = {"link": secret, "comment": comment}
    listed = [{"segment": segment, "text": text} for segment, text in changes]
    return api.client.post("/v1/packet/answer", json={**body, "changes": listed})


def test_a_participant_reads_their_interview_with_codes_or_as_it_was_said(api: Api) -> None:
    case = prepare(api, "P07")

    coded = read(api, secret_of(make(api, case))).json()
    plain = read(api, secret_of(make(api, case, wording="own_words"))).json()

    text = " ".join(each["text"] for each in coded["passages"])
    assert "My name is P07" in text
    assert not any(name in text for name in NAMES)
    assert [each["text"] for each in plain["passages"]] == [said for _, said in INTERVIEW]
    assert [each["is_own"] for each in plain["passages"]] == [
        speaker == "SPEAKER_01" for speaker, _ in INTERVIEW
    ]


def test_of_a_group_somebody_reads_their_own_turns_with_codes_only(api: Api) -> None:
    case = prepare(api, "P07", "P08")

    refused = make(api, case, wording="own_words")
    coded = read(api, secret_of(make(api, case))).json()

    assert refused.json()["code"] == "packet_not_possible"
    assert "Others took part" in refused.json()["detail"]
    assert {each["is_own"] for each in coded["passages"]} == {True, False}
    assert not any(name in str(coded) for name in NAMES)
    nobody = make(api, case, "P08")
    assert "name its speakers" in nobody.json()["detail"]


@pytest.mark.parametrize(
    ("consent", "reviewed", "code"),
    [
        (",2.1,2031-01-07,recording;transcription\n", True, "consent_missing"),
        (CONSENT, False, "review_open"),
    ],
)
def test_a_packet_needs_consent_and_a_finished_review(
    api: Api, consent: str, reviewed: bool, code: str
) -> None:
    case = prepare(api, "P07", consent=consent, reviewed=reviewed)

    assert make(api, case).json()["code"] == code


def test_a_wrong_an_expired_and_a_revoked_link_open_nothing(api: Api) -> None:
    case = prepare(api, "P07")
    made = make(api, case)
    secret = secret_of(made)
    other = make(api, case)
    assert read(api, "x" * 43).json()["code"] == "packet_unusable"
    assert read(api, secret).status_code == 200

    with api.services.sessionmaker.begin() as session:
        row = session.get_one(MemberPacket, made.json()["packet"]["id"])
        row.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    assert read(api, secret).json()["code"] == "packet_unusable"
    assert answer(api, secret, ("s0002", "x")).json()["code"] == "packet_unusable"
    id = other.json()["packet"]["id"]
    assert api.request("DELETE", f"/v1/packets/{id}").status_code == 204
    assert read(api, secret_of(other)).json()["code"] == "packet_unusable"


def test_guessing_links_is_slowed_down(api: Api) -> None:
    answers = [read(api, f"guess-{n}").status_code for n in range(40)]

    assert 429 in answers
    api.app.state.limits.bad_tokens = Bucket(rate=1e6, burst=10**9)


def test_the_secret_is_not_stored(api: Api) -> None:
    case = prepare(api, "P07")
    secret = secret_of(make(api, case))

    with api.services.sessionmaker() as session:
        rows = session.execute(tables.MemberPacket.__table__.select()).all()
    assert secret not in str(rows)


def test_a_change_is_accepted_as_a_correction_that_names_the_packet(api: Api) -> None:
    case = prepare(api, "P07")
    made = make(api, case, wording="own_words")
    secret, id = secret_of(made), made.json()["packet"]["id"]
    markup = "<script>alert(1)</script> I live elsewhere."

    assert answer(api, secret, ("s0002", markup), ("s0004", "He did."), comment="Hm.").is_success
    proposed = api.get(f"/v1/packets/{id}/answer").json()
    accepted = api.post(f"/v1/packets/{id}/decisions", json={"segment": "s0002", "accept": True})
    declined = api.post(f"/v1/packets/{id}/decisions", json={"segment": "s0004", "accept": False})
    again = api.post(f"/v1/packets/{id}/decisions", json={"segment": "s0002", "accept": False})

    assert [each["after"] for each in proposed["items"]] == [markup, "He did."]
    assert proposed["comment"] == "Hm."
    version = accepted.json()["decided"]["s0002"]["version"]
    assert declined.json()["decided"]["s0004"] == {"state": "declined", "version": None}
    assert again.json()["code"] == "proposal_not_found"
    document = api.get(f"/v1/transcripts/{case.transcript_id}").json()
    assert document["version"] == version
    said = {each["id"]: each["text"] for each in document["segments"]}
    assert said["s0002"] == markup
    assert said["s0004"] == INTERVIEW[3][1]
    versions = api.get(f"/v1/transcripts/{case.transcript_id}/versions").json()["items"]
    assert [each["packet_id"] for each in versions if each["version"] == version] == [id]
    assert answer(api, secret, ("s0002", "no")).json()["code"] == "packet_unusable"


def test_of_a_text_with_codes_the_researcher_writes_the_new_text(api: Api) -> None:
    case = prepare(api, "P07")
    made = make(api, case)
    id = made.json()["packet"]["id"]
    answer(api, secret_of(made), ("s0002", "My name is P07."))
    body = {"segment": "s0002", "accept": True}

    refused = api.post(f"/v1/packets/{id}/decisions", json=body)
    text = "My name is Siobhan Gallagher."
    accepted = api.post(f"/v1/packets/{id}/decisions", json={**body, "text": text})

    assert refused.json()["code"] == "packet_not_possible"
    assert accepted.json()["decided"]["s0002"]["state"] == "accepted"


def test_only_own_words_can_be_changed(api: Api) -> None:
    case = prepare(api, "P07")
    secret = secret_of(make(api, case))

    for segment in ("s0001", "s0099"):
        refused = answer(api, secret, (segment, "I never asked."))
        assert refused.json()["code"] == "packet_not_possible"


def test_a_change_that_the_transcript_has_overtaken_is_refused(api: Api) -> None:
    case = prepare(api, "P07")
    made = make(api, case, wording="own_words")
    id = made.json()["packet"]["id"]
    answer(api, secret_of(made), ("s0002", "Mine."))
    with api.services.sessionmaker() as session:
        version = session.get_one(StoredTranscript, case.transcript_id).version
    path = f"/v1/transcripts/{case.transcript_id}/segments/s0002"
    headers = {"If-Match": f'"{version}"'}
    assert api.request("PATCH", path, json={"text": "Yours."}, headers=headers).is_success

    refused = api.post(f"/v1/packets/{id}/decisions", json={"segment": "s0002", "accept": True})

    assert refused.json()["code"] == "segment_changed"
    with api.services.sessionmaker() as session:
        assert session.get_one(MemberPacket, id).decided == {}


def test_a_summary_is_checked_and_a_document_is_written(api: Api) -> None:
    case = prepare(api, "P07")
    made = make(api, case, summary="You talked about your work.")
    id = made.json()["packet"]["id"]

    opened = read(api, secret_of(made)).json()
    document = api.get(f"/v1/packets/{id}/docx").content

    assert (opened["passages"], opened["summary"]) == ([], "You talked about your work.")
    with zipfile.ZipFile(io.BytesIO(document)) as archive:
        assert b"You talked about your work." in archive.read("word/document.xml")


def test_erasing_the_job_erases_its_packets(api: Api) -> None:
    case = prepare(api, "P07")
    made = make(api, case)
    secret, id = secret_of(made), made.json()["packet"]["id"]
    answer(api, secret, ("s0002", "Mine."))
    with api.services.sessionmaker.begin() as session:
        delete_job(session, api.services, case.caller, case.job_id, force=True)

    assert read(api, secret).json()["code"] == "packet_unusable"
    assert api.get(f"/v1/packets/{id}/answer").json()["code"] == "erased"
    with api.services.sessionmaker() as session:
        row = session.get_one(MemberPacket, id)
        assert (row.artefact_id, row.answer_artefact_id) == (None, None)


def test_each_step_is_in_the_audit_trail_without_text(api: Api) -> None:
    case = prepare(api, "P07")
    made = make(api, case, wording="own_words")
    secret, id = secret_of(made), made.json()["packet"]["id"]
    read(api, secret)
    answer(api, secret, ("s0002", "Mine entirely."))
    api.get(f"/v1/packets/{id}/docx")
    api.get(f"/v1/packets/{id}/answer")
    api.post(f"/v1/packets/{id}/decisions", json={"segment": "s0002", "accept": True})
    api.request("DELETE", f"/v1/packets/{id}")

    with api.services.sessionmaker() as session:
        query = select(AuditEntry).where(AuditEntry.study_id == case.study_id)
        entries = session.scalars(query.order_by(AuditEntry.position)).all()
        corrected = session.scalars(select(Correction).where(Correction.packet_id == id)).all()
    actions = [each.action for each in entries if each.action.startswith("packet.")]
    steps = ("created", "opened", "answered", "read", "read", "decided", "revoked")
    assert actions == [f"packet.{step}" for step in steps]
    assert len(corrected) == 1
    assert "entirely" not in str([(each.objects, each.detail) for each in entries])


def test_what_a_participant_was_sent_is_on_the_recall_list_of_a_withdrawal(api: Api) -> None:
    case = prepare(api, "P07")
    secret = secret_of(make(api, case))
    read(api, secret)
    study = api.get(f"/v1/studies/{case.study_id}").json()["code"]

    shown = api.get(f"/v1/studies/{study}/withdrawal-preview?participant=P07").json()

    assert "transcript sent to the participant" in str(shown)
    assert "transcript opened by the participant" in str(shown)
