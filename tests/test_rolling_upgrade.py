"""An upgrade with workers of the earlier and of this version side by side, over the last migration.

Needs the repository's history: the earlier version is the commit before that migration was added.
docs/administrator/cluster.md says the order.
"""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from uuid import UUID

import pytest

from models.environment import child_environment
from scripts.stand_in.installation import ROOT, STAND_IN, Installation, wait_until
from scripts.stand_in.jobs import make_job, make_study, read_job
from service.child import API, WORKER
from service.database.engine import MIGRATIONS, newest_revision
from service.services import open_services
from service.settings import variable_name

pytestmark = pytest.mark.slow

MAKE_JOB = """
import json, sys
from scripts.stand_in.jobs import make_job
from service.services import open_services
from service.settings import read_settings
print(make_job(open_services(read_settings()), **json.loads(sys.argv[1])))
"""


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the repository's history")
    return done.stdout


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The sources of the version before the newest migration."""
    (migration,) = MIGRATIONS.glob(f"versions/{newest_revision()}_*.py")
    added = git("log", "--diff-filter=A", "--format=%H", "-1", "--", str(migration)).decode()
    if not added.strip():
        pytest.skip("the newest migration is not committed yet")
    folder: Path = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(git("archive", f"{added.strip()}^"))) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def site(empty, tmp_path):
    """An installation whose database is still empty."""
    url = empty.database_url.get_secret_value()
    site = Installation(tmp_path / "site", url)
    site.services = open_services(site.settings)
    yield site
    site.stop()


def start(site, sources, *arguments, log=None):
    """Start a child of `serve` from these sources."""
    names = ("data", "keys", "weights", "port")  # later settings are unknown to earlier versions
    variables = {variable_name(name): str(getattr(site.settings, name)) for name in names}
    variables["FIELDSCRIBE_DATABASE_URL"] = site.settings.database_url.get_secret_value()
    environment = child_environment(variables)
    environment |= {"PYTHONPATH": str(sources), "STAND_IN_LOG": str(site.log)}
    command = [sys.executable, "-m", "service.child", str(os.getpid()), *arguments]
    process = subprocess.Popen(command, env=environment, cwd=sources, stderr=log)
    site.processes.append(process)
    return process


def make_earlier_job(site, earlier, instructions):
    environment = child_environment(
        {
            "FIELDSCRIBE_DATA": str(site.settings.data),
            "FIELDSCRIBE_KEYS": str(site.settings.keys),
            "FIELDSCRIBE_DATABASE_URL": site.settings.database_url.get_secret_value(),
        }
    )
    made = subprocess.run(
        [sys.executable, "-c", MAKE_JOB, instructions],
        env=environment | {"PYTHONPATH": str(earlier)},
        cwd=earlier,
        capture_output=True,
        check=True,
    )
    return UUID(made.stdout.decode().strip())


def refused(site, sources, *arguments):
    """How a process that must not start ended."""
    log = site.folder / "refused.log"
    with log.open("wb") as file:
        process = start(site, sources, *arguments, log=file)
        status = process.wait(240)
    return status, log.read_text()


def test_workers_of_two_versions_run_side_by_side_over_a_migration(site, earlier, tmp_path):
    old_api = start(site, earlier, API)
    wait_until(site.is_ready, 240, "the earlier API")
    status, said = refused(site, ROOT, WORKER, STAND_IN)
    assert status != 0 and "SchemaTooOld" in said  # a new worker waits for the new API
    start(site, earlier, WORKER, STAND_IN)
    gate = tmp_path / "gate"
    running = make_earlier_job(site, earlier, f'{{"wait_in": "transcribe", "until": "{gate}"}}')
    wait_until(lambda: "transcribe" in site.started_stages(running), 240, "the job to run")

    old_api.terminate()
    old_api.wait(60)
    site.processes.remove(old_api)
    start(site, ROOT, API)  # migrates, while the earlier worker runs its job
    wait_until(site.is_ready, 240, "this version's API")

    gate.touch()
    site.wait_for(running, "succeeded", 240)
    assert read_job(site.services, running).attempt == 1
    study = make_study(site.services)
    on_old = make_job(site.services, study)  # only the earlier worker runs
    site.wait_for(on_old, "succeeded", 240)

    start(site, ROOT, WORKER, STAND_IN)
    jobs = [make_job(site.services, seconds=0.2) for _ in range(12)]
    for job in jobs:
        site.wait_for(job, "succeeded", 240)
        assert read_job(site.services, job).attempt == 1
        assert site.started_stages(job).count("transcribe") == 1
    engines = {pid for job in jobs for _, pid in site.lines(job)}
    assert len(engines) == 2  # both took some

    for sources, name in ((earlier, API), (earlier, WORKER)):
        arguments = (name,) if name == API else (name, STAND_IN)
        status, said = refused(site, sources, *arguments)
        assert status != 0 and "SchemaTooNew" in said, said
