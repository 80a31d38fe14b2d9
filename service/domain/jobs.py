"""Jobs: submit, find, cancel, rerun. What a worker writes is in job_state.py.

ServiceError
├── JobNotFound, JobRunning, JobUnfinished
├── IdempotencyKeyReused
└── SessionEmpty, StudiesMixed
"""

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from models.options import JobOptions, SpeakerCount
from models.roster import RosterEntry
from models.weights.catalogue import (
    DEMO,
    KNOWN,
    default_pipeline,
    find_model,
    find_pipeline,
    find_whisper,
    is_installed,
)
from models.weights.errors import ModelMissing
from service.database import tables
from service.database.queries import lock_job
from service.database.tables import (
    FINAL,
    STAGES,
    Idempotency,
    Job,
    JobError,
    JobRecording,
    JobStage,
    Recording,
    Study,
)
from service.domain import audit, results
from service.domain.callers import Caller
from service.domain.consent import require_recording
from service.domain.engine_job import VOCABULARY, VOCABULARY_MISSING, stage_kind
from service.domain.outbox import emit_job
from service.domain.pages import Page, page_of
from service.domain.queue import defer_job, request_cancel
from service.domain.recordings import (
    find_ready_recording,
    find_recording,
    study_secret,
)
from service.domain.sessions import distinct_recordings, find_session
from service.domain.stages import STORED_STAGES
from service.domain.studies import find_study, read_vocabulary
from service.errors import ServiceError
from service.services import Services
from service.vault.errors import ArtefactMissing, Erased

RERUN_STAGES = STAGES[:-1]  # a hand-off is created with its transcript
DEFAULT_WHISPER = ("large-v3-turbo", "small")  # what `fieldscribe models fetch` gets, best first

log = logging.getLogger(__name__)


class JobNotFound(ServiceError):
    """There is no such job, or it is not yours."""

    code: ClassVar[str] = "job_not_found"
    status: ClassVar[int] = 404


class JobRunning(ServiceError):
    """The job is running: cancel it first, or delete it with `force`."""

    code: ClassVar[str] = "job_running"
    status: ClassVar[int] = 423  # Locked


class JobUnfinished(ServiceError):
    """The job has not ended yet, so it cannot be rerun."""

    code: ClassVar[str] = "job_unfinished"
    status: ClassVar[int] = 409


class IdempotencyKeyReused(ServiceError):
    """The Idempotency-Key was used before with a different request."""

    code: ClassVar[str] = "idempotency_key_reused"
    status: ClassVar[int] = 422


class SessionEmpty(ServiceError):
    """The session has no recording yet."""

    code: ClassVar[str] = "session_empty"
    status: ClassVar[int] = 409


class StudiesMixed(ServiceError):
    """The recordings of one job belong to different studies."""

    code: ClassVar[str] = "studies_mixed"
    status: ClassVar[int] = 422


# --- submitting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobRequest:
    """What to transcribe, and with which options.

    Args:
        study: id or code of the study of the recordings; needed if `session` is a code.
        session: id or code; its recordings in order, unless `recordings` are given.
        model: name of Whisper weights; None: the study's, or the service's default.
        chosen: names of the `options` that were chosen; the others get the study's and the
            session's defaults.
    """

    study: str | None = None
    session: str | None = None
    recordings: tuple[UUID, ...] = ()
    model: str | None = None
    options: JobOptions = JobOptions()
    chosen: tuple[str, ...] = ()


@dataclass(frozen=True)
class PinnedWeights:
    """The weights of a job, even if others are installed later."""

    whisper_model: str
    whisper_sha256: str
    diarisation_pipeline: str
    diarisation_sha256: str


@dataclass(frozen=True)
class Submitted:
    job_id: UUID
    created: bool  # False: the request was sent before


def submit_job(
    session: DbSession,
    services: Services,
    caller: Caller,
    request: JobRequest,
    key: str | None = None,
) -> Submitted:
    """Queue a job, once for every idempotency key.

    Raises:
        StudyNotFound, SessionNotFound, RecordingNotFound, Erased
        RecordingNotReady, RecordingRefused, SessionEmpty, StudiesMixed
        ConsentMissing, ApprovalMissing
        UnknownModel, ModelMissing, WeightsCorrupt
        IdempotencyKeyReused, DiskFull
    """
    study, interview, recordings = _lock_sources(session, caller, request)

    def create() -> UUID:
        allowed = require_recording(
            session, caller, study, _sessions(session, interview, recordings)
        )
        pinned = pin_weights(request.model or study.model, services.settings.weights)
        options, warnings = _with_defaults(services, request, study, interview)
        job = Job(
            id=uuid4(),
            study_id=study.id,
            session_id=interview.id if interview else None,
            token_id=caller.token_id,
            options=options.to_row(),
            audio_seconds=sum(recording.duration or 0.0 for recording in recordings),
            warnings=[*allowed, *warnings],
            **asdict(pinned),
        )
        results.create_key(services, study.id, job.id)
        if options.vocabulary:
            content = "\n".join(options.vocabulary).encode()
            vocabulary = results.write(services, study.id, job.id, VOCABULARY, content)
            job.vocabulary_artefact_id = vocabulary
        _enqueue(session, caller, job, [recording.id for recording in recordings], {})
        log.info("job %s: submitted by token %s", job.id, caller.token_id)
        return job.id

    canonical = ["submit", canonical_fields(request)]
    return _create_once(session, services, caller, study, key, canonical, create)


