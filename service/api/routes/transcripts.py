"""Transcripts: read them in every format, and set the roles and codes of their speakers."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session as DbSession

from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.transcript_document import TranscriptDocument
from service.api.routes.views import SpeakerCode, SpeakerRole, Strict
from service.database.tables import StoredTranscript, Study
from service.domain import transcripts
from service.domain.callers import Caller
from service.domain.jobs import job_recordings
from service.domain.transcripts import TranscriptNotFound, UnknownSpeaker
from service.exports import SPECS, Format, Label, render
from service.services import Services
from service.vault.errors import READ_ERRORS

router = APIRouter(prefix="/v1/transcripts", tags=["transcripts"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]

NAMED = {
    "SPEAKER_00": {"role": "interviewer", "code": "I1"},
    "SPEAKER_01": {"role": "participant", "code": "P07"},
}


class SpeakerName(Strict):
    role: SpeakerRole | None = None
    code: SpeakerCode | None = Field(
        default=None, description="Speakers with the same code are one person."
    )


class TurnView(BaseModel):
    """A turn to listen to: `/v1/recordings/{recording_id}/audio` from `recording_start`."""

    start: float = Field(description="Seconds, on the timeline of the transcript.")
    end: float
    recording_id: UUID
    recording_start: float = Field(description="Seconds, in that recording.")


class SpeakerView(SpeakerName):
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
        **problems(TranscriptNotFound, *READ_ERRORS),
    },
)
def read_transcript(
    transcript_id: UUID,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    format: Annotated[Format, Query()] = Format.JSON,
) -> Response:
    """Who said what. docs/reference/transcript.md describes the JSON."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        transcript = transcripts.find_transcript(session, caller, transcript_id)
        document = transcripts.read_document(services, transcript)
        label = _label(session, transcript, document["speakers"])
    named = transcripts.with_names(document, transcript.speakers)
    spec = SPECS[format]
    name = f"{label.session}.identified.{spec.extension}"
    return Response(
        render(named, format, label),
        media_type=spec.media_type,
        headers={
            "ETag": f'"{transcript.version}"',
            "Content-Disposition": f'attachment; filename="{name}"',
        },
    )


def _label(session: DbSession, transcript: StoredTranscript, speakers: list[str]) -> Label:
    names = transcripts.names_of(speakers, transcript.speakers)
    roles = {names[label]: each.get("role") for label, each in transcript.speakers.items()}
    return Label(
        session=transcripts.session_code(session, transcript) or str(transcript.id),
        study=session.get_one(Study, transcript.study_id).code,
        version=transcript.version,
        roles={name: role for name, role in roles.items() if role},
    )


@router.get("/{transcript_id}/speakers", responses=problems(TranscriptNotFound, *READ_ERRORS))
def read_speakers(
    transcript_id: UUID, caller: Researcher, services: ServicesDep
) -> TranscriptSpeakers:
    """The speakers, each with its three longest turns to listen to."""
    with services.sessionmaker() as session:
        transcript = transcripts.find_transcript(session, caller, transcript_id)
        recordings = job_recordings(session, transcript.job_id)
        return _speakers(services, transcript, recordings)


@router.put(
    "/{transcript_id}/speakers",
    responses=problems(TranscriptNotFound, UnknownSpeaker, *READ_ERRORS),
)
def put_speakers(
    transcript_id: UUID,
    wanted: Annotated[dict[str, SpeakerName], Body(examples=[NAMED], max_length=100)],
    caller: Researcher,
    services: ServicesDep,
) -> TranscriptSpeakers:
    """Set the role and code of each speaker. Every format shows them. Names are refused."""
    with services.sessionmaker.begin() as session:
        transcript = transcripts.find_transcript(session, caller, transcript_id, lock=True)
        speakers = {label: name.model_dump() for label, name in wanted.items()}
        transcripts.name_speakers(transcript, speakers)
        recordings = job_recordings(session, transcript.job_id)
        return _speakers(services, transcript, recordings)


def _speakers(
    services: Services, transcript: StoredTranscript, recordings: list[UUID]
) -> TranscriptSpeakers:
    document = transcripts.read_document(services, transcript)
    names = transcripts.names_of(document["speakers"], transcript.speakers)
    turns = transcripts.longest_turns(document, recordings)
    return TranscriptSpeakers(
        transcript_id=transcript.id,
        version=transcript.version,
        speakers={
            label: SpeakerView(
                **transcript.speakers.get(label, {}),
                name=names[label],
                turns=[TurnView.model_validate(turn, from_attributes=True) for turn in of_label],
            )
            for label, of_label in turns.items()
        },
    )
