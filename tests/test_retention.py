"""Retention: rules with dates, legal holds, and destruction that takes two people."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from service.commands.main import app
from service.database.tables import (
    AuditEntry,
    Consent,
    Destruction,
    Entity,
    Job,
    Participant,
    Recording,
    Release,
    StoredTranscript,
)
from service.domain import retention
from service.domain.retention import add_years
from service.settings import Settings
from tests.api import Api, connect_commands, open_api, tone
from tests.finished import finish_job

CLASSES = ("identified", "deidentified", "linkage", "consent")


@pytest.fixture(scope="module")
def api(module_settings: Settings) -> Iterator[Api]:
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def study(api: Api) -> str:
    study: str = api.study()["id"]
    return study


def due(api: Api, study: str, data_class: str = "identified") -> None:
    rule = {"basis": "completion", "years": 5, "at_end": "destroy"}
    path = f"/v1/studies/{study}/retention"
    assert api.request("PUT", f"{path}/rules/{data_class}", json=rule).status_code == 200
    done = {"on": "2001-03-01"}
    assert api.request("PUT", f"{path}/dates/completion", json=done).status_code == 200


def ask(api: Api, study: str, data_class: str, **options: Any) -> Any:
    body = {"data_class": data_class}
    return api.post(f"/v1/studies/{study}/destructions", json=body, **options)


def confirm(api: Api, id: str, **options: Any) -> Any:
    return api.post(f"/v1/destructions/{id}/confirm", **options)


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def second(api: Api, study: str) -> str:
    return api.token("researcher", study)


@pytest.mark.parametrize(
    ("on", "years", "until"),
    [
        ("2031-01-07", 7, "2038-01-07"),
        ("2032-02-29", 1, "2033-03-01"),
        ("2032-02-29", 4, "2036-02-29"),
        ("2031-12-31", 0, "2031-12-31"),
    ],
)
def test_years_are_counted_from_the_day(on: str, years: int, until: str) -> None:
    assert add_years(date.fromisoformat(on), years) == date.fromisoformat(until)


def test_a_rule_is_due_when_its_years_have_passed(api: Api, study: str) -> None:
    path = f"/v1/studies/{study}/retention"
    rule = {"basis": "publication", "years": 7, "at_end": "review"}
    (made,) = api.request("PUT", f"{path}/rules/linkage", json=rule).json()["rules"]
    assert (made["state"], made["due_on"]) == ("no_date", None)
    future = datetime.now(UTC).date().isoformat()
    (made,) = api.request("PUT", f"{path}/dates/publication", json={"on": future}).json()["rules"]
    assert made["state"] == "kept"
    old = api.request("PUT", f"{path}/dates/publication", json={"on": "2001-01-07"}).json()
    assert [(each["state"], each["due_on"]) for each in old["rules"]] == [("due", "2008-01-07")]
    api.request("DELETE", f"{path}/rules/linkage")
    assert api.get(path).json()["rules"] == []


@pytest.mark.parametrize("data_class", CLASSES)
def test_what_is_not_due_is_not_destroyed(api: Api, study: str, data_class: str) -> None:
    assert code(ask(api, study, data_class)) == (409, "retention_not_due")
    rule = {"basis": "completion", "years": 100, "at_end": "destroy"}
    path = f"/v1/studies/{study}/retention"
    api.request("PUT", f"{path}/rules/{data_class}", json=rule)
    api.request("PUT", f"{path}/dates/completion", json={"on": "2001-03-01"})
    answer = ask(api, study, data_class)
    assert code(answer) == (409, "retention_not_due")
    assert "2101-03-01" in answer.json()["detail"]


def test_one_person_alone_destroys_nothing(api: Api, study: str) -> None:
    due(api, study)
    made = ask(api, study, "identified").json()

    assert code(confirm(api, made["id"])) == (403, "same_person")
    assert made["confirmed_at"] is None
    for role in ("admin", "coder"):
        token = api.token(role, study)
        assert confirm(api, made["id"], token=token).status_code == 403
    assert code(confirm(api, made["id"], token=api.token("researcher"))) == (
        404,
        "destruction_not_found",
    )


def test_a_legal_hold_blocks_both_steps(api: Api, study: str) -> None:
    due(api, study)
    made = ask(api, study, "identified").json()
    hold = api.post(f"/v1/studies/{study}/holds", json={"reason": "complaint"}).json()

    assert code(confirm(api, made["id"], token=second(api, study))) == (409, "on_legal_hold")
    assert code(ask(api, study, "identified")) == (409, "on_legal_hold")
    view = api.get(f"/v1/studies/{study}/retention").json()
    assert (view["rules"][0]["state"], view["holds"][0]["reason"]) == ("held", "complaint")
    assert api.request("DELETE", f"/v1/studies/{study}/holds/{hold['id']}").status_code == 204
    assert confirm(api, made["id"], token=second(api, study)).status_code == 200


def test_a_request_expires_and_can_be_taken_back(api: Api, study: str) -> None:
    due(api, study)
    old, taken = (ask(api, study, "identified").json() for _ in range(2))
    with api.services.sessionmaker.begin() as session:
        row = session.get_one(Destruction, UUID(old["id"]))
        row.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    api.request("DELETE", f"/v1/destructions/{taken['id']}")

    for made in (old, taken):
        answer = confirm(api, made["id"], token=second(api, study))
        assert code(answer) == (409, "destruction_over")


def fill(api: Api, study: str) -> dict[str, UUID]:
    """A recording, a transcript, a release, a name and a consent."""
    recording = api.upload(study, tone())
    job = api.post("/v1/jobs", json={"recordings": [recording["id"]], "model": "demo"}).json()
    transcript = finish_job(api.services, UUID(job["id"]))
    path = f"/v1/transcripts/{transcript}"
    api.post(f"{path}/review")
    mentions = api.get(f"{path}/review").json()["mentions"]
    assert mentions == []
    release = api.post(f"{path}/releases", json={"context": "team"})
    assert release.status_code == 201, release.text
    new = {"kind": "participant", "names": ["Quendolin"], "pseudonym": "P07"}
    entity = api.post(f"/v1/studies/{study}/entities", json=new).json()
    with api.services.sessionmaker.begin() as session:
        token = session.get_one(Job, UUID(job["id"])).token_id
        person = Participant(
            study_id=UUID(study), code="P07", entity_id=UUID(entity["id"]), token_id=token
        )
        session.add(person)
        session.flush()
        consent = Consent(
            study_id=UUID(study),
            participant_id=person.id,
            sheet_version="1",
            given_on=date(2001, 1, 1),
            scopes=["recording", "transcription"],
            token_id=token,
        )
        session.add(consent)
        session.flush()
        consent_id = consent.id
    return {
        "recording": UUID(recording["id"]),
        "job": UUID(job["id"]),
        "transcript": transcript,
        "release": UUID(release.json()["id"]),
        "entity": UUID(entity["id"]),
        "consent": consent_id,
    }


def left(api: Api, made: dict[str, UUID]) -> set[str]:
    """The kinds of which something can still be read."""
    with api.services.sessionmaker() as session:
        found = {
            "recording": session.get_one(Recording, made["recording"]).erased_at is None,
            "job": session.get_one(Job, made["job"]).erased_at is None,
            "release": session.get_one(Release, made["release"]).erased_at is None,
            "entity": session.get_one(Entity, made["entity"]).erased_at is None,
            "consent": session.get(Consent, made["consent"]) is not None,
        }
        assert session.get(StoredTranscript, made["transcript"]) is not None
    return {kind for kind, is_left in found.items() if is_left}


def test_each_class_is_destroyed_without_the_others_and_certified(api: Api, study: str) -> None:
    made = fill(api, study)
    everything = {"recording", "job", "release", "entity", "consent"}
    assert left(api, made) == everything
    steps = (
        ("identified", {"recording", "job"}),
        ("deidentified", {"release"}),
        ("linkage", {"entity"}),
        ("consent", {"consent"}),
    )
    for data_class, gone in steps:
        due(api, study, data_class)
        if data_class == "deidentified":  # the release can still be read without the recording
            answer = api.get(f"/v1/releases/{made['release']}/files/txt")
            assert answer.status_code == 200
        request = ask(api, study, data_class).json()
        done = confirm(api, request["id"], token=second(api, study))
        assert done.status_code == 200, done.text
        everything -= gone
        assert left(api, made) == everything
        certificate = api.get(f"/v1/certificates/{done.json()['certificate_id']}").json()
        document = json.loads(certificate["document"])
        assert (document["kind"], document["subject"]) == ("destruction", data_class)
        assert document["complete"]
        assert {item["what"] for item in document["removed"]} == gone
        assert "confirmed by a researcher" in document["scope"]
        assert [check["outcome"] for check in document["checks"]] == ["passed"]
        again = confirm(api, request["id"], token=second(api, study))
        assert code(again) == (409, "destruction_over")
        assert code(ask(api, study, data_class)) == (409, "retention_not_due")


def test_a_destruction_that_was_interrupted_is_completed_at_the_next_start(
    api: Api, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fill(api, study)
    due(api, study)
    request = ask(api, study, "identified").json()

    def killed(*_: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(retention, "_statement", killed)
        assert confirm(api, request["id"], token=second(api, study)).status_code >= 500
    retention.finish_interrupted(api.services)

    assert left(api, made) == {"release", "entity", "consent"}
    (view,) = api.get(f"/v1/studies/{study}/retention").json()["destructions"]
    document = json.loads(api.get(f"/v1/certificates/{view['certificate_id']}").json()["document"])
    assert {item["what"]: item["n"] for item in document["removed"]} == {"recording": 1, "job": 1}


def test_every_step_is_in_the_audit_trail(api: Api, study: str) -> None:
    due(api, study, "linkage")
    hold = api.post(f"/v1/studies/{study}/holds", json={"reason": "audit"}).json()
    api.request("DELETE", f"/v1/studies/{study}/holds/{hold['id']}")
    request = ask(api, study, "linkage").json()
    confirm(api, request["id"], token=second(api, study))
    with api.services.sessionmaker() as session:
        query = sa.select(AuditEntry).where(AuditEntry.study_id == UUID(study))
        entries = session.scalars(query.order_by(AuditEntry.position)).all()
    assert [entry.action for entry in entries][1:] == [
        "retention.rule_set",
        "retention.date_set",
        "retention.hold_placed",
        "retention.hold_lifted",
        "destruction.requested",
        "destruction.confirmed",
        "certificate.issued",
        "destruction.finished",
    ]
    assert entries[3].reason == "audit"


def test_the_commands_show_what_is_due(
    api: Api, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_commands(api, monkeypatch)
    name = api.get(f"/v1/studies/{study}").json()["code"]

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == 0, result.output
        return result.output

    run("retention", "set", name, "identified", "--after", "completion", "--years", "7")
    shown = run("retention", "date", name, "completion", "2001-03-01")
    expected = "retention of identified: 7 years from completion, then review: DUE since 2008-03-01"
    assert expected in shown
    assert expected in run("study", "show", name)
    hold = run("retention", "hold", name, "--reason", "complaint").strip()
    assert "on legal hold" in run("retention", "show", name)
    run("retention", "lift", name, hold)
    id = run("retention", "destroy", name, "identified").splitlines()[0]
    assert "waits for another person" in run("retention", "show", name)
    refused = CliRunner().invoke(app, ["retention", "confirm", id, "--yes"])
    assert (refused.exit_code, "same_person" in refused.output) == (1, True)
    run("retention", "cancel", id)
    run("retention", "unset", name, "identified")
    assert "retention of" not in run("retention", "show", name)
