"""Playback copies of recordings, and the timeline on which a transcript's recordings lie."""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from models.audio.playback import BYTES_PER_SECOND
from service.api.access import LimitsDep, ReadingsDep, ServicesDep, allow
from service.api.byte_ranges import ranged_response
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.database.tables import Study
from service.domain.callers import Caller
from service.domain.playback import (
    MEDIA_TYPE,
    PEAKS,
    PLAYBACK,
    NoPlayback,
    PlaybackFile,
    PlaybackMaker,
    PlaybackNotReady,
    find_playback,
    read_timeline,
)
from service.domain.readings import Readings
from service.domain.recordings import place_of
from service.domain.transcripts import TranscriptNotFound, find_transcript, session_code
from service.errors import (
    RangeNotSatisfiable,
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
)
from service.services import Services
from service.vault.errors import READ_ERRORS

router = APIRouter(prefix="/v1", tags=["playback"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
ERRORS = problems(
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
    PlaybackNotReady,
    NoPlayback,
    RangeNotSatisfiable,
    *READ_ERRORS,
)
SOUND: dict[int | str, dict[str, Any]] = {
    200: {"description": "MP3 at a constant bit rate, mono.", "content": {MEDIA_TYPE: {}}},
    206: {"description": "The bytes that `Range` asked for.", "content": {MEDIA_TYPE: {}}},
}
WAVEFORM = "application/octet-stream"


class PartView(BaseModel):
    recording_id: UUID
    start: float = Field(description="On the timeline of the transcript, in seconds.")
    duration: float
    state: Literal["ready", "preparing", "failed"] = Field(description="Of its playback copy.")
    error: str | None = Field(description="A code, if no copy can be made.")


class Timeline(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "study": "PEER",
                    "session": "INT-07",
                    "recordings": [
                        {
                            "recording_id": "3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52",
                            "start": 0.0,
                            "duration": 3130.5,
                            "state": "ready",
                            "error": None,
                        }
                    ],
                }
            ]
        }
    )

    study: str = Field(description="Code of the study.")
    session: str | None = Field(description="Code of the session, if the transcript is of one.")
    recordings: list[PartView] = Field(
        description="In order. Recordings of one speaker each may overlap: play them together."
    )


@router.get(
    "/recordings/{recording_id}/playback",
    response_class=StreamingResponse,
    responses={**SOUND, **ERRORS},
)
async def read_playback(
    recording_id: UUID,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    readings: ReadingsDep,
) -> Response:
    """A copy of the recording that every browser plays and finds any second in, in byte ranges.

    It is made after the recording has been checked, or, for older recordings, when first asked for:
    until then the answer is 409 `playback_not_ready`.
    """
    return await _file(services, caller, recording_id, request, PLAYBACK, MEDIA_TYPE, readings)


@router.head(
    "/recordings/{recording_id}/playback",
    response_class=Response,
    responses={**SOUND, **ERRORS},
)
async def check_playback(
    recording_id: UUID, request: Request, caller: Researcher, services: ServicesDep
) -> Response:
    """The headers that GET would answer with."""
    return await _file(services, caller, recording_id, request, PLAYBACK, MEDIA_TYPE)


@router.get(
    "/recordings/{recording_id}/peaks",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The waveform, ten pairs of int8 a second, in audiowaveform's binary "
            "format, version 2.",
            "content": {WAVEFORM: {}},
        },
        **ERRORS,
    },
)
async def read_peaks(
    recording_id: UUID, request: Request, caller: Researcher, services: ServicesDep
) -> Response:
    """The peaks of the recording's waveform, made together with the playback copy."""
    return await _file(services, caller, recording_id, request, PEAKS, WAVEFORM)


@router.get(
    "/transcripts/{transcript_id}/playback",
    responses=problems(TranscriptNotFound, *READ_ERRORS),
)
async def read_transcript_timeline(
    transcript_id: UUID,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
) -> Timeline:
    """The recordings of a transcript in order, and whether their playback copies are ready.

    Copies that are missing are made next.
    """
    limits.polls.require(str(caller.token_id))
    timeline = await run_in_threadpool(_timeline, services, caller, transcript_id)
    maker: PlaybackMaker = request.app.state.playback_maker
    for part in timeline.recordings:
        if part.state == "preparing":
            maker.ask(part.recording_id)
    return timeline


def _timeline(services: Services, caller: Caller, transcript_id: UUID) -> Timeline:
    with services.sessionmaker() as session:
        row = find_transcript(session, caller, transcript_id)
        parts = read_timeline(session, services, row)
        return Timeline(
            study=session.get_one(Study, row.study_id).code,
            session=session_code(session, row),
            recordings=[PartView.model_validate(part, from_attributes=True) for part in parts],
        )


async def _file(
    services: Services,
    caller: Caller,
    recording_id: UUID,
    request: Request,
    kind: str,
    media_type: str,
    readings: Readings | None = None,
) -> Response:
    try:
        found = await run_in_threadpool(find_playback, services, caller, recording_id, kind)
    except PlaybackNotReady:
        maker: PlaybackMaker = request.app.state.playback_maker
        maker.ask(recording_id)
        raise
    return await run_in_threadpool(
        ranged_response,
        request,
        found.open,
        size=found.size,
        media_type=media_type,
        etag=f'"{found.artefact.id}"',
        record=None if readings is None else record_playing(readings, caller, found),
    )


def record_playing(
    readings: Readings, caller: Caller, found: PlaybackFile
) -> Callable[[int, int, int], None]:
    """What records that bytes of the copy are sent, as seconds: its bit rate is constant."""
    row = found.recording

    def record(start: int, end: int, last: int) -> None:
        first, until, asked = (byte / BYTES_PER_SECOND for byte in (start, end, last))
        readings.record_playing(
            caller, "recording.played", row.study_id, place_of(row), first, until, asked
        )

    return record
