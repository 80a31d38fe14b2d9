"""The commands against a service of real processes with a fake engine."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner

from scripts.stand_in.installation import ROOT, Installation, wait_until
from scripts.stand_in.jobs import make_recording, make_token, read_job
from service.commands import upload as upload_module
from service.commands.client import Client
from service.commands.main import app
from service.database.engine import create_database
from service.services import open_services
from tests.api import tone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(postgres):
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-test-"))
    folder.chmod(0o711)
    create_database(postgres.url("postgres"), "commands")
    url = postgres.url("commands").render_as_string(hide_password=False)
    installation = Installation(folder, url)
    installation.start_serve()
    wait_until(installation.is_ready, 120, "the service to answer")
    installation.services = open_services(installation.settings)
    yield installation
    installation.stop()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def environment(service, tmp_path, monkeypatch):
    for name, value in service.settings.as_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FIELDSCRIBE_TOKEN", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def run(*arguments, code=0, input=None):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def study_code(environment):
    """Code of a study that the first test to need it creates."""
    codes = [study["code"] for study in run_json("study", "list")["items"]]
    if "PEER" not in codes:
        run("study", "create", "PEER", "--language", "en", "--model", "demo")
    return "PEER"


@pytest.fixture
def recordings(tmp_path):
    paths = [tmp_path / f"INT-0{i}.wav" for i in (1, 2)]
    for path in paths:
        path.write_bytes(tone(1.0))
    return paths


def submit(service, study_code, **behaviour):
    """Submit a job whose recording tells the fake engine how to behave; returns its id."""
    listed = run_json("study", "list")["items"]
    studies = {study["code"]: study["id"] for study in listed}
    content = json.dumps(behaviour).encode()
    recording = make_recording(
        service.services, UUID(studies[study_code]), make_token(service.services), content
    )
    token = service.settings.owner_token.read_text().strip()
    client = Client(service.settings.local_url, token)
    job = client.post("/v1/jobs", {"recordings": [str(recording)]})
    client.close()
    return job["id"]


def test_uploaded_files_become_transcripts(study_code, recordings, tmp_path):
    jobs = run_json("upload", *recordings, "--study", study_code, "--speakers", "2", "--watch")

    assert [job["status"] for job in jobs] == ["succeeded", "succeeded"]
    assert jobs[0]["options"]["speakers"] == {"min": 2, "max": 2}
    assert "SPEAKER_00: Hello there" in run("transcript", jobs[0]["id"]).stdout
    assert run("transcript", jobs[0]["id"], "--format", "vtt").stdout.startswith("WEBVTT")
    assert run_json("transcript", jobs[0]["id"])["language"] == "en"
    out = tmp_path / "INT-01.identified.txt"
    assert run("transcript", jobs[0]["id"], "--out", out).stdout == ""
    nowhere = tmp_path / "none" / "a.txt"
    message = run("transcript", jobs[0]["id"], "--out", nowhere, code=2).stderr
    assert message.startswith("output_not_writable") and "Traceback" not in message
    assert "Hello there" in out.read_text()
    assert out.stat().st_mode & 0o077 == 0


def test_files_of_one_session_become_one_job(study_code, recordings):
    (job,) = run_json(
        "upload", *recordings, "--study", study_code, "--session", "INT-07", "--watch"
    )

    assert len(job["recordings"]) == 2
    assert job["session_id"] is not None


def test_a_new_session_gets_the_given_roster(study_code, recordings, tmp_path):
    people = tmp_path / "INT-08.roster"
    people.write_text("I1 interviewer\nP08 participant\nP09 participant\n")
    upload = ("upload", recordings[0], "--study", study_code, "--roster", people)
    (job,) = run_json(*upload, "--session", "INT-08")
    people.write_text("I1 interviewer\nP08 participant\n")

    assert job["options"]["speakers"] == {"min": 3, "max": 3}
    error = run_json(*upload, "--session", "INT-08", code=2)["error"]
    assert error["code"] == "roster_differs"
    run(*upload, code=2)  # no session named


def test_joined_files_become_one_job(study_code, recordings, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("Birkenau\n")
    (job,) = run_json(
        "upload", *recordings, "--study", study_code, "--join", "--vocabulary", names, "--watch"
    )

    assert len(job["recordings"]) == 2
    assert job["options"]["has_vocabulary"]


def test_ids_go_to_standard_output_and_progress_to_standard_error(study_code, recordings):
    result = run("upload", recordings[0], "--study", study_code, "--watch")

    UUID(result.stdout.strip())
    assert "INT-01.wav" in result.stderr
    assert "succeeded" in result.stderr


def test_an_unusable_recording_is_refused_with_the_reason(study_code, tmp_path):
    """With exit code 1, as in batch mode; 2 is for misuse."""
    path = tmp_path / "silent.wav"
    path.write_bytes(tone(1.0, level=0.0))
    result = run("upload", path, "--study", study_code, code=1)

    assert "silent_audio" in result.stderr
    assert (
        run_json("upload", path, "--study", study_code, code=1)["error"]["code"] == "silent_audio"
    )


def test_an_unusable_recording_does_not_stop_the_others(study_code, tmp_path):
    silent, good = tmp_path / "silent.wav", tmp_path / "good.wav"
    silent.write_bytes(tone(1.0, level=0.0))
    good.write_bytes(tone(1.0))
    result = run("upload", silent, good, "--study", study_code, code=1)

    UUID(result.stdout.strip())  # the good one's job
    assert "silent.wav: silent_audio: " in result.stderr


def test_the_same_command_after_an_interruption_creates_no_second_job(
    study_code, tmp_path, monkeypatch
):
    files = [tmp_path / "first.wav", tmp_path / "second.wav"]
    for seconds, path in enumerate(files, start=1):
        path.write_bytes(tone(seconds))
    upload_all, n_groups = upload_module.upload_all, itertools.count()

    def interrupt_second(*arguments):
        if next(n_groups) == 1:
            raise KeyboardInterrupt
        return upload_all(*arguments)

    monkeypatch.setattr(upload_module, "upload_all", interrupt_second)
    first = run("upload", *files, "--study", study_code, code=130).stdout.split()
    both = run("upload", *files, "--study", study_code).stdout.split()

    assert len(first) == 1
    assert both[0] == first[0]
    assert len(set(both)) == 2


def test_a_failed_job_says_why(service, study_code):
    id = submit(service, study_code, fail_in="segment")
    watched = run("watch", id, code=1)
    status = run("status", id).stdout

    assert "failed" in watched.stderr
    assert "silent_audio" in status
    assert run_json("status", id)["errors"][0]["code"] == "silent_audio"
    assert run("transcript", id, code=2).stderr.startswith("transcript_not_ready")


def test_a_running_job_is_cancelled_and_run_again(service, study_code):
    id = submit(service, study_code, hang_in="align")
    wait_until(lambda: read_job(service.services, UUID(id)).stage == "align", 60, "the job to hang")
    assert "running" in run("status", id).stdout
    assert id in run("jobs", "--study", study_code, "--status", "running").stdout

    run("cancel", id)
    watched = run_json("watch", id, code=1)
    again = run_json("rerun", id, "--from", "align", "--speakers", "3")

    assert watched["status"] == "cancelled"
    states = {stage["name"]: stage["state"] for stage in again["stages"]}
    assert (states["transcribe"], states["align"]) == ("succeeded", "pending")
    assert again["options"]["speakers"] == {"min": 3, "max": 3}
    assert run("cancel", again["id"]).stdout.strip() in ("cancelled", "cancelling")


def test_a_job_that_crashes_every_time_fails_in_the_end(service, study_code):
    id = submit(service, study_code, die_in="segment")

    codes = [error["code"] for error in run_json("watch", id, code=1)["errors"]]

    assert codes == ["engine_died", "engine_died", "engine_died", "gave_up"]


def test_jobs_are_listed_with_the_codes_of_study_and_session(study_code, recordings):
    (job,) = run_json("upload", recordings[0], "--study", study_code, "--session", "INT-11")

    assert len(run_json("jobs", "--study", study_code, "--limit", "2")["items"]) <= 2
    (line,) = (line for line in run("jobs").stdout.splitlines() if job["id"] in line)
    assert line.split()[:2] == [study_code, "INT-11"]


def test_a_job_is_deleted_only_after_confirmation(study_code, recordings):
    (job,) = run_json(
        "upload", recordings[0], "--study", study_code, "--session", "INT-12", "--watch"
    )

    asked = run("delete", job["id"], input="n\n", code=1)
    assert f"{study_code}, INT-12, succeeded" in asked.stderr
    assert run_json("status", job["id"])["status"] == "succeeded"

    run("delete", job["id"], input="", code=1)
    deleted = run("delete", job["id"], input="y\n").stdout
    assert "deleted: the transcript, 4 stage results; 1 recording kept\n" in deleted
    assert run("status", job["id"], code=1).stderr.startswith("erased")


def test_delete_reports_as_json_what_was_deleted(service, study_code):
    id = submit(service, study_code)
    run("watch", id)

    assert run_json("delete", id, "--yes")["transcript"] is True
    assert run("delete", id, "--yes", code=1).stderr.startswith("erased")


def test_tokens_are_created_used_and_revoked(service, study_code, monkeypatch):
    token = run_json("token", "create", "--role", "researcher", "--study", study_code)
    assert token["id"] in run("token", "list").stdout
    monkeypatch.setenv("FIELDSCRIBE_TOKEN", token["secret"])
    assert run_json("jobs", "--limit", "1") is not None
    assert run("token", "list", code=1).stderr.startswith("not_allowed")
    monkeypatch.delenv("FIELDSCRIBE_TOKEN")
    run("token", "revoke", token["id"])
    monkeypatch.setenv("FIELDSCRIBE_TOKEN", token["secret"])
    assert run("jobs", code=1).stderr.startswith("token_revoked")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error_code"),
    [
        (["status", "00000000-0000-4000-8000-000000000000"], 1, "job_not_found"),
        (["study", "create", "Eva Muster"], 2, "invalid_request"),
        (["study", "create", "PEER"], 1, "study_code_taken"),
        (["upload", "none.wav", "--study", "PEER"], 2, "file_not_readable"),
        (["jobs", "--study", "NOSUCH"], 1, "study_not_found"),
        (["rerun", "00000000-0000-4000-8000-000000000000", "--from", "x"], 2, "invalid_request"),
    ],
    ids=str,
)
def test_errors_are_reported_as_a_code_a_sentence_and_an_exit_code(
    study_code, arguments, exit_code, error_code
):
    result = run(*arguments, code=exit_code)

    assert result.stderr.splitlines()[-1].startswith(error_code)
    assert "Traceback" not in result.output


def test_an_invalid_id_is_reported_with_the_command_that_lists_ids():
    result = run("status", "nonsense", code=2)

    assert "nor an id of 36 characters" in result.stderr
    assert "fieldscribe jobs" in result.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_of_the_readme_runs_as_written(service, study_code, tmp_path):
    done = run_curl_of_the_readme(service, study_code, tmp_path)

    assert done.returncode == 0, done.stderr
    assert "SPEAKER_00: Hello there" in done.stdout
    assert '"completed"' in done.stdout
    assert (tmp_path / "claim.json").stat().st_mode & 0o077 == 0  # it holds what people said


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_of_the_readme_says_when_no_weights_are_installed(service, tmp_path):
    """It once printed Python tracebacks."""
    run("study", "create", "BARE", "--language", "en")

    done = run_curl_of_the_readme(service, "BARE", tmp_path)

    assert done.returncode == 1
    assert "fieldscribe models fetch" in done.stderr
    assert "Traceback" not in done.stderr


def run_curl_of_the_readme(service, study, tmp_path):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- test: curl -->\n((?:    .*\n|\n)+)", readme)
    assert len(blocks) == 4
    script = textwrap.dedent("\n".join(blocks)).replace("PEER", study)
    script = script.replace("http://127.0.0.1:8321", service.settings.local_url)
    (tmp_path / "INT-08.m4a").write_bytes(tone(1.0))
    command = tmp_path / "fieldscribe"
    command.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c"
        ' "from service.commands.main import main; main()" "$@"\n'
    )
    command.chmod(0o700)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_unreachable_service_is_reported(monkeypatch):
    monkeypatch.setenv("FIELDSCRIBE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("service.commands.client.RETRY_FOR", 0.1)

    assert "service_unreachable" in run("jobs", code=1).stderr


def test_unsealing_an_open_vault_ignores_the_passphrase():
    """A vault whose keys are files is never sealed."""
    assert run("unseal", input="nonsense\n").stdout.strip() == "unsealed"


def test_the_doctor_checks_the_service(service):
    checks = {check["name"]: check for check in json.loads(doctor().stdout)}

    assert checks["database"]["status"] == "ok"
    assert checks["keys"]["status"] == "ok"
    assert checks["backup"]["status"] == "warning"
    assert {"data disk", "swap"} <= checks.keys()


def doctor():
    return CliRunner().invoke(app, ["doctor", "--json"])
