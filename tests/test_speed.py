"""Limits that even a busy machine meets; docs/developer/performance.md has real figures."""

import asyncio
import resource
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from scripts.bench_service import Bench, after
from scripts.stand_in.jobs import make_job

FEW_FILES = 256


@pytest.fixture(scope="module")
def bench():
    """As started by systemd, with a limit of open files below the number of waiting requests."""
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-test-"))
    folder.chmod(0o711)
    bench = Bench(folder, long_poll_limit=300)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, before[1]))
    try:
        bench.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    yield bench
    bench.stop()
    shutil.rmtree(folder)


def test_a_job_starts_soon_after_it_is_queued(bench):
    assert bench.measure_start(5)["median"] < 2000  # ms


def test_reading_a_job_takes_almost_no_time(bench):
    job_id = make_job(bench.services)
    bench.site.wait_for(job_id, "succeeded", 60)

    times = asyncio.run(bench.read_until(job_id, after(1.0), rate=10))
    assert times["not_200"] == 0
    assert times["median"] < 1000  # ms


def test_an_upload_is_no_bottleneck(bench):
    assert asyncio.run(bench.upload(30 * 2**20, rounds=1))["vault_MB_s"] > 2


def test_long_polls_wait_up_to_the_limit_and_one_more_is_refused(bench):
    started = time.monotonic()
    polls = asyncio.run(bench.measure_long_polls(300))

    assert (polls["waited"], polls["one_more"], polls["answered_200"]) == (300, 429, 300)
    assert time.monotonic() - started < 60  # they were notified and did not wait for the timeout
