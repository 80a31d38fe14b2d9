"""Entities, the roster and the linkage store: who is behind the pseudonyms of a study.

Names arrive in bodies and are stored encrypted. Only two routes answer with names: a custodian's
look-up, which is recorded with its reason, and the export, which is encrypted to the custodian.
"""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal, Self, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError
from sqlalchemy.orm import Session as DbSession

from models.deidentification.errors import BadEntityRoster
from models.deidentification.reading import MAX_ENTITIES, MAX_NAME
from models.deidentification.study_roster import (
    MAX_ALIASES,
    MAX_DESCRIPTOR,
    RosterRow,
    check_row,
    is_descriptor,
    is_valid_pseudonym,
    parse_study_roster,
)
from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.corrections import version_of
from service.api.routes.views import Pseudonym as ChosenName
from service.api.routes.views import Strict, StudyName, check_text
from service.database.tables import Entity, LinkageLookup
from service.domain import audit, entities, entity_changes
from service.domain.callers import Caller
from service.domain.chosen_names import BadPseudonym, PseudonymOccurs, PseudonymTaken
from service.domain.entities import EntityKind, EntityNotFound, EntityRecord, LookupReason
from service.domain.entity_changes import AliasNotFound, EntitiesNotMergeable, EntityChanged
from service.domain.pages import BadCursor
from service.domain.roster import (
    CustodianKeyMissing,
    Imported,
    RosterConflict,
    RosterNote,
    export_linkage,
    import_roster,
)
from service.domain.studies import find_study
from service.errors import StudyNotFound, VersionMissing
from service.vault.errors import READ_ERRORS, DiskFull, Erased

studies_router = APIRouter(
    prefix="/v1/studies/{study}", tags=["entities"], route_class=GuardedRoute
)
router = APIRouter(prefix="/v1/entities/{entity_id}", tags=["entities"], route_class=GuardedRoute)
Keeper = Annotated[Caller, Depends(allow("researcher", "custodian"))]
Eraser = Annotated[Caller, Depends(allow("researcher", "custodian", sealed_too=True))]
Custodian = Annotated[Caller, Depends(allow("custodian"))]
Auditor = Annotated[Caller, Depends(allow("custodian", "admin"))]
MAX_LOOKED_UP = 200

ID = "2f7f8b1f-8a0e-4a0c-9a6e-b5d7a1f66c2d"
EXAMPLE: dict[str, Any] = {
    "id": ID,
    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "kind": "participant",
    "pseudonym": "P07",
    "always": False,
    "version": 1,
    "mentions": {"suggested": 0, "accepted": 12, "rejected": 1},
    "created_at": "2031-01-07T09:12:00Z",
    "erased_at": None,
}

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_NAME, pattern=r"\S"),
    AfterValidator(check_text),
]


def check_code(text: str) -> str:
    if not is_valid_pseudonym(text):
        raise PydanticCustomError("pseudonym", "not a code such as P07, I1 or PLACE-1")
    return text


def check_descriptor(text: str) -> str:
    if not is_descriptor(text):
        raise PydanticCustomError("descriptor", "letters, digits, spaces and ,.'- only")
    return text


Code = Annotated[
    str,
    StringConstraints(max_length=20),
    AfterValidator(check_code),
    Field(description="`P07`, `I1`, `PLACE-1`. No real name fits this form.", examples=["P07"]),
]
Descriptor = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_DESCRIPTOR),
    AfterValidator(check_descriptor),
    Field(description="Keeps some of the meaning: `[PLACE-1: regional town]`."),
]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=100,
        description='The version of the entity that you have read, as in its `ETag`: `"2"`.',
    ),
]


class MentionCounts(BaseModel):
    suggested: int
    accepted: int
    rejected: int


