"""Erasing: a job with what it made, a recording with the jobs that were made of it.

The key first, with its entry in the ledger, then the files: no copy of them can be read again, and
whoever repeats an erasure that was interrupted completes it.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psycopg
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.auth import Caller
from service.database.queries import touch_job
from service.database.tables import Handoff, Job, JobRecording, JobStage, Recording, Transcript
from service.jobs import JobRunning, find_job, job_recordings
from service.queue import request_cancel
from service.recordings import destroy, find_recording, identified, refuse_in_use
from service.services import Services
from service.vault.errors import Erased, UploadBusy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destroyed:
    """What went with a job. Its recordings stay: they are erased by themselves."""

    transcript: bool
    stage_results: int
    vocabulary: bool
    occurrences: int
    recordings_kept: tuple[UUID, ...]


def delete_job(
    session: Session, services: Services, caller: Caller, job_id: UUID, *, force: bool
) -> Destroyed:
    """
    Args:
        force: also if a worker has it, which then finds that it is gone.

    Raises:
        JobNotFound, JobRunning, Erased
    """
    job = find_job(session, caller, job_id, lock=True)
    if job.status in ("running", "cancelling") and not force:
        raise JobRunning(f"The job is {job.status}: cancel it first, or use ?force=true")
    return erase_job(session, services, job)


def erase_job(session: Session, services: Services, job: Job) -> Destroyed:
    """Everything that was made for a job. Safe to run twice, and while sealed.

    Args:
        job: from `locked_job`.
    """
    store, keyring = identified(services)
    request_cancel(session, job)  # out of the queue
    keyring.erase(job.study_id, job.id)
    transcript = session.scalar(select(Transcript).where(Transcript.job_id == job.id))
    stages = session.scalars(
        select(JobStage).where(JobStage.job_id == job.id, JobStage.artefact_id.is_not(None))
    ).all()
    handoffs = (
        session.scalars(
            select(Handoff)
            .where(Handoff.transcript_id == transcript.id)
            .with_for_update()  # after one that is being completed at this moment
            .execution_options(populate_existing=True)
        ).all()
        if transcript
        else []
    )
    results = [row.artefact_id for row in stages if row.artefact_id]
    occurrences = [row.occurrences_artefact_id for row in handoffs if row.occurrences_artefact_id]
    vocabulary = [job.vocabulary_artefact_id] if job.vocabulary_artefact_id else []
    for id in (*results, *occurrences, *vocabulary):
        store.delete(id)
    if transcript is not None:
        store.delete(transcript.artefact_id)
        transcript.speakers = {}
    for row in stages:
        row.artefact_id = None
    for handoff in handoffs:
        handoff.occurrences_artefact_id = None
        handoff.lease_until = None
        if handoff.status in ("open", "claimed"):
            handoff.status, handoff.failure_code = "failed", Erased.code
            handoff.finished_at = datetime.now(UTC)
    now = datetime.now(UTC)
    job.status, job.erased_at, job.finished_at = "erased", now, job.finished_at or now
    job.vocabulary_artefact_id = None
    job.warnings = []
    touch_job(session, job)
    log.info("job %s: erased", job.id)
    return Destroyed(
        transcript is not None,
        len(results),
        bool(vocabulary),
        len(occurrences),
        tuple(job_recordings(session, job.id)),
    )


def erase_recording(services: Services, caller: Caller, recording_id: UUID) -> None:
    """
    Raises:
        RecordingNotFound, Erased, RecordingInUse
        UploadBusy: it is being checked.
    """
    of_it = select(JobRecording.job_id).where(JobRecording.recording_id == recording_id)
    jobs = select(Job).where(Job.id.in_(of_it), Job.status != "erased").order_by(Job.id)
    jobs = jobs.with_for_update().execution_options(populate_existing=True)
    try:
        with services.sessionmaker.begin() as session:
            find_recording(session, caller, recording_id)
            session.scalars(jobs).all()  # before the recording, as who runs a job again has them
            recording = session.get_one(
                Recording, recording_id, with_for_update={"nowait": True}, populate_existing=True
            )
            refuse_in_use(session, recording)
            for job in session.scalars(jobs).all():
                erase_job(session, services, job)
            recording.state = "erased"
            recording.refusal_code = recording.refusal_detail = None
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise UploadBusy("The recording is being checked: try again in a moment") from None
        raise
    with suppress(UploadBusy):  # a part is being written; it is deleted later, its key is gone
        destroy(services, recording)
