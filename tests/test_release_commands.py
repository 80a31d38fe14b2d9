"""`fieldscribe release`, `releases`, `archive` and `export --releases`."""

import io
import json
import zipfile

import pytest
import pyzipper
from typer.testing import CliRunner

from service.commands.main import app
from tests.api import connect_commands, open_api
from tests.deidentified import accept_all, open_case, suggest
from tests.test_releases import NAMES, plain


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def case(api):
    case = open_case(api.services)
    suggest(case)
    accept_all(case)
    return case


@pytest.fixture(scope="module")
def study(api, case):
    return api.get(f"/v1/studies/{case.study_id}").json()["code"]


@pytest.fixture
def run(api, monkeypatch):
    connect_commands(api, monkeypatch)

    def run(*arguments, expect=0, **options):
        result = CliRunner().invoke(app, list(map(str, arguments)), **options)
        assert result.exit_code == expect, result.output
        return result

    return run


def test_a_transcript_is_released_with_its_report(run, case, tmp_path):
    path = tmp_path / "report.docx"
    shown = run("release", case.job_id, "--report", path).stdout

    assert ": release 1\n" in shown
    assert "replaced: 1 AGE, 1 DATE, 1 ORGANISATION, 5 PERSON, 1 PHONE, 2 PLACE" in shown
    assert "capitalised words in no dictionary: 1 (Woolgoolga)" in shown
    assert "second reader: none" in shown
    assert "Residual-risk report" in plain(path.read_bytes())
    made = json.loads(run("release", case.job_id, "--for", "repository", "--json").stdout)
    assert (made["number"], made["context"], made["report"]["release"]) == (2, "repository", 2)


def test_open_suggestions_are_reported(run, api):
    case = open_case(api.services)
    suggest(case)

    assert "review_open: " in run("release", case.job_id, expect=1).stderr


def test_releases_are_listed_with_the_reason_why_they_are_outdated(run, case, study):
    lines = run("releases", study).stdout.splitlines()

    assert lines[0].split()[:6] == ["study", "session", "number", "for", "made", "(UTC)"]
    assert " 2  " in lines[1] and "newer release" not in lines[1]
    assert any("newer release" in line for line in lines[2:])


def test_releases_of_a_study_are_checked(run, study):
    assert "releases: no name of the study" in run("releases", study, "--check").stdout
    assert "name the study" in run("releases", "--check", expect=2).stderr


def test_an_export_of_releases_is_de_identified(run, study, tmp_path):
    run("export", study, "--releases", "--for", "nvivo", "--out", tmp_path)
    run("export", study, "--releases", "--for", "qualcoder", "--out", tmp_path)
    files = sorted(tmp_path.iterdir())

    assert {path.name.partition(".")[2] for path in files} == {
        "release-2.docx",
        "release-2.nvivo.docx",
        "release-2.qdpx",
    }
    for path in files:
        text = plain(path.read_bytes())
        assert "P07" in text
        assert not any(name.casefold() in text.casefold() for name in NAMES)
    usage = run(
        "export", "--releases", "--from", tmp_path, "--for", "word", "--out", tmp_path, expect=2
    )
    assert "--releases needs a study" in usage.stderr


def test_a_coder_exports_releases(run, api, case, study, tmp_path, monkeypatch):
    token = api.token("coder", str(case.study_id))
    monkeypatch.setitem(api.headers, "Authorization", f"Bearer {token}")
    connect_commands(api, monkeypatch)
    run("export", study, "--releases", "--for", "word", "--out", tmp_path)
    run("releases", study)
    refused = run("export", study, "--for", "word", "--out", tmp_path / "no", expect=1)

    assert len(list(tmp_path.glob("*.docx"))) == 1
    assert "not_allowed" in refused.stderr


def test_an_archive_is_saved_with_a_password_from_standard_input(run, study, tmp_path):
    path = tmp_path / "releases.zip"
    run("archive", study, "--out", path, "--format", "txt", input="correct horse battery\n")
    with pyzipper.AESZipFile(io.BytesIO(path.read_bytes())) as file:
        file.setpassword(b"correct horse battery")
        assert b"P07" in file.read(file.namelist()[0])
    assert path.stat().st_mode & 0o777 == 0o600

    assert (
        "at least 12"
        in run("archive", study, "--out", path, "--yes", input="short\n", expect=2).stderr
    )
    assert (
        "the formats are"
        in run("archive", study, "--out", path, "--yes", "--format", "pdf", expect=2).stderr
    )


def test_a_withdrawn_release_is_not_listed(run, study):
    listed = json.loads(run("releases", study, "--json").stdout)["items"]
    run("releases", "--withdraw", listed[-1]["id"], "--yes")
    left = json.loads(run("releases", study, "--json").stdout)["items"]

    assert [each["id"] for each in left] == [each["id"] for each in listed[:-1]]


def test_codings_of_two_people_on_a_release_can_be_compared(run, study, tmp_path):
    """A release always gives the same text, so codings fit whenever it was exported."""
    texts = []
    for name in ("one", "two"):
        run("export", study, "--releases", "--for", "qualcoder", "--out", tmp_path / name)
        (path,) = (tmp_path / name).iterdir()
        with zipfile.ZipFile(path) as file:
            texts.append([file.read(n) for n in file.namelist() if n.startswith("sources/")])
    assert texts[0] == texts[1]
