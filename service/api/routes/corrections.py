"""Corrections of transcripts: change segments, undo changes, read and restore versions."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)

from models.corrections import KEEP
from models.importing import Turn
from models.speaker_names import show_names
from models.transcript import Segment, Transcript
from models.transcript_json import segment_to_json
from service.api.access import LimitsDep, ReadingsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import SegmentId, SegmentText, SpeakerCode, Strict, check_text
from service.database.tables import Correction, StoredTranscript
from service.domain import audit, transcripts
from service.domain.callers import Caller
from service.domain.corrections import (
    BadCorrection,
    Corrected,
    Editor,
    ImportDiffers,
    LaterChange,
    NothingToUndo,
    SegmentChanged,
    SegmentEdit,
    SegmentNotFound,
    TranscriptChanged,
    UnknownSpeaker,
    changes_since,
    list_versions,
    undone_versions,
)
from service.domain.presence import Activity, Presence
from service.domain.readings import Readings
from service.domain.tokens import token_names
from service.domain.transcripts import TranscriptNotFound, VersionNotFound
from service.errors import VersionMissing
from service.vault.errors import READ_ERRORS, DiskFull, Erased

router = APIRouter(
    prefix="/v1/transcripts/{transcript_id}", tags=["corrections"], route_class=GuardedRoute
)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
MAX_TIME = 1e6  # s

SEGMENT: dict[str, Any] = {
    "id": "s0004",
    "speaker": "P07",
    "start": 12.4,
    "end": 14.1,
    "text": "I work there.",
    "checked_by": None,
    "words": [
        {"text": " I", "start": 12.4, "end": 12.6, "probability": 0.98},
        {"text": " work", "start": 12.6, "end": 13.1, "probability": None, "placed": True},
        {"text": " there.", "start": 13.1, "end": 14.1, "probability": 0.95},
    ],
}

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=100,
        description='The version of the transcript that you have read, as in its `ETag`: `"7"`.',
    ),
]
Speaker = Annotated[
    str | None,
    Field(
        max_length=100,
        description="A label, or the name that is shown for it; null if nobody is known to speak. "
        "The next free label, such as `SPEAKER_02` if there are two speakers, adds a speaker.",
    ),
]


class WordView(BaseModel):
    text: str = Field(description="With the space before it.")
    start: float
    end: float
    probability: float | None = Field(description="Null for a word that a person wrote.")
    placed: bool = Field(default=False, description="The times were interpolated.")


class SegmentView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [SEGMENT]})

    id: SegmentId
    speaker: str | None = Field(description="The name that is shown for it.")
    start: float
    end: float
    text: str
    checked_by: str | None = Field(description="Code of the person who checked it.")
    words: list[WordView]

    @classmethod
    def of(cls, segment: Segment) -> Self:
        return cls.model_validate(segment_to_json(segment))


class CorrectedView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": 8, "segments": [SEGMENT], "removed": []}]}
    )

    version: int = Field(description="The newest version.")
    segments: list[SegmentView] = Field(description="Those that are changed or new, in order.")
    removed: list[SegmentId]

    @classmethod
    def of(cls, corrected: Corrected, response: Response) -> Self:
        shown = show_names(corrected.transcript)
        changed = {segment.id for segment in corrected.segments}
        response.headers["ETag"] = f'"{shown.version}"'
        return cls(
            version=shown.version,
            segments=[SegmentView.of(one) for one in shown.segments if one.id in changed],
            removed=list(corrected.removed),
        )


class SegmentChange(Strict):
    """Fields that are left out are not changed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "I work there."}]})

    text: SegmentText | None = None
    speaker: Speaker = None
    checked_by: SpeakerCode | None = Field(
        default=None, description="Code of the person who has checked the segment."
    )


class Split(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"at": 14, "speaker": "I1"}]})

    at: int = Field(
        ge=0,
        le=10**7,
        description="Where the second part begins in the text, in Unicode code points.",
    )
    speaker: Speaker = Field(default=None, description="Of the second part; by default the same.")


class Merge(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"speaker": "P07"}]})

    speaker: Speaker = Field(
        default=None, description="Of the result; needed if the two have different speakers."
    )


class NewSegment(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"after": "s0004", "text": "Mm.", "speaker": "I1"}]}
    )

    after: SegmentId | None = Field(description="The segment before it; null if it is the first.")
    text: SegmentText
    speaker: Speaker
    start: float | None = Field(
        default=None,
        ge=0,
        le=MAX_TIME,
        description="Seconds; by default after the segment before it.",
    )
    end: float | None = Field(default=None, ge=0, le=MAX_TIME)


