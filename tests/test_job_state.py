"""A job's rows while workers claim, lose and finish it."""

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from procrastinate.exceptions import ConnectorException
from sqlalchemy import select, text
from sqlalchemy.event import listen
from sqlalchemy.exc import TimeoutError as PoolTimeout

from scripts.stand_in.jobs import make_job, make_study, make_token, read_job, read_stages
from service.database.queries import lock_job
from service.database.tables import Handoff, Job, JobError, StageTiming, StoredTranscript
from service.domain import handoffs, job_state, queue, recordings
from service.domain.callers import Caller
from service.domain.job_state import FenceLost, JobGone, Outcome
from service.domain.queue import defer_job, maintain, reap, request_cancel, sweep
from service.services import open_services
from service.vault import ArtefactClass
from service.vault.errors import DiskFull

DONE = Outcome(uuid4(), ("SPEAKER_00", "SPEAKER_01"), ("a warning",), 10.0)


def do(services, write, *arguments):
    with services.sessionmaker.begin() as session:
        return write(session, *arguments)


def errors_of(services, job_id):
    with services.sessionmaker() as session:
        rows = session.scalars(
            select(JobError).where(JobError.job_id == job_id).order_by(JobError.at)
        )
        return [(row.code, row.stage, row.attempt, row.retryable) for row in rows]


def cancel(services, job_id):
    with services.sessionmaker.begin() as session:
        job = lock_job(session, job_id)
        assert job is not None
        request_cancel(session, job)


@pytest.fixture(scope="module")
def services(module_settings):
    services = open_services(module_settings)
    yield services
    services.close()


@pytest.fixture
def job_id(services):
    return make_job(services)


@pytest.fixture
def held(services, job_id):
    return do(services, job_state.claim_job, job_id)


def test_a_claim_holds_everything_the_engine_needs(services, job_id, held):
    job = read_job(services, job_id)

    assert (job.status, job.attempt, job.fence) == ("running", 1, held.fence)
    assert held.job.id == job_id
    assert len(held.job.recordings) == 1
    assert held.job.stored == {}
    assert held.job.keys == {}


def test_finishing_a_job_creates_a_transcript_and_a_hand_off(services, job_id, held):
    transcript_id = uuid4()
    do(services, job_state.finish_job, held, transcript_id, DONE)

    job = read_job(services, job_id)
    assert (job.status, job.transcript_id, job.fraction) == ("succeeded", transcript_id, 1.0)
    assert job.warnings == ["a warning"]
    assert {stage.state for stage in read_stages(services, job_id).values()} == {"succeeded"}
    with services.sessionmaker() as session:
        transcript = session.get_one(StoredTranscript, transcript_id)
        assert transcript.artefact_id == DONE.artefact_id
        assert set(transcript.speakers) == {"SPEAKER_00", "SPEAKER_01"}
        handoff = session.scalars(
            select(Handoff).where(Handoff.transcript_id == transcript_id)
        ).one()
        assert handoff.status == "open"


def test_finishing_twice_after_a_lost_commit_response_writes_one_transcript(services, job_id, held):
    transcript_id = uuid4()
    do(services, job_state.finish_job, held, transcript_id, DONE)
    do(services, job_state.finish_job, held, transcript_id, DONE)

    with services.sessionmaker() as session:
        found = session.scalars(
            select(StoredTranscript).where(StoredTranscript.job_id == job_id)
        ).all()
        assert len(found) == 1


def test_a_finished_job_is_not_claimed_again(services, job_id, held):
    do(services, job_state.finish_job, held, uuid4(), DONE)

    assert do(services, job_state.claim_job, job_id) is None


