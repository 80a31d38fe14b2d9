"""The upgrade of a data folder that an earlier version wrote, with everything half done in it.

Needs the repository's history: the earlier version is taken from it.
"""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import httpx2
import pytest

from models.environment import child_environment
from scripts.stand_in.installation import ROOT, Installation, find_free_port, wait_until
from service.domain.queue import DRAINING
from service.settings import Settings, variable_name
from tests.api import OCTETS, metadata, tone

EARLIER = "447ed08"  # with schema 0002
SERVE = """
import sys
from service.settings import read_settings
from service.supervisor import serve
sys.exit(serve(read_settings(), engine_module="tests.stand_in_engine"))
"""
CLI = "from service.cli import main; main()"
NEW_CLI = "from service.commands.main import main; main()"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The sources of the earlier version."""
    archive = subprocess.run(
        ["git", "archive", EARLIER], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip("needs the repository's history")
    folder: Path = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def site(data_folder):
    site = Installation(data_folder, None)
    yield site
    cut_power(site)


def cut_power(site):
    """Kill everything, also what runs the earlier version."""
    for process in site.processes:
        process.kill()
    site.cut_power()


def run_earlier(site, earlier, program, *arguments, stdout=None):
    names = ("data", "keys", "weights", "port")  # later settings are unknown to it
    settings = {variable_name(name): str(getattr(site.settings, name)) for name in names}
    environment = {**child_environment(settings), "PYTHONPATH": str(earlier)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, cwd=earlier, stdout=stdout)
    site.processes.append(process)
    return process


def client(site, token):
    return httpx2.Client(
        base_url=site.settings.local_url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    )


def wait_for_status(http, job_id, status):
    end = time.monotonic() + 90
    while time.monotonic() < end:
        found = http.get(f"/v1/jobs/{job_id}?wait=10").json()
        if found["status"] == status:
            return found
    raise AssertionError(found)


def read_words(http, job):
    """The words of a job's transcript, each with its speaker and times."""
    answer = http.get(f"/v1/transcripts/{job['transcript_id']}?format=json")
    assert answer.status_code == 200, answer.text
    return [
        (segment["speaker"], word["text"], word["start"], word["end"])
        for segment in answer.json()["segments"]
        for word in segment["words"]
    ]


