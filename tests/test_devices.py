"""Which devices are used, what a child sees of them, and workers whose GPU fails.

The engine loads no torch, so GPUs that do not exist can fail here.
"""

import json
import os
import signal
import urllib.request
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete
from typer.testing import CliRunner

from scripts.stand_in.installation import Installation, wait_until
from scripts.stand_in.jobs import make_job, make_study, read_job
from service import devices
from service.commands.main import app
from service.database.tables import Worker
from service.devices import count_cpu_devices, device_variables, find_devices, parse_devices
from service.domain import workers
from service.services import open_services
from service.settings import BadSettings, read_settings
from service.worker.process import retire
from service.worker.state import MAX_DEAD_JOBS, WorkerState


def test_devices_are_named_in_the_settings():
    assert parse_devices("auto") is None
    assert parse_devices("cuda, cuda:2") == ("cuda:0", "cuda:2")
    assert parse_devices("cpu") == ("cpu",)
    assert parse_devices("cpu,cuda:0,cpu") == ("cpu:0", "cuda:0", "cpu:1")
    with pytest.raises(BadSettings, match="'gpu7' is not a device"):
        read_settings(devices="gpu7")


def test_a_machine_without_a_gpu_has_a_device_for_every_16_cores_and_8_gib():
    assert count_cpu_devices(2, 4 << 30) == 1
    assert count_cpu_devices(64, 256 << 30) == 4
    assert count_cpu_devices(64, 20 << 30) == 2


def test_every_gpu_is_used_by_default(monkeypatch):
    monkeypatch.setattr(devices, "count_gpus", lambda: 3)

    assert find_devices("auto") == ("cuda:0", "cuda:1", "cuda:2")
    assert find_devices("cuda:1") == ("cuda:1",)


def test_a_child_sees_its_own_gpu_only():
    both = ("cuda:0", "cuda:1")

    assert device_variables("cuda:1", both, {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    reserved = {"CUDA_VISIBLE_DEVICES": "GPU-5a,GPU-7c"}  # by Slurm, for example
    assert device_variables("cuda:1", both, reserved) == {"CUDA_VISIBLE_DEVICES": "GPU-7c"}
    assert device_variables("cuda:2", both, reserved) == {"CUDA_VISIBLE_DEVICES": "none"}


def test_cpu_children_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))

    assert device_variables("cpu", ("cpu",), {}) == {"CUDA_VISIBLE_DEVICES": ""}
    several = device_variables("cpu:1", ("cpu:0", "cpu:1"), {})
    assert several == {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "4"}


@pytest.fixture(scope="module")
def site(database_url, tmp_path_factory):
    """A service with workers on two GPUs. While the file holds a GPU's number, it is broken."""
    folder = tmp_path_factory.mktemp("devices")
    site = Installation(folder, database_url, devices="cuda:0,cuda:1")
    site.broken = folder / "broken"  # type: ignore[attr-defined]
    site.broken.write_text("")  # type: ignore[attr-defined]
    site.variables["STAND_IN_BROKEN"] = str(site.broken)  # type: ignore[attr-defined]
    site.start_serve()
    wait_until(site.is_ready, 120, "the service to answer")
    site.services = open_services(site.settings)
    wait_until(lambda: sorted(states(site)) == ["cuda:0", "cuda:1"], 60, "both workers")
    yield site
    site.cut_power()
    site.services.close()


def states(site):
    """Why each device is retired; None: it is not."""
    with site.services.sessionmaker() as session:
        return {row.device: row.retired_because for row in workers.list_workers(session)}


def pids(site, *job_ids):
    return {pid for job_id in job_ids for _, pid in site.lines(job_id)}