class EntityView(BaseModel):
    """An entity without its names."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: UUID
    study_id: UUID
    kind: EntityKind
    pseudonym: str | None = Field(
        description="Null until one of its mentions is accepted, unless the roster gives it one."
    )
    always: bool = Field(description="Its names are replaced in every transcript.")
    version: int
    mentions: MentionCounts
    created_at: datetime
    erased_at: datetime | None

    @classmethod
    def of(cls, entity: Entity, mentions: dict[str, int], response: Response | None = None) -> Self:
        if response is not None:
            response.headers["ETag"] = f'"{entity.version}"'
        return cls(
            id=entity.id,
            study_id=entity.study_id,
            kind=cast(EntityKind, entity.kind),
            pseudonym=entity.pseudonym,
            always=entity.always,
            version=entity.version,
            mentions=MentionCounts(
                suggested=mentions.get("suggested", 0),
                accepted=mentions.get("accepted", 0),
                rejected=mentions.get("rejected", 0),
            ),
            created_at=entity.created_at,
            erased_at=entity.erased_at,
        )


class EntityList(BaseModel):
    items: list[EntityView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class NewEntity(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "place", "names": ["Coffs Harbour", "Coffs"], "always": True},
            ]
        }
    )

    kind: EntityKind = Field(
        description="`allowed`: its names identify nobody, and are never replaced."
    )
    names: list[Name] = Field(
        min_length=1, max_length=MAX_ALIASES, description="The name, then its other spellings."
    )
    pseudonym: Code | None = Field(
        default=None, description="Null: a random one when a mention is first accepted."
    )
    always: bool = Field(default=False, description="Replace its names in every transcript.")
    descriptor: Descriptor | None = None
    chosen_name: ChosenName | None = Field(
        default=None,
        description="A name that the participant or the study has chosen: stands in releases in "
        "place of the pseudonym. Refused if it occurs in the study.",
    )


class EntityChange(Strict):
    """Fields that are left out are not changed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"descriptor": "regional town"}]})

    kind: (
        Literal["participant", "interviewer", "person", "organisation", "place", "other"] | None
    ) = None
    pseudonym: Code | None = None
    always: bool | None = None
    descriptor: Descriptor | None = None
    chosen_name: ChosenName | None = None

    def changes(self) -> dict[str, Any]:
        sent = self.model_dump(exclude_unset=True)
        removable = ("descriptor", "chosen_name")
        return {key: value for key, value in sent.items() if value is not None or key in removable}


class NameBody(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Coffs"}]})

    name: Name


class AliasAdded(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"added": True, "version": 2}]})

    added: bool = Field(description="False if the entity had this name.")
    version: int


class MergeBody(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"into": ID}]})

    into: UUID


class SplitBody(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"names": ["Maggie"]}]})

    names: list[Name] = Field(min_length=1, max_length=MAX_ALIASES)
    kind: EntityKind | None = Field(default=None, description="Null: that of the entity.")
    pseudonym: Code | None = None


class RosterEntry(Strict):
    kind: Literal[
        "person", "participant", "interviewer", "organisation", "place", "other", "allowed"
    ]
    code: Code | None = None
    name: Name
    aliases: list[Name] = Field(default=[], max_length=MAX_ALIASES)
    always: bool = False
    descriptor: Descriptor | None = None
    chosen_name: ChosenName | None = None

    def row(self, number: int) -> RosterRow:
        names = (self.name, *self.aliases)
        return check_row(
            RosterRow(
                number,
                self.kind,
                self.code,
                names,
                self.always,
                self.descriptor,
                self.chosen_name,
            )
        )


