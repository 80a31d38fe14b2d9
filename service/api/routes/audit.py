"""The audit trail: who did what, and when. No answer has content."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyName
from service.audit_chain import Head
from service.domain import audit, audit_heads, audit_search
from service.domain.audit_search import AboutNothing, Answer
from service.domain.callers import Caller
from service.domain.studies import find_study
from service.errors import StudyNotFound
from service.services import Services
from service.vault.errors import Erased

studies_router = APIRouter(prefix="/v1/studies", tags=["audit"], route_class=GuardedRoute)
router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=GuardedRoute)
Auditor = Annotated[Caller, Depends(allow("custodian", "admin", sealed_too=True))]
Administrator = Annotated[Caller, Depends(allow("admin", sealed_too=True))]
JSON_LINES = "application/jsonl"

ENTRY: dict[str, Any] = {
    "position": 1207,
    "at": "2031-01-07T09:12:00Z",
    "token_id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
    "role": "researcher",
    "who": "Ada",
    "action": "recording.played",
    "what": "played, 00:10:00 to 00:20:00",
    "session": "INT-07",
    "is_reading": True,
    "objects": {"recording": "3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52"},
    "reason": None,
    "detail": {"seconds": [[600, 1200]]},
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
HEAD = f"{ENTRY['position']}:{ENTRY['hash']}"


class EntryView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [ENTRY]})

    position: int
    at: datetime
    token_id: UUID | None
    role: str | None
    who: str = Field(description="The name of the account or token.")
    action: str
    what: str = Field(description="The action in plain words.")
    session: str | None = Field(description="Code of the session that it concerns.")
    is_reading: bool = Field(description="It gave somebody content.")
    objects: dict[str, str]
    reason: str | None
    detail: dict[str, Any]
    hash: str

    @classmethod
    def of(cls, answer: Answer) -> "EntryView":
        entry = answer.entry
        return cls(
            position=entry.position,
            at=entry.at,
            token_id=entry.token_id,
            role=entry.role,
            who=answer.who,
            action=entry.action,
            what=answer.what,
            session=answer.session,
            is_reading=answer.is_reading,
            objects=entry.objects,
            reason=entry.reason,
            detail=entry.detail,
            hash=entry.hash.hex(),
        )


class EntryList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [ENTRY], "next_cursor": None}]}
    )

    items: list[EntryView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@studies_router.get("/{study}/audit", responses=problems(StudyNotFound, AboutNothing, Erased))
def read_trail(
    study: StudyName,
    caller: Auditor,
    services: ServicesDep,
    about: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=100,
            description="Code of a session or a participant, a token's name, or an id.",
        ),
    ] = None,
    since: Annotated[AwareDatetime | None, Query()] = None,
    until: Annotated[AwareDatetime | None, Query()] = None,
    readings: Annotated[bool, Query(description="Only what gave somebody content.")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    cursor: Annotated[
        str | None,
        Query(pattern=r"^[0-9]{1,18}$", description="`next_cursor` of the previous page."),
    ] = None,
) -> EntryList:
    """Who did what in a study, oldest first. Reading it is recorded too."""
    with services.sessionmaker.begin() as session:
        answers = audit_search.search(
            session,
            caller,
            study,
            about=about,
            since=since,
            until=until,
            readings_only=readings,
            after=int(cursor or 0),
            limit=limit + 1,
        )
        if cursor is None:
            study_id = find_study(session, caller, study).id
            audit.record(session, caller, "trail.read", study_id, {"study": study_id})
    shown = answers[:limit]
    following = str(shown[-1].entry.position) if len(answers) > limit else None
    return EntryList(items=[EntryView.of(each) for each in shown], next_cursor=following)


HeadText = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{1,18}:[0-9a-fA-F]{64}$"),
    Field(description="`POSITION:HASH`, as it was sent or exported earlier.", examples=[HEAD]),
]


class Verification(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"heads": [HEAD]}]})

    heads: list[HeadText] = Field(default=[], max_length=1000)


class FindingView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    code: str
    position: int
    message: str


class VerifiedView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"entries": 1207, "head": HEAD, "findings": [], "notes": []}]
        }
    )

    entries: int
    head: str | None
    findings: list[FindingView] = Field(description="Empty if the trail is whole.")
    notes: list[str] = Field(description="Gaps that the trail itself explains.")


@router.post("/verify")
def verify_trail(
    wanted: Verification, caller: Administrator, services: ServicesDep
) -> VerifiedView:
    """Check the chain of the whole trail, against recorded heads and yours."""
    checked = audit_heads.verify(services, [Head.parse(text) for text in wanted.heads])
    detail: dict[str, audit.Value] = {"findings": len(checked.findings)}
    audit.record_now(services, caller, "trail.verified", None, {}, detail=detail)
    return VerifiedView(
        entries=checked.entries,
        head=None if checked.head is None else str(checked.head),
        findings=[FindingView.model_validate(each) for each in checked.findings],
        notes=list(checked.notes),
    )


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The whole trail as JSON lines, in order.",
            "content": {JSON_LINES: {}},
        }
    },
)
def export_trail(caller: Administrator, services: ServicesDep) -> StreamingResponse:
    """Every entry of every study, for `fieldscribe audit --verify FILE` and safe keeping."""
    audit.record_now(services, caller, "trail.exported", None, {})
    return StreamingResponse(_lines(services), media_type=JSON_LINES)


def _lines(services: Services) -> Iterator[bytes]:
    with services.sessionmaker() as session:
        for entry in audit.read_all(session):
            yield json.dumps(entry, separators=(",", ":")).encode() + b"\n"