def test_serve_starts_a_worker_on_each_device(site, tmp_path):
    go = tmp_path / "go"
    both = [make_job(site.services, wait_in="transcribe", until=str(go)) for _ in range(2)]
    for job_id in both:
        site.wait_for_stage(job_id, "transcribe", 30)

    def running():
        with site.services.sessionmaker() as session:
            return workers.devices_of_jobs(session, both)

    wait_until(lambda: len(running()) == 2, 10, "both workers to report their jobs")
    assert set(running().values()) == {"cuda:0", "cuda:1"}
    shown = read_metrics(site)
    for device in ("cuda:0", "cuda:1"):
        assert any(f'device="{device}"' in line and 'state="busy"' in line for line in shown)
    go.touch()
    for job_id in both:
        site.wait_for(job_id, "succeeded", 30)
    assert len(pids(site, *both)) == 2
    names = [name for name in doctor(site) if name.startswith("worker cuda:")]
    assert [name.split()[1] for name in names] == ["cuda:0", "cuda:1"]


def read_metrics(site):
    with urllib.request.urlopen(f"{site.settings.local_url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith("fieldscribe_worker{")]


def doctor(site):
    answer = CliRunner().invoke(app, ["doctor", "--json"], env=site.settings.as_environment())
    return {check["name"]: check for check in json.loads(answer.stdout)}


def test_a_device_at_which_jobs_keep_dying_is_retired_although_it_passes_its_check(site):
    study = make_study(site.services)
    jobs = [make_job(site.services, study, die_on="1", seconds=0.05) for _ in range(8)]
    for job_id in jobs:
        site.wait_for(job_id, "succeeded", 60)

    expected = {"cuda:0": None, "cuda:1": "jobs_died"}
    wait_until(lambda: states(site) == expected, 10, "the device to be retired")
    assert sum(read_job(site.services, job_id).attempt == 2 for job_id in jobs) == MAX_DEAD_JOBS


def test_a_restarted_worker_uses_its_retired_device_again(site):
    for pid in site.pids()["worker"]:
        if b"cuda:1" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: states(site) == {"cuda:0": None, "cuda:1": None}, 30, "its worker")


def test_a_restarted_worker_replaces_the_row_of_the_one_that_was_killed(site):
    """That row seemed alive for half a minute, and a job on whose device it died waited for it."""

    def rows():
        with site.services.sessionmaker() as session:
            return {row.started_at: row.device for row in workers.list_workers(session)}

    before = rows()
    for pid in site.pids()["worker"]:
        if b"cuda:1" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not rows().keys() <= before.keys(), 25, "the worker to start again")

    assert sorted(rows().values()) == ["cuda:0", "cuda:1"]


def test_the_last_worker_is_not_retired_for_jobs_that_died(services):
    """Else one bad recording after another would end all transcription."""
    only, other = WorkerState("cuda:0"), WorkerState("cuda:1")
    for _ in range(MAX_DEAD_JOBS):
        only.record_death({uuid4(): 1})
    with services.sessionmaker.begin() as session:
        session.execute(delete(Worker))

    assert only.keeps_failing
    assert not retire(services.sessionmaker, only)
    with services.sessionmaker.begin() as session:
        other.report(session)
    assert retire(services.sessionmaker, only)
    assert not retire(services.sessionmaker, other)


def test_a_finished_job_shows_that_the_device_works():
    state = WorkerState("cuda:0")
    job = uuid4()
    for _ in range(MAX_DEAD_JOBS):
        state.record_death({job: 1})
    assert not state.keeps_failing  # one job that kills every engine
    state.record_death({uuid4(): 1})
    state.record_success()
    state.record_death({uuid4(): 1})
    assert not state.keeps_failing


def test_a_device_that_fails_its_check_is_retired_and_its_job_goes_on_elsewhere(site):
    site.broken.write_text("1")
    study = make_study(site.services)
    jobs = [make_job(site.services, study, die_on="1") for _ in range(3)]
    for job_id in jobs:
        site.wait_for(job_id, "succeeded", 60)

    wait_until(lambda: states(site) == {"cuda:0": None, "cuda:1": "check_failed"}, 30, "the check")
    check = next(check for name, check in doctor(site).items() if name.startswith("worker cuda:1"))
    assert check["status"] == "problem"
    assert "the device is retired" in check["message"]
    assert any('state="retired"' in line for line in read_metrics(site))
    with site.services.sessionmaker() as session:
        retired = next(r for r in workers.list_workers(session) if r.device == "cuda:1")
        assert retired.job_id is None
    assert max(read_job(site.services, job_id).attempt for job_id in jobs) <= 2
