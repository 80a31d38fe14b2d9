"""Jobs: submit, list, read, wait for, cancel, rerun, delete."""

import asyncio
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import ConfigDict, Field, StringConstraints, model_validator

from models.options import Channels, JobOptions
from models.weights.errors import ModelMissing, UnknownModel, WeightsCorrupt
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.job_views import (
    RECORDING,
    DestroyedView,
    JobList,
    JobSummary,
    JobView,
    Status,
)
from service.api.routes.sessions import Speakers
from service.api.routes.studies import Language, ModelName
from service.api.routes.views import SessionName, Strict, StudyName
from service.api.watch import JOBS, State, Watch
from service.domain import erasure, jobs
from service.domain.callers import Caller, require_valid_token
from service.domain.consent import ApprovalMissing, ConsentMissing
from service.domain.job_details import read_details
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
from service.domain.stages import RateCache
from service.domain.studies import parse_id
from service.domain.workers import devices_of_jobs
from service.errors import (
    InvalidRequest,
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
    SessionNotFound,
    StudyNotFound,
    TooManyWaiting,
)
from service.services import Services
from service.vault.errors import READ_ERRORS, DiskFull, Erased

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Reader = Annotated[Caller, Depends(allow("researcher", "admin"))]
Eraser = Annotated[Caller, Depends(allow("researcher", sealed_too=True))]  # needs no root key
MAX_WAIT = 60.0  # s

RerunStage = Literal["ingest", "segment", "transcribe", "align", "diarise", "attribute", "check"]
BEFORE_SPEAKERS = ("ingest", "segment", "transcribe", "align", "diarise")
VocabularyWord = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\r\n\x00]+$")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="A request that is repeated with the same key returns the same job.",
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

    study: StudyName | None = Field(default=None, description="Needed if `session` is a code.")
    session: SessionName | None = Field(
        default=None, description="All its recordings in order, unless `recordings` are given."
    )
    recordings: list[UUID] = Field(
        default=[], max_length=100, description="Uploads, in the order they were recorded."
    )
    language: Language | Literal["auto"] | None = Field(
        default=None, description="`auto` detects it; null: the study's."
    )
    model: ModelName | None = Field(
        default=None, description="An installed model; null: the study's."
    )
    speakers: Speakers | None = Field(default=None, description="How many; null: the session's.")
    channels: Literal["auto", "mix", "split", "parallel"] = Field(
        default="auto",
        description="`split`: each channel is one speaker; `mix`: all in one; `auto`: detected; "
        "`parallel`: each recording is one speaker, and they were made at the same time.",
    )
    translate: bool = Field(default=False, description="Into English, whatever language is spoken.")
    mixed_languages: bool = Field(
        default=False,
        description="Expect stretches of up to 30 s in a different language from the rest.",
    )
    vocabulary: list[VocabularyWord] | None = Field(
        default=None,
        max_length=500,
        description="Names and rare words, stored encrypted; null: the study's.",
    )

    @model_validator(mode="after")
    def _names_its_recordings(self) -> Self:
        if self.session is None and not self.recordings:
            raise ValueError("a session or recordings are needed")
        if self.session is not None and self.study is None and parse_id(self.session) is None:
            raise ValueError("a session's code needs its study")
        if len(set(self.recordings)) < len(self.recordings):
            raise ValueError("a recording is listed twice")
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
        if self.speakers == Speakers():  # no bounds: the same as omitted
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

    stage: RerunStage = Field(alias="from", description="The first stage to run again.")
    speakers: Speakers | None = Field(default=None, description="How many; null: as before.")

    @model_validator(mode="after")
    def _speakers_need_diarisation(self) -> Self:
        if self.speakers is not None and self.stage not in BEFORE_SPEAKERS:
            raise ValueError("another number of speakers needs a rerun from diarise or earlier")
        return self


# --- responses ------------------------------------------------------------------------------------


async def get_rates(request: Request) -> RateCache:
    rates: RateCache = request.app.state.rates
    return rates


RatesDep = Annotated[RateCache, Depends(get_rates)]


def add_headers(view: JobView, response: Response) -> JobView:
    response.headers["ETag"] = etag(view.version)
    response.headers["Location"] = f"/v1/jobs/{view.id}"
    return view


def etag(version: int) -> str:
    return f'"{version}"'