def canonical_fields(request: JobRequest) -> dict[str, Any]:
    """The fields of a request whose fingerprint is stored with its idempotency key.

    Keys outlive upgrades: with other fields, clients that repeat a request from before the upgrade
    would get `idempotency_key_reused`. So leave out new options that have their default value.
    """
    options = request.options.to_row()
    del options["roster"]  # the session's, not the request's
    if "language" in request.chosen and options["language"] is None:
        options["language"] = "auto"
    return {
        "study": request.study,
        "session": request.session,
        "recordings": request.recordings,
        "model": request.model,
        **options,
        "vocabulary": request.options.vocabulary if "vocabulary" in request.chosen else None,
    }


def _lock_sources(
    session: DbSession, caller: Caller, request: JobRequest
) -> tuple[Study, tables.Session | None, list[Recording]]:
    """Find the study, the session and the recordings in order.

    The recordings are locked, so that none is erased before the transaction ends.
    """
    study = find_study(session, caller, request.study) if request.study is not None else None
    interview = None
    if request.session is not None:
        interview = find_session(session, caller, request.session, study)
    ids = list(request.recordings)
    if not ids and interview is not None:
        ids = [recording.id for recording in distinct_recordings(session, interview.id)]
        if not ids:
            raise SessionEmpty("The session has no recording yet: upload one")
    for id in sorted(ids):
        find_recording(session, caller, id)
        # FOR KEY SHARE waits for an erasure, but not for a check, which takes minutes.
        lock = {"read": True, "key_share": True}
        session.get(Recording, id, with_for_update=lock, populate_existing=True)
    recordings = [find_ready_recording(session, caller, id) for id in ids]
    studies = {recording.study_id for recording in recordings}
    studies |= {owner.id for owner in (study,) if owner} | (
        {interview.study_id} if interview else set()
    )
    if len(studies) > 1:
        raise StudiesMixed("The recordings belong to different studies")
    return find_study(session, caller, studies.pop()), interview, recordings


def _sessions(
    session: DbSession, interview: tables.Session | None, recordings: Sequence[Recording]
) -> list[tables.Session | None]:
    """The session of a job and those of its recordings; None if there is none."""
    ids = {recording.session_id for recording in recordings}
    if interview is not None:
        ids = (ids - {None}) | {interview.id}
    return [None if id is None else session.get_one(tables.Session, id) for id in ids]


def _with_defaults(
    services: Services, request: JobRequest, study: Study, interview: tables.Session | None
) -> tuple[JobOptions, list[str]]:
    """The chosen options, with the study's and the session's defaults for the others; warnings.

    A roster is not turned into a number of speakers here: the pipeline checks a number that comes
    from a roster against the voices, but takes a chosen one as it is.
    """
    defaults: dict[str, Any] = {"language": study.language}
    warnings = []
    if "vocabulary" not in request.chosen:
        try:
            defaults["vocabulary"] = tuple(read_vocabulary(services, study))
        except ArtefactMissing:  # a study must not stand still for it
            log.error("study %s: its vocabulary is missing from the vault", study.id)
            warnings.append(VOCABULARY_MISSING)
    if interview is not None:
        defaults["roster"] = tuple(RosterEntry(**entry) for entry in interview.roster)
        if not interview.roster:
            defaults["speakers"] = SpeakerCount(interview.speakers_min, interview.speakers_max)
    options = replace(
        request.options,
        **{name: value for name, value in defaults.items() if name not in request.chosen},
    )
    return options, warnings


def pin_weights(model: str | None, weights: Path) -> PinnedWeights:
    """Find the installed weights that a new job uses.

    Args:
        model: the name of a Whisper model, never a path; None for the service's default.

    Raises:
        UnknownModel, ModelMissing, WeightsCorrupt
    """
    name = model or _default_model(weights)
    if name != DEMO:
        name = find_model(name, "whisper").name
    whisper = find_whisper(name, weights)
    pipeline = find_pipeline(default_pipeline(name), weights)
    return PinnedWeights(whisper.name, whisper.sha256, pipeline.name, pipeline.sha256)


