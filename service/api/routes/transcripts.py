"""Transcripts: read them in every format and version, and name their speakers."""

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session as DbSession

from models.speaker_names import names_of, show_names
from models.transcript import SpeakerName, Transcript
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.transcript_document import TranscriptDocument
from service.api.routes.views import Pseudonym, SpeakerCode, SpeakerRole, Strict
from service.database.tables import StoredTranscript, Study
from service.domain import transcripts
from service.domain.callers import Caller
from service.domain.corrections import Editor, UnknownSpeaker
from service.domain.jobs import job_recordings
from service.domain.transcripts import TranscriptNotFound, VersionNotFound
from service.exports import SPECS, Format, Label, render
from service.vault.errors import READ_ERRORS, DiskFull

router = APIRouter(prefix="/v1/transcripts", tags=["transcripts"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]

NAMED = {
    "SPEAKER_00": {"role": "interviewer", "code": "I1"},
    "SPEAKER_01": {"role": "participant", "code": "P07"},
}


class SpeakerNames(Strict):
    role: SpeakerRole | None = None
    code: SpeakerCode | None = Field(
        default=None, description="Speakers with the same code are one person."
    )
    pseudonym: Pseudonym | None = Field(
        default=None, description="Shown instead of the code; stored encrypted."
    )


class TurnView(BaseModel):
    """A turn to listen to: `/v1/recordings/{recording_id}/audio` from `recording_start`."""

    start: float = Field(description="Seconds, on the timeline of the transcript.")
    end: float
    recording_id: UUID
    recording_start: float = Field(description="Seconds, in that recording.")


class SpeakerView(SpeakerNames):
    name: str = Field(description="The name that transcripts show.")
    turns: list[TurnView] = Field(description="The three longest.")


class TranscriptSpeakers(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "transcript_id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
                    "version": 2,
                    "speakers": {
                        "SPEAKER_00": {
                            "role": "interviewer",
                            "code": "I1",
                            "pseudonym": None,
                            "name": "I1",
                            "turns": [
                                {
                                    "start": 12.4,
                                    "end": 31.9,
                                    "recording_id": "3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52",
                                    "recording_start": 12.4,
                                }
                            ],
                        }
                    },
                }
            ]
        }
    )

    transcript_id: UUID
    version: int
    speakers: dict[str, SpeakerView] = Field(description="By label.")


@router.get(
    "/{transcript_id}",
    response_class=Response,
    responses={
        200: {
            "model": TranscriptDocument,
            "description": "The identified transcript, with names and everything people said.",
            "content": {spec.media_type.partition(";")[0]: {} for spec in SPECS.values()},
        },
        **problems(TranscriptNotFound, VersionNotFound, *READ_ERRORS),
    },
)
def read_transcript(
    transcript_id: UUID,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    format: Annotated[Format, Query()] = Format.JSON,
    version: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="By default the newest.")
    ] = None,
) -> Response:
    """Who said what. docs/reference/transcript.md describes the JSON."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        row = transcripts.find_transcript(session, caller, transcript_id)
        transcript = show_names(transcripts.read_transcript(session, services, row, version))
        label = _label(session, row, transcript)
    spec = SPECS[format]
    name = f"{label.session}.identified.{spec.extension}"
    return Response(
        render(transcript, format, label),
        media_type=spec.media_type,
        headers={
            "ETag": f'"{transcript.version}"',
            "Content-Disposition": f'attachment; filename="{name}"',
        },
    )


def _label(session: DbSession, row: StoredTranscript, transcript: Transcript) -> Label:
    return Label(
        session=transcripts.session_code(session, row) or str(row.id),
        study=session.get_one(Study, row.study_id).code,
        version=transcript.version,
        roles={name: each.role for name, each in transcript.names.items() if each.role},
    )


@router.get("/{transcript_id}/speakers", responses=problems(TranscriptNotFound, *READ_ERRORS))
def read_speakers(
    transcript_id: UUID, caller: Researcher, services: ServicesDep
) -> TranscriptSpeakers:
    """The speakers, each with its three longest turns to listen to."""
    with services.sessionmaker() as session:
        row = transcripts.find_transcript(session, caller, transcript_id)
        transcript = transcripts.read_transcript(session, services, row)
        return _speakers(transcript_id, transcript, job_recordings(session, row.job_id))


@router.put(
    "/{transcript_id}/speakers",
    responses=problems(TranscriptNotFound, UnknownSpeaker, *READ_ERRORS, DiskFull),
)
def put_speakers(
    transcript_id: UUID,
    wanted: Annotated[dict[str, SpeakerNames], Body(examples=[NAMED], max_length=100)],
    caller: Researcher,
    services: ServicesDep,
) -> TranscriptSpeakers:
    """Set the role, and the code or pseudonym, of each speaker. Every format shows them."""
    names = {label: SpeakerName(**name.model_dump()) for label, name in wanted.items()}
    with services.sessionmaker.begin() as session:
        editor = Editor.open(session, services, caller, transcript_id)
        transcript = editor.name_speakers(names).transcript
        recordings = job_recordings(session, editor.row.job_id)
        return _speakers(transcript_id, transcript, recordings)


def _speakers(
    transcript_id: UUID, transcript: Transcript, recordings: list[UUID]
) -> TranscriptSpeakers:
    shown = names_of(transcript.speakers, transcript.names)
    return TranscriptSpeakers(
        transcript_id=transcript_id,
        version=transcript.version,
        speakers={
            label: SpeakerView(
                **asdict(transcript.names.get(label, SpeakerName())),
                name=shown[label],
                turns=[TurnView.model_validate(turn, from_attributes=True) for turn in turns],
            )
            for label, turns in transcripts.longest_turns(transcript, recordings).items()
        },
    )
