"""Reviews: the identifying spans of a transcript, and people's decisions on them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self, get_args
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator
from sqlalchemy.orm import Session as DbSession

from models.deidentification.flags import find_flags
from models.deidentification.occurrences import LABELS
from models.deidentification.roster_scan import spoken_segments
from models.deidentification.unsuggested import count_by_kind, find_unsuggested
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.handoffs import HandoffStatus
from service.api.routes.views import SegmentId, SessionCode, Strict, StudyName
from service.database.tables import BlindSample, Decision, Mention
from service.domain import audit, blind_samples, deciding, review
from service.domain.blind_samples import (
    DEFAULT_SEGMENTS,
    SampleFinished,
    SampleNotFound,
    SampleOutdated,
)
from service.domain.callers import Caller
from service.domain.corrections import TranscriptChanged
from service.domain.deciding import (
    Addition,
    BadDecision,
    EntityAmbiguous,
    MentionChanged,
    MentionDecision,
    MentionNotFound,
    Outcome,
)
from service.domain.entities import EntityNotFound, look_up
from service.domain.mentions import OTHER, place_of
from service.domain.review import ReviewEditor, ReviewNotReady, ReviewOpen
from service.domain.transcripts import TranscriptNotFound
from service.errors import StudyNotFound
from service.vault.errors import READ_ERRORS, DiskFull

router = APIRouter(prefix="/v1", tags=["review"], route_class=GuardedRoute)
Reviewer = Annotated[Caller, Depends(allow("researcher"))]
PATH = "/transcripts/{transcript_id}/review"
MAX_DECISIONS = 1000
OPEN_ERRORS = (TranscriptNotFound, ReviewNotReady, *READ_ERRORS, DiskFull)
DECISION_ERRORS = (
    *OPEN_ERRORS,
    MentionNotFound,
    MentionChanged,
    TranscriptChanged,
    EntityNotFound,
    EntityAmbiguous,
    BadDecision,
)

MENTION = "5d1f7a52-6f0f-4a52-8f5c-0c5f3f7a9f22"
ENTITY = "8a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b33"
TOKEN = "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10"
TRANSCRIPT = "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11"
MENTION_EXAMPLE: dict[str, Any] = {
    "id": MENTION,
    "version": 1,
    "segment": "s0004",
    "start": 11,
    "end": 15,
    "text": "Shiv",
    "label": "PERSON",
    "tier": "sure",
    "score": 0.98,
    "votes": [{"stage": "default", "rule": "roster", "tier": "sure", "score": 0.98}],
    "hint": None,
    "entity_id": ENTITY,
    "choices": [],
    "origin": "detector",
    "state": "suggested",
    "decided_by": None,
    "decided_at": None,
}
ENTITY_EXAMPLE: dict[str, Any] = {
    "id": ENTITY,
    "kind": "participant",
    "pseudonym": "P07",
    "always": False,
    "erased": False,
}

MentionLabel = Literal[
    "PERSON",
    "PLACE",
    "ORGANISATION",
    "ADDRESS",
    "DATE",
    "AGE",
    "PHONE",
    "ID",
    "EMAIL",
    "WEB",
    "HANDLE",
    "OTHER",
]
assert {*get_args(MentionLabel)} == {*LABELS, OTHER}
MentionState = Literal["suggested", "accepted", "rejected"]
Kind = Literal["participant", "interviewer", "person", "organisation", "place", "other"]
Scope = Literal["mention", "transcript", "study"]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
Offset = Annotated[int, Field(ge=0, le=10**7)]
Span = tuple[Offset, Offset]
SCOPE = "Also for the open suggestions in the transcript or the study that name the same entity; "


class VoteView(BaseModel):
    stage: str = Field(
        description="Of the hand-off; `fieldscribe` for the service's own search for names, "
        "`person` for a person."
    )
    rule: str | None
    tier: Literal["sure", "unsure"] | None
    score: float | None


class MentionView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [MENTION_EXAMPLE]})

    id: UUID
    version: int = Field(description="Send it with a decision on the mention.")
    segment: SegmentId
    start: int = Field(description="In Unicode code points of the segment's text.")
    end: int
    text: str
    label: MentionLabel
    tier: Literal["sure", "unsure"] | None
    score: float | None
    votes: list[VoteView] = Field(description="What each detector said.")
    hint: str | None = Field(description="Mentions with the same hint seem to name the same.")
    entity_id: UUID | None
    choices: list[UUID] = Field(
        description="If several entities have this name: all of them. Say which one you accept."
    )
    origin: Literal["detector", "person", "alias", "sample", "withdrawal"]
    state: MentionState
    decided_by: UUID | None = Field(description="A token.")
    decided_at: datetime | None

    @classmethod
    def of(cls, row: Mention, editor: ReviewEditor) -> Self:
        return cls(
            id=row.id,
            version=row.version,
            segment=row.segment,
            start=row.start,
            end=row.stop,
            text=editor.surface(place_of(row)),
            label=row.label,  # type: ignore[arg-type]
            tier=row.tier,  # type: ignore[arg-type]
            score=row.score,
            votes=[VoteView(**vote) for vote in row.votes],
            hint=row.hint,
            entity_id=editor.canonical(row.entity_id),
            choices=row.choices,
            origin=row.origin,  # type: ignore[arg-type]
            state=row.state,  # type: ignore[arg-type]
            decided_by=row.token_id,
            decided_at=row.decided_at,
        )


class EntityOfReview(BaseModel):
    id: UUID
    kind: Kind
    pseudonym: str | None = Field(description="Null until a mention of it is accepted.")
    always: bool = Field(description="The study replaces its names in every transcript.")
    erased: bool


class NamedEntity(EntityOfReview):
    names: list[str] = Field(description="The main name first.")
    descriptor: str | None


class ReviewView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "transcript_id": TRANSCRIPT,
                    "transcript_version": 3,
                    "version": 12,
                    "n_open": 1,
                    "n_accepted": 0,
                    "n_rejected": 0,
                    "stages": {"default": "completed"},
                    "mentions": [MENTION_EXAMPLE],
                    "entities": [ENTITY_EXAMPLE],
                }
            ]
        }
    )

    transcript_id: UUID
    transcript_version: int = Field(description="The newest, to which the mentions refer.")
    version: int = Field(description="Increases with every change of the review; also the ETag.")
    n_open: int
    n_accepted: int
    n_rejected: int
    stages: dict[str, HandoffStatus] = Field(description="The hand-off of each stage.")
    mentions: list[MentionView] = Field(description="In the order of the text.")
    entities: list[EntityOfReview] = Field(description="Those that the mentions name.")

    @classmethod
    def of(cls, editor: ReviewEditor, response: Response) -> Self:
        response.headers["ETag"] = f'"{editor.review.version}"'
        counts = editor.counts()
        return cls(
            transcript_id=editor.row.id,
            transcript_version=editor.transcript.version,
            version=editor.review.version,
            n_open=counts["suggested"],
            n_accepted=counts["accepted"],
            n_rejected=counts["rejected"],
            stages=editor.stages(),  # type: ignore[arg-type]
            mentions=[MentionView.of(each, editor) for each in editor.ordered()],
            entities=_entities(editor),
        )


def _entities(editor: ReviewEditor) -> list[EntityOfReview]:
    return [
        EntityOfReview(
            id=each.id,
            kind=each.kind,  # type: ignore[arg-type]
            pseudonym=each.pseudonym,
            always=each.always,
            erased=each.erased_at is not None,
        )
        for each in editor.entities_named()
    ]


class ReviewEntities(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            **ENTITY_EXAMPLE,
                            "names": ["Siobhan Gallagher", "Shiv"],
                            "descriptor": None,
                        }
                    ]
                }
            ]
        }
    )

    items: list[NamedEntity]


class DecisionRequest(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"mention": MENTION, "version": 1, "action": "accept"}]}
    )

    mention: UUID
    version: Version = Field(description="The mention's version that you have read.")
    action: Literal["accept", "reject", "set_entity", "reopen", "allow"] = Field(
        description="`allow`: reject it and put its text on the study's allow-list. `reopen`: take "
        "a decision back."
    )
    entity: UUID | None = Field(
        default=None,
        description="Whom it names, for `accept` and `set_entity`. By default the entity that it "
        "suggests; for a name that suggests none, the study's entity of this name, else a new one.",
    )
    new_entity: Kind | None = Field(
        default=None, description="It names a new entity of this kind, which gets its text as name."
    )
    scope: Scope = Field(
        default="mention", description=f"{SCOPE}for `reject`, those with the same text."
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if self.entity is not None and self.new_entity is not None:
            raise ValueError("an entity is known or new")
        if self.action not in ("accept", "set_entity") and (self.entity or self.new_entity):
            raise ValueError("this action takes no entity")
        return self


class Mark(Strict):
    """A span of a segment's text: its words, or its characters."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"segment": "s0007", "words": [6, 7], "label": "PLACE"}]}
    )

    segment: SegmentId
    words: Span | None = Field(
        default=None, description="The segment's words that it covers, [first, last)."
    )
    span: Span | None = Field(
        default=None, description="Or its characters, [start, end), in Unicode code points."
    )
    label: MentionLabel
    entity: UUID | None = None
    new_entity: Kind | None = None

    @model_validator(mode="after")
    def _has_one_range(self) -> Self:
        if (self.words is None) == (self.span is None):
            raise ValueError("a mark has words or a span")
        if self.entity is not None and self.new_entity is not None:
            raise ValueError("an entity is known or new")
        return self