class Undo(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 8}]})

    version: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="The version that the change made; by default, your last change.",
    )


class Restore(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 3}]})

    version: int = Field(ge=1, le=2**31 - 1)


Kind = Literal[
    "models",
    "text",
    "speaker",
    "check",
    "split",
    "merge",
    "insert",
    "delete",
    "speakers",
    "import",
    "undo",
    "restore",
]


class VersionView(BaseModel):
    version: int
    kind: Kind = Field(description="`models` for the transcript as the models wrote it.")
    segments: list[SegmentId] = Field(description="Those that it changed, made or removed.")
    token_id: UUID | None = Field(description="Who made it.")
    undoes: int | None = Field(description="The version whose change it undoes.")
    undone: bool = Field(description="Its change is undone in the newest version.")
    created_at: datetime
    made_by: str | None = Field(
        default=None, description="Name of that token; null if it has none."
    )
    packet_id: UUID | None = Field(
        default=None, description="The packet in which a participant proposed the change."
    )

    @classmethod
    def of(cls, entry: Correction, undone: set[int], names: dict[UUID, str | None]) -> Self:
        return cls(
            made_by=names.get(entry.token_id),
            packet_id=entry.packet_id,
            version=entry.version,
            kind=entry.kind,  # type: ignore[arg-type]  # checked by the database
            segments=entry.segments,
            token_id=entry.token_id,
            undoes=entry.undoes,
            undone=entry.version in undone,
            created_at=entry.created_at,
        )


class VersionList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "version": 2,
                            "kind": "text",
                            "segments": ["s0004"],
                            "token_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                            "undoes": None,
                            "undone": False,
                            "created_at": "2031-01-07T10:02:00Z",
                        }
                    ]
                }
            ]
        }
    )

    items: list[VersionView]


class SegmentEdits(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "edits": [
                        {"id": "s0004", "text": "I work there."},
                        {"id": "s0009", "text": "They work there too."},
                    ]
                }
            ]
        }
    )

    edits: Annotated[list["SegmentEditBody"], FailFast()] = Field(min_length=1, max_length=5_000)

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({edit.id for edit in self.edits}) < len(self.edits):
            raise ValueError("a segment is named twice")
        return self


class SegmentEditBody(SegmentChange):
    id: SegmentId


class EditedView(CorrectedView):
    skipped: list[SegmentId] = Field(
        description="Segments that were changed or removed since your version, and so were left."
    )


class ChangesView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"version": 9, "segments": [SEGMENT], "removed": ["s0005"], "order": ["s0004"]}
            ]
        }
    )

    version: int = Field(description="The newest version.")
    segments: list[SegmentView] = Field(description="Those that are changed or new, in order.")
    removed: list[SegmentId]
    order: list[SegmentId] | None = Field(
        description="All segments in order; null if none can have been added or removed."
    )


class Whereabouts(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"page": "k3x9", "segment": "s0004"}]}
    )

    page: str = Field(
        pattern="^[a-z0-9]{1,32}$", description="A random name of the page or program."
    )
    segment: SegmentId | None = Field(description="The one you are in; null if none.")
    activity: Activity = Field(default="correcting", description="What you do there.")


class PersonView(BaseModel):
    name: str | None = Field(description="Name of the token; null if it has none.")
    segment: SegmentId | None
    activity: Activity
    you: bool = Field(description="Whether it is another page of yours.")


class PresenceView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": 9,
                    "people": [
                        {
                            "name": "I2",
                            "segment": "s0031",
                            "activity": "correcting",
                            "you": False,
                        }
                    ],
                }
            ]
        }
    )

    version: int = Field(description="The newest version of the transcript.")
    people: list[PersonView] = Field(description="Other pages on which it is open.")


def check_optional_text(text: str | None) -> str | None:
    return text if text is None else check_text(text)


class ImportedTurn(Strict):
    speaker: Annotated[
        str | None, StringConstraints(max_length=100), AfterValidator(check_optional_text)
    ] = Field(default=None, description="The speaker's name in the text; null if it has none.")
    text: SegmentText
    start: float | None = Field(default=None, ge=0, le=MAX_TIME, description="Seconds.")


