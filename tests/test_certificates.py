"""Certificates: signed, checked without the service, and without names."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from typer.testing import CliRunner

from service import signing
from service.backup import back_up, restore
from service.commands.main import app
from service.database.tables import Certificate
from service.domain import certificates
from service.domain.certificates import Check, Item, Passed, Statement
from service.settings import read_settings
from tests.api import connect_commands, open_api
from tests.test_jobs import codes


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


def statement(study_id, **changes):
    made = Statement(
        kind="withdrawal",
        study_id=UUID(str(study_id)),
        subject="P07",
        scope="data",
        requested_at=datetime(2031, 1, 7, 9, tzinfo=UTC),
        requested_by="researcher",
        reason="no_reason_given",
        removed=(Item("recording", 2, ("a", "b")),),
        checks=(Check("No key opens a removed file.", "passed"),),
        passed_on=(Passed("release download", "c", "coder", "2031-01-02T10:00:00Z"),),
        backups=("No backup is known to this service.",),
    )
    return replace(made, **changes)


def issue(api, **changes):
    study = api.study()
    with api.services.sessionmaker.begin() as session:
        row = certificates.issue(session, api.services, None, statement(study["id"], **changes))
        id = row.id
    return study, id


def test_a_certificate_is_signed_and_verified_offline(api, tmp_path, no_sockets):
    _, id = issue(api)
    with api.services.sessionmaker() as session:
        content = certificates.signed_json(session.get_one(Certificate, id))
    file = tmp_path / "certificate.json"
    file.write_bytes(content)
    key = certificates.public_key(api.services.settings)
    shown = CliRunner().invoke(app, ["certificate", "verify", str(file), "--key", key])

    assert shown.exit_code == 0, shown.output
    assert "Certificate of withdrawal" in shown.output
    assert signing.verify(content, key).document["subject"] == "P07"


def test_a_certificate_that_was_changed_is_refused(api, tmp_path):
    _, id = issue(api)
    answer = api.get(f"/v1/certificates/{id}").json()
    answer["document"] = answer["document"].replace("P07", "P08")
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(answer))
    shown = CliRunner().invoke(app, ["certificate", "verify", str(file)])

    assert shown.exit_code == 1
    assert "certificate_forged" in shown.output


def test_a_certificate_that_another_key_has_signed_is_refused(api, tmp_path):
    _, id = issue(api)
    answer = api.get(f"/v1/certificates/{id}").json()
    other = b"k" * 32
    forged = signing.signed_file(
        answer["document"], signing.sign(other, answer["document"]), signing.public_key_of(other)
    )
    ours = certificates.public_key(api.services.settings)

    signing.verify(forged)  # fits the key in the file
    with pytest.raises(signing.CertificateForged):
        signing.verify(forged, ours)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"%PDF-1.4", b'{"document": 1, "signature": 2, "public_key": 3}']
)
def test_a_file_that_is_no_certificate_is_refused(content):
    with pytest.raises(signing.CertificateNotReadable):
        signing.verify(content)


def test_a_failed_check_makes_a_certificate_incomplete(api):
    study, id = issue(api, checks=(Check("No key opens a removed file.", "failed", ("a",)),))
    (listed,) = api.get(f"/v1/certificates?study={study['id']}").json()["items"]

    assert (listed["id"], listed["complete"]) == (str(id), False)


def test_a_certificate_is_printed_as_pdf(api):
    _, id = issue(api)
    answer = api.get(f"/v1/certificates/{id}?format=pdf")

    assert answer.headers["content-type"] == "application/pdf"
    assert answer.content.startswith(b"%PDF-")


def test_only_those_who_may_see_a_study_read_its_certificates(api):
    study, id = issue(api)
    other = api.study()
    mine, theirs = api.token("researcher", study["id"]), api.token("researcher", other["id"])

    assert api.get(f"/v1/certificates/{id}", token=mine).status_code == 200
    assert codes(api.get(f"/v1/certificates/{id}", token=theirs)) == (404, "certificate_not_found")
    assert api.get("/v1/certificates", token=theirs).json()["items"] == []
    assert (
        api.get(f"/v1/certificates/{id}", token=api.token("coder", study["id"])).status_code == 403
    )
    assert api.get("/v1/certificates").status_code == 200
    assert codes(api.get(f"/v1/certificates/{UUID(int=0)}")) == (404, "certificate_not_found")
    assert api.get("/v1/certificates/no-id").status_code == 422


def test_commands_list_show_and_save_certificates(api, monkeypatch, tmp_path):
    study, id = issue(api)
    connect_commands(api, monkeypatch)
    run = CliRunner().invoke
    pdf, signed = tmp_path / "c.pdf", tmp_path / "c.json"

    assert str(id) in run(app, ["certificate", "list", "--study", study["code"]]).stdout
    assert "About" in run(app, ["certificate", "show", str(id)]).stdout
    assert run(app, ["certificate", "save", str(id), "--out", str(pdf)]).exit_code == 0
    assert run(app, ["certificate", "save", str(id), "--out", str(signed)]).exit_code == 0
    assert pdf.read_bytes().startswith(b"%PDF-")
    key = run(app, ["certificate", "key"]).stdout.splitlines()[0]
    assert len(base64.b64decode(key)) == 32
    assert run(app, ["certificate", "verify", str(signed), "--key", key]).exit_code == 0


def test_the_key_of_certificates_is_in_key_archives_only(settings, empty, tmp_path):
    settings.owner_token.write_text("token")
    certificates.create_certificate_key(settings)
    archives = back_up(settings, tmp_path / "out", tmp_path / "keys-out")
    assert archives.data is not None
    assert settings.certificate_key.read_bytes() not in archives.data.read_bytes()
    restore(empty, archives.data, archives.keys)

    assert empty.certificate_key.read_bytes() == settings.certificate_key.read_bytes()
    assert settings.certificate_key.stat().st_mode & 0o777 == 0o600


def test_sentences_on_backups_say_only_what_is_known(settings):
    destroyed = datetime(2031, 1, 7, 9, tzinfo=UTC)
    unknown = " ".join(certificates.describe_backups(settings, destroyed))
    settings.data.mkdir(exist_ok=True)
    (settings.data / "backup.json").write_text('{"at": "2031-01-06T03:00:00+00:00"}')
    kept = settings.model_copy(update={"backup_keep_days": 14})
    known = " ".join(certificates.describe_backups(kept, destroyed))

    assert "No backup is known" in unknown and "is not recorded here" in unknown
    assert "2031-01-06T03:00:00Z" in known and "gone by 2031-01-21T09:00:00Z" in known
    assert read_settings().backup_keep_days is None
