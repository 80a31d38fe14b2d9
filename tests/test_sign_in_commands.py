"""`fieldscribe open` and `invite`, and the link that `serve` prints."""

import json
import re

import pytest
from typer.testing import CliRunner

from service.commands import sign_in
from service.commands.main import app
from service.settings import Settings
from tests.api import connect_commands, open_api


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def run(api, monkeypatch):
    """Run a command with the owner's token."""
    connect_commands(api, monkeypatch)

    def invoke(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return invoke


def secret_of(text):
    found = re.search(r"/join#(\S+)", text)
    assert found, text
    return found[1]


def sign_in_with(api, secret):
    return api.client.post("/v1/sign-in", json={"link": secret})


def test_open_opens_the_browser_at_a_link_that_works_once(api, run, monkeypatch):
    opened = []

    def open_browser(link):
        opened.append(link)
        return True

    monkeypatch.setattr("webbrowser.open", open_browser)

    result = run("open")

    assert (result.exit_code, result.stdout) == (0, "")
    answers = [sign_in_with(api, secret_of(opened[0])) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 401]


def test_open_prints_the_link_where_there_is_no_browser(api, run, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda link: False)
    for arguments in (("open",), ("open", "--print")):
        assert sign_in_with(api, secret_of(run(*arguments).stdout)).status_code == 201
    assert "/join#" in json.loads(run("open", "--json").stdout)["link"]


def test_invite_prints_a_link_for_another_person(api, run):
    study = api.study()["code"]

    result = run("invite", "--role", "researcher", "--study", study, "--name", "A. Researcher")

    assert result.exit_code == 0, result.output
    assert "fieldscribe token revoke" in result.stderr
    me = sign_in_with(api, secret_of(result.stdout)).json()
    assert (me["role"], me["studies"], me["display_name"]) == (
        "researcher",
        [study],
        "A. Researcher",
    )
    assert me["key"].startswith("fieldscribe_")


def test_invite_refuses_roles_of_programs_and_unknown_studies(run):
    assert run("invite", "--role", "worker").exit_code != 0
    refused = run("invite", "--role", "coder", "--study", "NOWHERE")
    assert refused.exit_code == 1
    assert "study_not_found" in refused.stderr


@pytest.mark.parametrize("with_link", [True, False])
def test_serve_prints_a_link_but_not_into_a_journal(monkeypatch, capsys, with_link):
    """Whoever reads the journal could otherwise sign in as the owner."""
    monkeypatch.setattr(sign_in, "wait_for_link", lambda settings: "http://here/join#secret")

    sign_in._announce(Settings(port=8400), with_link)

    said = capsys.readouterr().out
    assert ("secret" in said) == with_link
    assert "fieldscribe open" in said


def test_invite_refuses_two_names_of_one_person(run):
    refused = run("invite", "--role", "coder", "--sign-on", "a@b.example", "--sign-on-subject", "1")
    assert refused.exit_code == 2
    assert "not both" in refused.stderr


def test_invite_through_single_sign_on_prints_the_sign_in_page(run, api):
    services, before = api.services, api.services.settings
    assert (
        "sign_on_not_configured" in run("invite", "--role", "coder", "--sign-on", "a@b.ex").stderr
    )
    issuer = {"sign_on_issuer": "https://login.example", "sign_on_client_id": "fieldscribe"}
    object.__setattr__(services, "settings", before.model_copy(update=issuer))
    services.settings.sign_on_key.write_bytes(bytes(32))
    try:
        by_email = run("invite", "--role", "coder", "--sign-on", "a@b.example")
        by_subject = run("invite", "--role", "coder", "--sign-on-subject", "s-1", "--json")
    finally:
        object.__setattr__(services, "settings", before)
    assert by_email.stdout.strip().endswith("/sign-in")
    assert "for the first time until" in by_email.stderr
    assert json.loads(by_subject.stdout)["link"].endswith("/sign-in")
