"""The worker: getting a job's keys, and handling bugs and obstacles."""

import asyncio
import contextlib
import http.server
import json
import threading
from typing import cast
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from models.options import JobOptions, SpeakerCount
from scripts.stand_in.jobs import make_job, read_job
from service.database.engine import conninfo
from service.database.tables import JobError
from service.domain.engine_job import EngineJob
from service.domain.job_state import MAX_CRASHES
from service.settings import Settings
from service.vault.errors import Erased, Sealed
from service.vault.streaming import Key
from service.worker.keys import keys_from_api
from service.worker.process import build_app
from service.worker.runner import RetryLater, Runner


@pytest.fixture
def api():
    """Returns the test's `answer` and records the requests in `asked`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        answer: tuple[int, dict[str, object]] = (200, {"keys": {}})
        asked: list[tuple[str, str, dict[str, object]]] = []

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.asked.append((self.path, self.headers["Authorization"], body))
            status, answer = Handler.answer
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetch(api, tmp_path):
    return keys_from_api(worker_settings(tmp_path, api.url))


def worker_settings(folder, url):
    settings = Settings(data=folder / "data", keys=folder / "keys", url=url)
    settings.data.mkdir()
    settings.worker_token.write_text("s3cret\n")
    return settings


def test_keys_are_requested_for_the_claimed_job_under_its_fence(api, fetch):
    job, recording = uuid4(), uuid4()
    api.answer = (200, {"keys": {str(recording): "AAAA" * 10 + "AAA="}})

    assert fetch(job, 7) == {recording: Key(bytes(32))}
    assert api.asked[-1] == (f"/internal/jobs/{job}/keys", "Bearer s3cret", {"fence": 7})


@pytest.mark.parametrize("error", [Sealed, Erased])
def test_a_refusal_about_the_keys_is_the_jobs_error(api, fetch, error):
    api.answer = (error.status, {"code": error.code})

    with pytest.raises(error):
        fetch(uuid4(), 1)


@pytest.mark.parametrize("status", [401, 404, 409, 429, 500, 503])
def test_any_other_refusal_can_be_retried(api, fetch, status):
    api.answer = (status, {"code": "something"})

    with pytest.raises(OSError, match=str(status)):
        fetch(uuid4(), 1)


def test_an_unreachable_api_can_be_retried(tmp_path):
    with pytest.raises(OSError):
        keys_from_api(worker_settings(tmp_path, "http://127.0.0.1:9"))(uuid4(), 1)


def test_keys_are_not_sent_through_a_proxy(api, fetch, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert fetch(uuid4(), 1) == {}


def test_a_job_survives_the_trip_through_the_pipe():
    recordings = (uuid4(), uuid4())
    job = EngineJob(
        id=uuid4(),
        study_id=uuid4(),
        recordings=recordings,
        options=JobOptions(language="en", speakers=SpeakerCount(2, 3)),
        vocabulary_artefact_id=uuid4(),
        whisper_model="demo",
        whisper_sha256="0",
        diarisation_pipeline="demo",
        diarisation_sha256="1",
        stored={"segment": uuid4()},
        keys={id: Key(id.bytes * 2) for id in recordings},
    )

    assert EngineJob.from_message(json.loads(json.dumps(job.to_message()))) == job


SAID = "my name is Eva Muster"


class BrokenEngine:
    """Raises an error in the worker, as a bug in reading its messages would."""

    n_killed = 0

    async def run(self, jobs):
        raise KeyError(SAID)
        yield {}

    async def kill(self):
        self.n_killed += 1


def test_a_bug_in_the_worker_is_the_jobs_error_and_leaves_no_engine_running(services, caplog):
    job_id = make_job(services)
    engine = BrokenEngine()
    runner = Runner(services.sessionmaker, engine, lambda job_id, fence: {})  # type: ignore[arg-type]
    for attempts_left in (2, 1, 0):
        with pytest.raises(RetryLater) if attempts_left else contextlib.nullcontext():
            asyncio.run(runner.run(job_id))

    with services.sessionmaker() as session:
        codes = session.scalars(select(JobError.code).where(JobError.job_id == job_id)).all()
    assert codes == ["internal_error"] * 4
    assert engine.n_killed == 3
    assert "KeyError" in caplog.text
    assert "Eva" not in caplog.text


class FullGpu:
    """Another program uses the GPU's memory."""

    n_killed = 0

    async def run(self, jobs):
        (job,) = jobs
        failed = {"event": "failed", "job": str(job.id), "code": "out_of_memory"}
        yield {**failed, "retryable": True}

    async def kill(self):
        self.n_killed += 1


def test_a_job_waits_for_a_busy_gpu_as_long_as_it_takes(services):
    """Jobs failed after a minute and a half, so that a busy GPU failed a whole night's queue."""
    job_id = make_job(services)
    engine = FullGpu()
    runner = Runner(services.sessionmaker, engine, lambda job_id, fence: {})  # type: ignore[arg-type]

    async def run_repeatedly():
        for _ in range(MAX_CRASHES + 2):
            with pytest.raises(RetryLater):
                await runner.run(job_id)

    asyncio.run(run_repeatedly())
    with services.sessionmaker() as session:
        codes = session.scalars(select(JobError.code).where(JobError.job_id == job_id)).all()
    assert read_job(services, job_id).status == "waiting"
    assert codes == ["out_of_memory"]
    assert engine.n_killed == MAX_CRASHES + 2  # which frees its GPU memory


def test_rows_of_finished_and_cancelled_jobs_leave_the_queue_after_a_week(services):
    """Cancelled rows stayed for ever."""
    job_ids = [make_job(services) for _ in range(4)]
    statuses = dict(zip(job_ids, ("succeeded", "failed", "cancelled", "todo"), strict=True))
    with services.engine.begin() as connection:
        for job_id, status in statuses.items():
            connection.execute(
                text("UPDATE procrastinate_jobs SET status = :status WHERE args->>'job_id' = :job"),
                {"status": status, "job": str(job_id)},
            )
        connection.execute(text("UPDATE procrastinate_events SET at = now() - interval '8 days'"))

    async def prune():
        app = build_app(conninfo(services.engine.url), cast(Runner, None))
        async with app.open_async():
            await app.tasks["fieldscribe.prune"](0)

    asyncio.run(prune())

    with services.engine.connect() as connection:
        rows = connection.scalars(text("SELECT status::text FROM procrastinate_jobs"))
        left = sorted(rows)
    assert "todo" in left
    assert not {"succeeded", "failed", "cancelled"} & set(left)
