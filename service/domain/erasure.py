"""Erasure of jobs, recordings, sessions and studies, with everything that was made from them.

The key is destroyed first, with an entry in the ledger, then the files: after that, no copy of them
can be read. Repeating an interrupted erasure completes it.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session as DbSession

from service.database.queries import touch_job
from service.database.tables import (
    FINAL,
    Handoff,
    Job,
    JobRecording,
    JobStage,
    Recording,
    Release,
    Session,
    StoredTranscript,
    Study,
)
from service.domain import audit, review
from service.domain.callers import Caller
from service.domain.corrections import list_versions
from service.domain.entity_changes import erase_entities
from service.domain.jobs import JobRunning, find_job, job_recordings
from service.domain.locks import refuse_while_checked
from service.domain.masked_audio import erase_masked_audio, lock_masked_audio
from service.domain.member_packets import erase_packets
from service.domain.queue import request_cancel
from service.domain.recordings import destroy, find_recording, identified, place_of
from service.domain.releases import erase_release, erase_releases
from service.domain.sessions import find_session
from service.domain.studies import find_study, refuse_erased
from service.domain.webhooks import forget_study
from service.errors import RecordingInUse
from service.services import Services
from service.vault.errors import Erased, UploadBusy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destroyed:
    """What was destroyed with a job. Its recordings stay and are erased separately."""

    transcript: bool
    stage_results: int
    vocabulary: bool
    occurrences: int
    releases: int
    recordings_kept: tuple[UUID, ...]


def delete_job(
    session: DbSession, services: Services, caller: Caller, job_id: UUID, *, force: bool
) -> Destroyed:
    """
    Args:
        force: also if a worker holds the job; the worker will find that it is gone.

    Raises:
        JobNotFound, JobRunning, Erased
    """
    job = find_job(session, caller, job_id, lock=True)
    if job.status in ("running", "cancelling") and not force:
        raise JobRunning(f"The job is {job.status}: cancel it first, or use ?force=true")
    audit.act_for(session, caller)
    return erase_job(session, services, job)


def erase_job(
    session: DbSession, services: Services, job: Job, *, keep_releases: bool = False
) -> Destroyed:
    """Erase everything that was made for a job. Safe to run twice, and while the vault is sealed.

    Args:
        job: from `lock_job`.
        keep_releases: what was de-identified stays, under keys of its own.
    """
    store, keyring = identified(services)
    request_cancel(session, job)  # removes it from the queue
    transcript = session.scalar(select(StoredTranscript).where(StoredTranscript.job_id == job.id))
    n_releases = 0
    if transcript is not None and not keep_releases:
        # Before the job's key: a restore keeps the releases of an erased job that have a key.
        n_releases = erase_releases(session, services, transcript.id)
    keyring.erase(job.study_id, job.id)
    stages = session.scalars(
        select(JobStage).where(JobStage.job_id == job.id, JobStage.artefact_id.is_not(None))
    ).all()
    handoffs = (
        session.scalars(
            select(Handoff)
            .where(Handoff.transcript_id == transcript.id)
            .with_for_update()  # waits for one that is being completed
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
        services.transcripts.forget(transcript.id)
        masked = lock_masked_audio(session, transcript.id)  # waits for one that is being recorded
        erase_masked_audio(session, services, masked)
        transcript.speakers = transcript.first_speakers = {}
        review.forget(session, transcript.id)
        erase_packets(session, services, transcript.id)
        for entry in list_versions(session, transcript):
            store.delete(entry.artefact_id)
            if entry.snapshot_artefact_id is not None:
                store.delete(entry.snapshot_artefact_id)
            session.delete(entry)
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
    made: dict[str, UUID | str] = {"job": job.id}
    if transcript is not None:
        made["transcript"] = transcript.id
    audit.record(session, None, "job.erased", job.study_id, made)
    log.info("job %s: erased", job.id)
    return Destroyed(
        transcript is not None,
        len(results),
        bool(vocabulary),
        len(occurrences),
        n_releases,
        tuple(job_recordings(session, job.id)),
    )


def erase_recording(services: Services, caller: Caller, recording_id: UUID) -> None:
    """
    Raises:
        RecordingNotFound, Erased, RecordingInUse
        UploadBusy: the recording is being checked.
    """
    with refuse_while_checked(), services.sessionmaker.begin() as session:
        find_recording(session, caller, recording_id)
        audit.act_for(session, caller)
        of_it = select(JobRecording.job_id).where(JobRecording.recording_id == recording_id)
        doomed = _erase(session, services, Recording.id == recording_id, Job.id.in_(of_it))
    _destroy(services, doomed)


def erase_session(services: Services, caller: Caller, session_id: UUID) -> None:
    """Erase the session's recordings, and all jobs of them or of the session.

    Raises:
        SessionNotFound, Erased, RecordingInUse
        UploadBusy: a recording is being checked.
    """
    with refuse_while_checked(), services.sessionmaker.begin() as session:
        interview = find_session(session, caller, session_id)
        audit.act_for(session, caller)
        session.refresh(interview, with_for_update=True)
        refuse_erased(interview)
        recordings = select(Recording.id).where(Recording.session_id == interview.id)
        of_them = select(JobRecording.job_id).where(JobRecording.recording_id.in_(recordings))
        jobs = Job.id.in_(of_them) | (Job.session_id == interview.id)
        doomed = _erase(session, services, Recording.session_id == interview.id, jobs)
        # A session has no key, but its entry in the ledger survives a restore.
        identified(services)[1].erase(interview.study_id, interview.id)
        interview.erased_at = datetime.now(UTC)
        interview.roster = []
        place = {"session": interview.id}
        audit.record(session, None, "session.erased", interview.study_id, place)
    _destroy(services, doomed)
    log.info("session %s: erased", session_id)


def erase_study(services: Services, caller: Caller, study: str) -> None:
    """Destroy all keys of the study in every class, and the files.

    Raises:
        StudyNotFound, Erased, RecordingInUse
        UploadBusy: a recording is being checked.
    """
    with refuse_while_checked(), services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        audit.act_for(session, caller)
        session.refresh(found, with_for_update=True)
        refuse_erased(found)
        own = Recording.study_id == found.id, Job.study_id == found.id
        doomed = _erase(session, services, *own)
        erase_rest(session, services, found)
    _destroy(services, doomed)
    log.info("study %s: erased", found.id)


def erase_identified(services: Services, caller: Caller, study_id: UUID) -> None:
    """Erase a study's recordings, jobs and vocabulary. Releases, names and codes stay.

    Raises:
        RecordingInUse
        UploadBusy: a recording is being checked.
    """
    with refuse_while_checked(), services.sessionmaker.begin() as session:
        audit.act_for(session, caller)
        study = session.get_one(Study, study_id, with_for_update=True)
        own = Recording.study_id == study_id, Job.study_id == study_id
        doomed = _erase(session, services, *own, keep_releases=True)
        if study.vocabulary_artefact_id is not None:
            identified(services)[0].delete(study.vocabulary_artefact_id)
            study.vocabulary_artefact_id = None
    _destroy(services, doomed)
    log.info("study %s: identified data erased", study_id)


def refuse_unfinished(session: DbSession, study_id: UUID) -> None:
    """
    Raises:
        RecordingInUse: a job of the study has not ended.
    """
    query = select(Job.id).where(Job.study_id == study_id, Job.status.not_in(FINAL))
    if (id := session.scalar(query.limit(1))) is not None:
        raise RecordingInUse(f"Job {id} has not ended: cancel it first")


def erase_rest(session: DbSession, services: Services, study: Study) -> None:
    """Erase what is left of a study whose recordings and jobs are erased. Safe to run twice."""
    for keyring in services.vault.keyrings.values():
        keyring.erase_study(study.id)
    forget_study(session, services, study)
    erase_entities(session, services, study)
    releases = select(Release).where(Release.study_id == study.id, Release.erased_at.is_(None))
    for release in session.scalars(releases):
        erase_release(session, services, release)
    if study.vocabulary_artefact_id is not None:
        identified(services)[0].delete(study.vocabulary_artefact_id)
    now = datetime.now(UTC)
    sessions = select(Session).where(Session.study_id == study.id, Session.erased_at.is_(None))
    for interview in session.scalars(sessions):
        interview.erased_at, interview.roster = now, []
    study.erased_at, study.vocabulary_artefact_id = now, None
    audit.record(session, None, "study.erased", study.id, {"study": study.id})


def _erase(
    session: DbSession,
    services: Services,
    recordings: ColumnElement[bool],
    jobs: ColumnElement[bool],
    *,
    keep_releases: bool = False,
) -> Sequence[Recording]:
    """
    Returns:
        The recordings, to be destroyed after the transaction has been committed.

    Raises:
        RecordingInUse
    """
    made = select(Job).where(jobs, Job.status != "erased").order_by(Job.id)
    made = made.with_for_update().execution_options(populate_existing=True)
    session.scalars(made).all()  # locks jobs before recordings, in the order that a rerun does
    doomed = session.scalars(
        select(Recording)
        .where(recordings, Recording.state != "erased")
        .with_for_update(nowait=True)
        .execution_options(populate_existing=True)
    ).all()
    every = session.scalars(made).all()
    if unfinished := [job.id for job in every if job.status not in FINAL]:
        raise RecordingInUse(f"Job {unfinished[0]} has not ended: cancel it first")
    for job in every:
        erase_job(session, services, job, keep_releases=keep_releases)
    for recording in doomed:
        recording.state = "erased"
        recording.refusal_code = recording.refusal_detail = None
        place = place_of(recording)
        audit.record(session, None, "recording.erased", recording.study_id, place)
    return doomed


def _destroy(services: Services, recordings: Sequence[Recording]) -> None:
    for recording in recordings:
        with suppress(UploadBusy):  # the key is gone; the part being written is deleted later
            destroy(services, recording)