class NewText(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "turns": [
                        {"speaker": "I1", "text": "How did you come to this work?"},
                        {"speaker": "P07", "text": "By chance.", "start": 14.5},
                    ]
                }
            ]
        }
    )

    turns: Annotated[list[ImportedTurn], FailFast()] = Field(min_length=1, max_length=50_000)
    based_on: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="The version that the text was made from; by default the newest.",
    )


class Passage(BaseModel):
    id: SegmentId
    start: float
    text: str


class ImportedView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": 4,
                    "changed": 12,
                    "matched": 0.98,
                    "unmatched": [17],
                    "removed": [{"id": "s0031", "start": 402.1, "text": "Mm."}],
                    "conflicts": [],
                    "speakers": {"I1": "SPEAKER_00", "P07": "SPEAKER_01"},
                }
            ]
        }
    )

    version: int = Field(description="The newest version; the same if the text changed nothing.")
    changed: int = Field(description="Number of segments that are changed or new.")
    matched: float = Field(description="Share of the text's words that are in the transcript.")
    unmatched: list[int] = Field(
        description="Numbers, from 0, of the turns with no word in the transcript. They "
        "are placed between their neighbours."
    )
    removed: list[Passage] = Field(description="Segments with no word in the text.")
    conflicts: list[Passage] = Field(
        description="Segments that were changed since `based_on` and so were not replaced."
    )
    speakers: dict[str, str | None] = Field(description="The label that each speaker has here.")


CHANGE_ERRORS = (TranscriptNotFound, UnknownSpeaker, *READ_ERRORS, DiskFull)
SEGMENT_ERRORS = (*CHANGE_ERRORS, SegmentNotFound, SegmentChanged, VersionNotFound, VersionMissing)


@router.patch("/segments/{segment_id}", responses=problems(*SEGMENT_ERRORS))
def change_segment(
    transcript_id: UUID,
    segment_id: SegmentId,
    change: SegmentChange,
    caller: Researcher,
    services: ServicesDep,
    response: Response,
    if_match: IfMatch = None,
) -> CorrectedView:
    """Change a segment's text, speaker, or who has checked it.

    Words that the new text does not change keep their times and probabilities. If the segment was
    changed since your version, the answer is 409 with both texts and, if they change different
    words, their merge."""
    based_on = version_of(if_match)
    sent = change.model_fields_set
    with editor(services, caller, transcript_id) as edited:
        return CorrectedView.of(
            edited.edit(
                segment_id,
                based_on,
                text=change.text,
                speaker=change.speaker if "speaker" in sent else KEEP,
                checked_by=change.checked_by if "checked_by" in sent else KEEP,
            ),
            response,
        )


@router.patch("/segments", responses=problems(*CHANGE_ERRORS, VersionNotFound, VersionMissing))
def change_segments(
    transcript_id: UUID,
    body: SegmentEdits,
    caller: Researcher,
    services: ServicesDep,
    response: Response,
    if_match: IfMatch = None,
) -> EditedView:
    """Change several segments as one version, such as a word that is wrong in all of them.

    Segments that were changed since your version are left as they are, and listed."""
    based_on = version_of(if_match)
    edits = [
        SegmentEdit(
            edit.id,
            edit.text,
            edit.speaker if "speaker" in edit.model_fields_set else KEEP,
            edit.checked_by if "checked_by" in edit.model_fields_set else KEEP,
        )
        for edit in body.edits
    ]
    with editor(services, caller, transcript_id) as edited:
        corrected, skipped = edited.edit_many(edits, based_on)
    view = CorrectedView.of(corrected, response)
    return EditedView(**dict(view), skipped=list(skipped))