WRITES = {
    "beat": (job_state.record_heartbeat, ()),
    "saved": (job_state.record_result, ("segment", uuid4(), 1.0)),
    "finish": (job_state.finish_job, (uuid4(), DONE)),
    "failed": (job_state.record_failure, ("silent_audio",)),
    "crashed": (job_state.record_crash, ("engine_died",)),
    "put_back": (job_state.put_back_job, ()),
    "cancelled": (job_state.record_cancelled, ()),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_worker_taken_for_dead_writes_nothing(services, job_id, held, name):
    later = do(services, job_state.claim_job, job_id)
    version = read_job(services, job_id).version
    write, arguments = WRITES[name]

    with pytest.raises(FenceLost):
        do(services, write, held, *arguments)

    assert read_job(services, job_id).version == version
    assert do(services, job_state.record_heartbeat, later) == "running"


def test_a_worker_taken_for_dead_writes_nothing_while_its_job_is_queued(services, job_id, held):
    with services.sessionmaker.begin() as session:
        job_state.requeue_orphan(session, session.get_one(Job, job_id))

    with pytest.raises(FenceLost):
        do(services, job_state.record_heartbeat, held)
    assert errors_of(services, job_id) == [("worker_died", None, 1, True)]


def test_a_worker_learns_that_its_job_was_erased(services, job_id, held):
    with services.sessionmaker.begin() as session:
        session.get_one(Job, job_id).status = "erased"

    with pytest.raises(JobGone):
        do(services, job_state.record_heartbeat, held)


def test_progress_is_recorded_for_the_stage_and_for_the_job(services, job_id, held):
    do(services, job_state.record_heartbeat, held, "ingest", 1.0)
    version = read_job(services, job_id).version
    do(services, job_state.record_heartbeat, held, "segment", 0.5)

    job, stages = read_job(services, job_id), read_stages(services, job_id)
    assert job.version > version
    assert job.stage == "segment"
    assert 0 < job.fraction < 0.5
    assert stages["ingest"].state == "succeeded"
    assert (stages["segment"].state, stages["segment"].fraction) == ("running", 0.5)
    assert stages["segment"].audio_seconds_done == 5.0


def test_a_late_progress_report_does_not_reopen_a_stage(services, job_id, held):
    do(services, job_state.record_result, held, "segment", uuid4(), 1.0)
    do(services, job_state.record_heartbeat, held, "segment", 1.0)

    assert read_stages(services, job_id)["segment"].state == "succeeded"


def test_a_report_of_progress_takes_few_statements(services, held):
    """It once took twelve, while the job's row was locked."""
    do(services, job_state.record_loaded, held, "cpu", None)
    do(services, job_state.record_heartbeat, held, "segment", 0.1)
    statements = []
    listen(services.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))

    do(services, job_state.record_heartbeat, held, "segment", 0.2)

    assert len(statements) <= 6, statements


def test_a_heartbeat_without_progress_is_no_new_version(services, job_id, held):
    job = read_job(services, job_id)
    do(services, job_state.record_heartbeat, held)

    assert read_job(services, job_id).version == job.version
    later = read_job(services, job_id).heartbeat_at
    assert later and job.heartbeat_at and later > job.heartbeat_at


def test_the_next_attempt_continues_after_the_last_finished_stage(services, job_id, held):
    artefact = uuid4()
    do(services, job_state.record_loaded, held, "cpu", {"segment": 0.1})
    do(services, job_state.record_result, held, "segment", artefact, 1.5)

    assert do(services, job_state.claim_job, job_id).job.stored == {"segment": artefact}
    with services.sessionmaker() as session:
        timings = session.scalars(select(StageTiming).order_by(StageTiming.at)).all()
        assert [(t.seconds, t.audio_seconds, t.trial) for t in timings][-2:] == [
            (0.1, 1.0, True),
            (1.5, 10.0, False),
        ]


def test_a_rerun_with_other_speakers_gets_the_embeddings(services, job_id):
    artefact = uuid4()
    with services.sessionmaker.begin() as session:
        session.execute(
            text("UPDATE job_stage SET artefact_id = :id WHERE job_id = :job AND name = 'diarise'"),
            {"id": artefact, "job": job_id},
        )

    assert do(services, job_state.claim_job, job_id).job.stored == {"embeddings": artefact}


def test_a_job_that_kills_its_workers_fails_after_three_attempts(services, job_id):
    for _ in range(3):
        assert do(services, job_state.claim_job, job_id) is not None
    assert do(services, job_state.claim_job, job_id) is None

    assert read_job(services, job_id).status == "failed"
    assert [error[0] for error in errors_of(services, job_id)] == ["worker_died"] * 3 + ["gave_up"]


