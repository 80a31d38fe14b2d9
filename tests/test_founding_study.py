"""The promises of the founding study's ethics paragraph, each with a test named after it.

The study of mental-health peer work recorded 25 interviews and a focus group of six. These tests
keep to what it promised; others test each part in depth.
"""

import io
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pyzipper
from sqlalchemy import delete, select, update

from service.database import tables
from service.database.tables import AuditEntry, Job, Recording
from service.vault import ArtefactClass
from tests.api import Api, open_api
from tests.deidentified import Case, accept_all, open_case, suggest
from tests.withdrawing import open_group, places_of

NAMES = ("Siobhan", "Gallagher", "Coffs Harbour", "Riverbend", "Tomasz")
HEADER = "code,sessions,consent_version,consent_date,consent_scopes\n"


@pytest.fixture(scope="module")
def api(module_settings: Any) -> Any:
    with open_api(module_settings) as api:
        yield api


def interview(api: Api, scopes: str | None = "all", *, codes: tuple[str, ...] = ("P07",)) -> Case:
    """A reviewed interview; `scopes`: what its participants consent to, None for no record."""
    case = open_case(api.services)
    suggest(case)
    accept_all(case)
    with api.services.sessionmaker.begin() as session:
        row = tables.Session(study_id=case.study_id, code="INT-07", roster=[])
        session.add(row)
        session.flush()
        session.execute(update(Job).where(Job.id == case.job_id).values(session_id=row.id))
        recordings = update(Recording).where(Recording.study_id == case.study_id)
        session.execute(recordings.values(session_id=row.id, position=0))
    given = "" if scopes is None else f"2.1,2031-01-07,{scopes}"
    lines = "".join(f"{code},INT-07,{given or ',,'}\n" for code in codes)
    path = f"/v1/studies/{case.study_id}/participants/import"
    loaded = api.post(path, json={"csv": HEADER + lines})
    assert loaded.status_code == 200, loaded.text
    names = {"SPEAKER_01": {"code": "P07", "role": "participant"}}
    named = api.request("PUT", f"/v1/transcripts/{case.transcript_id}/speakers", json=names)
    assert named.status_code == 200, named.text
    return case


def rerun(api: Api, case: Case) -> Any:
    return api.post(f"/v1/jobs/{case.job_id}/rerun", json={"from": "attribute"})


def release(api: Api, case: Case, context: str = "team") -> Any:
    path = f"/v1/transcripts/{case.transcript_id}/releases"
    return api.post(path, json={"context": context})


def test_informed_written_consent_was_obtained(api: Api) -> None:
    """No consent on record, with the version of the information sheet: nothing is used."""
    case = interview(api, None)

    assert rerun(api, case).json()["code"] == "consent_missing"
    assert release(api, case).json()["code"] == "consent_missing"
    participant = api.get(f"/v1/studies/{case.study_id}/participants").json()["items"][0]
    consent = {"sheet_version": "2.1", "given_on": "2031-01-07", "scopes": ["transcription"]}
    path = f"/v1/participants/{participant['id']}/consents"
    assert api.post(path, json=consent).json()["consents"][0]["sheet_version"] == "2.1"
    assert release(api, case).status_code == 201


def test_interviews_were_audio_taped_with_the_participants_consent(api: Api) -> None:
    case = interview(api, "transcription;quotation;sharing")

    refused = rerun(api, case)

    assert refused.json()["code"] == "consent_missing"
    assert "P07 in INT-07 has not consented to being recorded" in refused.json()["detail"]


def test_the_study_was_approved_by_ethics_committees(api: Api) -> None:
    case = interview(api)
    today = datetime.now(UTC).date()
    approval = {"committee": "A committee", "number": "15/044", "site": "Site A"}
    ended = {"valid_from": "2031-01-01" if today.year > 2031 else "2020-01-01"}
    until = (today - timedelta(days=1)).isoformat()
    path = f"/v1/studies/{case.study_id}/approvals"
    api.post(path, json={**approval, **ended, "valid_until": until})

    announced = api.post(
        f"/v1/uploads?study={case.study_id}&session=INT-07", headers={"Upload-Length": "9"}
    )
    assert announced.json()["code"] == "approval_missing"
    assert until in announced.json()["detail"]
    api.post(path, json={**approval, "site": "Site B", "valid_from": today.isoformat()})
    announced = api.post(
        f"/v1/uploads?study={case.study_id}&session=INT-07", headers={"Upload-Length": "9"}
    )
    assert announced.status_code == 201


def test_identifying_information_was_removed_or_replaced_with_codes_including_pseudonyms(
    api: Api,
) -> None:
    case = interview(api)
    made = release(api, case).json()

    text = api.get(f"/v1/releases/{made['id']}/files/txt").text

    assert "My name is P07" in text
    assert "[PLACE-" in text and "[ORG-" in text
    assert "[PHONE]" in text
    assert not any(name.casefold() in text.casefold() for name in NAMES)