@router.get("/changes", responses=problems(TranscriptNotFound, VersionNotFound, *READ_ERRORS))
def read_changes(
    transcript_id: UUID,
    caller: Researcher,
    services: ServicesDep,
    readings: ReadingsDep,
    limits: LimitsDep,
    since: Annotated[int, Query(ge=1, le=2**31 - 1, description="A version.")] = 1,
) -> ChangesView:
    """The segments that have been changed since a version, as they are now."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        row = transcripts.find_transcript(session, caller, transcript_id)
        changes = changes_since(session, row, since)
        now = show_names(transcripts.read_transcript(session, services, row))
        ids = [segment.id for segment in now.segments]
        changed = set(ids if changes.renamed else changes.segments)
    if changed.intersection(ids):
        record_reading(readings, caller, row, now)
    return ChangesView(
        version=now.version,
        segments=[SegmentView.of(one) for one in now.segments if one.id in changed],
        removed=[id for id in changes.segments if id not in changed.intersection(ids)],
        order=ids if changes.reordered else None,
    )


@router.put("/presence", responses=problems(TranscriptNotFound, Erased))
def report_presence(
    transcript_id: UUID,
    body: Whereabouts,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
) -> PresenceView:
    """Say where you are, and learn who else is at work and the newest version.

    Report every few seconds; 15 s after the last report you count as gone."""
    limits.polls.require(str(caller.token_id))
    presence: Presence = request.app.state.presence
    with services.sessionmaker() as session:
        row = transcripts.find_transcript(session, caller, transcript_id)
        name = token_names(session, {caller.token_id}).get(caller.token_id)
        version = row.version
    others = presence.report(
        transcript_id, caller.token_id, body.page, name, body.segment, body.activity
    )
    return PresenceView(
        version=version,
        people=[
            PersonView(
                name=each.name,
                segment=each.segment,
                activity=each.activity,
                you=each.token_id == caller.token_id,
            )
            for each in others
        ],
    )


@router.post("/segments/{segment_id}/split", responses=problems(*SEGMENT_ERRORS, BadCorrection))
def split_segment(
    transcript_id: UUID,
    segment_id: SegmentId,
    split: Split,
    caller: Researcher,
    services: ServicesDep,
    response: Response,
    if_match: IfMatch = None,
) -> CorrectedView:
    """Split a segment in two, between two words. The first part keeps the id."""
    based_on = version_of(if_match)
    speaker = split.speaker if "speaker" in split.model_fields_set else KEEP
    with editor(services, caller, transcript_id) as edited:
        return CorrectedView.of(edited.split(segment_id, based_on, split.at, speaker), response)


@router.post("/segments/{segment_id}/merge", responses=problems(*SEGMENT_ERRORS, BadCorrection))
def merge_segment(
    transcript_id: UUID,
    segment_id: SegmentId,
    merge: Merge,
    caller: Researcher,
    services: ServicesDep,
    response: Response,
    if_match: IfMatch = None,
) -> CorrectedView:
    """Join a segment to the one before it, which keeps its id."""
    based_on = version_of(if_match)
    speaker = merge.speaker if "speaker" in merge.model_fields_set else KEEP
    with editor(services, caller, transcript_id) as edited:
        return CorrectedView.of(edited.merge(segment_id, based_on, speaker), response)


@router.post(
    "/segments",
    status_code=201,
    responses=problems(*CHANGE_ERRORS, SegmentNotFound, BadCorrection),
)
def insert_segment(
    transcript_id: UUID,
    new: NewSegment,
    caller: Researcher,
    services: ServicesDep,
    response: Response,
) -> CorrectedView:
    """Add a segment that the models missed."""
    times = None if new.start is None or new.end is None else (new.start, new.end)
    if times is None and (new.start is not None or new.end is not None):
        raise BadCorrection("Give the start and the end, or neither")
    with editor(services, caller, transcript_id) as edited:
        return CorrectedView.of(edited.insert(new.after, new.text, new.speaker, times), response)


@router.delete("/segments/{segment_id}", responses=problems(*SEGMENT_ERRORS))
def delete_segment(
    transcript_id: UUID,
    segment_id: SegmentId,
    caller: Researcher,
    services: ServicesDep,
    response: Response,
    if_match: IfMatch = None,
) -> CorrectedView:
    """Remove a segment from the newest version; earlier ones keep it."""
    based_on = version_of(if_match)
    with editor(services, caller, transcript_id) as edited:
        return CorrectedView.of(edited.delete(segment_id, based_on), response)


@router.get(
    "/segments/{segment_id}",
    responses=problems(TranscriptNotFound, SegmentNotFound, VersionNotFound, *READ_ERRORS),
)
def read_segment(
    transcript_id: UUID,
    segment_id: SegmentId,
    caller: Researcher,
    services: ServicesDep,
    readings: ReadingsDep,
    response: Response,
    version: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="By default the newest.")
    ] = None,
) -> SegmentView:
    """One segment."""
    with services.sessionmaker() as session:
        row = transcripts.find_transcript(session, caller, transcript_id)
        transcript = show_names(transcripts.read_transcript(session, services, row, version))
    response.headers["ETag"] = f'"{transcript.version}"'
    for segment in transcript.segments:
        if segment.id == segment_id:
            record_reading(readings, caller, row, transcript)
            return SegmentView.of(segment)
    raise SegmentNotFound("The transcript has no such segment")


def record_reading(
    readings: Readings, caller: Caller, row: StoredTranscript, transcript: Transcript
) -> None:
    """Record that segments were read. The page of a transcript asks for changes all the time."""
    detail: dict[str, audit.Value] = {"version": transcript.version, "part": "segments"}
    place = {"transcript": row.id}
    readings.record_once(caller, "transcript.read", row.study_id, place, detail)


@router.post(
    "/undo",
    responses=problems(*CHANGE_ERRORS, VersionNotFound, NothingToUndo, LaterChange),
)
def undo_change(
    transcript_id: UUID, undo: Undo, caller: Researcher, services: ServicesDep, response: Response
) -> CorrectedView:
    """Undo a change, by default your last one. To do it again, undo the version that undid it."""
    with editor(services, caller, transcript_id) as edited:
        return CorrectedView.of(edited.undo(undo.version), response)


@router.get("/versions", responses=problems(TranscriptNotFound, *READ_ERRORS))
def read_versions(transcript_id: UUID, caller: Researcher, services: ServicesDep) -> VersionList:
    """The versions, oldest first. `GET /v1/transcripts/{transcript_id}?version=3` reads one."""
    with services.sessionmaker() as session:
        row = transcripts.find_transcript(session, caller, transcript_id)
        entries = list_versions(session, row)
        first = VersionView(
            version=row.first_version,
            kind="models",
            segments=[],
            token_id=None,
            undoes=None,
            undone=False,
            created_at=row.created_at,
        )
        undone = undone_versions(entries)
        names = token_names(session, {entry.token_id for entry in entries})
        return VersionList(
            items=[first, *(VersionView.of(each, undone, names) for each in entries)]
        )


@router.post(
    "/restore",
    responses=problems(*CHANGE_ERRORS, VersionNotFound, VersionMissing, TranscriptChanged),
)
def restore_version(
    transcript_id: UUID,
    wanted: Restore,
    caller: Researcher,
    services: ServicesDep,
    response: Response,
    if_match: IfMatch = None,
) -> CorrectedView:
    """Restore an earlier version of the transcript as a new version."""
    based_on = version_of(if_match)
    with editor(services, caller, transcript_id) as edited:
        return CorrectedView.of(edited.restore(wanted.version, based_on), response)


@router.post(
    "/import",
    responses=problems(*CHANGE_ERRORS, VersionNotFound, ImportDiffers),
)
def import_text(
    transcript_id: UUID, new: NewText, caller: Researcher, services: ServicesDep
) -> ImportedView:
    """Import a text that was made or corrected elsewhere.

    Its words are aligned with those of the transcript: passages that match keep times and ids.
    A speaker is recognised by name, or else by the words. The result is a new version."""
    turns = [Turn(turn.speaker, turn.text, turn.start) for turn in new.turns]
    with editor(services, caller, transcript_id) as edited:
        done = edited.import_turns(turns, new.based_on)
    return ImportedView(
        version=done.corrected.transcript.version,
        changed=len(done.corrected.segments),
        matched=round(done.matched, 4),
        unmatched=list(done.unmatched),
        removed=[Passage(id=one.id, start=one.start, text=one.text) for one in done.removed],
        conflicts=[Passage(id=one.id, start=one.start, text=one.text) for one in done.conflicts],
        speakers=dict(done.labels),
    )


@contextmanager
def editor(services: ServicesDep, caller: Caller, transcript_id: UUID) -> Iterator[Editor]:
    try:
        with services.sessionmaker.begin() as session:
            opened = Editor.open(session, services, caller, transcript_id)
            study_id, version = opened.row.study_id, opened.row.version
            yield opened
    except SegmentChanged:  # the answer has both texts
        audit.record_now(
            services,
            caller,
            "transcript.read",
            study_id,
            {"transcript": transcript_id},
            detail={"version": version, "part": "segments"},
        )
        raise


def version_of(if_match: str | None) -> int:
    """
    Raises:
        VersionMissing
    """
    match = re.fullmatch(r'(?:W/)?"?(\d{1,9})"?', (if_match or "").strip())
    if match is None:
        raise VersionMissing(
            "Send `If-Match` with the version that you have read, as in its `ETag`"
        )
    return int(match[1])
