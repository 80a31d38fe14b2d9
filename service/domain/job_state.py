"""What a worker writes to a job's rows while it holds the job, always under the claim's fence.

A worker that was presumed dead and comes back has an old fence. Its write is refused (`FenceLost`)
and it must end at once, before the queue lets it write a status for a job it no longer holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session as DbSession

from models.options import JobOptions
from service.database.queries import lock_job, read_clock, touch_job
from service.database.tables import (
    FINAL,
    Handoff,
    Job,
    JobError,
    JobRecording,
    JobStage,
    Recording,
    Session,
    StageTiming,
    StoredTranscript,
    Study,
)
from service.domain import audit, consent
from service.domain.engine_job import EMBEDDINGS, EngineJob
from service.domain.job_errors import ConsentEnded, EngineDied, GaveUp, WorkerDied
from service.domain.outbox import emit_job
from service.domain.stages import STORED_STAGES, overall_progress, read_rates

MAX_CRASHES = 3


class FenceLost(Exception):
    """Another worker holds the job. Never caught, except to end the process."""


class JobGone(Exception):
    """The job was erased while the worker held it."""


@dataclass(frozen=True)
class JobClaim:
    """A worker's hold on a job."""

    job: EngineJob  # without keys
    fence: int
    attempt: int


@dataclass(frozen=True)
class Outcome:
    """The result in the engine's message `done`."""

    artefact_id: UUID
    speakers: tuple[str, ...]
    warnings: tuple[str, ...]
    audio_seconds: float


def claim_job(session: DbSession, job_id: UUID) -> JobClaim | None:
    """Claim a job for a new attempt; None if there is nothing left to do."""
    job = lock_job(session, job_id)
    if job is None or job.status in FINAL:
        return None
    if job.status == "cancelling":
        _end(session, job, "cancelled")
        return None
    if job.status == "running":
        _record_worker_death(session, job)
    if job.crashes >= MAX_CRASHES:
        _fail(session, job, GaveUp.code)
        return None
    if _consent_has_ended(session, job):
        _fail(session, job, ConsentEnded.code)
        return None
    job.fence += 1
    job.attempt += 1
    job.crashes += 1
    job.status = "running"
    job.heartbeat_at = read_clock(session)
    job.started_at = job.started_at or read_clock(session)
    for row in _stages(session, job).values():
        if row.name not in STORED_STAGES:  # it has no stored result and runs again
            row.state, row.fraction = "pending", 0.0
    touch_job(session, job)
    if job.attempt == 1:
        emit_job(session, job)
    return JobClaim(_engine_job(session, job), job.fence, job.attempt)


def _consent_has_ended(session: DbSession, job: Job) -> bool:
    of_recordings = (
        select(Recording.session_id)
        .join(JobRecording, JobRecording.recording_id == Recording.id)
        .where(JobRecording.job_id == job.id)
    )
    query = select(Session).where(or_(Session.id == job.session_id, Session.id.in_(of_recordings)))
    interviews = session.scalars(query).all()
    return consent.has_ended(session, session.get_one(Study, job.study_id), interviews)


def record_heartbeat(
    session: DbSession, claim: JobClaim, stage: str | None = None, fraction: float = 0.0
) -> Literal["running", "cancelling"]:
    """Record that the attempt is alive, and its progress if `stage` is given.

    Returns:
        "cancelling" if the job should stop.

    Raises:
        FenceLost, JobGone
    """
    job = _locked_under_fence(session, claim)
    if stage is not None:
        _record_progress(session, job, stage, fraction)
    job.heartbeat_at = func.clock_timestamp()
    if stage is not None:
        touch_job(session, job)
    return "cancelling" if job.status == "cancelling" else "running"


def record_loaded(
    session: DbSession, claim: JobClaim, device: str, trial: dict[str, float] | None
) -> None:
    job = _locked_under_fence(session, claim)
    for stage in _stages(session, job).values():
        if stage.state in ("pending", "running"):
            stage.device = device
    for name, seconds in (trial or {}).items():
        session.add(
            StageTiming(
                stage=name,
                model=job.whisper_model,
                device=device,
                seconds=seconds,
                audio_seconds=1.0,
                trial=True,
            )
        )


def record_result(
    session: DbSession, claim: JobClaim, stage: str, artefact_id: UUID, seconds: float
) -> None:
    """Record that a stage has finished and its result is stored: it never runs again."""
    job = _locked_under_fence(session, claim)
    row = _stages(session, job)[stage]
    _record_progress(session, job, stage, 1.0)
    row.artefact_id = artefact_id
    _finish_stage(session, job, row, seconds)
    job.crashes = 0
    touch_job(session, job)