class AdditionRequest(Mark):
    scope: Scope = Field(default="mention", description=f"{SCOPE}they are accepted too.")


class Decisions(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "decisions": [
                        {
                            "mention": MENTION,
                            "version": 1,
                            "action": "accept",
                            "entity": ENTITY,
                            "scope": "transcript",
                        }
                    ],
                    "additions": [
                        {
                            "segment": "s0007",
                            "words": [6, 7],
                            "label": "PLACE",
                            "new_entity": "place",
                        }
                    ],
                    "transcript_version": 3,
                }
            ]
        }
    )

    decisions: Annotated[list[DecisionRequest], FailFast()] = Field(
        default=[], max_length=MAX_DECISIONS
    )
    additions: Annotated[list[AdditionRequest], FailFast()] = Field(
        default=[], max_length=MAX_DECISIONS, description="Spans that nothing has suggested."
    )
    transcript_version: Version | None = Field(
        default=None, description="To which the additions refer."
    )

    @model_validator(mode="after")
    def _says_the_version(self) -> Self:
        if self.additions and self.transcript_version is None:
            raise ValueError("additions need the transcript's version")
        return self


class DecidedView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": 13,
                    "n_open": 0,
                    "mentions": [{**MENTION_EXAMPLE, "version": 2, "state": "accepted"}],
                    "entities": [ENTITY_EXAMPLE],
                    "elsewhere": 0,
                }
            ]
        }
    )

    version: int = Field(description="Of the review.")
    n_open: int
    mentions: list[MentionView] = Field(
        description="Those that have changed, and new suggestions for names that an entity has got."
    )
    entities: list[EntityOfReview] = Field(description="Those that the review names now.")
    elsewhere: int = Field(description="Mentions decided in the study's other transcripts.")

    @classmethod
    def of(cls, outcome: Outcome, response: Response) -> Self:
        editor = outcome.editor
        response.headers["ETag"] = f'"{editor.review.version}"'
        return cls(
            version=editor.review.version,
            n_open=editor.counts()["suggested"],
            mentions=[
                MentionView.of(each, editor)
                for each in editor.ordered()
                if each.id in outcome.changed
            ],
            entities=_entities(editor),
            elsewhere=outcome.elsewhere,
        )


