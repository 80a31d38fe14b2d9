"""Participants, their consents, approvals, and what is refused without them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from models.deidentification.participants import SCOPES, parse_participants, small_cells
from models.errors import BadParticipants
from scripts.stand_in.jobs import make_job, make_token
from service.commands.main import app
from service.database import tables
from service.database.tables import AuditEntry, Job, Participant
from service.domain import job_state
from service.domain.callers import Caller
from service.domain.entities import find_entity
from service.domain.entity_changes import erase_entity
from service.domain.erasure import erase_study
from tests.api import Api, connect_commands, open_api
from tests.deidentified import Case, accept_all, open_case, suggest

HEADER = "code,name,aliases,contact,sessions,consent_version,consent_date,consent_scopes,role\n"
NAME, CONTACT, VALUE = "Quirina Zabolotny", "quirina@example.org", "beekeeper-xq"
TODAY = datetime.now(UTC).date()


@pytest.fixture(scope="module")
def api(module_settings: Any) -> Any:
    with open_api(module_settings) as api:
        yield api


def study_with(api: Api, *sessions: str, attributes: Any = ("role",)) -> dict[str, Any]:
    study = api.study()
    changed = api.request(
        "PATCH", f"/v1/studies/{study['code']}", json={"attributes": list(attributes)}
    )
    assert changed.status_code == 200, changed.text
    for code in sessions:
        made = api.post("/v1/sessions", json={"study": study["code"], "code": code})
        assert made.status_code == 201, made.text
    return study


def load(api: Api, study: dict[str, Any], lines: str) -> Any:
    path = f"/v1/studies/{study['code']}/participants/import"
    return api.post(path, json={"csv": HEADER + lines})


def line(code: str = "P07", sessions: str = "INT-01", scopes: str = "all") -> str:
    return f"{code},{NAME} {code},,{CONTACT},{sessions},2.1,2031-01-07,{scopes},{VALUE}\n"


def test_a_list_makes_participants_rosters_and_consents_and_changes_nothing_twice(
    api: Api,
) -> None:
    study = study_with(api, "INT-01", "FG-1")

    first = load(api, study, line("P07", "INT-01;FG-1") + line("P08", "FG-1", "recording"))
    second = load(api, study, line("P07", "INT-01;FG-1") + line("P08", "FG-1", "recording"))

    assert first.json() | {"small_cells": []} == {
        **{"created": 2, "updated": 0, "unchanged": 0, "consents": 2},
        "small_cells": [],
    }
    assert first.json()["small_cells"] == [{"attributes": {"role": VALUE}, "n": 2}]
    assert second.json() | {"small_cells": []} == {
        **{"created": 0, "updated": 0, "unchanged": 2, "consents": 0},
        "small_cells": [],
    }
    listed = api.get(f"/v1/studies/{study['code']}/participants").json()["items"]
    assert [(each["code"], each["sessions"]) for each in listed] == [
        ("P07", ["FG-1", "INT-01"]),
        ("P08", ["FG-1"]),
    ]
    assert listed[0]["consents"][0]["scopes"] == list(SCOPES)
    assert listed[1]["consents"][0]["scopes"] == ["recording"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("7,x,,,,,,,\n", "must look like P07"),
        ("P07,x,,,INT-99,,,,\n", "names a session that the study does not have"),
        ("P07,x,,,,2.1,,,\n", "a consent needs"),
        ("P07,x,,,,2.1,2031-13-01,all,\n", "write the date as"),
        ("P07,x,,,,2.1,2031-01-01,everything,\n", "the scopes are"),
        ("P07,x,,,,,,,\nP07,y,,,,,,,\n", "P07 is in the list twice"),
        (f"P07,x,,{'y' * 300},,,,,\n", "longer than 200 characters"),
    ],
)
def test_a_list_with_a_fault_changes_nothing(api: Api, lines: str, said: str) -> None:
    study = study_with(api, "INT-01")

    refused = load(api, study, "P01,a,,,INT-01,,,,\n" + lines)

    assert refused.status_code == 422
    assert said in refused.json()["detail"]
    assert api.get(f"/v1/studies/{study['code']}/participants").json()["items"] == []


def test_an_unknown_column_is_named_by_its_number() -> None:
    with pytest.raises(BadParticipants, match="Column 2 of the list is unknown"):
        parse_participants("code,salary\nP07,1\n", ["role"])


def test_small_cells_are_combinations_that_add_something() -> None:
    people = [{"role": "nurse", "sector": "town"}] * 6 + [{"role": "nurse", "sector": "island"}]

    assert [(dict(cell.values), cell.n) for cell in small_cells(people)] == [
        ({"sector": "island"}, 1)
    ]
    people = [{"role": role, "sector": sector} for role in "ab" for sector in "cd"] * 3
    people = [each for each in people if each != {"role": "a", "sector": "c"}]
    people += [{"role": "a", "sector": "c"}, {"role": "a", "sector": "d"}] * 2
    people += [{"role": "b", "sector": "c"}] * 3
    cells = [dict(cell.values) for cell in small_cells(people)]
    assert {"role": "a", "sector": "c"} in cells
    assert {"role": "a"} not in cells


def test_names_contacts_and_attributes_are_in_the_vault_only(api: Api) -> None:
    study = study_with(api, "INT-01")
    load(api, study, line())

    with api.services.sessionmaker() as session:
        for table in tables.Table.metadata.sorted_tables:
            dumped = session.execute(text(f'SELECT t::text FROM "{table.name}" t')).scalars()
            for row in dumped:
                assert not any(each in row for each in (NAME, CONTACT, VALUE)), table.name
    for path in api.services.settings.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(each.encode() in content for each in (NAME, CONTACT, VALUE)), path


def test_a_look_up_answers_with_names_and_is_recorded(api: Api) -> None:
    study = study_with(api, "INT-01")
    load(api, study, line())
    path = f"/v1/studies/{study['code']}/participants/look-up"

    found = api.post(path, json={"codes": ["P07"], "reason": "member_checking"}).json()

    assert found["items"] == [
        {
            "code": "P07",
            "names": [f"{NAME} P07"],
            "contacts": [CONTACT],
            "attributes": {"role": VALUE},
        }
    ]
    seen = api.get(f"/v1/studies/{study['code']}/look-ups").json()["items"]
    assert seen[0]["reason"] == "member_checking"


def test_a_participant_changes_by_version(api: Api) -> None:
    study = study_with(api, "INT-01")
    load(api, study, line())
    row = api.get(f"/v1/studies/{study['code']}/participants").json()["items"][0]
    path = f"/v1/participants/{row['id']}"
    body = {"attributes": {"role": "carer"}}

    assert api.request("PATCH", path, json=body).status_code == 428
    changed = api.request("PATCH", path, json=body, headers={"If-Match": '"1"'})
    again = api.request("PATCH", path, json=body, headers={"If-Match": '"1"'})

    assert changed.json()["version"] == 2
    assert again.json()["code"] == "participant_changed"
    unknown = {"attributes": {"salary": "1"}}
    refused = api.request("PATCH", path, json=unknown, headers={"If-Match": '"2"'})
    assert refused.json()["code"] == "bad_participants"


def test_erasing_the_entity_or_the_study_erases_the_record(api: Api) -> None:
    study = study_with(api, "INT-01")
    load(api, study, line())
    services = api.services
    with services.sessionmaker.begin() as session:
        row = session.scalars(select(Participant).where(Participant.study_id == study["id"])).one()
        artefact_id = row.record_artefact_id
        owner = api_caller(api)
        erase_entity(session, services, find_entity(session, owner, row.entity_id))
    with services.sessionmaker() as session:
        erased = session.get_one(Participant, row.id)
        assert erased.erased_at is not None
        assert erased.record_artefact_id is None
    assert artefact_id is not None
    assert not any(artefact_id in store for store in services.vault.stores.values())
    assert load(api, study, line()).json()["code"] == "participant_exists"
    other = study_with(api, "INT-01")
    load(api, other, line())
    erase_study(services, api_caller(api), other["code"])
    with services.sessionmaker() as session:
        rows = session.scalars(select(Participant).where(Participant.study_id == other["id"]))
        assert [(each.erased_at is None, each.record_artefact_id) for each in rows] == [
            (False, None)
        ]


def api_caller(api: Api) -> Any:
    return Caller(make_token(api.services), "owner", True, frozenset())


# --- the rules ------------------------------------------------------------------------------------


def ready(api: Api, scopes: str = "all", roster: bool = True) -> tuple[Case, str]:
    """A reviewed interview of P07, and its session's code."""
    case = open_case(api.services)
    suggest(case)
    accept_all(case)
    with api.services.sessionmaker.begin() as session:
        interview = tables.Session(study_id=case.study_id, code="INT-01", roster=[])
        session.add(interview)
        session.flush()
        session.execute(update(Job).where(Job.id == case.job_id).values(session_id=interview.id))
    sessions = "INT-01" if roster else ""
    entry = f"P07,,,,{sessions},2.1,2031-01-07,{scopes}" if scopes else f"P07,,,,{sessions},,,"
    path = f"/v1/studies/{case.study_id}/participants/import"
    header = HEADER.replace(",role", "")
    loaded = api.post(path, json={"csv": f"{header}{entry}\n"})
    assert loaded.status_code == 200, loaded.text
    return case, "INT-01"