def _default_model(weights: Path) -> str:
    for name in DEFAULT_WHISPER:
        if is_installed(KNOWN[name], weights):
            return name
    raise ModelMissing(
        "No default weights are installed: run `fieldscribe models fetch`, or name a model."
    )


def _enqueue(
    session: DbSession,
    caller: Caller,
    job: Job,
    recordings: Sequence[UUID],
    stages: dict[str, dict[str, Any]],
) -> None:
    """
    Args:
        stages: columns of stages with earlier results, by name of the stage.
    """
    session.add(job)
    session.flush()
    session.add_all(
        JobRecording(job_id=job.id, recording_id=id, position=position)
        for position, id in enumerate(recordings)
    )
    session.add_all(JobStage(job_id=job.id, name=name, **stages.get(name, {})) for name in STAGES)
    defer_job(session, job.id, job.study_id)
    emit_job(session, job)
    place: dict[str, UUID | str] = {"job": job.id}
    audit.record(
        session,
        caller,
        "job.created",
        job.study_id,
        place | ({} if job.session_id is None else {"session": job.session_id}),
        detail={
            "recordings": [str(id) for id in recordings],
            "whisper_model": job.whisper_model,
            "whisper_sha256": job.whisper_sha256,
            "diarisation_pipeline": job.diarisation_pipeline,
            "diarisation_sha256": job.diarisation_sha256,
            "rerun_from": job.rerun_from,
        },
    )


def _create_once(
    session: DbSession,
    services: Services,
    caller: Caller,
    study: Study,
    key: str | None,
    request: Any,
    create: Callable[[], UUID],
) -> Submitted:
    """Create the job, unless the same request with the same key already created it.

    Raises:
        IdempotencyKeyReused: the key was used with a different request.
    """
    if key is None:
        return Submitted(create(), created=True)
    secret = study_secret(services, study.id, b"idempotency")
    key = hmac.new(secret, f"key {key}".encode(), hashlib.sha256).hexdigest()
    place = f"{caller.token_id}:{study.id}:{key}"
    # Of two simultaneous requests, the second waits for the first to commit.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(place, 0))))
    canonical = json.dumps(request, sort_keys=True, default=str).encode()
    fingerprint = hmac.new(secret, canonical, hashlib.sha256).digest()
    earlier = session.get(Idempotency, (caller.token_id, study.id, key))
    if earlier is None:
        job_id = create()
        session.add(
            Idempotency(
                token_id=caller.token_id,
                study_id=study.id,
                key=key,
                fingerprint=fingerprint,
                job_id=job_id,
            )
        )
        return Submitted(job_id, created=True)
    if not hmac.compare_digest(earlier.fingerprint, fingerprint):
        raise IdempotencyKeyReused("This Idempotency-Key was used before with a different request")
    return Submitted(earlier.job_id, created=False)


# --- finding --------------------------------------------------------------------------------------


def find_submitted(session: DbSession, caller: Caller, submitted: Submitted) -> Job:
    """The job of a request, which another request may have changed meanwhile."""
    job = find_job(session, caller, submitted.job_id)
    session.refresh(job)
    return job


def find_job(session: DbSession, caller: Caller, job_id: UUID, *, lock: bool = False) -> Job:
    """
    Raises:
        JobNotFound: it does not exist, or is not the caller's.
        Erased
    """
    job = lock_job(session, job_id) if lock else session.get(Job, job_id)
    if job is None or not caller.may_see(job.study_id):
        raise JobNotFound("There is no such job, or it is not yours")
    refuse_erased(job)
    return job


def refuse_erased(job: Job) -> None:
    if job.status == "erased":
        when = job.erased_at.isoformat(timespec="seconds") if job.erased_at else "some time ago"
        raise Erased(f"The job was erased at {when}")


def list_jobs(
    session: DbSession,
    caller: Caller,
    *,
    study: str | None = None,
    session_name: str | None = None,
    statuses: Sequence[str] = (),
    limit: int,
    cursor: str | None = None,
) -> Page[Job]:
    """The caller's jobs, newest first. Erased jobs are listed only if `statuses` asks for them.

    Args:
        study, session_name: id or code; the code of a session needs its study.

    Raises:
        StudyNotFound, SessionNotFound, BadCursor
    """
    query = caller.restrict(select(Job), Job.study_id)
    found = find_study(session, caller, study) if study is not None else None
    if found is not None:
        query = query.where(Job.study_id == found.id)
    if session_name is not None:
        interview = find_session(session, caller, session_name, found)
        query = query.where(Job.session_id == interview.id)
    query = query.where(Job.status.in_(statuses) if statuses else Job.status != "erased")
    return page_of(session, Job, query, limit=limit, cursor=cursor)


