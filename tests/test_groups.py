"""Short jobs of a study that wait together: transcribed together, each with its own outcome."""

import contextlib
import io
import json
import os
import signal
import time
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from models.audio.recording import SAMPLE_RATE
from models.options import Channels, JobOptions, SpeakerCount
from models.weights.catalogue import find_pipeline, find_whisper
from scripts.make_interview import make_interview
from scripts.stand_in.engine import STAGES, StandInEngine
from scripts.stand_in.installation import Installation, kill, wait_until
from scripts.stand_in.jobs import STAND_IN_MODELS, make_job, make_study, make_token, read_job
from service.child import WORKER
from service.database.queries import lock_job
from service.database.tables import Job, JobError, Worker
from service.domain import groups, job_state, workers
from service.domain.engine_job import TRANSCRIPT, EngineJob
from service.domain.job_details import ROWS
from service.domain.queue import QUEUE, defer_job, request_cancel
from service.vault import ArtefactClass
from service.vault.errors import DiskFull
from service.vault.store import Artefact, Store
from service.vault.streaming import KEY_SIZE, Key
from service.worker.engine_child import EngineChild
from service.worker.pipeline_engine import PipelineEngine
from service.worker.protocol import Engine

# --- which jobs join ---


class Line:
    """The queue and its jobs, in a transaction that is rolled back."""

    def __init__(self, services, session):
        self.session = session
        self.studies = [make_study(services) for _ in range(2)]
        self._token = make_token(services)
        session.execute(text("DELETE FROM procrastinate_jobs"))
        session.execute(text("DELETE FROM worker"))
        self._worker = session.scalar(
            text("SELECT worker_id FROM procrastinate_register_worker_v1()")
        )

    def submit(self, study: int = 0, seconds: float | None = 120.0, **changes: Any) -> UUID:
        values = {**STAND_IN_MODELS, "audio_seconds": seconds, **changes}
        job = Job(id=uuid4(), study_id=self.studies[study], token_id=self._token, **values)
        self.session.add(job)
        defer_job(self.session, job.id, job.study_id)
        return job.id

    def fetch(self) -> UUID:
        query = text("SELECT args FROM procrastinate_fetch_job_v2(ARRAY[:queue], :worker)")
        args = self.session.scalar(query, {"queue": QUEUE, "worker": self._worker})
        return UUID(args["job_id"])

    def start(self) -> list[UUID]:
        """Start the next job and those that join it, as a worker does."""
        lead = self.fetch()
        assert job_state.claim_job(self.session, lead)
        self.companions = groups.take_companions(self.session, lead)
        return [lead, *(each.job_id for each in self.companions)]


@pytest.fixture
def line(services):
    with services.sessionmaker() as session:
        yield Line(services, session)
        session.rollback()


def test_jobs_of_the_study_that_wait_join_the_first_in_their_order(line):
    waiting = [line.submit() for _ in range(3)]

    assert line.start() == waiting


