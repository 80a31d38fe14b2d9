"""Jobs: submit, list, look at, wait for, cancel, run again, delete."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy.orm import Session as DbSession

from models.errors import OutOfMemory
from models.options import Channels, JobOptions
from models.weights.errors import ModelMissing, UnknownModel, WeightsCorrupt
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.openapi import problems
from service.api.routes.job_views import (
    RECORDING,
    DestroyedView,
    ErrorView,
    JobList,
    JobSummary,
    JobView,
    OptionsView,
    StageView,
    Status,
)
from service.api.routes.sessions import Speakers
from service.api.routes.studies import Language, ModelName
from service.api.routes.views import SessionName, Strict, StudyName
from service.api.watch import State, Watch
from service.database.tables import FINAL, Job
from service.domain import erasure, jobs, stages
from service.domain.callers import Caller, require_valid_token
from service.domain.job_errors import error_action
from service.domain.jobs import (
    IdempotencyKeyReused,
    JobNotFound,
    JobRequest,
    JobRunning,
    JobUnfinished,
    SessionEmpty,
    StudiesMixed,
)
from service.domain.pages import BadCursor
from service.domain.stages import Rate
from service.errors import (
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
    SessionNotFound,
    StudyNotFound,
    TooManyWaiting,
)
from service.services import Services
from service.vault.errors import READ_ERRORS, DiskFull, Erased

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Eraser = Annotated[Caller, Depends(allow("researcher", sealed_too=True))]  # needs no root key
MAX_WAIT = 60.0  # s
RATES_FOR = 5.0  # s; what stages usually take changes slowly, and many ask

RerunStage = Literal["ingest", "segment", "transcribe", "align", "diarise", "attribute", "check"]
BEFORE_SPEAKERS = ("ingest", "segment", "transcribe", "align", "diarise")
VocabularyWord = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\r\n\x00]+$")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="The same key and the same request give the same job, however often they come.",
    ),
]
SOURCES = (
    StudyNotFound,
    SessionNotFound,
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
    Erased,
)
WEIGHTS = (UnknownModel, ModelMissing, WeightsCorrupt)


# --- requests -------------------------------------------------------------------------------------


class NewJob(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"study": "PEER", "session": "INT-07", "language": "de"},
                {"recordings": [RECORDING], "speakers": {"min": 2, "max": 2}},
            ]
        }
    )

    study: StudyName | None = Field(default=None, description="Needed for a session's code.")
    session: SessionName | None = Field(
        default=None, description="All of its recordings in their order, unless some are named."
    )
    recordings: list[UUID] = Field(
        default=[], max_length=100, description="Uploads, in the order they were recorded."
    )
    language: Language | Literal["auto"] | None = Field(
        default=None, description="`auto` finds it out; null is the study's."
    )
    model: ModelName | None = Field(default=None, description="An installed one; null: default.")
    speakers: Speakers | None = Field(default=None, description="How many; null: the session's.")
    channels: Literal["auto", "mix", "split"] = Field(
        default="auto", description="Whether each channel is one speaker."
    )
    translate: bool = Field(default=False, description="Into English, whatever is spoken.")
    mixed_languages: bool = Field(
        default=False,
        description="Stretches of up to 30 s may be in another language than the rest.",
    )
    vocabulary: list[VocabularyWord] | None = Field(
        default=None,
        max_length=500,
        description="Names and rare words; kept encrypted. Null: the study's.",
    )

    @model_validator(mode="after")
    def _names_its_recordings(self) -> Self:
        if self.session is None and not self.recordings:
            raise ValueError("a session or recordings")
        if self.session is not None and self.study is None and not _is_id(self.session):
            raise ValueError("a session's code needs its study")
        if len(set(self.recordings)) < len(self.recordings):
            raise ValueError("a recording is there twice")
        return self

    def to_request(self) -> JobRequest:
        chosen = {
            name: value
            for name, value in self
            if name in JobOptions.__dataclass_fields__ and value is not None
        }
        chosen["channels"] = Channels(self.channels)
        if self.language == "auto":
            chosen["language"] = None
        if self.vocabulary is not None:
            chosen["vocabulary"] = tuple(self.vocabulary)
        if self.speakers is not None:
            chosen["speakers"] = self.speakers.count
            if self.speakers == Speakers():
                del chosen["speakers"]
        return JobRequest(
            self.study,
            self.session,
            tuple(self.recordings),
            self.model,
            JobOptions(**chosen),
            tuple(chosen),
        )


class Rerun(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"from": "diarise", "speakers": {"min": 3, "max": 3}}]}
    )

    stage: RerunStage = Field(alias="from", description="The first stage that is done again.")
    speakers: Speakers | None = Field(default=None, description="Null: as before.")

    @model_validator(mode="after")
    def _speakers_are_told_apart_again(self) -> Self:
        if self.speakers is not None and self.stage not in BEFORE_SPEAKERS:
            raise ValueError("another number of speakers needs diarise again")
        return self


# --- answers --------------------------------------------------------------------------------------


class Rates:
    """What stages usually take, read at most every few seconds."""

    def __init__(self) -> None:
        self._rates: dict[str, tuple[float, Mapping[str, Rate]]] = {}

    def of(self, session: DbSession, model: str) -> Mapping[str, Rate]:
        read_at, rates = self._rates.get(model, (0.0, {}))
        if time.monotonic() > read_at + RATES_FOR:
            rates = stages.rates_of(session, model)
            self._rates[model] = (time.monotonic(), rates)
        return rates


async def get_rates(request: Request) -> Rates:
    rates: Rates = request.app.state.rates
    return rates


RatesDep = Annotated[Rates, Depends(get_rates)]


def view_of(session: DbSession, rates: Rates, job: Job) -> JobView:
    rows = jobs.rows_of(session, job)
    stage_views = [StageView.model_validate(row) for row in rows.stages]
    eta = None
    if job.status not in FINAL and job.audio_seconds:
        eta = stages.remaining(stage_views, job.audio_seconds, rates.of(session, job.whisper_model))
    waiting = None
    if job.status == "waiting" and rows.errors:
        code = rows.errors[-1]["code"]
        waiting = {
            "reason": "card" if code == OutOfMemory.code else "person",
            "code": code,
            "user_action": error_action(code),
        }
    begun = job.started_at or job.finished_at or datetime.now(UTC)
    columns = JobView.model_fields.keys() & Job.__table__.columns.keys()
    return JobView.model_validate(
        {
            **{name: getattr(job, name) for name in columns},
            "recordings": rows.recordings,
            "stages": stage_views,
            "progress": {
                "fraction": job.fraction,
                "eta_seconds": {"low": eta.low, "high": eta.high} if eta else None,
                "basis": eta.basis if eta else None,
            },
            "queue": {
                "position": jobs.position(session, job),
                "waited_seconds": round((begun - job.created_at).total_seconds(), 1),
            },
            "waiting_for": waiting,
            "options": OptionsView.of(job),
            "errors": [ErrorView.of(row) for row in rows.errors],
        }
    )


def describe(session: DbSession, rates: Rates, job: Job, response: Response) -> JobView:
    response.headers["ETag"] = etag(job.version)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return view_of(session, rates, job)


def etag(version: int) -> str:
    return f'"{version}"'


ETAG = {"ETag": {"schema": {"type": "string"}, "description": "The version, in quotes."}}
LOCATION = {"Location": {"schema": {"type": "string"}, "description": "/v1/jobs/{id}"}}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"description": "In line.", "headers": {**LOCATION, **ETAG}},
    200: {
        "description": "The same request came before: this is its job.",
        "model": JobView,
        "headers": {**LOCATION, **ETAG},
    },
}


# --- routes ---------------------------------------------------------------------------------------


@router.post(
    "",
    status_code=202,
    responses={
        **ACCEPTED,
        **problems(
            *SOURCES,
            *WEIGHTS,
            *READ_ERRORS,
            DiskFull,
            SessionEmpty,
            StudiesMixed,
            IdempotencyKeyReused,
        ),
    },
)
def submit_job(
    wanted: NewJob,
    response: Response,
    caller: Researcher,
    services: ServicesDep,
    rates: RatesDep,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Have a session, or uploads in order, transcribed. Poll the job until it has ended."""
    with services.sessionmaker.begin() as session:
        submitted = jobs.submit_job(session, services, caller, wanted.to_request(), idempotency_key)
        return _submitted(session, rates, caller, submitted, response)