ETAG = {"ETag": {"schema": {"type": "string"}, "description": "The job's version, in quotes."}}
LOCATION = {"Location": {"schema": {"type": "string"}, "description": "/v1/jobs/{id}"}}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"description": "The job is queued.", "headers": {**LOCATION, **ETAG}},
    200: {
        "description": "The request was sent before: this is its job.",
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
            ConsentMissing,
            ApprovalMissing,
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
    """Transcribe a session, or uploads in order. Poll the job until it has ended."""
    with services.sessionmaker.begin() as session:
        submitted = jobs.submit_job(session, services, caller, wanted.to_request(), idempotency_key)
        response.status_code = 202 if submitted.created else 200
        job = jobs.find_submitted(session, caller, submitted)
        return add_headers(JobView.of(read_details(session, rates, job)), response)


@router.get("", responses=problems(StudyNotFound, SessionNotFound, BadCursor, Erased))
def list_jobs(
    caller: Reader,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName | None, Query(description="Only jobs of this study.")] = None,
    session: Annotated[
        SessionName | None,
        Query(description="Only jobs of this session, by id, or by code together with `study`."),
    ] = None,
    status: Annotated[
        list[Status] | None, Query(description="Only jobs with this status; repeatable.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> JobList:
    """The caller's jobs, newest first. Erased jobs are listed only if `status` asks for them."""
    limits.polls.require(str(caller.token_id))
    if session is not None and study is None and parse_id(session) is None:
        raise InvalidRequest("A session's code needs its study: add `study`, or give the id")
    with services.sessionmaker() as database:
        page = jobs.list_jobs(
            database,
            caller,
            study=study,
            session_name=session,
            statuses=status or (),
            limit=limit,
            cursor=cursor,
        )
        devices = devices_of_jobs(database, [job.id for job in page.rows])
        items = [JobSummary.of(job, devices.get(job.id)) for job in page.rows]
        return JobList(items=items, next_cursor=page.next_cursor)


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses={
        200: {"headers": ETAG},
        304: {"description": "The job has not changed since `If-None-Match`.", "headers": ETAG},
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
            description="Seconds to wait: for any change with `If-None-Match`, else for the end.",
        ),
    ] = 0,
    if_none_match: Annotated[
        str | None, Header(max_length=100, description="An earlier ETag of this job.")
    ] = None,
) -> JobView | Response:
    """The state of a job. Poll it until it is `succeeded`, `failed` or `cancelled`."""
    limits.polls.require(str(caller.token_id))
    known = None if if_none_match is None else if_none_match.removeprefix("W/")
    if wait or known is not None:  # otherwise the view alone is enough
        state = await asyncio.to_thread(_state, services, caller, job_id)
        if wait and not _is_news(state, known):
            watch: Watch = request.app.state.watch
            with limits.waiting(caller.token_id):
                await watch.until(JOBS, job_id, lambda state: _is_news(state, known), wait)
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
    """Stop a job. The results of finished stages are kept. A job that has ended is left alone."""
    with services.sessionmaker.begin() as session:
        job = jobs.cancel_job(session, caller, job_id)
        return add_headers(JobView.of(read_details(session, rates, job)), response)


@router.post(
    "/{job_id}/rerun",
    status_code=202,
    responses={
        **ACCEPTED,
        **problems(
            JobNotFound,
            JobUnfinished,
            ConsentMissing,
            ApprovalMissing,
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
    """Start a new job from an existing one at a given stage, reusing earlier results."""
    with services.sessionmaker.begin() as session:
        submitted = jobs.rerun_job(
            session,
            services,
            caller,
            job_id,
            stage=wanted.stage,
            speakers=None if wanted.speakers is None else wanted.speakers.count,
            key=idempotency_key,
        )
        response.status_code = 202 if submitted.created else 200
        job = jobs.find_submitted(session, caller, submitted)
        return add_headers(JobView.of(read_details(session, rates, job)), response)


@router.delete("/{job_id}", responses=problems(JobNotFound, JobRunning, Erased))
def delete_job(
    job_id: UUID,
    caller: Eraser,
    services: ServicesDep,
    force: Annotated[bool, Query(description="Also delete a job that is running.")] = False,
) -> DestroyedView:
    """Destroy the key of everything a job made, and report what that was. Recordings stay."""
    with services.sessionmaker.begin() as session:
        destroyed = erasure.delete_job(session, services, caller, job_id, force=force)
    return DestroyedView.model_validate({"job_id": job_id, **vars(destroyed)})


def _state(services: Services, caller: Caller, job_id: UUID) -> State:
    with services.sessionmaker() as session:
        job = jobs.find_job(session, caller, job_id)
        return State(job.status, job.version)


def _view(services: Services, rates: RateCache, caller: Caller, job_id: UUID) -> JobView:
    with services.sessionmaker() as session:
        return JobView.of(read_details(session, rates, jobs.find_job(session, caller, job_id)))


def _is_news(state: State, known: str | None) -> bool:
    """Whether the job has changed since the version that the client knows."""
    return state.has_ended or known not in (None, etag(state.version))
