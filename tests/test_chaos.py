"""The attack of `scripts/chaos`, and that its count notices what is lost, doubled or left over."""

import os
import subprocess
import sys
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from scripts.chaos_run.clients import CANARY, Book, HandedOff, Submission, Upload
from scripts.chaos_run.count import Count, read_logs
from scripts.chaos_run.engine import make_transcript, name_of
from scripts.chaos_run.main import attack
from scripts.chaos_run.site import Clock
from service.database.tables import Handoff, JobStage, Recording, StoredTranscript
from service.domain import results
from service.domain.recordings import identified
from tests.api import metadata, open_api, tone
from tests.finished import finish_job

FOUND = [{"segment": "s0001", "start": 0, "end": 5, "label": "PERSON"}]


@pytest.fixture(scope="module")
def installation(module_settings):
    """An installation with one of everything, and the book of its only client."""
    with open_api(module_settings) as api:
        book = Book()
        study = api.study()
        book.studies[study["code"]] = study["id"]
        words = ["Seroquel"]
        api.request("PUT", f"/v1/studies/{study['id']}/vocabulary", json={"words": words})
        book.vocabularies[study["id"]] = words
        for seconds in (1.0, 2.0):
            upload = Upload(f"{CANARY}-{seconds}.wav", tone(seconds), study["id"], None, n_begun=1)
            named = {"Upload-Metadata": metadata(filename=upload.name)}
            upload.id = api.upload(study["id"], upload.content, headers=named)["id"]
            upload.is_ready = True
            book.uploads.append(upload)
            job = Submission(str(uuid4()), study["id"], [upload])
            body = {"recordings": [upload.id], "model": "demo"}
            key = {"Idempotency-Key": job.key}
            job.id = api.post("/v1/jobs", json=body, headers=key).json()["id"]
            assert job.id is not None
            finish_job(api.services, UUID(job.id), make_transcript([name_of(upload.content)]))
            book.jobs.append(job)
            claimed = api.post("/v1/handoffs/claim").json()
            done = {"fence": claimed["fence"], "occurrences": FOUND}
            assert api.post(f"/v1/handoffs/{claimed['id']}/complete", json=done).is_success
            book.handoffs[claimed["id"]] = HandedOff("completed", FOUND)
        with api.services.engine.begin() as connection:  # no worker has run the jobs
            connection.execute(text("TRUNCATE procrastinate_jobs CASCADE"))
        yield api.services, book


def wrong(installation):
    count = Count(*installation)
    count.run()
    return count.wrong


def test_everything_agrees_if_nothing_is_wrong(installation):
    assert wrong(installation) == []


def delete_file(services, book):
    store, _ = identified(services)
    store.delete(UUID(book.uploads[0].id))


def delete_key(services, book):
    identified(services)[1].discard(UUID(book.uploads[0].study), UUID(book.jobs[0].id))


def swap_transcripts(services, book):
    """One job has the transcript of another's recording."""
    job = book.jobs[1]
    with services.sessionmaker.begin() as session:
        row = session.query(StoredTranscript).filter_by(job_id=UUID(job.id)).one()
        content = results.read(
            services, UUID(job.study), UUID(job.id), "transcript", row.artefact_id
        )
        other = content.replace(name_of(book.uploads[1].content).encode(), b"0" * 64)
        row.artefact_id = results.write(
            services, UUID(job.study), UUID(job.id), "transcript", other
        )


def double_handoff(services, book):
    with services.sessionmaker.begin() as session:
        row = session.get_one(Handoff, UUID(next(iter(book.handoffs))))
        session.add(Handoff(study_id=row.study_id, transcript_id=row.transcript_id))


def lose_handoff(services, book):
    with services.sessionmaker.begin() as session:
        session.delete(session.get_one(Handoff, UUID(list(book.handoffs)[1])))


def forget_completion(services, book):
    with services.sessionmaker.begin() as session:
        session.get_one(Handoff, UUID(next(iter(book.handoffs)))).status = "open"


def double_recording(services, book):
    with services.sessionmaker.begin() as session:
        row = session.get_one(Recording, UUID(book.uploads[0].id))
        fields = {"study_id": row.study_id, "token_id": row.token_id, "n_bytes": row.n_bytes}
        copy = Recording(state="ready", metadata_artefact_id=None, **fields)
        session.add(copy)


def lose_stage(services, book):
    with services.sessionmaker.begin() as session:
        session.query(JobStage).filter_by(job_id=UUID(book.jobs[0].id), name="align").delete()


def forget_job(services, book):
    """The book knows of a job that is not there."""
    book.jobs.append(Submission(str(uuid4()), book.uploads[0].study, [], id=str(uuid4())))


def forget_deletion(services, book):
    book.jobs[0].deletion = "done"


def forget_token(services, book):
    book.tokens["laptop"] = 1


SPOILS = {
    delete_file: "files that rows name",
    delete_key: "keys that rows need",
    swap_transcripts: "the transcript of job",
    double_handoff: "jobs with two hand-offs",
    lose_handoff: "hand-offs that are gone",
    forget_completion: "found open, expected completed",
    lose_stage: "stages: found 15, expected 16",
    forget_job: "jobs: 0 too many , 1 missing",
    forget_deletion: "expected erased",
    forget_token: "token laptop: 0 of 1",
    double_recording: "names of recordings: 1 too many",
}


def test_everything_that_is_lost_or_doubled_is_noticed(installation):
    """After the test above: the installation is spoilt for any other."""
    services, book = installation
    for spoil in SPOILS:
        spoil(services, book)

    found = wrong(installation)

    unnoticed = {
        spoil.__name__
        for spoil, noticed in SPOILS.items()
        if not any(noticed in each for each in found)
    }
    assert unnoticed == set(), found


def test_tracebacks_and_file_names_in_a_log_are_noticed(tmp_path):
    clean, bad = tmp_path / "clean.log", tmp_path / "bad.log"
    clean.write_text("INFO recording ready\n")
    bad.write_text(f"Traceback (most recent call last):\n  {CANARY}-1.wav\n")

    assert read_logs([clean, tmp_path / "none.log"]) == []
    assert len(read_logs([bad])) == 2


def test_a_clock_that_was_moved_is_seen_at_once_by_the_processes_that_see_it(tmp_path):
    clock = Clock(tmp_path, "clock")
    if not clock.can_move:
        pytest.skip("needs a C compiler")
    program = "import time\nfor _ in range(2): print(time.time(), time.monotonic()); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **clock.variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    before = [float(word) for word in process.stdout.readline().split()]
    clock.jump_to(-3600)
    process.stdin.write("\n")
    process.stdin.flush()
    after = [float(word) for word in process.stdout.readline().split()]
    process.communicate("\n")

    assert before[0] - 3600 <= after[0] < before[0] - 3500
    assert 0 <= after[1] - before[1] < 100


@pytest.mark.slow
def test_ten_minutes_of_faults_lose_nothing_double_nothing_and_leave_nothing():
    outcome = attack(minutes=10, seed=1)

    assert outcome.wrong == []
    assert outcome.n_faults > 40
    assert outcome.figures["jobs succeeded"] > 20
    assert outcome.backups["restores"] > 0