def release(api: Api, case: Case, context: str) -> Any:
    path = f"/v1/transcripts/{case.transcript_id}/releases"
    return api.post(path, json={"context": context})


@pytest.mark.parametrize(
    ("scopes", "context", "status"),
    [
        ("all", "repository", 201),
        ("recording;transcription", "team", 201),
        ("recording;transcription", "publication", 409),
        ("recording;transcription;quotation", "publication", 201),
        ("recording;transcription;quotation", "repository", 409),
        ("recording;transcription", "member_checking", 409),
        ("recording;transcription;recontact", "member_checking", 201),
        ("", "team", 409),
    ],
)
def test_a_release_outside_the_consent_is_refused(
    api: Api, scopes: str, context: str, status: int
) -> None:
    case, _ = ready(api, scopes)

    answer = release(api, case, context)

    assert answer.status_code == status, answer.text
    if status == 409:
        assert answer.json()["code"] == "consent_missing"
        assert "P07 in INT-01 has not consented" in answer.json()["detail"]


def test_a_session_in_which_nobody_is_named_is_refused(api: Api) -> None:
    case, _ = ready(api, roster=False)

    assert "nobody says who took part" in release(api, case, "team").json()["detail"].lower()


def test_a_study_without_participants_is_not_checked(api: Api) -> None:
    case = open_case(api.services)
    suggest(case)
    accept_all(case)

    assert release(api, case, "repository").status_code == 201


