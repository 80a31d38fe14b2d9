"""Masked audio: recordings without the accepted mentions, for people who may hear the voices."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session as DbSession

from models.audio.masking import Reason, Style
from service.api.access import LimitsDep, ReadingsDep, ServicesDep, allow
from service.api.byte_ranges import ranged_response
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyName
from service.database.tables import MaskedAudio
from service.domain import masked_audio
from service.domain.callers import Caller
from service.domain.masked_audio import (
    MEDIA_TYPE,
    MaskedAudioNotFound,
    MaskedAudioNotReady,
    Masker,
    Masking,
    WordTimesUnsure,
)
from service.domain.pages import BadCursor
from service.domain.review import ReviewNotReady, ReviewOpen
from service.domain.transcripts import TranscriptNotFound
from service.errors import (
    RangeNotSatisfiable,
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
    StudyNotFound,
)
from service.vault.errors import READ_ERRORS, WRITE_ERRORS, Erased

router = APIRouter(prefix="/v1", tags=["masked audio"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Listener = Annotated[Caller, Depends(allow("researcher", "listener"))]
Eraser = Annotated[Caller, Depends(allow("researcher", sealed_too=True))]  # needs no key

MASKED: dict[str, Any] = {
    "id": "d41e0198-f2a6-4d3b-9a39-5b3a0d9a7b10",
    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "study": "PEER",
    "session_id": "b5d7a1f6-8a0e-4a0c-9a6e-2f7f8b1f6c2d",
    "session": "INT-07",
    "transcript_id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
    "recording_id": "3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52",
    "position": 0,
    "state": "ready",
    "error": None,
    "waiting_for": None,
    "style": "tone",
    "n_spans": 1,
    "n_widened": 0,
    "masked_seconds": 1.1,
    "n_unreviewed": 0,
    "n_bytes": 92_428_844,
    "is_outdated": False,
    "created_at": "2031-01-09T09:12:00Z",
    "finished_at": "2031-01-09T09:12:21Z",
}
SPAN: dict[str, Any] = {
    "start": 61.35,
    "end": 62.45,
    "reasons": ["words"],
    "labels": ["PERSON"],
    "segments": ["s0004"],
    "n_mentions": 1,
}


class NewMaskedAudio(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"style": "tone"}]})

    style: Style = Field(default="tone", description="What is heard instead.")
    unsure: Literal["widen", "refuse"] = Field(
        default="widen",
        description="Where the time of a word is not certain, mask more, or make nothing.",
    )
    untranscribed: bool = Field(
        default=False, description="Also mask speech without words, which nobody has reviewed."
    )


class SpanView(BaseModel):
    start: float = Field(description="On the recording's own timeline, in seconds.")
    end: float
    reasons: list[Reason] = Field(
        description="`words`: the times of the words. `gap`, `segment`, `neighbours`: wider, "
        "because these were not certain. `untranscribed`: speech without words."
    )
    labels: list[str]
    segments: list[str] = Field(description="Ids of the segments of the mentions.")
    n_mentions: int


class MaskedAudioView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [MASKED]})

    id: UUID
    study_id: UUID
    study: str = Field(description="The study's code.")
    session_id: UUID | None
    session: str | None = Field(description="The session's code.")
    transcript_id: UUID
    recording_id: UUID
    position: int = Field(description="Of the recording in the transcript, from 0.")
    state: Literal["pending", "ready", "failed"]
    error: str | None = Field(description="A code, if it cannot be made.")
    waiting_for: str | None = Field(description="A code, if something prevents it for now.")
    style: Style
    n_spans: int
    n_widened: int = Field(description="Spans that are wider than their words: listen to them.")
    masked_seconds: float
    n_unreviewed: int = Field(
        description="Stretches of speech without words that are not masked. Somebody may be named "
        "in them."
    )
    n_bytes: int | None
    is_outdated: bool = Field(
        description="The transcript or the decisions have changed since it was asked for."
    )
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def fields_of(cls, session: DbSession, row: MaskedAudio) -> dict[str, Any]:
        spans = [masked_audio.span_from_json(span) for span in row.spans]
        study, code = masked_audio.codes_of(session, row)
        return {
            "id": row.id,
            "study_id": row.study_id,
            "study": study,
            "session_id": row.session_id,
            "session": code,
            "transcript_id": row.transcript_id,
            "recording_id": row.recording_id,
            "position": masked_audio.position_of(session, row),
            "state": row.state,
            "error": row.failure_code if row.state == "failed" else None,
            "waiting_for": row.failure_code if row.state == "pending" else None,
            "style": row.style,
            "n_spans": len(spans),
            "n_widened": sum(span.is_widened for span in spans),
            "masked_seconds": round(sum(span.end - span.start for span in spans), 3),
            "n_unreviewed": row.n_unreviewed,
            "n_bytes": row.n_bytes,
            "is_outdated": masked_audio.is_outdated(session, row),
            "created_at": row.created_at,
            "finished_at": row.finished_at,
        }


class MaskedAudioWithSpans(MaskedAudioView):
    model_config = ConfigDict(json_schema_extra={"examples": [{**MASKED, "spans": [SPAN]}]})

    spans: list[SpanView]


class RequestedMaskedAudio(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [MASKED]}]})

    items: list[MaskedAudioView] = Field(description="One for each recording, in order.")


class MaskedAudioList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [MASKED], "next_cursor": None}]}
    )

    items: list[MaskedAudioView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@router.post(
    "/transcripts/{transcript_id}/masked-audio",
    status_code=202,
    responses=problems(
        TranscriptNotFound,
        ReviewNotReady,
        ReviewOpen,
        WordTimesUnsure,
        RecordingNotFound,
        RecordingNotReady,
        RecordingRefused,
        *READ_ERRORS,
        *WRITE_ERRORS,
    ),
)
def create_masked_audio(
    transcript_id: UUID,
    body: NewMaskedAudio,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
) -> RequestedMaskedAudio:
    """Mask the accepted mentions in the transcript's recordings. Needs a finished review.

    The files are made in the background, and replace those of earlier decisions. They still carry
    the voices.
    """
    limits.uploads.require(str(caller.token_id))
    masking = Masking(body.style, body.unsure, body.untranscribed)
    rows = masked_audio.request_masked_audio(services, caller, transcript_id, masking)
    masker: Masker = request.app.state.masker
    masker.wake()
    with services.sessionmaker() as session:
        return RequestedMaskedAudio(
            items=[MaskedAudioView(**MaskedAudioView.fields_of(session, row)) for row in rows]
        )


@router.get("/masked-audio", responses=problems(StudyNotFound, BadCursor, Erased))
def list_masked_audio(
    caller: Listener,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName | None, Query(description="Only of this study.")] = None,
    transcript: Annotated[UUID | None, Query(description="Only of this transcript.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> MaskedAudioList:
    """Your masked audio, newest first."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        page = masked_audio.list_masked_audio(
            session, caller, study=study, transcript_id=transcript, limit=limit, cursor=cursor
        )
        items = [MaskedAudioView(**MaskedAudioView.fields_of(session, row)) for row in page.rows]
        return MaskedAudioList(items=items, next_cursor=page.next_cursor)


