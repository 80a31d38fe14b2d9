"""Killed processes: nothing is lost, no stage runs twice, and work resumes within 45 s."""

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from scripts.stand_in.engine import STAGES, STORED_STAGES
from scripts.stand_in.installation import (
    API,
    RECOVERY,
    Installation,
    fill_disk,
    kill,
    wait_until,
)
from scripts.stand_in.jobs import make_job, make_study, read_job, read_stages
from service.child import WORKER
from service.database.embedded import EmbeddedPostgres
from service.database.engine import migrate, open_engine
from service.database.queries import lock_job
from service.database.tables import Handoff, JobError, JobStage, StoredTranscript
from service.domain import results
from service.domain.queue import HEARTBEAT, request_cancel
from service.vault.files import PARTIAL


@pytest.fixture(scope="module")
def site(database_url, tmp_path_factory):
    site = Installation(tmp_path_factory.mktemp("site"), database_url)
    site.open()
    yield site
    site.stop()


@pytest.fixture
def api(site):
    """The API of an earlier test or, if that has ended, a new one."""
    running = site.running(API)
    return running[0] if running else site.start_api()


@pytest.fixture
def worker(site, api):
    """The worker of an earlier test, which has no job left, or a new one."""
    running = site.running(WORKER)
    if running:
        return running[0]
    forget_workers(site)
    return site.start_worker()


@pytest.fixture
def no_worker(site):
    """No worker runs before the test or after it, and no job of another test is left."""
    reset(site)
    yield
    reset(site)


@pytest.fixture
def own_worker(no_worker, site, api):
    """A worker that no other test uses."""
    return site.start_worker()


def reset(site):
    for process in site.running(WORKER):
        kill(process)
    with site.services.engine.begin() as connection:
        connection.execute(text("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE"))
        connection.execute(text("UPDATE job SET status = 'cancelled' WHERE finished_at IS NULL"))
    forget_workers(site)


def forget_workers(site):
    """Delete the rows of killed workers: for half a minute jobs would be left to those."""
    with site.services.engine.begin() as connection:
        connection.execute(text("TRUNCATE worker"))


def errors_of(site, job_id):
    with site.services.sessionmaker() as session:
        query = select(JobError.code).where(JobError.job_id == job_id).order_by(JobError.at)
        return session.scalars(query).all()


def cancel(site, job_id):
    with site.services.sessionmaker.begin() as session:
        job = lock_job(session, job_id)
        assert job is not None
        request_cancel(session, job)


def assert_one_result(site, job_id):
    job = read_job(site.services, job_id)
    with site.services.sessionmaker() as session:
        transcripts = session.scalars(
            select(StoredTranscript).where(StoredTranscript.job_id == job_id)
        ).all()
        assert [transcript.id for transcript in transcripts] == [job.transcript_id]
        query = select(func.count()).where(Handoff.transcript_id == job.transcript_id)
        assert session.scalar(query) == 1


def assert_nothing_done_twice(site, job_id, interrupted):
    """Finished stages do not run again; only the interrupted one does."""
    begun = Counter(site.started_stages(job_id))
    before = (
        STORED_STAGES[: STAGES.index(interrupted) - 1]
        if interrupted in STORED_STAGES
        else STORED_STAGES
    )
    if interrupted == "ingest":
        before = ()
    assert {stage: begun[stage] for stage in before} == dict.fromkeys(before, 1)
    assert all(begun[stage] <= 2 for stage in STAGES)


def test_a_job_runs_from_the_queue_to_its_hand_off(site, worker):
    job_id = make_job(site.services)
    site.wait_for(job_id, "succeeded")

    assert_one_result(site, job_id)
    assert read_job(site.services, job_id).attempt == 1
    assert site.started_stages(job_id) == list(STAGES)
    stages = read_stages(site.services, job_id)
    assert {stages[name].device for name in STORED_STAGES} == {"cpu"}
    assert all(stages[name].artefact_id for name in STORED_STAGES)
    begun = [at for name in STAGES if (at := stages[name].started_at)]
    assert len(begun) == len(STAGES)
    assert begun == sorted(begun)  # even those of stages that end before the next heartbeat