def test_coded_transcripts_were_stored_separately_to_identified_material(api: Api) -> None:
    case = interview(api)
    made = release(api, case).json()
    vault = api.services.vault
    identified, coded = (
        vault.stores[name] for name in (ArtefactClass.IDENTIFIED, ArtefactClass.DEIDENTIFIED)
    )

    with api.services.sessionmaker() as session:
        files = select(tables.ReleaseFile.artefact_id).where(
            tables.ReleaseFile.release_id == made["id"]
        )
        ids = session.scalars(files).all()
    assert ids
    assert all(id in coded and id not in identified for id in ids)
    assert identified.folder != coded.folder
    coder = api.token("coder", str(case.study_id))
    assert api.get(f"/v1/releases/{made['id']}/files/txt", token=coder).status_code == 200
    assert api.get(f"/v1/transcripts/{case.transcript_id}", token=coder).status_code == 403


def test_coded_transcripts_leave_in_locked_password_protected_files(api: Api) -> None:
    case = interview(api)
    release(api, case)
    body = {"formats": ["txt"], "password": "correct horse battery"}

    content = api.post(f"/v1/studies/{case.study_id}/release-archive", json=body).content

    with pyzipper.AESZipFile(io.BytesIO(content)) as archive:
        (name,) = archive.namelist()
        with pytest.raises(RuntimeError, match="password"):
            archive.read(name)
        archive.setpassword(b"correct horse battery")
        assert b"P07" in archive.read(name)


def test_everything_at_rest_is_encrypted(api: Api) -> None:
    case = interview(api)
    release(api, case)

    for path in api.services.settings.vault.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(name.encode() in content for name in NAMES)


def test_services_and_participants_stay_confidential(api: Api) -> None:
    """Everybody who reads identified text is on record; a coder and an admin read none."""
    case = interview(api)
    path = f"/v1/transcripts/{case.transcript_id}"

    assert api.get(path).status_code == 200
    for role in ("coder", "listener", "admin"):
        assert api.get(path, token=api.token(role, str(case.study_id))).status_code == 403
    with api.services.sessionmaker() as session:
        query = select(AuditEntry).where(
            AuditEntry.action == "transcript.read",
            AuditEntry.objects["transcript"].astext == str(case.transcript_id),
        )
        entries = session.scalars(query).all()
    assert [entry.role for entry in entries] == ["owner"]


def test_transcripts_are_coded_line_by_line(api: Api) -> None:
    case = interview(api)
    made = release(api, case).json()

    lines = api.get(f"/v1/releases/{made['id']}/files/lines-csv").text.splitlines()

    numbers = [line.split(",")[0] for line in lines[1:]]
    assert numbers[:3] == ["1", "2", "3"]


def test_results_were_checked_by_four_participants(api: Api) -> None:
    codes = ("P07", "P08", "P09", "P10")
    case = interview(api, codes=codes)
    listed = api.get(f"/v1/studies/{case.study_id}/participants").json()["items"]

    links = []
    for participant in listed:
        body = {"transcript_id": str(case.transcript_id), "summary": "What we found."}
        made = api.post(f"/v1/participants/{participant['id']}/packets", json=body)
        assert made.status_code == 201, made.text
        links.append(made.json()["link"].partition("#")[2])

    assert len(set(links)) == 4
    for link in links:
        opened = api.client.post("/v1/packet/open", json={"link": link}).json()
        assert opened["summary"] == "What we found."
        answer = {"link": link, "comment": "I agree."}
        assert api.client.post("/v1/packet/answer", json=answer).status_code == 204


@pytest.mark.parametrize("stage", ["transcribed", "reviewed", "released"])
def test_participants_could_withdraw_without_penalty_at_any_stage(api: Api, stage: str) -> None:
    """Without a reason; what they said is gone, and the others' words stay."""
    study = open_group(api.services, mention=False)
    if stage == "transcribed":
        with api.services.sessionmaker.begin() as session:
            session.execute(delete(tables.Mention))
    path = f"/v1/studies/{study.study}/withdrawals"
    body = {"participant": "P07", "scope": "data", "confirmation": "P07"}

    asked = api.post(path, json=body)

    assert asked.status_code == 202, asked.text
    end = time.monotonic() + 60
    while (done := api.get(f"/v1/withdrawals/{asked.json()['id']}").json())["state"] != "finished":
        assert time.monotonic() < end, done
        time.sleep(0.1)
    assert places_of(study, study.words["P07"]) == []
    assert places_of(study, study.words["P05"]) != []
    assert done["certificate_id"] is not None