def test_a_job_that_kills_the_engine_fails_after_three_attempts(services, job_id):
    for expected in (True, True, False):
        held = do(services, job_state.claim_job, job_id)
        assert do(services, job_state.record_crash, held, "engine_died") is expected

    assert read_job(services, job_id).status == "failed"
    assert [error[0] for error in errors_of(services, job_id)] == ["engine_died"] * 3 + ["gave_up"]


@pytest.mark.parametrize("found_by", ["the reaper", "the next worker"])
def test_a_power_cut_does_not_count_as_a_crash(services, job_id, found_by):
    """The last heartbeat is older than the database's start: everything stopped together."""
    before = "UPDATE job SET heartbeat_at = pg_postmaster_start_time() - interval '1 second'"
    for _ in range(4):
        assert do(services, job_state.claim_job, job_id) is not None
        with services.sessionmaker.begin() as session:
            session.execute(text(before + " WHERE id = :id"), {"id": job_id})
            if found_by == "the reaper":
                job_state.requeue_orphan(session, session.get_one(Job, job_id))

    assert do(services, job_state.claim_job, job_id) is not None
    assert [error[0] for error in errors_of(services, job_id)] == ["worker_died"] * 4


def test_an_attempt_that_finished_a_stage_does_not_count_as_a_crash(services, job_id):
    for stage in ("segment", "transcribe", "align", "diarise"):
        held = do(services, job_state.claim_job, job_id)
        do(services, job_state.record_result, held, stage, uuid4(), 1.0)
        assert do(services, job_state.record_crash, held, "engine_died")

    assert read_job(services, job_id).status == "queued"


def test_an_attempt_that_was_put_back_does_not_count(services, job_id):
    for _ in range(5):
        do(services, job_state.put_back_job, do(services, job_state.claim_job, job_id))

    assert read_job(services, job_id).status == "queued"


def test_a_waiting_job_records_its_error_once(services, job_id):
    for _ in range(4):
        do(services, job_state.put_back_job, do(services, job_state.claim_job, job_id), "disk_full")

    assert read_job(services, job_id).status == "waiting"
    assert errors_of(services, job_id) == [("disk_full", None, 1, True)]


def test_a_queued_job_is_cancelled_at_once(services, job_id):
    cancel(services, job_id)

    assert read_job(services, job_id).status == "cancelled"
    assert do(services, job_state.claim_job, job_id) is None


def test_a_running_job_is_cancelled_by_its_worker(services, job_id, held):
    cancel(services, job_id)
    assert read_job(services, job_id).status == "cancelling"
    assert do(services, job_state.record_heartbeat, held) == "cancelling"

    do(services, job_state.record_cancelled, held)
    assert read_job(services, job_id).status == "cancelled"


def test_a_result_that_arrives_after_a_cancel_is_not_written(services, job_id, held):
    cancel(services, job_id)
    do(services, job_state.finish_job, held, uuid4(), DONE)

    assert read_job(services, job_id).status == "cancelled"
    assert read_job(services, job_id).transcript_id is None


@pytest.mark.parametrize("end", [job_state.put_back_job, job_state.record_crash])
def test_a_job_that_ends_while_it_is_being_cancelled_is_cancelled(services, job_id, held, end):
    cancel(services, job_id)
    do(services, end, held, "engine_died")

    assert read_job(services, job_id).status == "cancelled"


def test_a_job_whose_worker_died_while_it_was_cancelled_is_cancelled(services, job_id, held):
    cancel(services, job_id)

    assert do(services, job_state.claim_job, job_id) is None
    assert read_job(services, job_id).status == "cancelled"


def test_cancelling_twice_changes_nothing(services, job_id, held):
    cancel(services, job_id)
    do(services, job_state.record_cancelled, held)
    version = read_job(services, job_id).version
    cancel(services, job_id)

    assert read_job(services, job_id).version == version


def queue_rows(services, job_id):
    query = text("SELECT status::text FROM procrastinate_jobs WHERE args->>'job_id' = :id")
    with services.engine.connect() as connection:
        return sorted(connection.scalars(query, {"id": str(job_id)}))