@router.get("", responses=problems(StudyNotFound, SessionNotFound, BadCursor, Erased))
def list_jobs(
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName | None, Query(description="Only those of this study.")] = None,
    session: Annotated[UUID | None, Query(description="Only those of this session.")] = None,
    status: Annotated[list[Status] | None, Query(description="Only these; repeatable.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the page before.")
    ] = None,
) -> JobList:
    """The caller's jobs, the newest first."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as database:
        page = jobs.list_jobs(
            database,
            caller,
            study=study,
            of=str(session) if session else None,
            statuses=status or (),
            limit=limit,
            cursor=cursor,
        )
        items = [JobSummary.model_validate(job, from_attributes=True) for job in page.rows]
        return JobList(items=items, next_cursor=page.next_cursor)


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses={
        200: {"headers": ETAG},
        304: {"description": "It is as `If-None-Match` says.", "headers": ETAG},
        **problems(JobNotFound, Erased, TooManyWaiting),
    },
)
async def read_job(
    job_id: UUID,
    request: Request,
    response: Response,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    rates: RatesDep,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=MAX_WAIT,
            description="Seconds to wait: with `If-None-Match` for any change, else for the end.",
        ),
    ] = 0,
    if_none_match: Annotated[
        str | None, Header(max_length=100, description="An ETag of this job.")
    ] = None,
) -> JobView | Response:
    """How far a job is. Poll it until it has `succeeded`, `failed` or was `cancelled`."""
    limits.polls.require(str(caller.token_id))
    known = None if if_none_match is None else if_none_match.removeprefix("W/")
    if wait or known is not None:  # else the view says it all
        state = await asyncio.to_thread(_state, services, caller, job_id)
        if wait and not _is_news(state, known):
            watch: Watch = request.app.state.watch
            with limits.waiting():
                await watch.until(job_id, lambda state: _is_news(state, known), wait)
            await asyncio.to_thread(require_valid_token, services, caller)
            state = await asyncio.to_thread(_state, services, caller, job_id)
        if known is not None and known == etag(state.version):
            return Response(status_code=304, headers={"ETag": known})
    view = await asyncio.to_thread(_view, services, rates, caller, job_id)
    response.headers["ETag"] = etag(view.version)
    return view


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    responses={202: {"headers": {**LOCATION, **ETAG}}, **problems(JobNotFound, Erased)},
)
def cancel_job(
    job_id: UUID,
    response: Response,
    caller: Researcher,
    services: ServicesDep,
    rates: RatesDep,
) -> JobView:
    """Stop a job; finished stages are kept. Nothing happens to one that has ended."""
    with services.sessionmaker.begin() as session:
        job = jobs.cancel_job(session, caller, job_id)
        return describe(session, rates, job, response)


@router.post(
    "/{job_id}/rerun",
    status_code=202,
    responses={
        **ACCEPTED,
        **problems(
            JobNotFound,
            JobUnfinished,
            *SOURCES,
            *WEIGHTS,
            *READ_ERRORS,
            DiskFull,
            IdempotencyKeyReused,
        ),
    },
)
def rerun_job(
    job_id: UUID,
    wanted: Rerun,
    response: Response,
    caller: Researcher,
    services: ServicesDep,
    rates: RatesDep,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """A new job of the same recordings that begins with a stage; it has what came before it."""
    speakers = None if wanted.speakers is None else wanted.speakers.count
    with services.sessionmaker.begin() as session:
        submitted = jobs.rerun_job(
            session,
            services,
            caller,
            job_id,
            stage=wanted.stage,
            speakers=speakers,
            key=idempotency_key,
        )
        return _submitted(session, rates, caller, submitted, response)


@router.delete("/{job_id}", responses=problems(JobNotFound, JobRunning, Erased))
def delete_job(
    job_id: UUID,
    caller: Eraser,
    services: ServicesDep,
    force: Annotated[bool, Query(description="Also while it is running.")] = False,
) -> DestroyedView:
    """Destroy the key of what a job made, and say what that was. Its recordings stay."""
    with services.sessionmaker.begin() as session:
        gone = erasure.delete_job(session, services, caller, job_id, force=force)
    return DestroyedView(
        job_id=job_id,
        transcript=gone.transcript,
        stage_results=gone.stage_results,
        vocabulary=gone.vocabulary,
        occurrences=gone.occurrences,
        recordings_kept=list(gone.recordings_kept),
    )


def _submitted(
    session: DbSession,
    rates: Rates,
    caller: Caller,
    submitted: jobs.Submitted,
    response: Response,
) -> JobView:
    response.status_code = 202 if submitted.created else 200
    job = jobs.find_job(session, caller, submitted.job_id)
    session.refresh(job)
    return describe(session, rates, job, response)


def _state(services: Services, caller: Caller, job_id: UUID) -> State:
    with services.sessionmaker() as session:
        job = jobs.find_job(session, caller, job_id)
        return State(job.status, job.version)


def _view(services: Services, rates: Rates, caller: Caller, job_id: UUID) -> JobView:
    with services.sessionmaker() as session:
        return view_of(session, rates, jobs.find_job(session, caller, job_id))


def _is_news(state: State, known: str | None) -> bool:
    """Whether there is something to tell to somebody who knows this version of the job."""
    return state.has_ended or known not in (None, etag(state.version))


def _is_id(name: str) -> bool:
    return len(name) == 36
