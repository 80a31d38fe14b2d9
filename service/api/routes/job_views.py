"""The API's views of jobs: stages, progress, options, errors, and what deleting destroyed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from models.errors import OutOfMemory
from models.options import JobOptions
from service.api.routes.sessions import Speakers
from service.database.tables import Job
from service.domain.job_details import JobDetails
from service.domain.job_errors import error_action, error_title

Status = Literal[
    "queued", "running", "cancelling", "waiting", "succeeded", "failed", "cancelled", "erased"
]
StageName = Literal[
    "ingest", "segment", "transcribe", "align", "diarise", "attribute", "check", "handoff"
]
StageState = Literal["pending", "running", "succeeded", "failed", "skipped"]

ID = "0198f2a6-7c1e-4d3b-9a39-5b3a0d9a7b10"
RECORDING = "3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52"


class StageView(BaseModel):
    name: StageName
    state: StageState
    fraction: float = Field(description="0 to 1")
    audio_seconds_done: float | None
    seconds: float | None = Field(description="Processing time.")
    device: str | None
    started_at: datetime | None
    finished_at: datetime | None


class EtaView(BaseModel):
    low: float
    high: float


class ProgressView(BaseModel):
    fraction: float = Field(description="Of the whole job, 0 to 1.")
    eta_seconds: EtaView | None = Field(
        description="Seconds until it is done, not counting its time in the queue; null: unknown."
    )
    basis: Literal["history", "self-test"] | None = Field(
        description="What the estimate is based on: earlier jobs, or a quick test of the models."
    )


class QueueView(BaseModel):
    position: int | None = Field(description="Jobs ahead of it; null once it has started.")
    waited_seconds: float


class WaitingView(BaseModel):
    reason: Literal["person", "card"]
    code: str
    user_action: str


class ErrorView(BaseModel):
    """What went wrong in one attempt. Stored permanently."""

    type: str
    title: str
    code: str
    stage: StageName | None
    attempt: int
    retryable: bool
    user_action: str
    at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        return cls.model_validate(
            {
                **row,
                "type": f"urn:fieldscribe:error:{row['code']}",
                "title": error_title(row["code"]),
                "user_action": error_action(row["code"]),
            }
        )


class Weights(BaseModel):
    name: str
    sha256: str


class OptionsView(BaseModel):
    language: str | None = Field(description="null: detected.")
    speakers: Speakers
    channels: Literal["auto", "mix", "split", "parallel"]
    translate: bool
    mixed_languages: bool
    has_vocabulary: bool
    model: Weights
    diarisation: Weights

    @classmethod
    def of(cls, job: Job) -> Self:
        options = JobOptions.from_row(job.options)
        return cls.model_validate(
            {
                **options.to_row(),
                "speakers": Speakers.of(options.expected_speakers),
                "has_vocabulary": job.vocabulary_artefact_id is not None,
                "model": {"name": job.whisper_model, "sha256": job.whisper_sha256},
                "diarisation": {"name": job.diarisation_pipeline, "sha256": job.diarisation_sha256},
            }
        )


class JobView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": ID,
                    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                    "session_id": "b5d7a1f6-8a0e-4a0c-9a6e-2f7f8b1f6c2d",
                    "recordings": [RECORDING],
                    "status": "running",
                    "version": 41,
                    "attempt": 1,
                    "stage": "transcribe",
                    "stages": [
                        {
                            "name": "transcribe",
                            "state": "running",
                            "fraction": 0.42,
                            "audio_seconds_done": 1213.0,
                            "seconds": None,
                            "device": "cuda",
                            "started_at": "2031-01-07T09:13:02Z",
                            "finished_at": None,
                        }
                    ],
                    "progress": {
                        "fraction": 0.37,
                        "eta_seconds": {"low": 95.0, "high": 190.0},
                        "basis": "history",
                    },
                    "queue": {"position": None, "waited_seconds": 12.0},
                    "waiting_for": None,
                    "options": {
                        "language": "de",
                        "speakers": {"min": 2, "max": 2},
                        "channels": "auto",
                        "translate": False,
                        "mixed_languages": False,
                        "has_vocabulary": False,
                        "model": {"name": "large-v3-turbo", "sha256": "aff26ae4..."},
                        "diarisation": {
                            "name": "speaker-diarization-community-1",
                            "sha256": "5ce2bfa9...",
                        },
                    },
                    "audio_seconds": 2888.4,
                    "rerun_from": None,
                    "transcript_id": None,
                    "warnings": [],
                    "errors": [],
                    "heartbeat_at": "2031-01-07T09:14:11Z",
                    "created_at": "2031-01-07T09:12:50Z",
                    "started_at": "2031-01-07T09:13:02Z",
                    "finished_at": None,
                }
            ]
        }
    )

    id: UUID
    study_id: UUID
    session_id: UUID | None
    recordings: list[UUID]
    status: Status
    version: int = Field(description="Increases with every change; also the ETag.")
    attempt: int
    stage: StageName | None
    stages: list[StageView]
    progress: ProgressView
    queue: QueueView
    waiting_for: WaitingView | None = Field(description="What a `waiting` job is waiting for.")
    options: OptionsView
    audio_seconds: float | None
    rerun_from: StageName | None
    transcript_id: UUID | None = Field(
        description="Once the job has succeeded: /v1/transcripts/{id}."
    )
    warnings: list[str]
    errors: list[ErrorView]
    heartbeat_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, details: JobDetails) -> Self:
        job, remaining = details.job, details.remaining
        columns = cls.model_fields.keys() & Job.__table__.columns.keys()
        return cls.model_validate(
            {
                **{name: getattr(job, name) for name in columns},
                "recordings": details.recordings,
                "stages": details.stages,
                "progress": {
                    "fraction": job.fraction,
                    "eta_seconds": remaining and {"low": remaining.low, "high": remaining.high},
                    "basis": remaining and remaining.basis,
                },
                "queue": {
                    "position": details.position,
                    "waited_seconds": details.waited_seconds,
                },
                "waiting_for": _waiting_for(details),
                "options": OptionsView.of(job),
                "errors": [ErrorView.of(row) for row in details.errors],
            }
        )


def _waiting_for(details: JobDetails) -> dict[str, Any] | None:
    if details.job.status != "waiting" or not details.errors:
        return None
    code = details.errors[-1]["code"]
    return {
        "reason": "card" if code == OutOfMemory.code else "person",
        "code": code,
        "user_action": error_action(code),
    }


class JobSummary(BaseModel):
    """A job in a list."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    study_id: UUID
    session_id: UUID | None
    status: Status
    version: int
    stage: StageName | None
    fraction: float
    device: str | None = Field(default=None, description="Of the worker that is running it.")
    audio_seconds: float | None
    transcript_id: UUID | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job, device: str | None) -> Self:
        return cls.model_validate(job).model_copy(update={"device": device})


class JobList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "id": ID,
                            "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                            "session_id": None,
                            "status": "queued",
                            "version": 2,
                            "stage": None,
                            "fraction": 0.0,
                            "device": None,
                            "audio_seconds": 2888.4,
                            "transcript_id": None,
                            "created_at": "2031-01-07T09:12:50Z",
                            "started_at": None,
                            "finished_at": None,
                        }
                    ],
                    "next_cursor": None,
                }
            ]
        }
    )

    items: list[JobSummary]
    next_cursor: str | None = Field(description="For the next page; null on the last one.")


class DestroyedView(BaseModel):
    """What deleting a job destroyed, and what it left."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job_id": ID,
                    "transcript": True,
                    "stage_results": 4,
                    "vocabulary": False,
                    "occurrences": 1,
                    "releases": 1,
                    "recordings_kept": [RECORDING],
                }
            ]
        }
    )

    job_id: UUID
    transcript: bool
    stage_results: int
    vocabulary: bool
    occurrences: int = Field(description="Results of the de-identification stage.")
    releases: int = Field(description="De-identified releases of the transcript.")
    recordings_kept: list[UUID] = Field(
        description="They still exist, with their keys, and are deleted separately."
    )
