"""Finishes jobs without a worker, with the functions that a worker uses to write its results."""

import os
import time
from uuid import UUID, uuid4

from models.transcript import MadeWith, Overlap, Segment, Source, Transcript, Turn, Word
from models.transcript_json import to_json
from service.database.tables import Job
from service.domain import job_state, results
from service.domain.stages import STORED_STAGES
from service.domain.strays import STRAY_AFTER
from service.services import Services
from service.vault.files import PARTIAL


def begin_job(services: Services, job_id: UUID) -> job_state.JobClaim:
    with services.sessionmaker.begin() as session:
        claim = job_state.claim_job(session, job_id)
    assert claim is not None
    return claim


def finish_job(services: Services, job_id: UUID, document: Transcript | None = None) -> UUID:
    """Finish a job and return the transcript's id."""
    claim = begin_job(services, job_id)
    for stage in STORED_STAGES:
        if stage not in claim.job.stored:
            id = write(services, job_id, f"stage_{stage}", b"a result")
            with services.sessionmaker.begin() as session:
                job_state.record_result(session, claim, stage, id, 1.0)
    document = document or conversation()
    artefact_id = write(services, job_id, "transcript", to_json(document).encode())
    outcome = job_state.Outcome(artefact_id, document.speakers, (), document.duration)
    transcript_id = uuid4()
    with services.sessionmaker.begin() as session:
        job_state.finish_job(session, claim, transcript_id, outcome)
    return transcript_id


def fail_job(services: Services, job_id: UUID, code: str) -> None:
    claim = begin_job(services, job_id)
    with services.sessionmaker.begin() as session:
        job_state.record_failure(session, claim, code)


def write(services: Services, job_id: UUID, kind: str, content: bytes) -> UUID:
    with services.sessionmaker() as session:
        study_id = session.get_one(Job, job_id).study_id
    return results.write(services, study_id, job_id, kind, content)


def age(services: Services) -> None:
    """Make every file and key more than a week old, except artefacts that are being written."""
    then = time.time() - STRAY_AFTER - 60
    vault, keys = services.settings.vault, services.settings.keys
    artefacts = (path for path in vault.rglob("*") if path.suffix != PARTIAL)
    for path in (*artefacts, *keys.rglob("*")):
        os.utime(path, (then, then))


def conversation() -> Transcript:
    """A transcript with two speakers, the first in several turns."""
    said = [
        ("SPEAKER_00", 0.0, 2.0, " Good morning."),
        ("SPEAKER_01", 2.5, 8.0, " My name is Eva Muster."),
        ("SPEAKER_00", 8.0, 9.0, " Thank you."),
        ("SPEAKER_00", 9.5, 14.0, " Shall we begin with your work?"),
        ("SPEAKER_00", 15.0, 15.5, " Please."),
    ]
    return Transcript(
        duration=20.0,
        language="en",
        language_probability=None,
        speakers=("SPEAKER_00", "SPEAKER_01"),
        segments=tuple(
            Segment(speaker, start, end, (Word(text, start, end, 0.9),))
            for speaker, start, end, text in said
        ),
        turns=tuple(Turn(start, end, speaker) for speaker, start, end, _ in said),
        overlaps=(Overlap(7.9, 8.1, ("SPEAKER_00", "SPEAKER_01")),),
        flags=(),
        sources=(Source(0.0, 20.0, "wav", "pcm_s16le", 16000, 1, 640_044),),
        made_with=MadeWith("0", "demo", "0" * 64, "demo", "0" * 64, "cpu", {}, {}),
    )