class Roster(Strict):
    """Entries, or the text of a CSV file with the columns kind, code, name and aliases."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "entries": [
                        {
                            "kind": "person",
                            "code": "P07",
                            "name": "Siobhan Gallagher",
                            "aliases": ["Shiv", "Von"],
                        }
                    ]
                },
                {"csv": "kind,code,name,aliases\nperson,P07,Siobhan Gallagher,Shiv;Von\n"},
            ]
        }
    )

    entries: Annotated[list[RosterEntry], FailFast()] = Field(default=[], max_length=MAX_ENTITIES)
    csv: str | None = Field(default=None, max_length=8 * 2**20)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.entries and self.csv is not None:
            raise ValueError("give entries or csv, not both")
        return self

    def rows(self) -> list[RosterRow]:
        """
        Raises:
            BadEntityRoster
        """
        if self.csv is not None:
            return parse_study_roster(self.csv)
        return [entry.row(number) for number, entry in enumerate(self.entries, 1)]


class Note(BaseModel):
    entry: int = Field(description="Its number on the roster, from 1.")
    code: RosterNote


class RosterImportedView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "created": 40,
                    "updated": 2,
                    "unchanged": 0,
                    "notes": [{"entry": 7, "code": "common_word"}],
                }
            ]
        }
    )

    created: int
    updated: int
    unchanged: int
    notes: list[Note] = Field(
        description="Entries to look at. `common_word`: a name is also a word, so its mentions "
        "need care. `same_name`: several entities have the name. `name_differs`: the code had "
        "another name; both count now. `pseudonym_in_use`: somebody has chosen the name as a "
        "pseudonym."
    )

    @classmethod
    def of(cls, done: Imported) -> Self:
        return cls(
            created=done.created,
            updated=done.updated,
            unchanged=done.unchanged,
            notes=[Note(entry=number, code=code) for number, code in done.notes],
        )


class LookUp(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"pseudonyms": ["P07"], "reason": "withdrawal"}]}
    )

    pseudonyms: list[Code] = Field(default=[], max_length=MAX_LOOKED_UP)
    entities: list[UUID] = Field(default=[], max_length=MAX_LOOKED_UP)
    reason: LookupReason = Field(description="It is recorded with the look-up.")


class NamesView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": ID,
                    "kind": "participant",
                    "pseudonym": "P07",
                    "names": ["Siobhan Gallagher", "Shiv", "Von"],
                    "descriptor": None,
                    "chosen_name": None,
                    "date_shift_days": -41,
                }
            ]
        }
    )

    id: UUID
    kind: EntityKind
    pseudonym: str | None
    names: list[str]
    descriptor: str | None
    chosen_name: str | None
    date_shift_days: int | None

    @classmethod
    def of(cls, entity: Entity, record: EntityRecord) -> Self:
        return cls(
            id=entity.id,
            kind=cast(EntityKind, entity.kind),
            pseudonym=entity.pseudonym,
            names=list(record.surfaces),
            descriptor=record.descriptor,
            chosen_name=record.chosen_name,
            date_shift_days=record.date_shift_days,
        )


class LookedUp(BaseModel):
    items: list[NamesView]


class LookupView(BaseModel):
    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "7c1e0198-f2a6-4d3b-9a39-5b3a0d9a7b10",
                    "entity_id": ID,
                    "transcript_id": None,
                    "reason": "withdrawal",
                    "token_id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
                    "at": "2031-01-07T09:12:00Z",
                }
            ]
        },
    )

    id: UUID
    entity_id: UUID | None = Field(
        description="Null: all of them, for an export, a claim or the check of a release."
    )
    transcript_id: UUID | None = Field(description="For which transcript, if for one.")
    reason: str
    token_id: UUID
    at: datetime

    @classmethod
    def of(cls, row: LinkageLookup) -> Self:
        return cls.model_validate(row)


class Lookups(BaseModel):
    items: list[LookupView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Export(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "export"}]})

    reason: LookupReason = "export"


NAME_ERRORS = (*READ_ERRORS, DiskFull)
PSEUDONYM_ERRORS = (PseudonymTaken, PseudonymOccurs, BadPseudonym)


# --- the entities of a study ----------------------------------------------------------------------


@studies_router.post(
    "/roster",
    responses=problems(
        StudyNotFound, BadEntityRoster, RosterConflict, *PSEUDONYM_ERRORS, *NAME_ERRORS
    ),
)
def add_roster(
    study: StudyName, roster: Roster, caller: Keeper, services: ServicesDep
) -> RosterImportedView:
    """Add names to the study's roster. Nothing is removed; importing it twice changes nothing.

    An entry belongs to the entity with its code, else to one with its name; two entries of one
    name are two people."""
    rows = roster.rows()
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        done = import_roster(session, services, caller, found.id, rows)
        audit.record(
            session,
            caller,
            "names.imported",
            found.id,
            {"study": found.id},
            detail={"created": done.created, "updated": done.updated},
        )
        return RosterImportedView.of(done)


@studies_router.post(
    "/roster/export",
    response_class=Response,
    responses={
        200: {
            "description": "The linkage table as CSV, encrypted by age.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        },
        **problems(StudyNotFound, CustodianKeyMissing, *READ_ERRORS),
    },
)
def export_roster(
    study: StudyName, export: Export, caller: Custodian, services: ServicesDep
) -> Response:
    """Get the linkage table, encrypted to the study's `custodian_keys`. The export is recorded."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        content = export_linkage(session, services, caller, found, export.reason)
        audit.record(
            session,
            caller,
            "names.exported",
            found.id,
            {"study": found.id},
            reason=export.reason,
            detail={"sha256": hashlib.sha256(content).hexdigest()},
        )
    return Response(content, media_type="application/octet-stream")