def test_an_identified_transcript_needs_consent_to_transcription(api: Api) -> None:
    case, _ = ready(api, "recording")

    answer = api.get(f"/v1/transcripts/{case.transcript_id}?format=txt")

    assert answer.json()["code"] == "consent_missing"


def test_a_rule_that_only_warns_is_recorded(api: Api) -> None:
    case, _ = ready(api, "recording")
    path = f"/v1/studies/{case.study_id}"

    changed = api.request("PATCH", path, json={"consent_warnings": ["export"]})
    allowed = api.get(f"/v1/transcripts/{case.transcript_id}?format=txt")

    assert changed.json()["consent_warnings"] == ["export"]
    assert allowed.status_code == 200
    assert release(api, case, "team").status_code == 409
    with api.services.sessionmaker() as session:
        query = select(AuditEntry).where(AuditEntry.study_id == case.study_id)
        entries = session.scalars(query.order_by(AuditEntry.position)).all()
    details = [(each.action, each.detail) for each in entries if each.action.startswith("consent")]
    assert ("consent.rule_changed", {"only_warn": ["export"]}) in details
    assert ("consent.overridden", {"rule": "export", "sessions": ["INT-01"]}) in details


def upload(api: Api, study: dict[str, Any], session: str | None = None) -> Any:
    query = f"?study={study['code']}" + (f"&session={session}" if session else "")
    return api.post(f"/v1/uploads{query}", headers={"Upload-Length": "10"})


def test_an_approval_that_has_run_out_refuses_uploads_before_they_begin(api: Api) -> None:
    study = study_with(api, "INT-01")
    assert upload(api, study).status_code == 201
    path = f"/v1/studies/{study['code']}/approvals"
    approval = {"committee": "HREC", "number": "2031/044", "valid_from": "2020-01-01"}

    past = (TODAY - timedelta(days=1)).isoformat()
    api.post(path, json={**approval, "valid_until": past})
    refused = upload(api, study)

    assert refused.json()["code"] == "approval_missing"
    assert past in refused.json()["detail"]
    renewed = api.post(path, json={**approval, "valid_until": TODAY.isoformat()}).json()
    assert upload(api, study).status_code == 201
    assert api.request("DELETE", f"/v1/approvals/{renewed['id']}").status_code == 204
    assert upload(api, study).status_code == 409
    listed = api.get(path).json()["items"]
    assert [each["valid_until"] for each in listed] == [past]


def test_a_job_of_somebody_who_has_not_consented_is_refused(api: Api) -> None:
    study = study_with(api, "INT-01")
    load(api, study, line(scopes="transcription"))
    with api.services.sessionmaker.begin() as session:
        found = session.scalars(
            select(tables.Session).where(tables.Session.study_id == study["id"])
        ).one()
        job_id = make_job(api.services, found.study_id)
        recording = session.scalars(
            select(tables.Recording).where(tables.Recording.study_id == study["id"])
        ).one()
        recording.session_id, recording.position = found.id, 0

    refused = api.post("/v1/jobs", json={"study": study["code"], "session": "INT-01"})
    assert refused.json()["code"] == "consent_missing", refused.text
    again = api.post(f"/v1/jobs/{job_id}/rerun", json={"from": "transcribe"})
    assert again.json()["code"] in ("consent_missing", "job_unfinished")


