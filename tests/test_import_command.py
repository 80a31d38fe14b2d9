"""`fieldscribe import`: corrected files come back as new versions."""

import json
from uuid import UUID

import pytest
from typer.testing import CliRunner

from service.commands.main import app
from tests.api import connect_commands, open_api, tone
from tests.finished import finish_job
from tests.test_jobs import codes


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def study(api):
    return api.study()


@pytest.fixture
def code(api, study):
    """The code of a new session with a transcript, within its study."""
    session = api.post("/v1/sessions", json={"study": study["id"]}).json()
    api.upload(study["id"], tone(), query={"session": session["id"]})
    job = api.post("/v1/jobs", json={"session": session["id"], "model": "demo"}).json()
    transcript = finish_job(api.services, UUID(job["id"]))
    return f"{study['code']}/{session['code']}", f"/v1/transcripts/{transcript}"


@pytest.fixture
def run(api, monkeypatch):
    connect_commands(api, monkeypatch)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["import", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return run


def download(api, path, folder, format="txt"):
    file = folder / f"transcript.{format}"
    file.write_bytes(api.get(f"{path}?format={format}").content)
    return file


@pytest.mark.parametrize("format", ["txt", "docx", "vtt", "srt"])
def test_a_file_that_nobody_changed_makes_no_version(api, code, run, tmp_path, format):
    session, path = code

    done = run(download(api, path, tmp_path, format), "--session", session)

    assert "changes nothing: the newest version is 1" in done.stdout
    assert len(api.get(f"{path}/versions").json()["items"]) == 1


def test_a_corrected_text_becomes_a_version_that_can_be_undone(api, code, run, tmp_path):
    session, path = code
    file = download(api, path, tmp_path)
    file.write_text(file.read_text().replace("Eva", "Ida").replace("SPEAKER_01", "P07"))
    done = run(file, "--session", session)
    document = api.get(path).json()

    assert "Imported as version 2" in done.stdout and "1 segment changed" in done.stdout
    assert "P07 = SPEAKER_01" in done.stdout
    assert document["segments"][1]["text"] == "My name is Ida Muster."
    assert document["speakers"] == ["SPEAKER_00", "P07"]
    assert api.get(f"{path}/versions").json()["items"][1]["kind"] == "import"
    api.post(f"{path}/undo", json={})
    assert api.get(path).json()["segments"] == api.get(f"{path}?version=1").json()["segments"]


def test_what_was_corrected_in_the_service_since_the_export_is_kept_and_listed(
    api, code, run, tmp_path
):
    session, path = code
    file = download(api, path, tmp_path)  # its header says version 1
    body, headers = {"text": "My name is Eva Mustermann."}, {"If-Match": '"1"'}
    api.request("PATCH", f"{path}/segments/s0002", json=body, headers=headers)
    file.write_text(file.read_text().replace("Eva Muster", "Ida").replace("Thank you", "Thanks"))
    done = run(file, "--session", session)
    texts = [one["text"] for one in api.get(path).json()["segments"]]

    assert texts[1:3] == ["My name is Eva Mustermann.", "Thanks."]
    assert "Corrected in the service since the file was made" in done.stdout
    assert "[0:00:02] My name is Eva Mustermann." in done.stdout


def test_what_does_not_align_is_listed(api, code, run, tmp_path):
    session, path = code
    file = tmp_path / "a.txt"
    file.write_text(
        "I1: Good morning.\nP07: My name is Eva Muster.\nP07: Goodness gracious!\n"
        "I1: Thank you.\nI1: Shall we begin with your work?"
    )
    shown = run(file, "--session", session)
    done = json.loads(run(file, "--session", session, "--json").stdout)

    assert "Not in the transcript, so their times are estimates:" in shown.stdout
    assert "  P07: Goodness gracious!" in shown.stdout
    assert "Not in the file, so removed:" in shown.stdout and "Please." in shown.stdout
    assert (done["changed"], done["removed"], done["matched"]) == (0, [], 1.0)


def test_the_transcript_of_another_session_is_refused(code, run, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("A: Something altogether different was being discussed there.")

    assert "another session" in run(file, "--session", code[0], code=2).stderr


def test_a_file_that_cannot_be_read_is_refused_before_anything_is_sent(code, run, tmp_path):
    assert "cannot be read" in run(tmp_path / "no.txt", "--session", code[0], code=2).stderr


@pytest.mark.parametrize(
    "body", [{}, {"turns": []}, {"turns": [{"text": "a\x00"}]}, {"turns": [{"text": "a", "x": 1}]}]
)
def test_an_invalid_import_is_refused(api, code, body):
    assert codes(api.post(f"{code[1]}/import", json=body)) == (422, "invalid_request")


def test_a_long_interview_is_imported_within_the_limits_of_a_request(api, code):
    turns = [{"speaker": None, "text": "word, " * 5} for _ in range(20_000)]
    answer = api.post(f"{code[1]}/import", json={"turns": turns})

    assert codes(answer) == (422, "import_differs")
    assert answer.elapsed.total_seconds() < 20


def test_only_researchers_of_the_study_import(api, study, code):
    body = {"turns": [{"text": "a"}]}
    for role in ("coder", "custodian", "deidentifier", "admin", "worker"):
        token = api.token(role, study["id"])
        assert api.post(f"{code[1]}/import", json=body, token=token).status_code == 403, role
    stranger = api.token("researcher", api.study()["id"])
    assert codes(api.post(f"{code[1]}/import", json=body, token=stranger)) == (
        404,
        "transcript_not_found",
    )