class PlaceView(BaseModel):
    segment: SegmentId
    start: int
    end: int


class UnsuggestedWord(BaseModel):
    word: str
    kind: Literal["capitalised", "number", "rare"]
    count: int
    places: list[PlaceView]


class FlagView(PlaceView):
    cue: str


class UnsuggestedView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "transcript_version": 3,
                    "counts": {"capitalised": 1, "number": 0, "rare": 0},
                    "words": [
                        {
                            "word": "Woolgoolga",
                            "kind": "capitalised",
                            "count": 1,
                            "places": [{"segment": "s0007", "start": 54, "end": 64}],
                        }
                    ],
                    "flags": [{"cue": "uniqueness", "segment": "s0009", "start": 0, "end": 11}],
                }
            ]
        }
    )

    transcript_version: int
    counts: dict[str, int] = Field(description="Of the words of each kind.")
    words: list[UnsuggestedWord] = Field(description="Each spelling once, the rarest first.")
    flags: list[FlagView] = Field(
        description="Phrases that may identify somebody in combination with others."
    )


class DecisionView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    mention_id: UUID | None
    entity_id: UUID | None
    action: str
    rule: str | None = Field(description="Null if a person decided.")
    before: str | None
    after: str | None
    token_id: UUID
    at: datetime

    @classmethod
    def of(cls, row: Decision) -> Self:
        return cls.model_validate(row)


