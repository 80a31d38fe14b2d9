"""Recordings: list and read them, download their audio, erase them."""

import asyncio
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Annotated, Literal, Self, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api.access import LimitsDep, ReadingsDep, ServicesDep, allow
from service.api.byte_ranges import ranged_response
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import StudyName
from service.api.watch import RECORDINGS, Watch
from service.database.tables import Recording
from service.domain import audit
from service.domain.callers import Caller, require_valid_token
from service.domain.checking import Checker
from service.domain.erasure import erase_recording
from service.domain.pages import BadCursor
from service.domain.readings import Readings
from service.domain.recordings import (
    find_by_content,
    find_ready_recording,
    find_recording,
    identified,
    list_recordings,
    parse_metadata,
    place_of,
    read_metadata,
    retry_check,
    sound_artefact,
    upload_offset,
)
from service.errors import (
    RangeNotSatisfiable,
    RecordingInUse,
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
    StudyNotFound,
    TooManyWaiting,
)
from service.services import Services
from service.vault.errors import READ_ERRORS, Erased, UploadBusy

router = APIRouter(prefix="/v1/recordings", tags=["recordings"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Eraser = Annotated[Caller, Depends(allow("researcher", sealed_too=True))]  # needs no root key
State = Literal["receiving", "checking", "ready", "refused"]
MAX_WAIT = 60.0  # s
UNFINISHED = ("receiving", "checking")
MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "mov,mp4,m4a,3gp,3g2,mj2": "audio/mp4",
    "matroska,webm": "audio/webm",
    "aac": "audio/aac",
}


class Refusal(BaseModel):
    code: str
    detail: str


class RecordingView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52",
                    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                    "session_id": "b5d7a1f6-8a0e-4a0c-9a6e-2f7f8b1f6c2d",
                    "position": 0,
                    "state": "ready",
                    "n_bytes": 31_457_280,
                    "n_received": 31_457_280,
                    "container": "mov,mp4,m4a,3gp,3g2,mj2",
                    "codec": "aac",
                    "sample_rate": 44100,
                    "channels": 1,
                    "duration": 2888.4,
                    "peak_dbfs": -3.1,
                    "mean_dbfs": -24.7,
                    "refusal": None,
                    "waiting_for": None,
                    "metadata": {"filename": "interview.m4a"},
                    "created_at": "2031-01-07T09:12:00Z",
                    "expires_at": None,
                    "completed_at": "2031-01-07T09:12:31Z",
                }
            ]
        }
    )

    id: UUID
    study_id: UUID
    session_id: UUID | None
    position: int | None = Field(description="In its session, from 0.")
    state: State
    n_bytes: int
    n_received: int
    container: str | None
    codec: str | None
    sample_rate: int | None = Field(description="Hz")
    channels: int | None
    duration: float | None = Field(description="Seconds of decoded audio.")
    peak_dbfs: float | None = Field(description="Of the loudest channel; null for digital silence.")
    mean_dbfs: float | None
    refusal: Refusal | None = Field(description="Why the recording was refused.")
    waiting_for: Refusal | None = Field(description="What prevents the check for now.")
    metadata: dict[str, str] | None = Field(
        description="What the client sent about the file, including its name. Stored encrypted."
    )
    created_at: datetime
    expires_at: datetime | None = Field(
        description="When an unfinished upload, or the audio of a refused recording, is deleted."
    )
    completed_at: datetime | None

    @classmethod
    def of(cls, recording: Recording, services: Services) -> Self:
        reason = None
        if recording.refusal_code is not None:
            reason = Refusal(code=recording.refusal_code, detail=recording.refusal_detail or "")
        refused = recording.state == "refused"
        return cls(
            id=recording.id,
            study_id=recording.study_id,
            session_id=recording.session_id,
            position=recording.position,
            state=cast(State, recording.state),
            n_bytes=recording.n_bytes,
            n_received=upload_offset(services, recording),
            container=recording.container,
            codec=recording.codec,
            sample_rate=recording.sample_rate,
            channels=recording.channels,
            duration=recording.duration,
            peak_dbfs=recording.peak_dbfs,
            mean_dbfs=recording.mean_dbfs,
            refusal=reason if refused else None,
            waiting_for=reason if recording.state == "checking" else None,
            metadata=parse_metadata(read_metadata(services, recording))
            if recording.erased_at is None
            else None,
            created_at=recording.created_at,
            expires_at=recording.expires_at,
            completed_at=recording.completed_at,
        )