@studies_router.get("/entities", responses=problems(StudyNotFound, BadCursor, Erased))
def list_entities(
    study: StudyName,
    caller: Keeper,
    services: ServicesDep,
    kind: Annotated[
        list[EntityKind] | None, Query(description="Only these kinds; repeatable.")
    ] = None,
    pseudonym: Annotated[Code | None, Query(description="Only the one with it.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> EntityList:
    """The study's entities without their names, newest first. Merged ones are left out."""
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
        page = entities.page_of_entities(
            session, found.id, kinds=kind or (), pseudonym=pseudonym, limit=limit, cursor=cursor
        )
        counts = entities.count_mentions(session, page.rows)
        items = [EntityView.of(row, counts.get(row.id, {})) for row in page.rows]
        return EntityList(items=items, next_cursor=page.next_cursor)


@studies_router.post(
    "/entities",
    status_code=201,
    responses=problems(StudyNotFound, *PSEUDONYM_ERRORS, *NAME_ERRORS),
)
def create_entity(
    study: StudyName, new: NewEntity, caller: Keeper, services: ServicesDep, response: Response
) -> EntityView:
    """Add a person, an organisation, a place or another thing. The answer has no names."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        made = entities.create_entity(
            session,
            services,
            caller,
            found.id,
            new.kind,
            new.names,
            pseudonym=new.pseudonym,
            always=new.always,
            descriptor=new.descriptor,
            chosen_name=new.chosen_name,
        )
        return EntityView.of(made, {}, response)


@studies_router.post("/entities/find", responses=problems(StudyNotFound, *READ_ERRORS))
def find_entities(
    study: StudyName, body: NameBody, caller: Keeper, services: ServicesDep
) -> EntityList:
    """The entities with a name that you give, or with one that contains all its words.

    There may be several: two people can have one name."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        rows = entities.find_by_name(session, services, found.id, body.name)
        ids = [str(row.id) for row in rows]
        audit.record(session, caller, "names.searched", found.id, {}, detail={"entities": ids})
        counts = entities.count_mentions(session, rows)
        items = [EntityView.of(row, counts.get(row.id, {})) for row in rows]
        return EntityList(items=items, next_cursor=None)


@studies_router.post("/look-ups", responses=problems(StudyNotFound, EntityNotFound, *READ_ERRORS))
def look_up(study: StudyName, wanted: LookUp, caller: Custodian, services: ServicesDep) -> LookedUp:
    """Read who is behind pseudonyms. Each is recorded with your token and the reason."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        rows = entities.find_several(
            session, caller, found.id, ids=wanted.entities, pseudonyms=wanted.pseudonyms
        )
        records = entities.look_up(session, services, caller, rows, wanted.reason)
        items = [NamesView.of(row, records[row.id]) for row in rows if row.id in records]
        return LookedUp(items=items)


@studies_router.get("/look-ups", responses=problems(StudyNotFound, BadCursor, Erased))
def list_look_ups(
    study: StudyName,
    caller: Auditor,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> Lookups:
    """Who has read names of the linkage store, when and why; newest first."""
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
        page = entities.page_of_look_ups(session, found.id, limit=limit, cursor=cursor)
        return Lookups(
            items=[LookupView.of(row) for row in page.rows], next_cursor=page.next_cursor
        )


# --- one entity -----------------------------------------------------------------------------------


@router.get("", responses=problems(EntityNotFound, Erased))
def read_entity(
    entity_id: UUID, caller: Keeper, services: ServicesDep, response: Response
) -> EntityView:
    """An entity without its names; of a merged one, the entity that it was merged into."""
    with services.sessionmaker() as session:
        found = entities.find_entity(session, caller, entity_id)
        counts = entities.count_mentions(session, [found])
        return EntityView.of(found, counts.get(found.id, {}), response)


@router.patch(
    "",
    responses=problems(
        EntityNotFound, EntityChanged, VersionMissing, *PSEUDONYM_ERRORS, *NAME_ERRORS
    ),
)
def change_entity(
    entity_id: UUID,
    change: EntityChange,
    caller: Keeper,
    services: ServicesDep,
    response: Response,
    if_match: IfMatch = None,
) -> EntityView:
    """Change its kind, its pseudonym, or whether it is always replaced.

    The old pseudonym is never used again, and earlier releases that show it are outdated."""
    based_on = version_of(if_match)
    with services.sessionmaker.begin() as session:
        found = entities.find_entity(session, caller, entity_id)
        entity_changes.change_entity(session, services, caller, found, based_on, change.changes())
        counts = entities.count_mentions(session, [found])
        return EntityView.of(found, counts.get(found.id, {}), response)


@router.post("/aliases", responses=problems(EntityNotFound, *NAME_ERRORS))
def add_alias(entity_id: UUID, body: NameBody, caller: Keeper, services: ServicesDep) -> AliasAdded:
    """Add a spelling of its name. Open transcripts of the study are searched for it."""
    with services.sessionmaker.begin() as session:
        found = entities.find_entity(session, caller, entity_id, lock=True)
        added = entities.add_alias(session, services, caller, found, body.name, "reviewer")
        _record_names_changed(session, caller, found)
        return AliasAdded(added=added, version=found.version)


@router.post("/aliases/remove", responses=problems(EntityNotFound, AliasNotFound, *NAME_ERRORS))
def remove_alias(
    entity_id: UUID, body: NameBody, caller: Keeper, services: ServicesDep
) -> AliasAdded:
    """Remove a spelling that was added by mistake. Decisions on its mentions stay as they are."""
    with services.sessionmaker.begin() as session:
        found = entities.find_entity(session, caller, entity_id, lock=True)
        entity_changes.remove_alias(session, services, found, body.name)
        _record_names_changed(session, caller, found)
        return AliasAdded(added=False, version=found.version)


@router.post(
    "/merge", responses=problems(EntityNotFound, EntitiesNotMergeable, EntityChanged, *NAME_ERRORS)
)
def merge_entity(
    entity_id: UUID, body: MergeBody, caller: Keeper, services: ServicesDep, response: Response
) -> EntityView:
    """Two entities are one: the other one gets the names and the mentions of this one.

    Releases that show this one's pseudonym are outdated."""
    with services.sessionmaker.begin() as session:
        target = entity_changes.merge_entities(session, services, caller, entity_id, body.into)
        counts = entities.count_mentions(session, [target])
        return EntityView.of(target, counts.get(target.id, {}), response)


@router.post(
    "/split",
    status_code=201,
    responses=problems(EntityNotFound, AliasNotFound, *PSEUDONYM_ERRORS, *NAME_ERRORS),
)
def split_entity(
    entity_id: UUID, body: SplitBody, caller: Keeper, services: ServicesDep, response: Response
) -> EntityView:
    """Move names to a new entity. Mentions with these names move too, and wait for a decision."""
    with services.sessionmaker.begin() as session:
        found = entities.find_entity(session, caller, entity_id)
        made = entity_changes.split_entity(
            session,
            services,
            caller,
            found,
            body.names,
            kind=body.kind,
            pseudonym=body.pseudonym,
        )
        counts = entities.count_mentions(session, [made])
        return EntityView.of(made, counts.get(made.id, {}), response)


@router.delete("", status_code=204, responses=problems(EntityNotFound, Erased))
def delete_entity(entity_id: UUID, caller: Eraser, services: ServicesDep) -> None:
    """Destroy the key of its names. The pseudonym stays in releases, and nobody can tell whose."""
    with services.sessionmaker.begin() as session:
        found = entities.find_entity(session, caller, entity_id, lock=True)
        audit.act_for(session, caller)
        entity_changes.erase_entity(session, services, found)


def _record_names_changed(session: DbSession, caller: Caller, entity: Entity) -> None:
    detail: dict[str, audit.Value] = {"fields": ["names"], "version": entity.version}
    place = entities.place_of(entity)
    audit.record(session, caller, "entity.changed", entity.study_id, place, detail=detail)
