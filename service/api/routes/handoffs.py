"""Hand-offs: the de-identification stage claims finished transcripts and returns its findings."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, model_validator

from models.transcript_json import to_json
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.transcript_document import DescribedAs, TranscriptDocument
from service.api.routes.views import SegmentId, SpeakerCode, SpeakerRole, Strict, StudyName
from service.database.tables import Handoff
from service.domain import handoffs
from service.domain.callers import Caller
from service.domain.entities import claim_roster, record_reading
from service.domain.handoffs import (
    DEFAULT_STAGE,
    BadOccurrence,
    HandoffNotFailed,
    HandoffNotFound,
    HandoffTaken,
)
from service.domain.pages import BadCursor
from service.errors import StudyNotFound
from service.vault.errors import READ_ERRORS, DiskFull, Erased

router = APIRouter(prefix="/v1/handoffs", tags=["handoffs"], route_class=GuardedRoute)
Deidentifier = Annotated[Caller, Depends(allow("deidentifier"))]
Reader = Annotated[Caller, Depends(allow("researcher", "deidentifier", "admin"))]
Reopener = Annotated[Caller, Depends(allow("researcher", "admin"))]
MAX_OCCURRENCES = 50_000

HandoffStatus = Literal["open", "claimed", "completed", "failed"]
StageName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9]{0,15}(-[a-z0-9]{1,15}){0,2}$"),
    Field(description="Name of a stage; each offers every transcript.", examples=["default"]),
]
FailureCode = Literal[
    "model_missing",
    "out_of_memory",
    "timed_out",
    "transcript_unusable",
    "unsupported_language",
    "internal_error",
]
"""Fixed codes, so that no text of a transcript can arrive here."""

ID = "7c1e0198-f2a6-4d3b-9a39-5b3a0d9a7b10"
TRANSCRIPT = "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11"
HANDOFF: dict[str, Any] = {
    "id": ID,
    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "transcript_id": TRANSCRIPT,
    "stage": "default",
    "transcript_version": 1,
    "status": "claimed",
    "failure_code": None,
    "lease_until": "2031-01-07T10:02:00Z",
    "created_at": "2031-01-07T09:59:00Z",
    "finished_at": None,
}


class HandoffView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [HANDOFF]}, from_attributes=True)

    id: UUID
    study_id: UUID
    transcript_id: UUID
    stage: str = Field(description="`default`, or the name of another stage of the chain.")
    transcript_version: int | None = Field(
        description="The version that was claimed, to which occurrences refer; null before."
    )
    status: HandoffStatus
    failure_code: str | None
    lease_until: datetime | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Handoff) -> "HandoffView":
        return cls.model_validate(row)


class SpeakerOfClaim(BaseModel):
    role: SpeakerRole | None
    code: SpeakerCode | None


class ClaimedName(BaseModel):
    """A name of the study, and its other spellings. Its pseudonym is not sent."""

    id: UUID = Field(description="For the `entity` of occurrences.")
    kind: Literal["person", "organisation", "place"]
    name: str
    aliases: list[str]


class ClaimedView(HandoffView):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **HANDOFF,
                    "fence": 1,
                    "speakers": {"SPEAKER_00": {"role": "interviewer", "code": "I1"}},
                    "roster": [
                        {
                            "id": "2f7f8b1f-8a0e-4a0c-9a6e-b5d7a1f66c2d",
                            "kind": "person",
                            "name": "Siobhan Gallagher",
                            "aliases": ["Shiv"],
                        }
                    ],
                    "transcript": {
                        "schema": "fieldscribe.transcript/1",
                        "segments": [
                            {
                                "id": "s0001",
                                "speaker": "SPEAKER_00",
                                "text": "Good morning.",
                                "words": [],
                            }
                        ],
                    },
                }
            ]
        }
    )

    fence: int = Field(description="Send it with every request about this claim.")
    speakers: dict[str, SpeakerOfClaim] = Field(
        description="The role and code of each label, where known."
    )
    roster: list[ClaimedName] = Field(description="The names of the study.")
    transcript: Annotated[dict[str, Any], DescribedAs(TranscriptDocument)] = Field(
        description="See docs/reference/transcript.md; speakers are labels."
    )


class HandoffList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [HANDOFF], "next_cursor": None}]}
    )

    items: list[HandoffView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Fence(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"fence": 1}]})

    fence: int = Field(ge=1, le=2**63 - 1)


WordIndex = Annotated[int, Field(ge=0, le=10**7)]
WordRange = tuple[WordIndex, WordIndex]


class Occurrence(Strict):
    """An identifying span: [start, end) of a segment's `text`, in Unicode code points."""

    segment: SegmentId
    start: int = Field(ge=0, le=10**7, description="In Unicode code points, not UTF-16 units.")
    end: int = Field(ge=1, le=10**7, description="In Unicode code points, not UTF-16 units.")
    label: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z_]{0,31}$")] = Field(
        description="The kind of entity: PERSON, PLACE, DATE, ..."
    )
    words: WordRange | None = Field(
        default=None, description="The segment's words that it covers, [first, last)."
    )
    tier: Literal["sure", "unsure"] | None = None
    score: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    rule: str | None = Field(
        default=None, max_length=100, description="The rule or model that found it."
    )
    entity: str | None = Field(
        default=None, max_length=200, description="The entity that it suggests."
    )

    @model_validator(mode="after")
    def _has_a_length(self) -> "Occurrence":
        if self.start >= self.end:
            raise ValueError("the end is not after the start")
        return self