class DecisionList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "id": MENTION,
                            "mention_id": MENTION,
                            "entity_id": ENTITY,
                            "action": "accept",
                            "rule": None,
                            "before": "suggested",
                            "after": "accepted",
                            "token_id": TOKEN,
                            "at": "2031-01-07T10:02:00Z",
                        }
                    ]
                }
            ]
        }
    )

    items: list[DecisionView]


class ReviewSummary(BaseModel):
    transcript_id: UUID
    study_id: UUID
    job_id: UUID
    session: SessionCode | None
    n_open: int
    n_accepted: int
    n_rejected: int
    is_current: bool = Field(
        description="False if the transcript or the study's names have changed since it was last "
        "read: reading the review counts again."
    )


class ReviewList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "transcript_id": TRANSCRIPT,
                            "study_id": ENTITY,
                            "job_id": TOKEN,
                            "session": "INT-07",
                            "n_open": 14,
                            "n_accepted": 3,
                            "n_rejected": 1,
                            "is_current": True,
                        }
                    ]
                }
            ]
        }
    )

    items: list[ReviewSummary]


class SampleRequest(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"segments": 20}]})

    segments: int = Field(default=DEFAULT_SEGMENTS, ge=1, le=500, description="How many to draw.")


class SampleView(BaseModel):
    id: UUID
    transcript_version: int
    token_id: UUID = Field(description="Of the reader.")
    n_segments: int
    n_found: int | None = Field(description="Identifiers that the review had accepted.")
    n_missed: int | None = Field(description="Identifiers that the reader added.")
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: BlindSample) -> Self:
        return cls(
            id=row.id,
            transcript_version=row.transcript_version,
            token_id=row.token_id,
            n_segments=len(row.segments),
            n_found=row.n_found,
            n_missed=row.n_missed,
            created_at=row.created_at,
            finished_at=row.finished_at,
        )


SAMPLE: dict[str, Any] = {
    "id": MENTION,
    "transcript_version": 3,
    "token_id": TOKEN,
    "n_segments": 1,
    "n_found": None,
    "n_missed": None,
    "created_at": "2031-01-07T10:02:00Z",
    "finished_at": None,
}
ESTIMATE: dict[str, Any] = {
    "n_segments": 20,
    "n_found": 31,
    "n_missed": 1,
    "recall": 0.969,
    "low": 0.843,
    "high": 0.994,
    "is_independent": True,
}


class BlindSegment(BaseModel):
    id: SegmentId
    text: str
    words: list[str] = Field(description="The words that a mark counts.")


class DrawnSample(SampleView):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **SAMPLE,
                    "segments": [
                        {"id": "s0002", "text": "I am here.", "words": [" I", " am", " here."]}
                    ],
                }
            ]
        }
    )

    segments: list[BlindSegment]

    @classmethod
    def read(cls, sample: BlindSample, editor: ReviewEditor) -> Self:
        return cls(
            **SampleView.of(sample).model_dump(),
            segments=[
                BlindSegment(
                    id=segment.id, text=segment.text, words=[word.text for word in segment.words]
                )
                for segment in editor.transcript.segments
                if segment.id in set(sample.segments)
            ],
        )


class EstimateView(BaseModel):
    """How complete the review was before the samples were read."""

    model_config = ConfigDict(from_attributes=True)

    n_segments: int
    n_found: int
    n_missed: int
    recall: float | None = Field(description="Null if the samples hold no identifier.")
    low: float = Field(description="Of the 95 % Wilson interval.")
    high: float
    is_independent: bool = Field(
        description="No reader had decided on mentions of this transcript before."
    )


class SampleList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [SAMPLE], "estimate": ESTIMATE}]}
    )

    items: list[SampleView]
    estimate: EstimateView | None = Field(description="From all samples that have been read.")


class Marks(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"marks": [{"segment": "s0002", "words": [3, 5], "label": "PERSON"}]}]
        }
    )

    marks: Annotated[list[Mark], FailFast()] = Field(
        max_length=MAX_DECISIONS, description="Every identifier in the sample."
    )


