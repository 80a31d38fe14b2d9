"""Sessions: interviews and focus groups, each with its recordings in order."""

from datetime import datetime
from typing import Annotated, Literal, Self, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from models.options import MAX_SPEAKERS, SpeakerCount
from models.roster import MAX_ROSTER, RosterEntry, speaker_bounds
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import SessionCode, SpeakerCode, SpeakerRole, Strict, StudyName
from service.database.tables import Recording, Session
from service.domain import sessions
from service.domain.callers import Caller
from service.domain.erasure import erase_session
from service.domain.pages import BadCursor
from service.domain.sessions import session_recordings
from service.errors import (
    RecordingInUse,
    RecordingNotFound,
    SessionCodeTaken,
    SessionNotFound,
    StudyNotFound,
)
from service.vault.errors import Erased, UploadBusy

router = APIRouter(prefix="/v1/sessions", tags=["sessions"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Eraser = Annotated[Caller, Depends(allow("researcher", sealed_too=True))]  # needs no root key
Reader = Annotated[Caller, Depends(allow("researcher", "custodian"))]
Lister = Annotated[Caller, Depends(allow("researcher", "custodian", "admin"))]
Kind = Literal["interview", "focus_group"]

EXAMPLE: JsonDict = {
    "code": "INT-07",
    "kind": "interview",
    "speakers": {"min": 2, "max": 2},
    "roster": [{"code": "I1", "role": "interviewer"}, {"code": "P07", "role": "participant"}],
}


class Speakers(Strict):
    min: int | None = Field(default=None, ge=1, le=MAX_SPEAKERS)
    max: int | None = Field(default=None, ge=1, le=MAX_SPEAKERS)

    @model_validator(mode="after")
    def _are_in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("the minimum is above the maximum")
        return self

    @classmethod
    def of(cls, count: SpeakerCount) -> Self:
        return cls(min=count.minimum, max=count.maximum)

    @property
    def count(self) -> SpeakerCount:
        return SpeakerCount(self.min, self.max)


class Speaker(Strict):
    """One person of the session, by code: never by name."""

    code: SpeakerCode
    role: SpeakerRole


class NewSession(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"study": "PEER", **EXAMPLE}]})

    study: StudyName
    code: SessionCode | None = Field(
        default=None, description="If omitted, the next free one: INT-01, INT-02, or FG-1."
    )
    kind: Kind = "interview"
    speakers: Speakers = Field(default=Speakers(), description="How many, as far as known.")
    roster: list[Speaker] = Field(
        default=[],
        max_length=MAX_ROSTER,
        description="Who takes part; its length is the number of speakers to expect.",
    )

    @model_validator(mode="after")
    def _codes_differ(self) -> Self:
        if len({speaker.code for speaker in self.roster}) < len(self.roster):
            raise ValueError("two speakers have the same code")
        return self

    @model_validator(mode="after")
    def _roster_and_speakers_agree(self) -> Self:
        if self.roster:
            fewest, most = speaker_bounds([RosterEntry(s.code, s.role) for s in self.roster])
            if (self.speakers.min or 1) > most or (self.speakers.max or most) < fewest:
                raise ValueError("speakers and roster disagree on the number of speakers")
        return self


class SessionView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "b5d7a1f6-8a0e-4a0c-9a6e-2f7f8b1f6c2d",
                    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                    **EXAMPLE,
                    "recordings": ["3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52"],
                    "created_at": "2031-01-07T09:12:00Z",
                }
            ]
        }
    )

    id: UUID
    study_id: UUID
    code: str
    kind: Kind
    speakers: Speakers
    roster: list[Speaker]
    recordings: list[UUID] = Field(description="Recordings, in order.")
    created_at: datetime

    @classmethod
    def of(cls, session: Session, recordings: list[UUID]) -> Self:
        return cls(
            id=session.id,
            study_id=session.study_id,
            code=session.code,
            kind=cast(Kind, session.kind),
            speakers=Speakers(min=session.speakers_min, max=session.speakers_max),
            roster=session.roster,
            recordings=recordings,
            created_at=session.created_at,
        )


def ids_of(recordings: list[Recording]) -> list[UUID]:
    return [recording.id for recording in recordings]


class Sessions(BaseModel):
    items: list[SessionView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Order(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"recordings": ["3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52"]}]}
    )

    recordings: list[UUID] = Field(
        max_length=100, description="All recordings of the session, in order."
    )


@router.post("", status_code=201, responses=problems(StudyNotFound, SessionCodeTaken, Erased))
def create_session(wanted: NewSession, caller: Researcher, services: ServicesDep) -> SessionView:
    """Create a session with the given code, or with the next free one."""
    with services.sessionmaker.begin() as database:
        made = sessions.create_session(
            database,
            caller,
            study=wanted.study,
            code=wanted.code,
            kind=wanted.kind,
            speakers=wanted.speakers.count,
            roster=[speaker.model_dump() for speaker in wanted.roster],
        )
    return SessionView.of(made, [])


@router.get("", responses=problems(StudyNotFound, BadCursor, Erased))
def list_sessions(
    caller: Lister,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName | None, Query(description="Only sessions of this study.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> Sessions:
    """The caller's sessions, by study and code."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as database:
        page = sessions.list_sessions(database, caller, study, limit=limit, cursor=cursor)
        items = [SessionView.of(*row) for row in page.rows]
        return Sessions(items=items, next_cursor=page.next_cursor)


@router.get("/{session_id}", responses=problems(SessionNotFound, Erased))
def read_session(session_id: UUID, caller: Reader, services: ServicesDep) -> SessionView:
    """One session with its recordings."""
    with services.sessionmaker() as database:
        found = sessions.find_session(database, caller, session_id)
        return SessionView.of(found, ids_of(session_recordings(database, session_id)))


@router.put(
    "/{session_id}/recordings",
    responses=problems(SessionNotFound, RecordingNotFound, Erased, UploadBusy),
)
def put_recordings(
    session_id: UUID, order: Order, caller: Researcher, services: ServicesDep
) -> SessionView:
    """Set which uploads belong to the session, in the order they were recorded.

    A recording that is being checked cannot be moved: after `upload_busy`, try again in a moment.
    """
    found, rows = sessions.set_recordings(services, caller, session_id, order.recordings)
    return SessionView.of(found, ids_of(rows))


@router.delete(
    "/{session_id}",
    status_code=204,
    responses=problems(SessionNotFound, RecordingInUse, Erased, UploadBusy),
)
def delete_session(session_id: UUID, caller: Eraser, services: ServicesDep) -> None:
    """Destroy the keys of its recordings and of everything made from them or for the session."""
    erase_session(services, caller, session_id)