@pytest.mark.parametrize(
    ("study", "changes"),
    [
        (1, {}),
        (0, {"whisper_model": "other"}),
        (0, {"whisper_sha256": "1" * 64}),
        (0, {"diarisation_pipeline": "other"}),
        (0, {"diarisation_sha256": "1" * 64}),
        (0, {"seconds": None}),
        (0, {"seconds": groups.GROUP_SECONDS}),
        (0, {"crashes": 1}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_a_job_that_needs_other_models_or_is_long_or_has_crashed_does_not_join(
    line, study, changes
):
    first = line.submit()
    line.submit(study, **changes)
    last = line.submit()

    assert line.start() == [first, last]


@pytest.mark.parametrize("code", ["engine_died", "internal_error", "out_of_memory"])
@pytest.mark.parametrize("place", [0, 1], ids=["lead", "companion"])
def test_a_job_at_which_the_engine_failed_runs_alone(line, code, place):
    waiting = [line.submit() for _ in range(2)]
    line.session.add(JobError(job_id=waiting[place], code=code, attempt=0, retryable=True))

    assert line.start() == waiting[:1]


def test_a_group_is_no_longer_than_an_interview(line):
    waiting = [line.submit(seconds=groups.GROUP_SECONDS / 4) for _ in range(6)]

    assert line.start() == waiting[:4]


def test_a_group_has_at_most_so_many_jobs(line):
    for _ in range(groups.GROUP_JOBS + 3):
        line.submit(seconds=1.0)

    assert len(line.start()) == groups.GROUP_JOBS


def test_a_group_leaves_jobs_for_the_other_workers(line):
    for _ in range(12):
        line.submit(seconds=1.0)
    line.session.add_all(Worker(host="here", device=f"cuda:{i}") for i in range(3))

    assert len(line.start()) == 2


def test_the_details_of_a_job_know_the_audio_of_its_group(line):
    for _ in range(3):
        line.submit(seconds=100.0)
    line.submit(1, seconds=100.0)
    job = line.session.get_one(Job, line.start()[-1])
    row = line.session.execute(ROWS, {"id": job.id, "row": job.queue_job_id}).one()

    assert row.group_seconds == 300.0


def test_a_group_takes_one_turn(line):
    """If its jobs' turns counted as passed, a new study would wait behind many jobs."""
    for _ in range(20):
        line.submit(0)
    patient = [line.submit(1, seconds=groups.GROUP_SECONDS) for _ in range(5)]
    group = line.start()
    line.studies.append(make_study_in(line))
    newcomer = line.submit(2)

    assert len(group) == 20
    assert [line.fetch() for _ in range(3)] == [patient[0], newcomer, patient[1]]


def make_study_in(line: Line) -> UUID:
    id = uuid4()
    values = {"id": id, "code": f"STUDY-{id.hex[:8].upper()}"}
    line.session.execute(text("INSERT INTO study (id, code) VALUES (:id, :code)"), values)
    return id


def test_a_job_that_is_handed_back_gets_its_own_turn_again(line):
    waiting = [line.submit() for _ in range(3)]
    line.start()
    newcomer = line.submit(1)
    for companion in line.companions:
        at = line.session.scalar(text("SELECT now()"))
        groups.release(line.session, companion, at)

    assert [line.fetch() for _ in range(3)] == [newcomer, *waiting[1:]]


def test_a_newcomer_is_a_later_job_of_another_study(line):
    line.submit(0)
    line.submit(1)
    line.start()
    newest = groups.read_newest(line.session)
    line.submit(0)
    before = groups.has_newcomer(line.session, line.studies[0], newest)
    line.submit(1)

    assert not before
    assert groups.has_newcomer(line.session, line.studies[0], newest)


# --- the engine child ---


def demo_models() -> tuple[str, str, str, str]:
    whisper, diarisation = find_whisper("demo", Path()), find_pipeline("demo", Path())
    return whisper.name, whisper.sha256, diarisation.name, diarisation.sha256


class Room:
    """An engine child, whose messages are read afterwards, and jobs for it."""

    def __init__(
        self, folder: Path, store: Store | None = None, engine: Engine | None = None
    ) -> None:
        self.store = store or Store(ArtefactClass.IDENTIFIED, folder)
        self._messages = io.StringIO()
        self.jobs: dict[UUID, EngineJob] = {}
        self.child = EngineChild(engine or StandInEngine(), self.store, self._messages, 1.0)

    def make_job(self, content: bytes | None = None, **instructions: Any) -> EngineJob:
        key, recording = Key(b"k" * KEY_SIZE), uuid4()
        job = EngineJob(
            uuid4(), uuid4(), (recording,), JobOptions(), None, *demo_models(), stored={}
        )
        job = replace(job, keys={job.id: key, recording: key}, audio_seconds=10.0)
        self.jobs[job.id] = job
        artefact = Artefact(job.study_id, recording, "recording", recording)
        with self.store.write(artefact, key) as file:
            file.write(json.dumps(instructions).encode() if content is None else content)
        return job

    def transcripts(self) -> dict[str, bytes]:
        """Of the jobs that were run, by their ids."""
        found = {}
        for message in map(json.loads, self._messages.getvalue().splitlines()):
            if message["event"] == "done":
                job = self.jobs[UUID(message["job"])]
                artefact = job.artefact(TRANSCRIPT, UUID(message["artefact_id"]))
                with self.store.open(artefact, job.keys[job.id]) as file:
                    found[message["job"]] = file.read()
        return found

    def last_events(self) -> dict[str, str]:
        found = {}
        for line in self._messages.getvalue().splitlines():
            message = json.loads(line)
            if message["event"] in ("done", "stopped", "failed", "handed_back"):
                assert message["job"] not in found
                found[message["job"]] = message.get("code", message["event"])
        return found


def test_jobs_transcribed_together_have_the_transcripts_that_they_have_alone(tmp_path):
    """Byte for byte, in fp32."""
    room = Room(tmp_path, engine=PipelineEngine(Path(), "fp32"))
    options = [
        JobOptions(language="en", speakers=SpeakerCount(2, 2)),
        JobOptions(vocabulary=("Seroquel",)),
        JobOptions(language="en", channels=Channels.MIX, mixed_languages=True),
    ]
    jobs = [
        replace(room.make_job(speech(seed, seconds)), options=each)
        for seed, seconds, each in zip((1, 2, 3), (9, 4, 6), options, strict=True)
    ]
    for job in jobs:
        room.child.run([job])
    alone = room.transcripts()
    room.child.run(jobs)

    assert len(alone) == 3
    assert room.transcripts() == alone


def speech(seed: int, seconds: float) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        samples = make_interview(810_000 + seed, seconds=seconds).samples
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return content.getvalue()


def test_a_full_disk_at_one_job_does_not_touch_the_others(tmp_path):
    full = []

    class SmallStore(Store):
        @contextlib.contextmanager
        def write(self, artefact, key):
            if artefact.subject_id in full and artefact.kind == "stage_transcribe":
                raise DiskFull("no space")
            with super().write(artefact, key) as file:
                yield file

    room = Room(tmp_path, store=SmallStore(ArtefactClass.IDENTIFIED, tmp_path))
    jobs = [room.make_job() for _ in range(3)]
    full.append(jobs[1].id)
    room.child.run(jobs)

    outcomes = room.last_events()
    assert [outcomes[str(job.id)] for job in jobs] == ["done", "disk_full", "done"]


def test_a_missing_recording_at_one_job_does_not_touch_the_others(tmp_path):
    room = Room(tmp_path)
    jobs = [room.make_job() for _ in range(3)]
    missing = uuid4()
    jobs[1] = replace(jobs[1], recordings=(missing,), keys={missing: Key(b"k" * KEY_SIZE)})
    room.child.run(jobs)

    outcomes = room.last_events()
    assert [outcomes[str(job.id)] for job in jobs] == ["done", "artefact_missing", "done"]


def test_time_spent_together_is_divided_by_the_audio(tmp_path):
    room = Room(tmp_path)
    jobs = [room.make_job(seconds=0.2), replace(room.make_job(), audio_seconds=30.0)]
    room.child.run(jobs)

    seconds = {
        message["job"]: message["seconds"]
        for message in map(json.loads, room._messages.getvalue().splitlines())
        if message["event"] == "saved" and message["stage"] == "transcribe"
    }
    short, long = (seconds[str(job.id)] for job in jobs)
    assert long == pytest.approx(3 * short, rel=0.2)
    assert 0.15 < short + long < 2


# --- real processes ---


@pytest.fixture(scope="module")
def site(database_url, tmp_path_factory):
    site = Installation(tmp_path_factory.mktemp("site"), database_url)
    site.open()
    site.start_api()
    yield site
    site.stop()


@pytest.fixture
def worker(site):
    running = site.running(WORKER)
    return running[0] if running else site.start_worker()


class Queue:
    """Jobs of one study that wait together: the worker is held until the block ends."""

    def __init__(self, site: Installation) -> None:
        self.site, self.study = site, make_study(site.services)
        self.jobs: list[UUID] = []

    def submit(self, **instructions: Any) -> UUID:
        self.jobs.append(make_job(self.site.services, self.study, **instructions))
        return self.jobs[-1]


@pytest.fixture
def waiting(site, worker, tmp_path):
    @contextlib.contextmanager
    def hold():
        go = tmp_path / f"go-{uuid4()}"
        blocker = make_job(site.services, wait_in="ingest", until=str(go))
        site.wait_for_stage(blocker, "ingest")
        yield Queue(site)
        go.touch()

    return hold


def errors_of(site, job_id):
    with site.services.sessionmaker() as session:
        query = select(JobError.code).where(JobError.job_id == job_id).order_by(JobError.at)
        return session.scalars(query).all()


def cancel(site, job_id):
    with site.services.sessionmaker.begin() as session:
        job = lock_job(session, job_id)
        assert job is not None
        request_cancel(session, job)


def attempts(site, jobs):
    return [read_job(site.services, job_id).attempt for job_id in jobs]


def finish_time(site, job_id):
    return read_job(site.services, job_id).finished_at


def unfinished_rows(site):
    query = text("SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')")
    with site.services.engine.connect() as connection:
        return connection.scalar(query)


def test_jobs_that_wait_together_are_transcribed_together(site, waiting):
    with waiting() as queue:
        jobs = [queue.submit() for _ in range(4)]
    for job_id in jobs:
        site.wait_for(job_id, "succeeded")

    steps = [line.split() for line in site.log.read_text().splitlines()]
    order = [(words[0], UUID(words[1])) for words in steps if UUID(words[1]) in jobs]
    assert [job for step, job in order if step == "transcribe"] == jobs
    first_end = order.index(("end-transcribe", jobs[0]))
    assert max(order.index(("transcribe", job)) for job in jobs) < first_end
    assert all(site.started_stages(job) == list(STAGES) for job in jobs)
    assert len({pid for job in jobs for _, pid in site.lines(job)}) == 1
    assert attempts(site, jobs) == [1] * 4
    wait_until(lambda: unfinished_rows(site) == 0, 5, "the queue's rows to end")


def test_every_job_of_a_group_has_its_device(site, waiting, tmp_path):
    go = tmp_path / "go"
    with waiting() as queue:
        jobs = [queue.submit(wait_in="segment", until=str(go)), queue.submit()]
        alone = make_job(site.services)
    site.wait_for_stage(jobs[0], "segment")
    with site.services.sessionmaker() as session:
        shown = workers.devices_of_jobs(session, [*jobs, alone])
    go.touch()
    site.wait_for(jobs[1], "succeeded")

    assert shown == dict.fromkeys(jobs, "cpu")


def test_a_job_that_fails_does_not_touch_the_others(site, waiting):
    with waiting() as queue:
        first, bad, last = queue.submit(), queue.submit(fail_in="ingest"), queue.submit()
    for job_id, status in ((first, "succeeded"), (bad, "failed"), (last, "succeeded")):
        site.wait_for(job_id, status)

    assert errors_of(site, bad) == ["silent_audio"]
    assert attempts(site, queue.jobs) == [1, 1, 1]
    assert "transcribe" not in site.started_stages(bad)


def test_a_lead_that_must_be_retried_is(site, waiting, tmp_path):
    with waiting() as queue:
        once = tmp_path / "once"
        lead = queue.submit(decoder_dies_in="ingest", until=str(once))
        other = queue.submit()
    site.wait_for(lead, "succeeded")
    site.wait_for(other, "succeeded")

    assert errors_of(site, lead) == ["decoder_killed"]
    assert attempts(site, queue.jobs) == [2, 1]


def test_a_job_that_must_be_retried_is(site, waiting, tmp_path):
    with waiting() as queue:
        once = tmp_path / "once"
        other = queue.submit()
        again = queue.submit(decoder_dies_in="ingest", until=str(once))
    site.wait_for(again, "succeeded")
    site.wait_for(other, "succeeded")

    assert errors_of(site, again) == ["decoder_killed"]
    assert attempts(site, queue.jobs) == [1, 2]


@pytest.mark.parametrize("stage", ["segment", "transcribe", "diarise"])
def test_a_cancelled_job_does_not_touch_the_others(site, waiting, tmp_path, stage):
    go = tmp_path / "go"
    with waiting() as queue:
        first = queue.submit()
        cancelled = queue.submit(wait_in=stage, until=str(go))
        last = queue.submit()
    site.wait_for_stage(cancelled, stage)
    cancel(site, cancelled)
    site.wait_for(cancelled, "cancelled", 10)
    go.touch()
    site.wait_for(first, "succeeded")
    site.wait_for(last, "succeeded")

    assert attempts(site, queue.jobs) == [1, 1, 1]
    assert read_job(site.services, cancelled).transcript_id is None
    assert len({pid for job in queue.jobs for _, pid in site.lines(job)}) == 1


def test_jobs_beside_one_that_hangs_are_handed_back_when_it_is_cancelled(site, waiting):
    with waiting() as queue:
        jobs = [queue.submit(), queue.submit(hang_in="transcribe"), queue.submit()]
    site.wait_for_stage(jobs[1], "transcribe")
    cancel(site, jobs[1])
    site.wait_for(jobs[1], "cancelled", 15)
    for job_id in (jobs[0], jobs[2]):
        site.wait_for(job_id, "succeeded")

    assert [errors_of(site, job_id) for job_id in jobs] == [[], [], []]
    assert attempts(site, jobs) == [2, 1, 2]
    assert site.started_stages(jobs[2]).count("segment") == 1  # its result was kept


def test_jobs_beside_one_that_is_erased_are_handed_back(site, waiting, tmp_path):
    go = tmp_path / "go"
    with waiting() as queue:
        jobs = [queue.submit(), queue.submit(wait_in="transcribe", until=str(go)), queue.submit()]
    site.wait_for_stage(jobs[1], "transcribe")
    engine = site.lines(jobs[1])[-1][1]
    with site.services.sessionmaker.begin() as session:
        erased = lock_job(session, jobs[1])
        assert erased is not None
        erased.status, erased.finished_at = "erased", erased.created_at
    wait_until(lambda: not is_running(engine), 10, "the engine with the erased recording to end")
    for job_id in (jobs[0], jobs[2]):
        site.wait_for(job_id, "succeeded")

    assert read_job(site.services, jobs[1]).status == "erased"
    assert [errors_of(site, job_id) for job_id in jobs] == [[], [], []]
    assert attempts(site, jobs) == [2, 1, 2]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_jobs_of_a_killed_engine_run_again_one_by_one(site, waiting, tmp_path):
    go = tmp_path / "go"
    with waiting() as queue:
        begun = [queue.submit(), queue.submit(wait_in="segment", until=str(go))]
        not_begun = queue.submit()
    site.wait_for_stage(begun[1], "segment")
    time.sleep(0.3)
    os.kill(site.lines(begun[1])[-1][1], signal.SIGKILL)
    go.touch()
    for job_id in queue.jobs:
        site.wait_for(job_id, "succeeded")

    assert [errors_of(site, job) for job in begun] == [["engine_died"]] * 2
    assert errors_of(site, not_begun) == []
    assert attempts(site, queue.jobs) == [2, 2, 2]
    assert site.started_stages(begun[0]).count("segment") == 1


def test_a_job_that_kills_the_engine_fails_and_the_others_succeed(site, waiting):
    with waiting() as queue:
        jobs = [queue.submit(), queue.submit(die_in="transcribe"), queue.submit()]
    site.wait_for(jobs[1], "failed", 60)
    for job_id in (jobs[0], jobs[2]):
        site.wait_for(job_id, "succeeded")

    assert errors_of(site, jobs[1])[-1] == "gave_up"
    assert [errors_of(site, job_id) for job_id in (jobs[0], jobs[2])] == [["engine_died"]] * 2


def test_a_bug_at_one_job_is_not_counted_against_the_others(site, waiting):
    with waiting() as queue:
        jobs = [queue.submit(), queue.submit(fault_in="diarise"), queue.submit()]
    site.wait_for(jobs[1], "failed", 60)
    for job_id in (jobs[0], jobs[2]):
        site.wait_for(job_id, "succeeded")

    assert set(errors_of(site, jobs[1])) == {"internal_error"}
    assert [errors_of(site, job_id) for job_id in (jobs[0], jobs[2])] == [[], []]


def test_a_job_of_another_study_does_not_wait_for_jobs_that_have_not_begun(site, waiting, tmp_path):
    go = tmp_path / "go"
    with waiting() as queue:
        jobs = [queue.submit(wait_in="segment", until=str(go)), queue.submit(), queue.submit()]
    site.wait_for_stage(jobs[0], "segment")
    newcomer = make_job(site.services)
    time.sleep(2.5)  # until the worker has noticed it
    go.touch()
    for job_id in (*jobs, newcomer):
        site.wait_for(job_id, "succeeded")

    order = sorted((*jobs, newcomer), key=lambda job: finish_time(site, job))
    assert order == [jobs[0], newcomer, *jobs[1:]]
    assert [errors_of(site, job_id) for job_id in jobs] == [[], [], []]
    assert attempts(site, jobs) == [1, 2, 2]


@pytest.mark.slow
def test_the_jobs_of_a_stopping_worker_return_to_the_queue(site, waiting, worker, tmp_path):
    go = tmp_path / "go"
    with waiting() as queue:
        jobs = [queue.submit(), queue.submit(wait_in="transcribe", until=str(go)), queue.submit()]
    site.wait_for_stage(jobs[1], "transcribe")
    worker.terminate()
    assert worker.wait(25) == 0
    go.touch()
    statuses = {site.status(job_id) for job_id in jobs}
    site.start_worker()
    for job_id in jobs:
        site.wait_for(job_id, "succeeded", 10)

    assert statuses == {"queued"}
    assert [errors_of(site, job_id) for job_id in jobs] == [[], [], []]


@pytest.mark.slow
def test_the_jobs_of_a_killed_worker_run_again(site, waiting, worker, tmp_path):
    go = tmp_path / "go"
    with waiting() as queue:
        jobs = [queue.submit(), queue.submit(wait_in="transcribe", until=str(go)), queue.submit()]
    site.wait_for_stage(jobs[1], "transcribe")
    time.sleep(1.5)
    kill(worker)
    go.touch()
    site.start_worker()
    for job_id in jobs:
        site.wait_for(job_id, "succeeded", 60)

    assert [errors_of(site, job_id) for job_id in jobs] == [["worker_died"]] * 3
    assert [site.started_stages(job_id).count("segment") for job_id in jobs] == [1, 1, 1]