def test_stages_with_unusable_results_run_again_and_are_shown_as_pending(
    site, api, no_worker, tmp_path
):
    """The stored results were for another channel layout, and the API showed them as succeeded."""
    until = tmp_path / "until"
    job_id = make_job(site.services, discard=True, wait_in="transcribe", until=str(until))
    study_id = read_job(site.services, job_id).study_id
    kept = {
        stage: results.write(
            site.services, study_id, job_id, f"stage_{stage}", f"result of {stage}".encode()
        )
        for stage in STORED_STAGES
    }
    with site.services.sessionmaker.begin() as session:
        for row in session.scalars(select(JobStage).where(JobStage.job_id == job_id)):
            if row.name in STORED_STAGES:
                row.state, row.fraction, row.artefact_id = "succeeded", 1.0, kept[row.name]
    site.start_worker()
    site.wait_for_stage(job_id, "transcribe")
    wait_until(
        lambda: read_stages(site.services, job_id)["transcribe"].state == "running", 10, "it"
    )
    states = {name: row.state for name, row in read_stages(site.services, job_id).items()}
    until.touch()
    site.wait_for(job_id, "succeeded")

    assert [states[stage] for stage in STORED_STAGES] == [
        "succeeded",
        "running",
        "pending",
        "pending",
    ]
    assert site.started_stages(job_id) == list(STAGES)
    rows = read_stages(site.services, job_id)
    assert not {rows[stage].artefact_id for stage in STORED_STAGES} & set(kept.values())


def test_the_models_stay_loaded_between_jobs(site, own_worker):
    first, second = make_job(site.services), make_job(site.services)
    site.wait_for(first, "succeeded")
    site.wait_for(second, "succeeded")

    assert "load" in [name for name, _ in site.lines(first)]
    assert "load" not in [name for name, _ in site.lines(second)]


def test_the_models_are_unloaded_after_the_idle_minutes(site, api, no_worker, monkeypatch):
    soon = site.settings.model_copy(update={"idle_unload_minutes": 0.01})
    monkeypatch.setattr(site, "settings", soon)
    site.start_worker()
    site.wait_for(make_job(site.services), "succeeded")

    wait_until(lambda: "unload" in site.log.read_text(), 5, "the models to be unloaded")
    site.wait_for(second := make_job(site.services), "succeeded")
    assert "load" in [name for name, _ in site.lines(second)]


@pytest.mark.slow
def test_a_job_survives_its_worker_in_every_stage(site, api, no_worker, tmp_path):
    go = tmp_path / "go"
    workers = {stage: site.start_worker() for stage in STAGES}
    jobs = {stage: make_job(site.services, wait_in=stage, until=str(go)) for stage in STAGES}
    for stage, job_id in jobs.items():
        site.wait_for_stage(job_id, stage)
    time.sleep(1.5)
    engines = {job_id: {pid for _, pid in site.lines(job_id)} for job_id in jobs.values()}
    for process in workers.values():
        kill(process)
    killed = time.monotonic()
    go.touch()
    for _ in range(2):
        site.start_worker()

    def resumed():
        return all(
            {pid for _, pid in site.lines(job_id)} - engines[job_id] for job_id in jobs.values()
        )

    wait_until(resumed, RECOVERY, "work to resume")
    print(f"resumed after {time.monotonic() - killed:.1f} s")  # noqa: T201
    for stage, job_id in jobs.items():
        site.wait_for(job_id, "succeeded")
        assert_one_result(site, job_id)
        assert_nothing_done_twice(site, job_id, stage)
        assert read_job(site.services, job_id).attempt == 2
        assert errors_of(site, job_id) == ["worker_died"]


def test_a_job_survives_its_engine_in_every_stage(site, worker, tmp_path):
    for stage in STAGES:
        go = tmp_path / f"go-{stage}"
        job_id = make_job(site.services, wait_in=stage, until=str(go))
        site.wait_for_stage(job_id, stage)
        time.sleep(0.3)
        os.kill(site.lines(job_id)[-1][1], signal.SIGKILL)
        go.touch()
        site.wait_for(job_id, "succeeded")
        assert_one_result(site, job_id)
        assert_nothing_done_twice(site, job_id, stage)
        assert errors_of(site, job_id) == ["engine_died"]
    assert worker.poll() is None


def test_the_engine_does_not_outlive_its_worker(site, own_worker, tmp_path):
    job_id = make_job(site.services, hang_in="segment")
    site.wait_for_stage(job_id, "segment")
    engine = site.lines(job_id)[-1][1]
    kill(own_worker)

    wait_until(lambda: not is_running(engine), 2, "the engine to end")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stopping_worker_finishes_a_short_job(site, worker):
    job_id = make_job(site.services, seconds=0.3)
    site.wait_for_stage(job_id, "transcribe")
    worker.terminate()

    assert worker.wait(20) == 0
    assert read_job(site.services, job_id).status == "succeeded"
    assert_one_result(site, job_id)
    assert read_job(site.services, job_id).attempt == 1