@router.get(
    "/masked-audio/{masked_audio_id}",
    responses=problems(MaskedAudioNotFound, Erased),
)
def read_masked_audio(
    masked_audio_id: UUID, caller: Listener, services: ServicesDep, limits: LimitsDep
) -> MaskedAudioWithSpans:
    """Its state, and every span that is masked, with the reason."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        row = masked_audio.find_masked_audio(session, caller, masked_audio_id)
        spans = [SpanView(**span) for span in row.spans]
        return MaskedAudioWithSpans(**MaskedAudioView.fields_of(session, row), spans=spans)


@router.get(
    "/masked-audio/{masked_audio_id}/audio",
    response_class=StreamingResponse,
    responses={
        200: {"description": "WAV, 16 kHz, mono, without tags.", "content": {MEDIA_TYPE: {}}},
        206: {"description": "The bytes that `Range` asked for.", "content": {MEDIA_TYPE: {}}},
        **problems(MaskedAudioNotFound, MaskedAudioNotReady, RangeNotSatisfiable, *READ_ERRORS),
    },
)
def download_masked_audio(
    masked_audio_id: UUID,
    request: Request,
    caller: Listener,
    services: ServicesDep,
    readings: ReadingsDep,
) -> Response:
    """The sound, as long as the recording, also in byte ranges."""
    found = masked_audio.open_masked_audio(services, caller, masked_audio_id)
    row = found.row
    place = {"masked_audio": row.id, "transcript": row.transcript_id, "recording": row.recording_id}

    def record(start: int, end: int, last: int) -> None:
        seconds = [found.duration * byte / found.size for byte in (start, end, last)]
        readings.record_playing(caller, "masked_audio.played", row.study_id, place, *seconds)

    return ranged_response(
        request,
        found.open,
        size=found.size,
        media_type=MEDIA_TYPE,
        etag=f'"{masked_audio_id}"',
        record=record,
    )


@router.delete(
    "/masked-audio/{masked_audio_id}",
    status_code=204,
    responses=problems(MaskedAudioNotFound, Erased),
)
def delete_masked_audio(masked_audio_id: UUID, caller: Eraser, services: ServicesDep) -> None:
    """Delete it, or stop making it."""
    masked_audio.delete_masked_audio(services, caller, masked_audio_id)
