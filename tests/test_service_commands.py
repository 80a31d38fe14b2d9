"""The commands against a service of real processes, whose engine is a stand-in."""

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


def told(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def study_code(environment):
    """Made once, with the environment of the first test that needs it."""
    codes = [study["code"] for study in told("study", "list")]
    if "PEER" not in codes:
        run("study", "create", "PEER", "--language", "en", "--model", "demo")
    return "PEER"


@pytest.fixture
def recordings(tmp_path):
    paths = [tmp_path / f"INT-0{i}.wav" for i in (1, 2)]
    for path in paths:
        path.write_bytes(tone(1.0))
    return paths


def submitted(service, study_code, **wish):
    """A job whose recording says what the stand-in does."""
    studies = {study["code"]: study["id"] for study in told("study", "list")}
    content = json.dumps(wish).encode()
    sound = make_recording(
        service.services, UUID(studies[study_code]), make_token(service.services), content
    )
    token = service.settings.owner_token.read_text().strip()
    client = Client(service.settings.local_url, token)
    job = client.post("/v1/jobs", {"recordings": [str(sound)]})
    client.close()
    return job["id"]


def test_from_files_to_transcripts(study_code, recordings, tmp_path):
    jobs = told("upload", *recordings, "--study", study_code, "--speakers", "2", "--watch")

    assert [job["status"] for job in jobs] == ["succeeded", "succeeded"]
    assert jobs[0]["options"]["speakers"] == {"min": 2, "max": 2}
    assert "SPEAKER_00: Hello there" in run("transcript", jobs[0]["id"]).stdout
    assert run("transcript", jobs[0]["id"], "--format", "vtt").stdout.startswith("WEBVTT")
    assert told("transcript", jobs[0]["id"])["language"] == "en"
    out = tmp_path / "INT-01.identified.txt"
    assert run("transcript", jobs[0]["id"], "--out", out).stdout == ""
    nowhere = tmp_path / "none" / "a.txt"
    said = run("transcript", jobs[0]["id"], "--out", nowhere, code=2).stderr
    assert said.startswith("output_not_writable") and "Traceback" not in said
    assert "Hello there" in out.read_text()
    assert out.stat().st_mode & 0o077 == 0


def test_files_of_a_session_become_one_job(study_code, recordings):
    (job,) = told("upload", *recordings, "--study", study_code, "--session", "INT-07", "--watch")

    assert len(job["recordings"]) == 2
    assert job["session_id"] is not None


def test_a_new_session_has_the_roster_that_is_given(study_code, recordings, tmp_path):
    people = tmp_path / "INT-08.roster"
    people.write_text("I1 interviewer\nP08 participant\nP09 participant\n")
    upload = ("upload", recordings[0], "--study", study_code, "--roster", people)
    (job,) = told(*upload, "--session", "INT-08")
    people.write_text("I1 interviewer\nP08 participant\n")

    assert job["options"]["speakers"] == {"min": 3, "max": 3}
    error = told(*upload, "--session", "INT-08", code=2)["error"]
    assert error["code"] == "roster_differs"
    run(*upload, code=2)  # of which session?


def test_files_that_are_joined_become_one_job(study_code, recordings, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("Birkenau\n")
    (job,) = told(
        "upload", *recordings, "--study", study_code, "--join", "--vocabulary", names, "--watch"
    )

    assert len(job["recordings"]) == 2
    assert job["options"]["has_vocabulary"]


def test_ids_go_to_standard_output_and_progress_to_standard_error(study_code, recordings):
    result = run("upload", recordings[0], "--study", study_code, "--watch")

    UUID(result.stdout.strip())
    assert "INT-01.wav" in result.stderr
    assert "succeeded" in result.stderr


def test_a_useless_recording_is_refused_with_the_reason(study_code, tmp_path):
    """And fails, as in batch mode; 2 is for what made no sense."""
    path = tmp_path / "silent.wav"
    path.write_bytes(tone(1.0, level=0.0))
    result = run("upload", path, "--study", study_code, code=1)

    assert "silent_audio" in result.stderr
    assert told("upload", path, "--study", study_code, code=1)["error"]["code"] == "silent_audio"


def test_a_useless_recording_does_not_stop_the_others(study_code, tmp_path):
    silent, good = tmp_path / "silent.wav", tmp_path / "good.wav"
    silent.write_bytes(tone(1.0, level=0.0))
    good.write_bytes(tone(1.0))
    result = run("upload", silent, good, "--study", study_code, code=1)

    UUID(result.stdout.strip())  # the good one's job
    assert "silent.wav: silent_audio: " in result.stderr


def test_the_same_command_after_an_interruption_makes_no_second_job(
    study_code, tmp_path, monkeypatch
):
    files = [tmp_path / "first.wav", tmp_path / "second.wav"]
    for seconds, path in enumerate(files, start=1):
        path.write_bytes(tone(seconds))
    bring, n_groups = upload_module.upload_all, itertools.count()

    def interrupted(*arguments):
        if next(n_groups) == 1:
            raise KeyboardInterrupt
        return bring(*arguments)

    monkeypatch.setattr(upload_module, "upload_all", interrupted)
    first = run("upload", *files, "--study", study_code, code=130).stdout.split()
    both = run("upload", *files, "--study", study_code).stdout.split()

    assert len(first) == 1
    assert both[0] == first[0]
    assert len(set(both)) == 2


def test_a_failed_job_says_why(service, study_code):
    id = submitted(service, study_code, fail_in="segment")
    watched = run("watch", id, code=1)
    status = run("status", id).stdout

    assert "failed" in watched.stderr
    assert "silent_audio" in status
    assert told("status", id)["errors"][0]["code"] == "silent_audio"
    assert run("transcript", id, code=2).stderr.startswith("transcript_not_ready")


def test_a_running_job_is_cancelled_and_run_again(service, study_code):
    id = submitted(service, study_code, hang_in="align")
    wait_until(lambda: read_job(service.services, UUID(id)).stage == "align", 60, "the job to hang")
    assert "running" in run("status", id).stdout
    assert id in run("jobs", "--study", study_code, "--status", "running").stdout

    run("cancel", id)
    watched = told("watch", id, code=1)
    again = told("rerun", id, "--from", "align", "--speakers", "3")

    assert watched["status"] == "cancelled"
    states = {stage["name"]: stage["state"] for stage in again["stages"]}
    assert (states["transcribe"], states["align"]) == ("succeeded", "pending")
    assert again["options"]["speakers"] == {"min": 3, "max": 3}
    assert run("cancel", again["id"]).stdout.strip() in ("cancelled", "cancelling")


def test_a_job_that_crashes_every_time_fails_in_the_end(service, study_code):
    id = submitted(service, study_code, die_in="segment")

    codes = [error["code"] for error in told("watch", id, code=1)["errors"]]

    assert codes == ["engine_died", "engine_died", "engine_died", "gave_up"]


def test_jobs_are_listed_with_the_codes_that_people_know(study_code, recordings):
    (job,) = told("upload", recordings[0], "--study", study_code, "--session", "INT-11")

    assert len(told("jobs", "--study", study_code, "--limit", "2")) <= 2
    (line,) = (line for line in run("jobs").stdout.splitlines() if job["id"] in line)
    assert line.split()[:2] == [study_code, "INT-11"]


def test_a_job_is_deleted_by_whoever_says_yes(study_code, recordings):
    (job,) = told("upload", recordings[0], "--study", study_code, "--session", "INT-12", "--watch")

    asked = run("delete", job["id"], input="n\n", code=1)
    assert f"{study_code}, INT-12, succeeded" in asked.stderr
    assert told("status", job["id"])["status"] == "succeeded"

    run("delete", job["id"], input="", code=1)
    deleted = run("delete", job["id"], input="y\n").stdout
    assert "deleted: the transcript, 4 stage results; 1 recording kept\n" in deleted
    assert run("status", job["id"], code=1).stderr.startswith("erased")


def test_deleting_tells_a_program_what_is_gone(service, study_code):
    id = submitted(service, study_code)
    run("watch", id)

    assert told("delete", id, "--yes")["transcript"] is True
    assert run("delete", id, "--yes", code=1).stderr.startswith("erased")


def test_tokens_are_made_used_and_revoked(service, study_code, monkeypatch):
    made = told("token", "create", "--role", "researcher", "--study", study_code)
    assert made["id"] in run("token", "list").stdout
    monkeypatch.setenv("FIELDSCRIBE_TOKEN", made["secret"])
    assert told("jobs", "--limit", "1") is not None
    assert run("token", "list", code=1).stderr.startswith("not_allowed")
    monkeypatch.delenv("FIELDSCRIBE_TOKEN")
    run("token", "revoke", made["id"])
    monkeypatch.setenv("FIELDSCRIBE_TOKEN", made["secret"])
    assert run("jobs", code=1).stderr.startswith("token_revoked")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
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
def test_what_goes_wrong_is_a_code_a_sentence_and_an_exit_code(
    study_code, arguments, exit_code, said
):
    result = run(*arguments, code=exit_code)

    assert result.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in result.output


def test_what_is_no_id_is_said_with_the_command_that_shows_ids():
    result = run("status", "nonsense", code=2)

    assert "not an id of 36 characters" in result.stderr
    assert "fieldscribe jobs" in result.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_of_the_readme_runs_as_written(service, study_code, tmp_path):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- test: curl -->\n((?:    .*\n|\n)+)", readme)
    script = textwrap.dedent("\n".join(blocks)).replace(
        "http://127.0.0.1:8321", service.settings.local_url
    )
    (tmp_path / "INT-08.m4a").write_bytes(tone(1.0))
    command = tmp_path / "fieldscribe"
    command.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c"
        ' "from service.commands.main import main; main()" "$@"\n'
    )
    command.chmod(0o700)
    done = subprocess.run(
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

    assert len(blocks) == 4
    assert done.returncode == 0, done.stderr
    assert "SPEAKER_00: Hello there" in done.stdout
    assert '"completed"' in done.stdout
    assert (tmp_path / "claim.json").stat().st_mode & 0o077 == 0  # it holds what people said


def test_a_service_that_is_not_there_is_said_so(monkeypatch):
    monkeypatch.setenv("FIELDSCRIBE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("service.commands.client.RETRY_FOR", 0.1)

    assert "service_unreachable" in run("jobs", code=1).stderr


def test_a_wrong_passphrase_does_not_unseal_what_is_open():
    """Keys in files are never sealed: nothing happens, whatever is said."""
    assert run("unseal", input="nonsense\n").stdout.strip() == "unsealed"


def test_the_doctor_looks_at_the_service(service):
    checks = {check["name"]: check for check in json.loads(doctor().stdout)}

    assert checks["database"]["status"] == "ok"
    assert checks["keys"]["status"] == "ok"
    assert checks["backup"]["status"] == "warning"
    assert {"data disk", "swap"} <= checks.keys()


def doctor():
    return CliRunner().invoke(app, ["doctor", "--json"])