def record_discarded(session: DbSession, claim: JobClaim) -> None:
    """Record that the stored results cannot be used: their stages run again."""
    job = _locked_under_fence(session, claim)
    for row in _stages(session, job).values():
        if row.name in STORED_STAGES:
            row.state, row.fraction, row.artefact_id = "pending", 0.0, None
            row.audio_seconds_done = row.seconds = row.started_at = row.finished_at = None
    touch_job(session, job)


def finish_job(session: DbSession, claim: JobClaim, transcript_id: UUID, outcome: Outcome) -> None:
    """Record the transcript, its hand-off and the end of the job. Safe to repeat."""
    if (job := lock_job(session, claim.job.id)) and job.transcript_id == transcript_id:
        return  # the response to the first commit was lost
    job = _locked_under_fence(session, claim)
    if job.status == "cancelling":  # the cancellation was already confirmed
        _end(session, job, "cancelled")
        return
    session.add(
        StoredTranscript(
            id=transcript_id,
            study_id=job.study_id,
            job_id=job.id,
            artefact_id=outcome.artefact_id,
            speakers={label: {"role": None, "code": None} for label in outcome.speakers},
        )
    )
    session.flush()
    session.add(Handoff(study_id=job.study_id, transcript_id=transcript_id))
    for row in _stages(session, job).values():
        if row.state in ("pending", "running"):
            _finish_stage(session, job, row)
    job.transcript_id = transcript_id
    job.warnings = [*job.warnings, *outcome.warnings]
    job.audio_seconds = outcome.audio_seconds
    job.crashes = 0
    job.stage, job.fraction = "handoff", 1.0
    _end(session, job, "succeeded")


def record_cancelled(session: DbSession, claim: JobClaim) -> None:
    _end(session, _locked_under_fence(session, claim), "cancelled")


def record_failure(session: DbSession, claim: JobClaim, code: str) -> None:
    _fail(session, _locked_under_fence(session, claim), code)


def record_crash(session: DbSession, claim: JobClaim, code: str) -> bool:
    """Record that the attempt failed.

    Returns:
        Whether there will be another attempt.
    """
    job = _locked_under_fence(session, claim)
    if job.status == "cancelling":
        _end(session, job, "cancelled")
        return False
    _add_error(session, job, code)
    if job.crashes >= MAX_CRASHES:
        _fail(session, job, GaveUp.code if code == EngineDied.code else code)
        return False
    _back_to_queue(session, job, "queued")
    return True


def put_back_job(session: DbSession, claim: JobClaim, code: str | None = None) -> bool:
    """End an attempt that does not count, because the worker stops or the job must wait.

    Args:
        code: the temporary error that makes the job wait.

    Returns:
        Whether there will be another attempt.
    """
    job = _locked_under_fence(session, claim)
    if job.status == "cancelling":
        _end(session, job, "cancelled")
        return False
    job.crashes = max(0, job.crashes - 1)
    if code is not None and code != _last_error(session, job):  # retries may continue for hours
        _add_error(session, job, code)
    _back_to_queue(session, job, "queued" if code is None else "waiting")
    return True


def requeue_orphan(session: DbSession, job: Job) -> None:
    """Release the job of a dead worker. The caller puts it back into the queue."""
    if job.status == "running":
        _record_worker_death(session, job)
        _back_to_queue(session, job, "queued")
    elif job.status == "cancelling":
        _end(session, job, "cancelled")


def _record_worker_death(session: DbSession, job: Job) -> None:
    """Count a crash, unless the database stopped too: that is a power cut."""
    _add_error(session, job, WorkerDied.code)
    started = session.scalar(select(func.pg_postmaster_start_time()))
    if started is not None and job.heartbeat_at is not None and job.heartbeat_at < started:
        job.crashes = max(0, job.crashes - 1)


def _locked_under_fence(session: DbSession, claim: JobClaim) -> Job:
    job = lock_job(session, claim.job.id)
    if job is None or job.fence != claim.fence:
        raise FenceLost
    if job.status == "queued":
        raise FenceLost  # the worker was presumed dead; no other has claimed the job yet
    if job.status not in ("running", "cancelling"):
        raise JobGone
    return job