class RecordingSummary(BaseModel):
    """A recording in a list, without the client's metadata."""

    id: UUID
    study_id: UUID
    session_id: UUID | None
    position: int | None
    state: State
    n_bytes: int
    duration: float | None
    created_at: datetime
    completed_at: datetime | None


class RecordingList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "id": "3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52",
                            "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                            "session_id": None,
                            "position": None,
                            "state": "ready",
                            "n_bytes": 31_457_280,
                            "duration": 2888.4,
                            "created_at": "2031-01-07T09:12:00Z",
                            "completed_at": "2031-01-07T09:12:31Z",
                        }
                    ],
                    "next_cursor": None,
                }
            ]
        }
    )

    items: list[RecordingSummary]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@router.get("", responses=problems(StudyNotFound, BadCursor, Erased))
def read_recordings(
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName | None, Query(description="Only recordings of this study.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> RecordingList:
    """Your recordings, newest first, including those without a session or a job."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        page = list_recordings(session, caller, study=study, limit=limit, cursor=cursor)
        items = [RecordingSummary.model_validate(row, from_attributes=True) for row in page.rows]
        return RecordingList(items=items, next_cursor=page.next_cursor)


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]


class RecordingSearch(BaseModel):
    """Checksums of files. They are in the body because URLs end up in logs."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"study": "PEER", "sha256": ["0f" * 32]}]}
    )

    study: StudyName
    sha256: list[Sha256] = Field(
        min_length=1, max_length=100, description="Of whole files, in hex. Not stored."
    )


class RecordingMatch(BaseModel):
    sha256: str
    identity: str = Field(
        description="The checksum keyed with the study's key, in hex, as in a transcript's sources."
    )
    recordings: list[UUID] = Field(description="Oldest first; several if it was uploaded again.")


class RecordingMatches(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "sha256": "0f" * 32,
                            "identity": "a7" * 32,
                            "recordings": ["3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52"],
                        }
                    ]
                }
            ]
        }
    )

    items: list[RecordingMatch] = Field(description="Without the checksums that nothing matches.")


@router.post("/search", responses=problems(StudyNotFound, *READ_ERRORS))
def search_recordings(
    body: RecordingSearch, caller: Researcher, services: ServicesDep, limits: LimitsDep
) -> RecordingMatches:
    """Find which of a study's recordings are certain files, by the files' checksums.

    Other studies are not searched.
    """
    limits.polls.require(str(caller.token_id))
    wanted = [bytes.fromhex(each) for each in dict.fromkeys(body.sha256)]
    found = find_by_content(services, caller, body.study, wanted)
    audit.record_now(
        services,
        caller,
        "recording.searched",
        next((rows[0].study_id for rows in found.values()), None),
        {},
        detail={
            "checksums": len(wanted),
            "found": [str(r.id) for rows in found.values() for r in rows],
        },
    )
    items = [
        RecordingMatch(
            sha256=sha256.hex(),
            identity=(rows[0].digest or b"").hex(),
            recordings=[row.id for row in rows],
        )
        for sha256, rows in found.items()
    ]
    return RecordingMatches(items=items)