@pytest.mark.slow
def test_a_stopping_worker_returns_an_unfinished_job_to_the_queue(site, own_worker, tmp_path):
    go = tmp_path / "go"
    job_id = make_job(site.services, wait_in="align", until=str(go))
    site.wait_for_stage(job_id, "align")
    engine = site.lines(job_id)[-1][1]
    site.start_worker()
    own_worker.terminate()
    assert own_worker.wait(25) == 0
    assert not is_running(engine)  # two never run it at once
    stopped = time.monotonic()
    go.touch()
    site.wait_for(job_id, "succeeded", 10)

    assert time.monotonic() - stopped < 10
    assert_one_result(site, job_id)
    assert_nothing_done_twice(site, job_id, "align")
    assert errors_of(site, job_id) == []


@pytest.mark.slow
def test_a_frozen_worker_writes_nothing_when_it_resumes(site, own_worker, tmp_path):
    go = tmp_path / "go"
    job_id = make_job(site.services, wait_in="diarise", until=str(go))
    site.wait_for_stage(job_id, "diarise")
    time.sleep(1.5)
    os.kill(own_worker.pid, signal.SIGSTOP)
    frozen = site.lines(job_id)[-1][1]
    site.start_worker()
    wait_until(lambda: site.lines(job_id)[-1][1] != frozen, RECOVERY, "another worker to take it")
    go.touch()
    site.wait_for(job_id, "succeeded")
    before = read_job(site.services, job_id)
    os.kill(own_worker.pid, signal.SIGCONT)

    assert own_worker.wait(10) != 0
    after = read_job(site.services, job_id)
    assert (after.version, after.status) == (before.version, "succeeded")
    assert_one_result(site, job_id)


@pytest.mark.slow
def test_a_frozen_worker_does_not_take_its_job_back(site, own_worker, tmp_path):
    go = tmp_path / "go"
    job_id = make_job(site.services, wait_in="diarise", until=str(go))
    site.wait_for_stage(job_id, "diarise")
    time.sleep(1.5)
    os.kill(own_worker.pid, signal.SIGSTOP)
    frozen = site.lines(job_id)[-1][1]
    site.start_worker()
    wait_until(lambda: site.lines(job_id)[-1][1] != frozen, RECOVERY, "another worker to take it")
    os.kill(own_worker.pid, signal.SIGCONT)

    assert own_worker.wait(10) == 70
    go.touch()
    site.wait_for(job_id, "succeeded")
    assert read_job(site.services, job_id).attempt == 2
    assert_one_result(site, job_id)


def test_a_job_is_cancelled_in_every_stage(site, worker, tmp_path):
    for stage in STAGES:
        job_id = make_job(site.services, wait_in=stage, until=str(tmp_path / "never"))
        site.wait_for_stage(job_id, stage)
        cancel(site, job_id)
        site.wait_for(job_id, "cancelled", 10)
        assert read_job(site.services, job_id).transcript_id is None
        assert "running" not in {row.state for row in read_stages(site.services, job_id).values()}
        assert not list(site.settings.vault.rglob(f".*{PARTIAL}"))  # nothing half-written
    assert len({pid for _, pid in site.lines(job_id)}) == 1  # the engine was not killed


def test_a_job_whose_engine_hangs_can_be_cancelled(site, worker):
    job_id = make_job(site.services, hang_in="transcribe")
    site.wait_for_stage(job_id, "transcribe")
    cancel(site, job_id)
    site.wait_for(job_id, "cancelled", 10)

    site.wait_for(make_job(site.services), "succeeded")


def test_a_job_that_kills_the_engine_fails_and_the_next_one_runs(site, worker):
    poison, next_one = make_job(site.services, die_in="transcribe"), make_job(site.services)
    site.wait_for(poison, "failed")
    site.wait_for(next_one, "succeeded")

    # The attempt that finished the segmentation does not count.
    assert errors_of(site, poison) == ["engine_died"] * 4 + ["gave_up"]
    assert Counter(site.started_stages(poison))["segment"] == 1