# --- the review -----------------------------------------------------------------------------------


@router.get("/reviews", responses=problems(StudyNotFound))
def list_reviews(
    caller: Reviewer,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName | None, Query(description="Only of this study.")] = None,
) -> ReviewList:
    """The reviews of your studies, with counts, oldest first."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        items = [
            ReviewSummary(**summary) for summary in review.list_reviews(session, caller, study)
        ]
        return ReviewList(items=items)


@router.get(PATH, responses=problems(*OPEN_ERRORS))
def read_review(
    transcript_id: UUID, caller: Reviewer, services: ServicesDep, response: Response
) -> ReviewView:
    """The mentions of a transcript, with the newest version of its text and the study's names."""
    with services.sessionmaker.begin() as session:
        editor = ReviewEditor.open(session, services, caller, transcript_id)
        _record(session, caller, "review.read", editor)
        return ReviewView.of(editor, response)


@router.post(PATH, responses=problems(*OPEN_ERRORS))
def begin_review(
    transcript_id: UUID, caller: Reviewer, services: ServicesDep, response: Response
) -> ReviewView:
    """Begin a review without a de-identifier. Only the study's own names are suggested then."""
    with services.sessionmaker.begin() as session:
        review.begin(session, services, caller, transcript_id)
        editor = ReviewEditor.open(session, services, caller, transcript_id)
        _record(session, caller, "review.begun", editor)
        return ReviewView.of(editor, response)


@router.get(f"{PATH}/entities", responses=problems(*OPEN_ERRORS))
def read_review_entities(
    transcript_id: UUID, caller: Reviewer, services: ServicesDep
) -> ReviewEntities:
    """The names of the entities in this transcript. Reading them is recorded."""
    with services.sessionmaker.begin() as session:
        editor = ReviewEditor.open(session, services, caller, transcript_id)
        rows = [each for each in editor.entities_named() if each.erased_at is None]
        records = look_up(session, services, caller, rows, "review", transcript_id)
        return ReviewEntities(
            items=[
                NamedEntity(
                    **view.model_dump(),
                    names=list(records[view.id].surfaces) if view.id in records else [],
                    descriptor=records[view.id].descriptor if view.id in records else None,
                )
                for view in _entities(editor)
            ]
        )


@router.post(f"{PATH}/decisions", responses=problems(*DECISION_ERRORS))
def decide_mentions(
    transcript_id: UUID,
    body: Decisions,
    caller: Reviewer,
    services: ServicesDep,
    response: Response,
) -> DecidedView:
    """Decide on mentions, and add some: all of the request, or nothing.

    If somebody has decided on one of the mentions since you read it, the answer is 409
    `mention_changed` with the present state of those mentions."""
    with services.sessionmaker.begin() as session:
        outcome = deciding.decide(
            session,
            services,
            caller,
            transcript_id,
            [
                MentionDecision(
                    each.mention,
                    each.version,
                    each.action,
                    each.entity,
                    each.new_entity,
                    each.scope,
                )
                for each in body.decisions
            ],
            [_addition(each, each.scope) for each in body.additions],
            transcript_version=body.transcript_version,
        )
        session.flush()
        detail = {"decisions": len(body.decisions), "additions": len(body.additions)}
        _record(session, caller, "review.decided", outcome.editor, detail)
        return DecidedView.of(outcome, response)


def _record(
    session: DbSession,
    caller: Caller,
    action: audit.Action,
    editor: ReviewEditor,
    detail: Mapping[str, audit.Value] | None = None,
) -> None:
    """Add an entry to the audit trail. Each decision is in the record of decisions, by its id."""
    versions = {"version": editor.transcript.version, "review_version": editor.review.version}
    place = {"transcript": editor.row.id}
    detail = {**versions, **(detail or {})}
    audit.record(session, caller, action, editor.row.study_id, place, detail=detail)


def _addition(mark: Mark, scope: Scope = "mention") -> Addition:
    return Addition(
        mark.segment, mark.label, mark.words, mark.span, mark.entity, mark.new_entity, scope
    )


