"""Withdrawals over the API and the command line."""

import time

import pytest
from typer.testing import CliRunner

from service.commands.main import app
from tests.api import connect_commands, open_api
from tests.test_jobs import codes
from tests.withdrawing import open_group, places_of


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def before(api):
    """A study that is only read."""
    return open_group(api.services)


def body(**changes):
    return {"participant": "P07", "scope": "participation", "confirmation": "P07", **changes}


def finished(api, id):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        view = api.get(f"/v1/withdrawals/{id}").json()
        if view["state"] == "finished":
            return view
        time.sleep(0.2)
    raise AssertionError(view)


def test_a_withdrawal_is_shown_requested_and_followed(api):
    study = open_group(api.services, mention=False)
    path = f"/v1/studies/{study.study}"
    shown = api.get(f"{path}/withdrawal-preview?participant=P07").json()
    answer = api.post(f"{path}/withdrawals", json=body(scope="data", reason="privacy"))
    done = finished(api, answer.json()["id"])

    assert [unit["name"] for unit in shown["units"]] == ["FG-1", "INT-07"]
    assert answer.status_code == 202
    assert done["steps_done"] == done["steps"]
    assert places_of(study, study.words["P07"]) == []
    certificate = api.get(f"/v1/certificates/{done['certificate_id']}").json()
    assert '"reason": "privacy"' in certificate["document"]
    (listed,) = api.get(f"{path}/withdrawals").json()["items"]
    assert listed == done


def test_a_withdrawal_needs_the_code_a_scope_and_a_known_person(api, before):
    path = f"/v1/studies/{before.study}/withdrawals"

    assert codes(api.post(path, json=body(confirmation="P05"))) == (422, "withdrawal_not_confirmed")
    assert codes(api.post(path, json=body(participant="P99", confirmation="P99"))) == (
        404,
        "withdrawal_unknown_code",
    )
    assert api.post(path, json=body(scope="all")).status_code == 422
    assert api.post(path, json=body(reason="Siobhan said so")).status_code == 422
    assert api.get(path).json()["items"] == []


def test_only_researchers_of_the_study_withdraw_participants(api, before):
    path = f"/v1/studies/{before.study}/withdrawals"
    study_id = str(before.study_id)

    for role in ("coder", "listener", "custodian", "admin", "deidentifier"):
        answer = api.post(path, json=body(), token=api.token(role, study_id))
        assert answer.status_code == 403, role
    elsewhere = api.token("researcher", api.study()["id"])
    assert codes(api.post(path, json=body(), token=elsewhere)) == (404, "study_not_found")
    assert api.post(path, json=body(), token=None, headers={"Authorization": ""}).status_code == 401


def test_another_studys_withdrawal_looks_like_none(api):
    study = open_group(api.services)
    made = api.post(f"/v1/studies/{study.study}/withdrawals", json=body()).json()
    elsewhere = api.token("researcher", api.study()["id"])
    finished(api, made["id"])

    assert codes(api.get(f"/v1/withdrawals/{made['id']}", token=elsewhere)) == (
        404,
        "withdrawal_not_found",
    )


def test_the_command_shows_what_exists_and_prints_the_certificate(api, monkeypatch):
    study = open_group(api.services, mention=False)
    connect_commands(api, monkeypatch)
    command = ["withdraw", "P07", "--study", study.study, "--scope", "data"]
    shown = CliRunner().invoke(app, [*command, "--preview"])
    refused = CliRunner().invoke(app, command, input="no\n")
    done = CliRunner().invoke(app, command, input="P07\n")
    again = CliRunner().invoke(app, [*command, "--confirm", "P07"])
    listed = CliRunner().invoke(app, ["withdrawals", study.study])

    assert "FG-1 (group: only this voice leaves)" in shown.output
    assert refused.exit_code == 2 and "withdrawal_not_confirmed" in refused.output
    assert done.exit_code == 0, done.output
    assert "Certificate of withdrawal" in done.stdout
    assert again.exit_code == 0 and done.stdout.endswith(again.stdout)
    assert "finished" in listed.stdout
    assert study.names["P07"].split()[0] not in done.output