def _engine_job(session: DbSession, job: Job) -> EngineJob:
    recordings = session.scalars(
        select(JobRecording.recording_id)
        .where(JobRecording.job_id == job.id)
        .order_by(JobRecording.position)
    ).all()
    stages = _stages(session, job)
    stored = {
        name: row.artefact_id
        for name, row in stages.items()
        if name in STORED_STAGES and row.artefact_id is not None and row.state == "succeeded"
    }
    diarise = stages.get("diarise")
    if diarise is not None and diarise.artefact_id is not None and "diarise" not in stored:
        stored[EMBEDDINGS] = diarise.artefact_id  # of a rerun with another number of speakers
    return EngineJob(
        id=job.id,
        study_id=job.study_id,
        recordings=tuple(recordings),
        options=JobOptions.from_row(job.options),
        vocabulary_artefact_id=job.vocabulary_artefact_id,
        whisper_model=job.whisper_model,
        whisper_sha256=job.whisper_sha256,
        diarisation_pipeline=job.diarisation_pipeline,
        diarisation_sha256=job.diarisation_sha256,
        stored=stored,
        audio_seconds=job.audio_seconds or 0.0,
    )


def _stages(session: DbSession, job: Job) -> dict[str, JobStage]:
    rows = session.scalars(select(JobStage).where(JobStage.job_id == job.id))
    return {row.name: row for row in rows}


def _record_progress(session: DbSession, job: Job, stage: str, fraction: float) -> None:
    rows = _stages(session, job)
    if rows[stage].state == "succeeded":
        return  # a late report, after the result was stored
    if stage != job.stage and job.stage is not None and rows[job.stage].state == "running":
        _finish_stage(session, job, rows[job.stage])
    row = rows[stage]
    if row.state != "running":
        row.state, row.started_at, row.finished_at = "running", read_clock(session), None
    row.fraction = fraction
    if job.audio_seconds is not None:
        row.audio_seconds_done = round(fraction * job.audio_seconds, 1)
    job.stage = stage
    with session.no_autoflush:  # otherwise the rows above are written twice
        rates = read_rates(session, job.whisper_model, row.device)
    job.fraction = overall_progress(stage, fraction, rates)


def _finish_stage(
    session: DbSession, job: Job, row: JobStage, seconds: float | None = None
) -> None:
    row.state, row.fraction, row.finished_at = "succeeded", 1.0, read_clock(session)
    row.started_at = row.started_at or row.finished_at
    row.seconds = (row.finished_at - row.started_at).total_seconds() if seconds is None else seconds
    row.audio_seconds_done = job.audio_seconds
    if row.name in (*STORED_STAGES, "ingest") and row.device and job.audio_seconds:
        session.add(
            StageTiming(
                stage=row.name,
                model=job.whisper_model,
                device=row.device,
                seconds=row.seconds,
                audio_seconds=job.audio_seconds,
            )
        )


def _last_error(session: DbSession, job: Job) -> str | None:
    return session.scalar(
        select(JobError.code).where(JobError.job_id == job.id).order_by(JobError.at.desc()).limit(1)
    )


def _add_error(session: DbSession, job: Job, code: str) -> None:
    session.add(
        JobError(job_id=job.id, code=code, stage=job.stage, attempt=job.attempt, retryable=True)
    )


def _fail(session: DbSession, job: Job, code: str) -> None:
    session.add(
        JobError(job_id=job.id, code=code, stage=job.stage, attempt=job.attempt, retryable=False)
    )
    _end(session, job, "failed")


def _back_to_queue(session: DbSession, job: Job, status: str) -> None:
    for row in _running_stages(session, job):
        row.state, row.fraction, row.started_at = "pending", 0.0, None
    job.status = status
    touch_job(session, job)


def _end(session: DbSession, job: Job, status: str) -> None:
    for row in _running_stages(session, job):
        row.state, row.finished_at = (
            "failed" if status == "failed" else "pending",
            read_clock(session),
        )
    job.status, job.finished_at = status, read_clock(session)
    touch_job(session, job)
    emit_job(session, job)
    if status != "cancelled":  # which somebody has asked for
        place: dict[str, UUID | str] = {"job": job.id}
        if job.transcript_id is not None:
            place["transcript"] = job.transcript_id
        action: audit.Action = "job.succeeded" if status == "succeeded" else "job.failed"
        audit.record(session, None, action, job.study_id, place, detail={"attempt": job.attempt})


def _running_stages(session: DbSession, job: Job) -> Sequence[JobStage]:
    session.flush()
    return session.scalars(
        select(JobStage).where(JobStage.job_id == job.id, JobStage.state == "running")
    ).all()