@router.get(f"{PATH}/decisions", responses=problems(*OPEN_ERRORS))
def list_decisions(
    transcript_id: UUID, caller: Reviewer, services: ServicesDep, limits: LimitsDep
) -> DecisionList:
    """Every decision on the transcript's mentions, oldest first; by id and rule, without text."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        rows = review.list_decisions(session, caller, transcript_id)
        return DecisionList(items=[DecisionView.of(row) for row in rows])


@router.get(f"{PATH}/unsuggested", responses=problems(*OPEN_ERRORS))
def read_unsuggested(
    transcript_id: UUID, caller: Reviewer, services: ServicesDep
) -> UnsuggestedView:
    """Capitalised, rare and numeric words in no mention, and phrases that may identify somebody."""
    with services.sessionmaker.begin() as session:
        editor = ReviewEditor.open(session, services, caller, transcript_id)
        transcript, places = editor.transcript, [place_of(each) for each in editor.mentions]
        _record(session, caller, "review.read", editor, {"part": "unsuggested"})
    found = find_unsuggested(spoken_segments(transcript), places)
    return UnsuggestedView(
        transcript_version=transcript.version,
        counts={str(kind): count for kind, count in count_by_kind(found).items()},
        words=[
            UnsuggestedWord(
                word=each.word,
                kind=each.kind,
                count=len(each.places),
                places=[
                    PlaceView(segment=one.segment, start=one.start, end=one.stop)
                    for one in each.places
                ],
            )
            for each in found
        ],
        flags=[
            FlagView(segment=segment.id, start=start, end=end, cue=cue)
            for segment in transcript.segments
            for start, end, cue in find_flags(segment.text)
        ],
    )


# --- blind samples --------------------------------------------------------------------------------


@router.post(f"{PATH}/samples", status_code=201, responses=problems(*OPEN_ERRORS, ReviewOpen))
def draw_sample(
    transcript_id: UUID, body: SampleRequest, caller: Reviewer, services: ServicesDep
) -> DrawnSample:
    """Draw segments at random, to be read without marks by a person who did not review them."""
    with services.sessionmaker.begin() as session:
        sample, editor = blind_samples.draw(session, services, caller, transcript_id, body.segments)
        _record(session, caller, "sample.drawn", editor, {"sample": str(sample.id)})
        return DrawnSample.read(sample, editor)


@router.get(
    f"{PATH}/samples/{{sample_id}}",
    responses=problems(*OPEN_ERRORS, SampleNotFound, SampleFinished, SampleOutdated),
)
def read_sample(
    transcript_id: UUID, sample_id: UUID, caller: Reviewer, services: ServicesDep
) -> DrawnSample:
    """Read a sample that you have drawn and not finished."""
    with services.sessionmaker.begin() as session:
        sample, editor = blind_samples.open_sample(
            session, services, caller, transcript_id, sample_id
        )
        _record(session, caller, "review.read", editor, {"sample": str(sample.id)})
        return DrawnSample.read(sample, editor)


@router.get(f"{PATH}/samples", responses=problems(*OPEN_ERRORS))
def list_samples(
    transcript_id: UUID, caller: Reviewer, services: ServicesDep, limits: LimitsDep
) -> SampleList:
    """The blind samples, and what they say about how complete the review was."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        review.require_review(session, caller, transcript_id)
        return _samples(session, transcript_id)


@router.post(
    f"{PATH}/samples/{{sample_id}}/finish",
    responses=problems(
        *DECISION_ERRORS,
        SampleNotFound,
        SampleFinished,
        SampleOutdated,
    ),
)
def finish_sample(
    transcript_id: UUID, sample_id: UUID, body: Marks, caller: Reviewer, services: ServicesDep
) -> SampleList:
    """Send every identifier in a sample. Those that the review missed are added to it."""
    with services.sessionmaker.begin() as session:
        marks = [_addition(each) for each in body.marks]
        done = blind_samples.finish(session, services, caller, transcript_id, sample_id, marks)
        audit.record(
            session,
            caller,
            "sample.finished",
            done.study_id,
            {"transcript": transcript_id, "sample": sample_id},
            detail={"found": done.n_found, "missed": done.n_missed},
        )
        return _samples(session, transcript_id)


def _samples(session: Any, transcript_id: UUID) -> SampleList:
    estimate = blind_samples.estimate_recall(session, transcript_id)
    return SampleList(
        items=[SampleView.of(row) for row in blind_samples.list_samples(session, transcript_id)],
        estimate=None if estimate is None else EstimateView.model_validate(estimate),
    )