def set_queue(services, job_id, status):
    query = "UPDATE procrastinate_jobs SET status = :status WHERE args->>'job_id' = :id"
    with services.engine.begin() as connection:
        connection.execute(text(query), {"status": status, "id": str(job_id)})


def test_the_job_of_a_dead_worker_goes_back_into_the_queue(services, job_id, held):
    set_queue(services, job_id, "doing")  # held by a worker that does not exist

    reap(services.sessionmaker, stalled=0)

    assert queue_rows(services, job_id) == ["todo"]
    assert read_job(services, job_id).status == "queued"
    assert errors_of(services, job_id) == [("worker_died", None, 1, True)]


def test_a_reaper_does_nothing_while_another_one_runs(services, job_id, held):
    set_queue(services, job_id, "doing")
    with services.engine.begin() as another:
        another.execute(text("SELECT pg_advisory_xact_lock(hashtext('fieldscribe:reaper'))"))
        assert reap(services.sessionmaker, stalled=0) == 0
        assert queue_rows(services, job_id) == ["doing"]

    reap(services.sessionmaker, stalled=0)
    assert queue_rows(services, job_id) == ["todo"]


def test_after_the_database_starts_workers_have_time_for_a_heartbeat(services, job_id, held):
    set_queue(services, job_id, "doing")

    reap(services.sessionmaker, stalled=3600)

    assert queue_rows(services, job_id) == ["doing"]


def register_worker(services, job_id):
    """A worker whose last heartbeat is a day ahead of the database's clock; it holds the job."""
    reap(services.sessionmaker, stalled=0)  # jobs of other tests
    with services.engine.begin() as connection:
        worker = connection.scalar(text("SELECT worker_id FROM procrastinate_register_worker_v1()"))
        connection.execute(
            text(
                "UPDATE procrastinate_workers SET last_heartbeat = now() + interval '1 day' "
                "WHERE id = :worker"
            ),
            {"worker": worker},
        )
        connection.execute(
            text(
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = :worker "
                "WHERE args->>'job_id' = :job"
            ),
            {"worker": worker, "job": str(job_id)},
        )
    return worker


def test_a_heartbeat_from_the_future_does_not_keep_a_job(services, job_id, held):
    """The database's clock was wrong for a while: the job stayed `running` for as long again."""
    register_worker(services, job_id)

    assert reap(services.sessionmaker, stalled=0.3) == 0  # the worker has time for another
    time.sleep(0.4)
    assert reap(services.sessionmaker, stalled=0.3) == 1

    assert queue_rows(services, job_id) == ["todo"]
    assert read_job(services, job_id).status == "queued"


def test_a_living_worker_keeps_its_job_when_the_clock_is_put_back(services, job_id, held):
    worker = register_worker(services, job_id)
    for _ in range(4):
        assert reap(services.sessionmaker, stalled=0.3) == 0
        with services.engine.begin() as connection:
            beat = text("SELECT procrastinate_update_heartbeat_v1(:worker)")
            connection.execute(beat, {"worker": worker})
        time.sleep(0.15)

    assert queue_rows(services, job_id) == ["doing"]


def test_a_database_that_started_in_the_future_does_not_stop_the_reaper(
    services, job_id, held, monkeypatch
):
    set_queue(services, job_id, "doing")
    later = str(queue.REAP).replace("pg_postmaster_start_time()", "(now() + interval '1 day')")
    monkeypatch.setattr(queue, "REAP", text(later))

    assert reap(services.sessionmaker) >= 1
    assert queue_rows(services, job_id) == ["todo"]


