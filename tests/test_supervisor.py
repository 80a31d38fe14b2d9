"""`fieldscribe serve`: whichever of its processes is killed, jobs succeed."""

import contextlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
import wave
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select

from models.audio.recording import SAMPLE_RATE
from models.transcript_json import from_json
from models.weights.catalogue import find_pipeline, find_whisper
from scripts.make_interview import make_interview
from scripts.stand_in.installation import RECOVERY, Installation, wait_until
from scripts.stand_in.jobs import make_job, read_job, read_stages
from service.database.tables import Handoff, Job, StoredTranscript
from service.domain import results
from service.domain.handoffs import OCCURRENCES
from service.domain.job_state import MAX_CRASHES
from service.services import open_services
from service.worker.protocol import PIPELINE_ENGINE
from tests.visitor import Visitor


@pytest.fixture
def site(data_folder, tmp_path):
    site = Installation(data_folder, None)
    site.start_serve()
    wait_until(site.is_ready, 120, "the service to answer")
    site.services = open_services(site.settings)
    yield site
    site.cut_power()
    site.services.close()


def kill(site, name):
    (pid,) = site.pids()[name]
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def test_serve_starts_and_stops_all_processes(site):
    site.wait_for(make_job(site.services), "succeeded", 60)
    assert set(site.pids()) == {"serve", "api", "worker", "engine", "postgres"}
    (serve,) = site.processes
    serve.terminate()

    assert serve.wait(30) == 0
    assert site.pids() == {}


@pytest.mark.slow
def test_serve_fails_at_once_if_its_port_is_taken(data_folder):
    """`serve` restarted an API that could not listen for ever."""
    site = Installation(data_folder, None)
    command = [sys.executable, "-c", "from service.commands.main import main; main()", "serve"]
    with socket.create_server(("127.0.0.1", site.settings.port)):
        done = subprocess.run(
            command,
            env={**os.environ, **site.settings.as_environment()},
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("port_taken: The service cannot listen on port")
    assert site.pids() == {}


def test_no_process_writes_core_dumps(site):
    site.wait_for(make_job(site.services), "succeeded", 60)
    for name, pids in site.pids().items():
        with open(f"/proc/{pids[0]}/limits") as limits:
            (line,) = (line for line in limits if line.startswith("Max core file size"))
        assert line.split()[4] == "0", name
        if name != "postgres":
            with open(f"/proc/{pids[0]}/coredump_filter") as filter:
                assert int(filter.read(), 16) == 0, name


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["api", "serve", "worker", "engine", "postgres"])
def test_a_job_survives_the_kill_of_any_process(site, victim, tmp_path):
    go = tmp_path / "go"
    job_id = make_job(site.services, wait_in="transcribe", until=str(go))
    site.wait_for_stage(job_id, "transcribe", 60)
    time.sleep(1.5)
    before = len(site.lines(job_id))
    killed = kill(site, victim)
    if victim == "serve":
        site.processes[0].wait()
        site.start_serve()
    go.touch()
    wait_until(lambda: len(site.lines(job_id)) > before, RECOVERY, "work to resume")
    print(f"{victim}: work resumed after {time.monotonic() - killed:.1f} s")  # noqa: T201
    site.wait_for(job_id, "succeeded", 60)

    begun = site.started_stages(job_id)
    assert begun.count("segment") == 1
    wait_until(site.is_ready, 30, "the service to answer")
    site.wait_for(make_job(site.services), "succeeded", 60)
    with site.services.sessionmaker() as session:
        found = session.scalars(
            select(StoredTranscript).where(StoredTranscript.job_id == job_id)
        ).all()
        assert len(found) == 1


@pytest.fixture(scope="module")
def interview() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        samples = make_interview(810_001, seconds=10).samples
        writer.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


def demo_models() -> dict[str, str]:
    whisper, pipeline = find_whisper("demo", Path()), find_pipeline("demo", Path())
    return {
        "whisper_model": "demo",
        "whisper_sha256": whisper.sha256,
        "diarisation_pipeline": "demo",
        "diarisation_sha256": pipeline.sha256,
    }


@pytest.fixture
def real_site(data_folder):
    site = Installation(data_folder, None)
    site.start_serve(PIPELINE_ENGINE)
    wait_until(site.is_ready, 120, "the service to answer")
    site.services = open_services(site.settings)
    yield site
    site.cut_power()
    site.services.close()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["api", "serve", "worker", "engine", "postgres"])
