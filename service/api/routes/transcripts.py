"""Transcripts: read them in every format and version, and name their speakers."""

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session as DbSession

from models.audio.errors import (
    DecoderKilled,
    FfmpegMissing,
    SandboxUnavailable,
    UnreadableAudio,
)
from models.speaker_names import names_of, show_names
from models.transcript import SpeakerName, Transcript
from models.voices import describe_voices
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.sessions import Speaker
from service.api.routes.transcript_document import TranscriptDocument
from service.api.routes.views import Pseudonym, SegmentId, SpeakerCode, SpeakerRole, Strict
from service.database.tables import StoredTranscript, Study
from service.domain import audit, transcripts
from service.domain.callers import Caller
from service.domain.clips import NoSuchTurn, TooLargeForClip, make_clip
from service.domain.consent import ConsentMissing
from service.domain.corrections import Editor, UnknownSpeaker
from service.domain.jobs import job_recordings
from service.domain.transcripts import TranscriptNotFound, VersionNotFound
from service.errors import RecordingNotFound, RecordingNotReady, RecordingRefused
from service.exports import LINE_FORMATS, SPECS, ExportOptions, Format, Label, render
from service.exports.lines import with_earlier_lines
from service.exports.options import Notation, ProjectProfile, Timestamps, Wording
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


class QuoteView(BaseModel):
    segment: SegmentId
    start: float
    end: float
    text: str


class SpeakerView(SpeakerNames):
    name: str = Field(description="The name that transcripts show.")
    talk_time: float = Field(description="Seconds.")
    talk_share: float = Field(description="Of the talk times of all speakers.")
    words: int
    suggested_role: str | None = Field(
        description="Set if this speaker asks most of the questions; a person must confirm it."
    )
    quotes: list[QuoteView] = Field(description="Up to three, from all parts of the session.")
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
                            "talk_time": 412.5,
                            "talk_share": 0.31,
                            "words": 1043,
                            "suggested_role": "interviewer",
                            "quotes": [
                                {
                                    "segment": "s0001",
                                    "start": 12.4,
                                    "end": 14.1,
                                    "text": "How did you come to this work?",
                                }
                            ],
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
                    "roster": [{"code": "I1", "role": "interviewer"}],
                }
            ]
        }
    )

    transcript_id: UUID
    version: int
    speakers: dict[str, SpeakerView] = Field(description="By label.")
    roster: list[Speaker] = Field(description="Who was expected at the session.")


def export_options(
    wording: Annotated[
        Wording, Query(description="`clean` leaves out hesitations and false starts.")
    ] = Wording.VERBATIM,
    timestamps: Annotated[
        Timestamps, Query(description="`minute`: also within long paragraphs.")
    ] = Timestamps.TURN,
    pauses: Annotated[
        float | None,
        Query(ge=0.1, le=3600, description="Mark pauses of at least this many seconds."),
    ] = None,
    overlaps: Annotated[
        bool, Query(description="Mark where people speak at the same time.")
    ] = True,
    notation: Annotated[
        Notation | None, Query(description="For pauses and overlaps; by default, the format's own.")
    ] = None,
    line_numbers: Annotated[bool, Query(description="In Word documents.")] = True,
    punctuation: Annotated[
        str | None,
        Query(
            pattern="^[a-z]{2,3}$",
            description="Use the punctuation marks of this language.",
            examples=["fr"],
        ),
    ] = None,
    project: Annotated[
        ProjectProfile, Query(description="The program that opens the REFI-QDA project.")
    ] = ProjectProfile.ANY,
) -> ExportOptions:
    """Options for a format, explained in docs/reference/exports.md. They do not affect JSON."""
    return ExportOptions(
        wording=wording,
        timestamps=timestamps,
        pauses=pauses,
        overlaps=overlaps,
        notation=notation,
        line_numbers=line_numbers,
        punctuation=punctuation,
        project=project,
    )