def test_times_that_are_compared_come_from_the_databases_clock(services, monkeypatch):
    """The clock of a worker's machine may be wrong; the database's decides."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=1)

    for module in (job_state, queue, handoffs, recordings):
        monkeypatch.setattr(module, "datetime", Wrong, raising=False)
    job_id = make_job(services)
    held = do(services, job_state.claim_job, job_id)
    do(services, job_state.record_heartbeat, held, "ingest", 0.5)
    do(services, job_state.record_heartbeat, held, "segment", 0.5)
    do(services, job_state.finish_job, held, uuid4(), DONE)
    owner = Caller(make_token(services), "owner", all_studies=True, studies=frozenset())
    study = str(read_job(services, job_id).study_id)
    begun = recordings.create_upload(
        services, owner, study=study, session=None, n_bytes=1, metadata=None
    )

    job, ingest = read_job(services, job_id), read_stages(services, job_id)["ingest"]
    tomorrow = datetime.now(UTC) + timedelta(hours=12)
    times = [job.heartbeat_at, job.started_at, job.finished_at]
    times += [ingest.started_at, ingest.finished_at]
    assert all(at is not None and at < tomorrow for at in times)
    lasts = timedelta(hours=services.settings.upload_expiry_hours)
    assert begun.expires_at is not None and begun.expires_at - lasts < tomorrow


def test_two_reapers_do_not_run_at_once(services, job_id, held):
    set_queue(services, job_id, "doing")
    with services.sessionmaker.begin() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext('fieldscribe:reaper'))"))
        assert reap(services.sessionmaker, stalled=0) == 0
    assert queue_rows(services, job_id) == ["doing"]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_job_that_the_queue_lost_is_queued_again(services, job_id, held, status):
    set_queue(services, job_id, status)

    sweep(services.sessionmaker)

    assert queue_rows(services, job_id) == sorted([status, "todo"])
    assert read_job(services, job_id).status == "queued"
    sweep(services.sessionmaker)
    assert queue_rows(services, job_id) == sorted([status, "todo"])


def test_a_rolled_back_submission_leaves_nothing_in_the_queue(services):
    study = make_study(services)
    job_id = make_job(services, study)
    with services.sessionmaker() as session:
        defer_job(session, job_id, study)
        session.rollback()

    assert queue_rows(services, job_id) == ["todo"]


def test_a_study_with_many_jobs_lets_others_go_first(services):
    busy, other = make_study(services), make_study(services)
    jobs = [make_job(services, busy) for _ in range(3)] + [make_job(services, other)]
    query = "SELECT args->>'job_id' FROM procrastinate_jobs WHERE args->>'job_id' = ANY(:ids) "
    with services.engine.connect() as connection:
        order = connection.scalars(
            text(query + "ORDER BY priority DESC, id"), {"ids": [str(id) for id in jobs]}
        ).all()

    assert order == [str(jobs[i]) for i in (0, 3, 1, 2)]


def test_the_repr_of_a_claim_shows_no_keys(services, job_id, held):
    from service.vault.streaming import Key

    assert "secret" not in repr(replace(held.job, keys={uuid4(): Key(b"secret" * 5 + b"se")}))


def test_half_written_files_of_killed_processes_are_deleted_after_a_day(services):
    store = services.vault.stores[ArtefactClass.IDENTIFIED]
    old, new = store.folder / "artefacts" / ".old.partial", store.folder / ".new.partial"
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))

    async def for_a_moment():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(maintain(services), 3)

    asyncio.run(for_a_moment())
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize(
    ("work", "error"),
    [
        ("reap", PoolTimeout("Eva")),
        ("sweep", ConnectorException("Eva")),
        ("remove_strays", DiskFull("Eva")),
    ],
)
def test_queue_maintenance_resumes_after_an_error(
    services, job_id, held, monkeypatch, caplog, work, error
):
    """It used to end, so that jobs of dead workers were stuck until the API was restarted."""
    set_queue(services, job_id, "failed")
    real, left = getattr(queue, work), [error]

    def fail_once(*arguments):
        if left:
            raise left.pop()
        return real(*arguments)

    monkeypatch.setattr(queue, work, fail_once)
    monkeypatch.setattr(queue, "REAP_EVERY", 0.05)

    async def until_it_is_back():
        looking = asyncio.create_task(maintain(services))
        for _ in range(100):
            said = type(error).__name__ in caplog.text
            if said and queue_rows(services, job_id) == ["failed", "todo"]:
                break
            await asyncio.sleep(0.05)
        looking.cancel()

    asyncio.run(until_it_is_back())

    assert queue_rows(services, job_id) == ["failed", "todo"]
    assert type(error).__name__ in caplog.text
    assert "Eva" not in caplog.text