# --- cancelling, rerunning ------------------------------------------------------------------------


def cancel_job(session: DbSession, caller: Caller, job_id: UUID) -> Job:
    """
    Raises:
        JobNotFound, Erased
    """
    job = find_job(session, caller, job_id, lock=True)
    request_cancel(session, job)
    audit.record(session, caller, "job.cancelled", job.study_id, {"job": job.id})
    return job


def rerun_job(
    session: DbSession,
    services: Services,
    caller: Caller,
    job_id: UUID,
    *,
    stage: str,
    speakers: SpeakerCount | None = None,
    key: str | None = None,
) -> Submitted:
    """Create a job of the same recordings that starts at `stage` with copies of earlier results.

    If other weights are installed by now, no results are copied: they would not fit together.

    Args:
        stage: one of RERUN_STAGES.
        speakers: a new number of speakers; None: as before.

    Raises:
        JobNotFound, JobUnfinished, Erased
        RecordingNotFound, RecordingNotReady, ModelMissing, WeightsCorrupt, IdempotencyKeyReused
        ConsentMissing, ApprovalMissing
        KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    old = find_job(session, caller, job_id, lock=True)
    if old.status not in FINAL:
        raise JobUnfinished(f"The job is still {old.status}: cancel it, or wait until it ends")
    study = find_study(session, caller, old.study_id)
    interview = session.get(tables.Session, old.session_id) if old.session_id else None
    ids = job_recordings(session, old.id)
    _, _, recordings = _lock_sources(session, caller, JobRequest(recordings=tuple(ids)))

    def create() -> UUID:
        allowed = require_recording(
            session, caller, study, _sessions(session, interview, recordings)
        )
        options = JobOptions.from_row(old.options)
        if speakers is not None:
            options = replace(options, speakers=speakers)
        pinned = pin_weights(old.whisper_model, services.settings.weights)
        job = Job(
            id=uuid4(),
            study_id=old.study_id,
            session_id=interview.id if interview else None,
            token_id=caller.token_id,
            options=options.to_row(),
            audio_seconds=old.audio_seconds,
            rerun_from=stage,
            warnings=allowed,
            **asdict(pinned),
        )
        results.create_key(services, study.id, job.id)
        copy = partial(results.copy, services, study.id, old.id, job.id)
        if old.vocabulary_artefact_id is not None:
            try:
                job.vocabulary_artefact_id = copy(VOCABULARY, old.vocabulary_artefact_id)
            except ArtefactMissing:
                job.warnings = [*allowed, VOCABULARY_MISSING]
        same = all(getattr(old, name) == value for name, value in asdict(pinned).items())
        copied = _copy_results(session, old, stage, copy) if same else {}
        _enqueue(session, caller, job, ids, copied)
        log.info("job %s: rerun of %s from %s", job.id, old.id, stage)
        return job.id

    request = ["rerun", str(job_id), stage, speakers and astuple(speakers)]
    return _create_once(session, services, caller, study, key, request, create)


def _copy_results(
    session: DbSession, old: Job, stage: str, copy: Callable[[str, UUID], UUID]
) -> dict[str, dict[str, Any]]:
    """Copy the results of the stages before `stage`; return the columns of the new rows."""
    earlier = STAGES[: STAGES.index(stage)]
    copied: dict[str, dict[str, Any]] = {}
    for row in session.scalars(select(JobStage).where(JobStage.job_id == old.id)):
        if row.name not in STORED_STAGES or row.artefact_id is None:
            continue
        if row.name in earlier and row.state == "succeeded":
            copied[row.name] = {
                "state": "succeeded",
                "fraction": 1.0,
                "audio_seconds_done": row.audio_seconds_done,
                "artefact_id": copy(stage_kind(row.name), row.artefact_id),
            }
        elif row.name == stage == "diarise":  # for its embeddings
            copied[row.name] = {"artefact_id": copy(stage_kind(row.name), row.artefact_id)}
    return copied


def last_error_code(session: DbSession, job_id: UUID) -> str | None:
    query = select(JobError.code).where(JobError.job_id == job_id)
    return session.scalar(query.order_by(JobError.at.desc()).limit(1))


def job_recordings(session: DbSession, job_id: UUID) -> list[UUID]:
    """Their ids, in order."""
    query = select(JobRecording.recording_id).where(JobRecording.job_id == job_id)
    return list(session.scalars(query.order_by(JobRecording.position)))