@router.get(
    "/{transcript_id}",
    response_class=Response,
    responses={
        200: {
            "model": TranscriptDocument,
            "description": "The identified transcript, with names and everything people said.",
            "content": {spec.media_type.partition(";")[0]: {} for spec in SPECS.values()},
        },
        **problems(TranscriptNotFound, VersionNotFound, ConsentMissing, *READ_ERRORS),
    },
)
def read_transcript(
    transcript_id: UUID,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    options: Annotated[ExportOptions, Depends(export_options)],
    format: Annotated[Format, Query()] = Format.JSON,
    version: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="By default the newest.")
    ] = None,
) -> Response:
    """Who said what. docs/reference/transcript.md describes the JSON."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker.begin() as session:
        row = transcripts.find_transcript(session, caller, transcript_id)
        transcripts.require_export(session, caller, row)
        transcript = show_names(transcripts.read_transcript(session, services, row, version))
        label = _label(session, row, transcript)
        if format in LINE_FORMATS and transcript.version > row.first_version:
            first = transcripts.read_transcript(session, services, row, row.first_version)
            options = with_earlier_lines(options, first)
    spec = SPECS[format]
    name = f"{label.session}.identified.{spec.extension}"
    content = render(transcript, format, label, options)
    transcripts.record_reading(services, caller, row, transcript.version, str(format), content)
    return Response(
        content,
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
        roles=transcript.roles,
    )


@router.get("/{transcript_id}/speakers", responses=problems(TranscriptNotFound, *READ_ERRORS))
def read_speakers(
    transcript_id: UUID, caller: Researcher, services: ServicesDep
) -> TranscriptSpeakers:
    """The speakers, with talk times, quotes and turns to listen to, which help recognise them."""
    with services.sessionmaker.begin() as session:
        row = transcripts.find_transcript(session, caller, transcript_id)
        transcript = transcripts.read_transcript(session, services, row)
        audit.record(
            session,
            caller,
            "transcript.read",
            row.study_id,
            {"transcript": row.id},
            detail={"version": transcript.version, "part": "quotes"},
        )
        return _speakers(session, row, transcript)


@router.get(
    "/{transcript_id}/speakers/{label}/clip",
    response_class=Response,
    responses={
        200: {
            "description": "Up to 15 s of the speaker's turn: mono, 16 kHz.",
            "content": {"audio/wav": {}},
        },
        **problems(
            TranscriptNotFound,
            NoSuchTurn,
            TooLargeForClip,
            RecordingNotFound,
            RecordingNotReady,
            RecordingRefused,
            UnreadableAudio,
            DecoderKilled,
            FfmpegMissing,
            SandboxUnavailable,
            *READ_ERRORS,
        ),
    },
)
def read_clip(
    transcript_id: UUID,
    label: Annotated[str, Path(pattern=r"^[A-Z]+_[0-9]{1,4}$", examples=["SPEAKER_00"])],
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    turn: Annotated[
        int, Query(ge=0, le=transcripts.N_TURNS - 1, description="Which of the turns, from 0.")
    ] = 0,
) -> Response:
    """One of a speaker's longest turns, to listen to. Clips are cut one at a time."""
    with limits.cutting():
        clip = make_clip(services, caller, transcript_id, label, turn)
    return Response(clip, media_type="audio/wav")


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
        return _speakers(session, editor.row, editor.name_speakers(names).transcript)


def _speakers(
    session: DbSession, row: StoredTranscript, transcript: Transcript
) -> TranscriptSpeakers:
    shown = names_of(transcript.speakers, transcript.names)
    turns = transcripts.longest_turns(transcript, job_recordings(session, row.job_id))
    interview = transcripts.find_interview(session, row)
    return TranscriptSpeakers(
        transcript_id=row.id,
        version=transcript.version,
        speakers={
            voice.label: SpeakerView(
                **asdict(transcript.names.get(voice.label, SpeakerName())),
                name=shown[voice.label],
                talk_time=voice.talk_time,
                talk_share=voice.talk_share,
                words=voice.words,
                suggested_role=voice.suggested_role,
                quotes=[QuoteView(**asdict(quote)) for quote in voice.quotes],
                turns=[
                    TurnView.model_validate(turn, from_attributes=True)
                    for turn in turns[voice.label]
                ],
            )
            for voice in describe_voices(transcript)
        },
        roster=[] if interview is None else [Speaker(**person) for person in interview.roster],
    )
