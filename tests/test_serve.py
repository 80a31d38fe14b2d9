"""`fieldscribe serve` as a command: its messages and the processes it leaves running."""

import os
import re
import signal
import socket

import pytest

from scripts.stand_in.installation import Installation, wait_until
from scripts.stand_in.jobs import make_job
from service.domain.queue import DRAINING
from service.services import create_root_keys, open_services
from tests.conftest import copy_cluster
from tests.processes import run_command


@pytest.fixture
def site(data_folder):
    site = Installation(data_folder, None)
    yield site
    site.cut_power()


@pytest.fixture
def with_database(site, cluster):
    """The installation has a database already: creating one is not what the test is about."""
    site.settings.data.mkdir()
    copy_cluster(cluster, site.settings.database)


def start(site):
    """Start `serve`, with its log in a file."""
    with site.serve_log.open("wb") as said:
        return site.start_serve(stderr=said)


def refused(site: Installation) -> str:
    """Run `serve`, which must refuse to start; its error output."""
    status, _, said = run_command(["serve"], site.settings.as_environment())
    assert status == 1, said
    assert "Traceback" not in said
    return said


def test_a_second_serve_on_the_same_folder_is_refused_and_the_first_keeps_running(
    site, with_database
):
    start(site)
    wait_until(site.is_ready, 60, "the service to answer")
    before = site.pids()

    assert "database_in_use: `fieldscribe serve` is already running on this data folder" in refused(
        site
    )
    assert site.pids() == before
    assert site.is_ready()


def make_readable(root):
    (root / "linkage.key").chmod(0o644)


def make_equal(root):
    (root / "linkage.key").write_bytes((root / "identified.key").read_bytes())


def shorten(root):
    (root / "linkage.key").write_text("0123456789abcdef\n")


def lose(root):
    (root / "linkage.key").unlink()
    wrapped = root.parent / "wrapped/identified/a-study/study.key"
    wrapped.parent.mkdir(parents=True)
    wrapped.touch()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (make_readable, "root_key_exposed: Other users can read the root key of linkage"),
        (make_equal, "root_key_unusable: Two classes have the same root key"),
        (shorten, "root_key_unusable: The root key of linkage is not 64 hex digits"),
        (lose, "root_key_unusable: There are encrypted files, but some of their root keys"),
    ],
)
def test_with_disordered_root_keys_nothing_is_started(site, spoil, message):
    """The database was started, and the API restarted for ever."""
    create_root_keys(site.settings)
    spoil(site.settings.root_keys)

    said = refused(site).splitlines()

    assert len(said) == 1
    assert said[0].startswith(message)
    assert not site.settings.database.exists()


def test_the_worker_does_not_use_a_token_from_serves_environment(site, with_database, monkeypatch):
    """A user's exported FIELDSCRIBE_TOKEN made the jobs of `serve` wait for keys for ever."""
    monkeypatch.setenv("FIELDSCRIBE_TOKEN", "fs_somebody-elses")
    monkeypatch.setenv("FIELDSCRIBE_URL", "http://127.0.0.1:9")
    start(site)
    wait_until(site.is_ready, 60, "the service to answer")
    site.services = open_services(site.settings)
    try:
        site.wait_for(make_job(site.services), "succeeded", 60)
    finally:
        site.services.close()


def test_a_database_of_another_version_is_refused_and_left_unchanged(site):
    version = site.settings.database / "data" / "PG_VERSION"
    version.parent.mkdir(parents=True)
    version.write_text("15\n")

    assert (
        "database_not_started: The database was created by Postgres 15, but this is Postgres 18"
        in refused(site)
    )
    assert site.pids() == {}
    assert version.read_text() == "15\n"


@pytest.mark.slow
def test_an_api_whose_port_was_taken_is_restarted_after_growing_delays_until_it_is_free(
    site, with_database
):
    start(site)
    wait_until(site.is_ready, 60, "the service to answer")
    (api,) = site.pids()["api"]
    os.kill(api, signal.SIGKILL)
    wait_until(lambda: bool(delays(site)), 10, "its death to be noticed")  # a delay begins
    with socket.create_server(("127.0.0.1", site.settings.port)):
        wait_until(lambda: len(delays(site)) >= 4, 90, "the API to die again and again")
    assert "address already in use" in said(site)
    assert delays(site)[1:4] == [2 * delay for delay in delays(site)[:3]]

    wait_until(site.is_ready, 60, "the service to answer")
    assert len(site.pids()["postgres"]) == len(site.pids()["worker"]) == 1


def delays(site: Installation) -> list[float]:
    found = re.findall(r"the API ended with status \S+; restarting it in (\S+) s", said(site))
    return [float(seconds) for seconds in found]


def said(site: Installation) -> str:
    return site.serve_log.read_text()


@pytest.mark.parametrize("moment", ["postgres", "api", "worker", "engine"])
def test_sigterm_during_startup_leaves_no_process_running(site, cluster, moment):
    if moment != "postgres":  # there, the first start on an empty folder
        site.settings.data.mkdir()
        copy_cluster(cluster, site.settings.database)
    serve = start(site)
    wait_until(lambda: moment in site.pids(), 60, f"{moment} to be there")
    serve.terminate()

    assert serve.wait(DRAINING + 45) == 0
    assert site.pids() == {}
    assert "Traceback" not in said(site)


@pytest.mark.slow
def test_a_killed_serve_leaves_its_database_to_be_adopted_by_the_next(site, tmp_path):
    first = start(site)
    wait_until(site.is_ready, 60, "the service to answer")
    site.services = open_services(site.settings)
    job_id = make_job(site.services, hang_in="transcribe")
    site.wait_for_stage(job_id, "transcribe", 60)
    database = site.pids()["postgres"]
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_until(lambda: set(site.pids()) == {"postgres"}, DRAINING + 30, "the others to end")

    assert site.status(job_id) == "queued"
    site.services.close()
    second = start(site)
    wait_until(site.is_ready, 60, "the service to answer")
    assert site.pids()["postgres"] == database
    second.terminate()
    assert second.wait(DRAINING + 45) == 0
    assert site.pids() == {}