def test_a_bug_in_the_engine_fails_the_job_after_three_attempts_and_its_message_is_not_logged(
    site, api, no_worker, capfd
):
    site.start_worker()  # its output is captured here
    job_id = make_job(site.services, fault_in="segment")
    site.wait_for(job_id, "failed")

    assert errors_of(site, job_id) == ["internal_error"] * 4
    log = "".join(capfd.readouterr())
    assert "RuntimeError" in log
    assert "Eva" not in log


def test_an_unusable_recording_fails_the_job_at_once(site, worker):
    job_id = make_job(site.services, fail_in="ingest")
    site.wait_for(job_id, "failed")

    assert errors_of(site, job_id) == ["silent_audio"]
    assert read_job(site.services, job_id).attempt == 1


def test_a_job_whose_decoder_was_killed_is_retried(site, worker, tmp_path):
    """When memory runs out, the kernel kills the largest process, which may be ffmpeg."""
    once = tmp_path / "once"
    job_id = make_job(site.services, decoder_dies_in="ingest", until=str(once))
    site.wait_for(job_id, "succeeded")

    assert errors_of(site, job_id) == ["decoder_killed"]
    assert_one_result(site, job_id)


def test_two_workers_never_run_the_same_job(site, own_worker):
    site.start_worker()
    # Of several studies: a worker takes short jobs of one study together.
    jobs = [make_job(site.services, make_study(site.services), seconds=0.05) for _ in range(20)]
    for job_id in jobs:
        site.wait_for(job_id, "succeeded", 60)

    assert [site.started_stages(job_id) for job_id in jobs] == [list(STAGES)] * 20
    assert len({site.lines(job_id)[0][1] for job_id in jobs}) == 2


def test_a_worker_waits_for_an_unreachable_api(site, no_worker):
    for process in site.running(API):
        kill(process)
    site.start_worker()
    job_id = make_job(site.services)
    site.wait_for(job_id, "running")
    site.start_api()

    site.wait_for(job_id, "succeeded")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def full_site(database_url, no_worker, tmp_path, small_disk):
    """An installation whose vault lies on a small disk."""
    site = Installation(tmp_path, database_url)
    site.open()
    site.settings.vault.symlink_to(small_disk)
    yield site
    site.stop()


@pytest.mark.slow
def test_a_job_waits_while_the_disk_is_full(full_site, tmp_path, small_disk):
    site = full_site
    site.start_api()
    site.start_worker()
    go = tmp_path / "go"
    job_id = make_job(site.services, wait_in="transcribe", until=str(go))
    site.wait_for_stage(job_id, "transcribe")
    filler = fill_disk(small_disk)
    go.touch()
    site.wait_for(job_id, "waiting")
    assert errors_of(site, job_id) == ["disk_full"]
    filler.unlink()
    site.wait_for(job_id, "succeeded", RECOVERY)

    assert_one_result(site, job_id)
    assert_nothing_done_twice(site, job_id, "transcribe")


@pytest.fixture
def own_postgres(data_folder):
    server = EmbeddedPostgres(data_folder / "database")
    server.start()
    engine = open_engine(server.url())
    migrate(engine)
    engine.dispose()
    yield server
    server.stop()


@pytest.mark.slow
def test_a_job_outlives_its_database(own_postgres, tmp_path, capfd):
    site = Installation(tmp_path, own_postgres.url().render_as_string(hide_password=False))
    site.open()
    try:
        site.start_api()
        worker = site.start_worker()
        go = tmp_path / "go"
        job_id = make_job(site.services, wait_in="align", until=str(go))
        site.wait_for_stage(job_id, "align")
        assert own_postgres.process is not None
        own_postgres.process.kill()
        time.sleep(12)  # longer than any timeout of a connection
        assert own_postgres.check()
        go.touch()
        site.wait_for(job_id, "succeeded", RECOVERY)

        assert worker.poll() is None
        assert read_job(site.services, job_id).attempt == 1
        assert Counter(site.started_stages(job_id)) == Counter(STAGES)
        site.wait_for(make_job(site.services), "succeeded", 10)
        before = last_heartbeat(site)
        wait_until(lambda: last_heartbeat(site) > before, 3 * HEARTBEAT, "another heartbeat")
        logged = capfd.readouterr().err
        assert "Traceback" not in logged  # an outage is a line, whoever reports it
        assert "OperationalError" in logged
    finally:
        site.stop()


def last_heartbeat(site):
    """The worker's last heartbeat in the queue's table, which decides when it is presumed dead."""
    with site.services.engine.connect() as connection:
        return connection.scalar(text("SELECT max(last_heartbeat) FROM procrastinate_workers"))