def test_a_data_folder_of_an_earlier_version_is_taken_over(site, earlier, tmp_path):
    """Migrations, tokens, half an upload, a queued job, a claimed hand-off, and a backup."""
    run_earlier(site, earlier, SERVE)
    wait_until(site.is_ready, 120, "the earlier version to answer")
    owner = site.settings.owner_token.read_text().strip()
    whole, half = tone(1.0), tone(2.0)
    with client(site, owner) as http:
        study = http.post("/v1/studies", json={"code": "PEER", "model": "demo"}).json()["id"]
        http.post("/v1/sessions", json={"study": study, "code": "INT-07"})
        words = {"words": ["Seroquel"]}
        assert http.put(f"/v1/studies/{study}/vocabulary", json=words).is_success
        made = {"role": "researcher", "studies": [study]}
        researcher = http.post("/v1/tokens", json=made).json()["secret"]
        made = {"role": "deidentifier", "studies": [study]}
        deidentifier = http.post("/v1/tokens", json=made).json()["secret"]
        named = {"Upload-Metadata": metadata(filename="INT-07.wav")}
        sent = http.post(
            f"/v1/uploads?study={study}&session=INT-07", headers=OCTETS | named, content=whole
        )
        recording = sent.json()["id"]
        assert http.get(f"/v1/recordings/{recording}?wait=30").json()["state"] == "ready"
        body = {"recordings": [recording]}
        finished = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "first"}).json()
        finished = wait_for_status(http, finished["id"], "succeeded")
        before = read_words(http, finished)
        claimed = http.post(
            "/v1/handoffs/claim", headers={"Authorization": f"Bearer {deidentifier}"}
        ).json()
        backup = run_earlier(
            site,
            earlier,
            CLI,
            *("backup", tmp_path / "b", "--keys-to", tmp_path / "k", "--json"),
            stdout=subprocess.PIPE,
        )
        archives = json.loads(backup.communicate(timeout=60)[0])
        begin = {"Upload-Length": str(len(half)), **named}
        location = http.post(f"/v1/uploads?study={study}", headers=begin).headers["Location"]
        part = {**OCTETS, "Upload-Offset": "0"}
        assert http.patch(location, headers=part, content=half[:10_000]).status_code == 204
        for pid in site.pids()["worker"]:
            os.kill(pid, signal.SIGSTOP)  # the job stays queued
        queued = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "second"}).json()
        assert queued["status"] == "queued"
    cut_power(site)
    site.processes.clear()

    site.start_serve()
    wait_until(site.is_ready, 120, "today's version to answer")

    assert site.settings.owner_token.read_text().strip() == owner
    with client(site, researcher) as http:
        assert [each["code"] for each in http.get("/v1/studies").json()["items"]] == ["PEER"]
        (session,) = http.get("/v1/sessions").json()["items"]
        assert (session["code"], session["recordings"]) == ("INT-07", [recording])
        assert http.get(f"/v1/studies/{study}/vocabulary").json() == words
        assert http.get(f"/v1/recordings/{recording}/audio").content == whole
        view = http.get(f"/v1/recordings/{recording}").json()
        assert view["metadata"]["filename"] == "INT-07.wav"
        # the half
        offset = int(http.head(location).headers["Upload-Offset"])
        assert offset == 10_000
        rest = {**OCTETS, "Upload-Offset": str(offset)}
        assert http.patch(location, headers=rest, content=half[offset:]).status_code == 204
        resumed = location.rpartition("/")[2]
        assert http.get(f"/v1/recordings/{resumed}?wait=30").json()["state"] == "ready"
        assert http.get(f"/v1/recordings/{resumed}/audio").content == half
        # the jobs
        assert read_words(http, finished) == before != []
        assert wait_for_status(http, queued["id"], "succeeded")["attempt"] >= 1
        body = {"recordings": [recording]}
    with client(site, owner) as http:
        for key, job in (("first", finished), ("second", queued)):
            again = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
            assert (again.status_code, again.json()["id"]) == (200, job["id"])
        rerun = http.post(f"/v1/jobs/{finished['id']}/rerun", json={"from": "check"}).json()
        wait_for_status(http, rerun["id"], "succeeded")
    with client(site, deidentifier) as http:
        found = [{"segment": "s0001", "start": 0, "end": 5, "label": "PERSON"}]
        done = {"fence": claimed["fence"], "occurrences": found}
        completed = http.post(f"/v1/handoffs/{claimed['id']}/complete", json=done)
        assert completed.status_code == 200, completed.text
    assert site.processes[-1].poll() is None
    site.processes[-1].terminate()
    assert site.processes[-1].wait(DRAINING + 45) == 0
    restore_and_compare(site, archives, finished, before)


def restore_and_compare(site, archives, job, words):
    """Restore the earlier version's backup with today's."""
    folder = site.folder / "restored"
    folder.mkdir(mode=0o711)
    folder.chmod(0o711)
    new = Installation.__new__(Installation)
    new.__dict__ |= vars(site)
    new.processes = site.processes
    new.settings = Settings(data=folder / "data", keys=folder / "keys", port=find_free_port())
    finished = subprocess.run(
        [sys.executable, "-c", NEW_CLI, "restore", archives["data"]]
        + ["--keys-from", archives["keys"], "--json"],
        env={**os.environ, **new.settings.as_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["missing"] == []
    new.start_serve()
    wait_until(new.is_ready, 120, "the restored installation to answer")
    with client(new, new.settings.owner_token.read_text().strip()) as http:
        assert http.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        assert read_words(http, job) == words
    new.cut_power()