@router.get("/{recording_id}", responses=problems(RecordingNotFound, TooManyWaiting, *READ_ERRORS))
async def read_recording(
    recording_id: UUID,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    readings: ReadingsDep,
    limits: LimitsDep,
    wait: Annotated[
        float,
        Query(ge=0, le=MAX_WAIT, description="Seconds to wait until it is ready or refused."),
    ] = 0,
) -> RecordingView:
    """The state of a recording and what was found in it."""
    limits.polls.require(str(caller.token_id))
    if not wait:
        return await asyncio.to_thread(_view, services, readings, caller, recording_id)
    watch: Watch = request.app.state.watch
    with limits.waiting(caller.token_id):
        view = await asyncio.to_thread(_view, services, readings, caller, recording_id)
        if view.state not in UNFINISHED:
            return view
        await watch.until(RECORDINGS, recording_id, lambda state: state not in UNFINISHED, wait)
    await asyncio.to_thread(require_valid_token, services, caller)
    return await asyncio.to_thread(_view, services, readings, caller, recording_id)


def _view(
    services: Services, readings: Readings, caller: Caller, recording_id: UUID
) -> RecordingView:
    for _ in range(2):
        with services.sessionmaker() as session:
            recording = find_recording(session, caller, recording_id)
        with suppress(Erased):  # it was refused just now
            view = RecordingView.of(recording, services)
            if view.metadata:  # it has the file's name
                readings.record_once(
                    caller,
                    "recording.details_read",
                    recording.study_id,
                    place_of(recording),
                    {},
                )
            return view
    raise Erased("The recording was erased")


@router.get(
    "/{recording_id}/audio",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The audio as it was uploaded.", "content": {"audio/*": {}}},
        206: {"description": "The bytes that `Range` asked for.", "content": {"audio/*": {}}},
        **problems(
            RecordingNotFound,
            RecordingNotReady,
            RecordingRefused,
            RangeNotSatisfiable,
            *READ_ERRORS,
        ),
    },
)
def read_audio(
    recording_id: UUID,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    readings: ReadingsDep,
) -> Response:
    """The audio, also in byte ranges, so that a player can seek."""
    with services.sessionmaker() as session:
        recording = find_ready_recording(session, caller, recording_id)
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    store.open(sound_artefact(recording), key).close()  # fail before the response has started
    return ranged_response(
        request,
        lambda: store.open(sound_artefact(recording), key),
        size=recording.n_bytes,
        media_type=MEDIA_TYPES.get(recording.container or "", "application/octet-stream"),
        record=partial(_record_playing, readings, caller, recording),
    )


def _record_playing(
    readings: Readings, caller: Caller, recording: Recording, start: int, end: int, last: int
) -> None:
    """Record the seconds of these bytes: of a compressed file, all of it."""
    duration = recording.duration or 0.0
    seconds = [duration * byte / recording.n_bytes for byte in (start, end, last)]
    if recording.container != "wav":
        seconds = [0.0, duration, duration]
    readings.record_playing(
        caller, "recording.played", recording.study_id, place_of(recording), *seconds
    )


@router.post(
    "/{recording_id}/retry",
    status_code=202,
    responses=problems(RecordingNotFound, RecordingNotReady, UploadBusy, *READ_ERRORS),
)
def retry_recording(
    recording_id: UUID,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
) -> RecordingView:
    """Check a refused recording again, for example after an update. Its audio is kept for a while.

    A recording that is not refused stays as it is.
    """
    limits.uploads.require(str(caller.token_id))
    recording = retry_check(services, caller, recording_id)
    wake_checker(request, recording)
    return RecordingView.of(recording, services)


@router.delete(
    "/{recording_id}",
    status_code=204,
    responses=problems(RecordingNotFound, RecordingInUse, Erased, UploadBusy),
)
def delete_recording(recording_id: UUID, caller: Eraser, services: ServicesDep) -> None:
    """Destroy the recording's key and every transcript made from it."""
    erase_recording(services, caller, recording_id)


def wake_checker(request: Request, recording: Recording) -> None:
    if recording.state == "checking":
        checker: Checker = request.app.state.checker
        checker.wake()
