"""The disk of the vault and the database is full: nothing is lost, and the service says so."""

import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from scripts.stand_in.installation import RECOVERY, Installation, fill_disk, wait_until
from scripts.stand_in.jobs import make_job, read_job
from service.services import open_services

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk():
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-test-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m,mode=711", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


@pytest.fixture
def site(small_disk, tmp_path):
    site = Installation(small_disk, None)
    site.log = tmp_path / "stand-in.log"
    site.serve_log = tmp_path / "serve.log"
    with site.serve_log.open("wb") as said:
        site.start_serve(stderr=said)
    wait_until(site.is_ready, 60, "the service to answer")
    site.services = open_services(site.settings)
    yield site
    site.cut_power()
    site.services.close()


def ask(site, method, path, **headers):
    """Send a request; its status and the problem's code."""
    token = site.settings.owner_token.read_text().strip()
    request = urllib.request.Request(
        f"{site.settings.local_url}{path}",
        method=method,
        headers={"Authorization": f"Bearer {token}", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["code"]


def test_a_nearly_full_disk_refuses_uploads_and_jobs_resume_when_there_is_space(
    site, small_disk, tmp_path
):
    go = tmp_path / "go"
    job_id = make_job(site.services, wait_in="align", until=str(go))
    site.wait_for_stage(job_id, "align", 60)
    upload = {"Upload-Length": "1000", "Tus-Resumable": "1.0.0"}
    study = read_job(site.services, job_id).study_id
    assert ask(site, "POST", f"/v1/uploads?study={study}", **upload) == (507, "disk_full")
    assert ask(site, "GET", "/readyz") == (507, "disk_full")

    filler = fill_disk(small_disk)
    exhaust_the_databases_log(site)
    go.touch()
    time.sleep(12)
    assert site.status(job_id) is None  # the database cannot even start
    assert "Postgres did not start: the disk is full; trying again in" in said(site)
    assert said(site).count("did not start") < 8  # restarts slow down
    filler.unlink()
    site.wait_for(job_id, "succeeded", RECOVERY)

    assert (
        Counter(site.started_stages(job_id))["segment"]
        == Counter(site.started_stages(job_id))["transcribe"]
        == 1
    )
    site.wait_for(make_job(site.services), "succeeded", RECOVERY)


def said(site: Installation) -> str:
    return site.serve_log.read_text()


def exhaust_the_databases_log(site: Installation) -> None:
    """Write until the server cannot write another record, which ends it."""
    with pytest.raises(OperationalError):
        for _ in range(1000):
            with site.services.engine.begin() as connection:
                message = "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))"
                connection.execute(text(message))