class Completion(Fence):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "fence": 1,
                    "occurrences": [
                        {
                            "segment": "s0004",
                            "start": 11,
                            "end": 15,
                            "label": "PERSON",
                            "words": [3, 4],
                            "tier": "sure",
                            "score": 0.98,
                            "rule": "introduction",
                            "entity": "person-1",
                        }
                    ],
                }
            ]
        }
    )

    occurrences: Annotated[list[Occurrence], FailFast()] = Field(max_length=MAX_OCCURRENCES)


class Failure(Fence):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"fence": 1, "code": "unsupported_language"}]}
    )

    code: FailureCode


CLAIM_ERRORS = (HandoffNotFound, HandoffTaken, Erased)


@router.post(
    "/claim",
    response_model=ClaimedView,
    responses={
        204: {"description": "No transcript is waiting."},
        **problems(StudyNotFound, *READ_ERRORS),
    },
)
def claim_handoff(
    caller: Deidentifier,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName | None, Query(description="Only hand-offs of this study.")] = None,
    stage: Annotated[StageName, Query()] = DEFAULT_STAGE,
) -> Response:
    """Claim the oldest open transcript of a stage. It is yours until `lease_until`; send a
    heartbeat before then, or another client gets it and your fence is refused."""
    limits.polls.require(str(caller.token_id))
    taken = handoffs.claim(services, caller, study, stage)
    if taken is None:
        return Response(status_code=204)
    with services.sessionmaker.begin() as session:
        roster = claim_roster(session, services, taken.handoff.study_id)
        if roster:
            record_reading(session, caller, taken.row.study_id, "deidentification", taken.row.id)
    view = ClaimedView(
        **HandoffView.of(taken.handoff).model_dump(),
        fence=taken.handoff.fence,
        speakers={
            label: SpeakerOfClaim(**speaker) for label, speaker in taken.row.speakers.items()
        },
        roster=[ClaimedName(**entry) for entry in roster],
        transcript=json.loads(to_json(taken.transcript)),
    )
    # Written here, in a thread: FastAPI would write megabytes in the event loop.
    return Response(view.model_dump_json(), media_type="application/json")


@router.post("/{handoff_id}/heartbeat", responses=problems(*CLAIM_ERRORS))
def extend_lease(
    handoff_id: UUID, claim: Fence, caller: Deidentifier, services: ServicesDep
) -> HandoffView:
    """Extend the lease."""
    with services.sessionmaker.begin() as session:
        return HandoffView.of(handoffs.renew_lease(session, caller, handoff_id, claim.fence))


@router.post(
    "/{handoff_id}/complete",
    responses=problems(
        *CLAIM_ERRORS,
        BadOccurrence,
        *READ_ERRORS,
        DiskFull,
    ),
)
def complete_handoff(
    handoff_id: UUID, completion: Completion, caller: Deidentifier, services: ServicesDep
) -> HandoffView:
    """Return the occurrences found. They are stored encrypted; a person decides on them."""
    found = [occurrence.model_dump() for occurrence in completion.occurrences]
    with services.sessionmaker.begin() as session:
        done = handoffs.complete(session, services, caller, handoff_id, completion.fence, found)
        return HandoffView.of(done)


@router.post("/{handoff_id}/fail", responses=problems(*CLAIM_ERRORS))
def fail_handoff(
    handoff_id: UUID, failure: Failure, caller: Deidentifier, services: ServicesDep
) -> HandoffView:
    """Give up, with a code."""
    with services.sessionmaker.begin() as session:
        return HandoffView.of(
            handoffs.fail(session, caller, handoff_id, failure.fence, failure.code)
        )


@router.post("/{handoff_id}/reopen", responses=problems(HandoffNotFound, HandoffNotFailed, Erased))
def reopen_handoff(handoff_id: UUID, caller: Reopener, services: ServicesDep) -> HandoffView:
    """Offer a failed hand-off again, with the newest version of its transcript."""
    with services.sessionmaker.begin() as session:
        return HandoffView.of(handoffs.reopen(session, caller, handoff_id))


@router.get("", responses=problems(StudyNotFound, BadCursor, Erased))
def list_handoffs(
    caller: Reader,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName | None, Query(description="Only hand-offs of this study.")] = None,
    status: Annotated[
        list[HandoffStatus] | None, Query(description="Only these statuses; repeatable.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> HandoffList:
    """Hand-offs of your studies, newest first, without their transcripts."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        page = handoffs.list_handoffs(
            session, caller, study=study, statuses=status or (), limit=limit, cursor=cursor
        )
        return HandoffList(
            items=[HandoffView.of(row) for row in page.rows], next_cursor=page.next_cursor
        )