def test_a_job_with_the_real_models_survives_the_kill_of_any_process(real_site, victim, interview):
    site = real_site
    job_id = make_job(site.services, content=interview, pinned=demo_models())
    wait_until(
        lambda: read_stages(site.services, job_id)["segment"].state == "succeeded",
        300,
        "speech to be found",
    )
    artefact = read_stages(site.services, job_id)["segment"].artefact_id
    kill(site, victim)
    if victim == "serve":
        site.processes[0].wait()
        site.start_serve(PIPELINE_ENGINE)
    site.wait_for(job_id, "succeeded", 300)

    assert read_stages(site.services, job_id)["segment"].artefact_id == artefact
    # After a kill of `serve` the old worker may finish the job while the new one is still starting.
    wait_until(lambda: has_torch(site, "engine"), 60, "the engine to be ready")
    assert not has_torch(site, "worker")
    transcript = read_transcript(site.services, job_id)
    assert len(transcript.speakers) == 2
    assert transcript.words


def has_torch(site, name):
    """Whether there are processes of this name and all of them have loaded torch."""
    pids = site.pids().get(name, ())
    with contextlib.suppress(FileNotFoundError):  # just ended
        return {"libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in pids} == {True}
    return False


def read_transcript(services, job_id):
    with services.sessionmaker() as session:
        row = session.scalars(
            select(StoredTranscript).where(StoredTranscript.job_id == job_id)
        ).one()
    content = results.read(services, row.study_id, job_id, "transcript", row.artefact_id)
    return from_json(content.decode())


def cut_the_power(site, times):
    """Cut the power during jobs, uploads and hand-offs, and check all that was acknowledged."""
    generator = random.Random(times)
    acknowledged: list[UUID] = []
    visitor = Visitor(site.settings, 3 * times)
    visitor.start()
    try:
        for _ in range(times):
            end = time.monotonic() + generator.uniform(0.5, 6)
            while time.monotonic() < end:
                if len(acknowledged) < 3 * times:
                    acknowledged.append(make_job(site.services, visitor.study, seconds=0.1))
                time.sleep(0.3)
            site.cut_power()
            site.services.engine.dispose()
            site.processes.clear()
            site.start_serve()
            wait_until(site.is_ready, 120, "the service to answer")
    finally:
        visitor.finish()

    def unfinished():
        with site.services.sessionmaker() as session:
            return session.scalar(select(func.count()).where(Job.status.in_(["queued", "running"])))

    wait_until(lambda: unfinished() == 0, 60 + 10 * len(acknowledged), "every job to end")
    acknowledged += [UUID(upload.job_id) for upload in visitor.uploads]
    statuses = [read_job(site.services, job_id).status for job_id in acknowledged]
    assert statuses == ["succeeded"] * len(acknowledged)
    assert len(set(acknowledged)) == len(acknowledged)
    with site.services.sessionmaker() as session:
        assert sorted(session.scalars(select(StoredTranscript.job_id))) == sorted(acknowledged)
    assert visitor.uploads and visitor.completed
    for upload in visitor.uploads:
        assert visitor.sound(upload) == upload.content
    for id in visitor.completed:
        with site.services.sessionmaker() as session:
            handoff = session.get_one(Handoff, id)
            job_id = session.get_one(StoredTranscript, handoff.transcript_id).job_id
        assert handoff.status == "completed"
        place = site.services, visitor.study, job_id, OCCURRENCES, handoff.occurrences_artefact_id
        assert results.read(*place) == b"[]"
    visitor.close()
    print(f"{len(visitor.uploads)} uploads, {len(visitor.completed)} hand-offs")  # noqa: T201


def has_begun(site, job_id, stage, times):
    return site.started_stages(job_id).count(stage) == times


@pytest.mark.slow
def test_a_job_survives_more_power_cuts_in_one_stage_than_it_has_attempts(site, tmp_path):
    go = tmp_path / "go"
    job_id = make_job(site.services, wait_in="transcribe", until=str(go))
    for cut in range(1, MAX_CRASHES + 2):
        wait_until(partial(has_begun, site, job_id, "transcribe", cut), 90, "work to resume")
        time.sleep(1.5)  # longer than a heartbeat
        site.cut_power()
        site.services.engine.dispose()
        site.processes.clear()
        site.start_serve()
        wait_until(site.is_ready, 120, "the service to answer")
    go.touch()
    site.wait_for(job_id, "succeeded", 90)

    assert site.started_stages(job_id).count("segment") == 1
    assert read_job(site.services, job_id).attempt == MAX_CRASHES + 2


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_power_is_cut_a_few_times(site):
    cut_the_power(site, 3)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_power_is_cut_fifty_times(site):
    cut_the_power(site, 50)