def test_when_a_consent_ends_queued_jobs_are_cancelled(api: Api) -> None:
    study = study_with(api, "INT-01")
    load(api, study, line())
    services = api.services
    job_id = make_job(services, study["id"])
    with services.sessionmaker.begin() as session:
        interview = session.scalars(
            select(tables.Session).where(tables.Session.study_id == study["id"])
        ).one()
        session.execute(update(Job).where(Job.id == job_id).values(session_id=interview.id))
    row = api.get(f"/v1/studies/{study['code']}/participants").json()["items"][0]
    body = {"sheet_version": "2.2", "given_on": TODAY.isoformat(), "scopes": []}

    answer = api.post(f"/v1/participants/{row['id']}/consents", json=body)

    assert answer.status_code == 201
    assert [each["scopes"] for each in answer.json()["consents"]][0] == []
    with services.sessionmaker() as session:
        assert session.get_one(Job, job_id).status in ("cancelled", "cancelling")


def queued(api: Api, study: dict[str, Any], by_recording: bool) -> Any:
    """A queued job of INT-01; `by_recording`: the session is known from its recording only."""
    job_id = make_job(api.services, study["id"])
    with api.services.sessionmaker.begin() as session:
        interview = session.scalars(
            select(tables.Session).where(tables.Session.study_id == study["id"])
        ).one()
        if by_recording:
            recording = session.scalars(
                select(tables.Recording).where(tables.Recording.study_id == study["id"])
            ).one()
            recording.session_id, recording.position = interview.id, 0
        else:
            session.get_one(Job, job_id).session_id = interview.id
    return job_id


def claim(api: Api, job_id: Any) -> Any:
    with api.services.sessionmaker.begin() as session:
        return job_state.claim_job(session, job_id)


@pytest.mark.parametrize("by_recording", [False, True])
def test_an_import_that_ends_a_consent_cancels_queued_jobs(api: Api, by_recording: bool) -> None:
    study = study_with(api, "INT-01")
    load(api, study, line())
    job_id = queued(api, study, by_recording)

    load(api, study, line(scopes="quotation"))

    with api.services.sessionmaker() as session:
        assert session.get_one(Job, job_id).status in ("cancelled", "cancelling")


@pytest.mark.parametrize("by_recording", [False, True])
@pytest.mark.parametrize("how", ["withdrawn", "ended"])
def test_a_queued_job_does_not_begin_when_consent_has_ended(
    api: Api, how: str, by_recording: bool
) -> None:
    """A consent may end between a submission's check and its commit: then no job is cancelled."""
    study = study_with(api, "INT-01")
    load(api, study, line(scopes="recording" if how == "ended" else "all"))
    job_id = queued(api, study, by_recording)
    if how == "withdrawn":
        with api.services.sessionmaker.begin() as session:
            change = update(Participant).where(Participant.study_id == study["id"])
            session.execute(change.values(withdrawn_at=datetime.now(UTC)))

    assert claim(api, job_id) is None
    read = api.get(f"/v1/jobs/{job_id}").json()
    assert (read["status"], read["errors"][-1]["code"]) == ("failed", "consent_ended")


def test_a_queued_job_begins_within_the_consent_or_if_the_rule_only_warns(api: Api) -> None:
    study = study_with(api, "INT-01")
    load(api, study, line())
    assert claim(api, queued(api, study, False)) is not None
    other = study_with(api, "INT-01")
    load(api, other, line(scopes="recording"))
    path = f"/v1/studies/{other['code']}"
    api.request("PATCH", path, json={"consent_warnings": ["recording"]})
    assert claim(api, queued(api, other, False)) is not None


def test_the_study_says_whether_consent_is_checked(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connect_commands(api, monkeypatch)

    def run(*arguments: str) -> str:
        assert app(list(arguments), standalone_mode=False) in (0, None)
        return capsys.readouterr().out

    study = study_with(api, "INT-01")
    assert "participants: none, so consent is not checked" in run("study", "show", study["code"])
    load(api, study, line())
    approval = {"committee": "HREC", "number": "1", "valid_from": "2020-01-01"}
    path = f"/v1/studies/{study['code']}/approvals"
    api.post(path, json={**approval, "valid_until": "2020-02-01"})
    shown = run("study", "show", study["code"])
    assert "participants: 1" in shown
    assert "none is valid today" in shown
