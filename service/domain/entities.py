"""Entities of a study: the people, organisations and places behind its pseudonyms.

A row holds the kind and the pseudonym. The names are in the vault's linkage class, each entity's
under a key of its own, so that one person can be erased.

ServiceError
├── EntityNotFound
└── of chosen_names: PseudonymTaken, PseudonymOccurs, BadPseudonym
"""

import json
import logging
import random
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal
from uuid import UUID, uuid4

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session as DbSession

from models.deidentification.pseudonyms import bracket, free_code
from models.deidentification.reading import DETECTED_KINDS
from models.deidentification.study_roster import is_valid_pseudonym, tidy
from service.database import tables
from service.database.tables import (
    Entity,
    LinkageLookup,
    Mention,
    Release,
    StoredTranscript,
    Study,
)
from service.domain import audit
from service.domain.callers import Caller
from service.domain.chosen_names import BadPseudonym, PseudonymTaken, choose_name, take_name
from service.domain.locks import refuse_duplicate
from service.domain.pages import Page, make_cursor, page_of, read_cursor
from service.domain.studies import read_policy
from service.errors import ServiceError
from service.services import Services
from service.vault import ArtefactClass
from service.vault.errors import READ_ERRORS, Erased
from service.vault.keys import KeyRing
from service.vault.store import Artefact, Store
from service.vault.streaming import Key

RECORD = "entity"  # kind of the artefact
MAX_DATE_SHIFT = 180  # days
NAMED_KINDS = ("participant", "person")  # get chosen names where the study wants them

EntityKind = Literal[
    "participant", "interviewer", "person", "organisation", "place", "other", "allowed"
]
NameSource = Literal["roster", "reviewer", "import"]
LookupReason = Literal[
    "review",
    "release",
    "withdrawal",
    "member_checking",
    "duty_of_care",
    "correction",
    "audit",
    "export",
]
"""A fixed list, so that nobody can enter a name as a reason."""
KIND_IN_CLAIMS = DETECTED_KINDS

log = logging.getLogger(__name__)


class EntityNotFound(ServiceError):
    """There is no such entity, or it is not yours."""

    code: ClassVar[str] = "entity_not_found"
    status: ClassVar[int] = 404


@dataclass(frozen=True)
class EntityName:
    """One spelling of an entity's name. `match`: `exact`, or `fuzzy` if variants count too."""

    surface: str
    source: str
    match: str = "fuzzy"


@dataclass(frozen=True)
class EntityRecord:
    """What the linkage store holds about an entity. The first name is the main one.

    `date_shift_days`: added to a participant's dates if the study's policy is to shift dates.
    `chosen_name`: shown in releases instead of the code.
    """

    names: tuple[EntityName, ...]
    descriptor: str | None = None
    date_shift_days: int | None = None
    chosen_name: str | None = None

    @property
    def surfaces(self) -> tuple[str, ...]:
        return tuple(name.surface for name in self.names)


def fold(surface: str) -> str:
    """The form in which surfaces are compared: case-folded, white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", surface).casefold().split())


# --- finding and creating -------------------------------------------------------------------------


def find_entity(
    session: DbSession, caller: Caller, entity_id: UUID, *, lock: bool = False
) -> Entity:
    """The entity, or the one that it was merged into.

    Raises:
        EntityNotFound: it does not exist, or is not the caller's.
        Erased
    """
    entity = _get(session, entity_id, lock=lock)
    if entity is None or not caller.may_see(entity.study_id):
        raise EntityNotFound("There is no such entity, or it is not yours")
    while entity.merged_into is not None:
        target = _get(session, entity.merged_into, lock=lock)
        assert target is not None
        entity = target
    if entity.erased_at is not None:
        raise Erased("The entity was erased")
    return entity


def _get(session: DbSession, entity_id: UUID, *, lock: bool) -> Entity | None:
    return session.get(
        Entity,
        entity_id,
        with_for_update={"key_share": True} if lock else None,
        populate_existing=lock,
    )


def list_entities(session: DbSession, study_id: UUID) -> list[Entity]:
    """The study's entities in order of creation, without erased and merged ones."""
    query = select(Entity).where(
        Entity.study_id == study_id, Entity.erased_at.is_(None), Entity.merged_into.is_(None)
    )
    return list(session.scalars(query.order_by(Entity.created_at, Entity.id)))


def find_several(
    session: DbSession,
    caller: Caller,
    study_id: UUID,
    *,
    ids: Sequence[UUID],
    pseudonyms: Sequence[str],
) -> list[Entity]:
    """Entities of a study by id and by pseudonym, each once.

    Raises:
        EntityNotFound: the study has no such entity.
        Erased
    """
    query = select(Entity.id, Entity.pseudonym).where(
        Entity.study_id == study_id, Entity.pseudonym.in_(pseudonyms)
    )
    by_code = {code: id for id, code in session.execute(query)}
    if not set(pseudonyms) <= by_code.keys():
        raise EntityNotFound("The study has no entity with one of these pseudonyms")
    found = {}
    for id in (*ids, *(by_code[code] for code in pseudonyms)):
        entity = find_entity(session, caller, id)
        if entity.study_id != study_id:
            raise EntityNotFound("There is no such entity, or it is not yours")
        found[entity.id] = entity
    return list(found.values())


def page_of_entities(
    session: DbSession,
    study_id: UUID,
    *,
    kinds: Sequence[str],
    pseudonym: str | None = None,
    limit: int,
    cursor: str | None,
) -> Page[Entity]:
    """A study's entities without merged ones, newest first.

    Raises:
        BadCursor
    """
    query = select(Entity).where(Entity.study_id == study_id, Entity.merged_into.is_(None))
    if kinds:
        query = query.where(Entity.kind.in_(kinds))
    if pseudonym is not None:
        query = query.where(Entity.pseudonym == pseudonym)
    return page_of(session, Entity, query, limit=limit, cursor=cursor)


def count_mentions(session: DbSession, entities: Iterable[Entity]) -> dict[UUID, dict[str, int]]:
    """The number of mentions of each entity, by state."""
    query = (
        select(Mention.entity_id, Mention.state, func.count())
        .where(Mention.entity_id.in_([entity.id for entity in entities]))
        .group_by(Mention.entity_id, Mention.state)
    )
    counts: dict[UUID, dict[str, int]] = {}
    for id, state, number in session.execute(query):
        if id is not None:
            counts.setdefault(id, {})[state] = number
    return counts


def create_entity(
    session: DbSession,
    services: Services,
    caller: Caller,
    study_id: UUID,
    kind: EntityKind,
    names: Sequence[str],
    *,
    pseudonym: str | None = None,
    always: bool = False,
    descriptor: str | None = None,
    chosen_name: str | None = None,
    source: NameSource = "reviewer",
) -> Entity:
    """Create an entity with a key of its own and store its names.

    Args:
        names: the main name, then aliases.
        pseudonym: None to choose one when a mention is first accepted.
        always: replace its names in every transcript.
        descriptor: keeps some of the meaning in releases: `regional town`.
        chosen_name: for releases, instead of the pseudonym.

    Raises:
        PseudonymTaken, PseudonymOccurs, BadPseudonym
        Sealed, Erased, KeyMissing, KeyDamaged, DiskFull
    """
    if pseudonym is not None:
        require_pseudonym(pseudonym)
    if chosen_name is not None:
        take_chosen_name(session, services, study_id, chosen_name)
    entity = Entity(
        id=uuid4(),
        study_id=study_id,
        kind=kind,
        pseudonym=pseudonym,
        always=always,
        token_id=caller.token_id,
        version=1,
    )
    session.add(entity)
    with refuse_duplicate("uq_entity_pseudonym", pseudonym_taken()):
        session.flush()
    linkage(services)[1].create_data_key(study_id, entity.id)
    spelt: dict[str, str] = {}
    for name in map(tidy, names):
        if name:
            spelt.setdefault(fold(name), name)
    record = EntityRecord(
        tuple(EntityName(name, source) for name in spelt.values()),
        descriptor,
        new_date_shift() if kind == "participant" else None,
        chosen_name,
    )
    write_record(services, entity, record)
    session.flush()
    audit.record(session, caller, "entity.created", study_id, place_of(entity))
    return entity


def place_of(entity: Entity) -> dict[str, UUID | str]:
    """The entity and its pseudonym, for the audit trail. A chosen name is no pseudonym."""
    place: dict[str, UUID | str] = {"entity": entity.id}
    return place | ({} if entity.pseudonym is None else {"participant": entity.pseudonym})


def pseudonym_taken() -> PseudonymTaken:
    return PseudonymTaken("The study has used this pseudonym already: choose another")


def new_date_shift() -> int:
    """Return a random number of days within ±MAX_DATE_SHIFT, never 0."""
    days = random.SystemRandom().randint(1, MAX_DATE_SHIFT)
    return days if random.SystemRandom().random() < 0.5 else -days


# --- names ----------------------------------------------------------------------------------------


def linkage(services: Services) -> tuple[Store, KeyRing]:
    vault = services.vault
    return vault.stores[ArtefactClass.LINKAGE], vault.keyrings[ArtefactClass.LINKAGE]


def read_record(services: Services, entity: Entity) -> EntityRecord:
    """
    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    key = linkage(services)[1].data_key(entity.study_id, entity.id)
    return _read(services, entity, key)


def read_records(services: Services, entities: Iterable[Entity]) -> dict[UUID, EntityRecord]:
    """The records by entity, without those of erased entities. All are of one study.

    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    readable = [entity for entity in entities if entity.record_artefact_id is not None]
    if not readable:
        return {}
    (study_id,) = {entity.study_id for entity in readable}
    keys = linkage(services)[1].data_keys(study_id, [entity.id for entity in readable])
    return {
        entity.id: _read(services, entity, keys[entity.id])
        for entity in readable
        if entity.id in keys
    }


def _read(services: Services, entity: Entity, key: Key) -> EntityRecord:
    if entity.record_artefact_id is None:
        raise Erased("The entity was erased")
    artefact = Artefact(entity.study_id, entity.id, RECORD, entity.record_artefact_id)
    try:
        with linkage(services)[0].open(artefact, key) as file:
            document = json.loads(file.read())
    except READ_ERRORS as error:
        log.error("entity %s: its names cannot be read, %s", entity.id, error.code)
        raise
    return EntityRecord(
        tuple(EntityName(**name) for name in document["names"]),
        document["descriptor"],
        document["date_shift_days"],
        document.get("chosen_name"),
    )


def write_record(services: Services, entity: Entity, record: EntityRecord) -> None:
    """Store a new record. The one that it replaces stays for a week, under the same key.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, DiskFull
    """
    artefact_id = store_record(services, entity.study_id, entity.id, record)
    if entity.record_artefact_id is not None:
        linkage(services)[0].keep_another_week(entity.record_artefact_id)
        entity.version += 1
    entity.record_artefact_id = artefact_id


def store_record(services: Services, study_id: UUID, entity_id: UUID, record: EntityRecord) -> UUID:
    """Write a record under the entity's key.

    Returns:
        Id of the artefact.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, DiskFull
    """
    store, keyring = linkage(services)
    artefact = Artefact(study_id, entity_id, RECORD)
    with store.write(artefact, keyring.data_key(study_id, entity_id)) as file:
        file.write(json.dumps(asdict(record)).encode())
    return artefact.id


def add_alias(
    session: DbSession,
    services: Services,
    caller: Caller,
    entity: Entity,
    surface: str,
    source: NameSource,
) -> bool:
    """Add a spelling to an entity.

    Returns:
        False if the entity had it already.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    session.flush()
    session.refresh(entity, with_for_update={"key_share": True})
    record = read_record(services, entity)
    surface = tidy(surface)
    if not surface or fold(surface) in map(fold, record.surfaces):
        return False
    named = replace(record, names=(*record.names, EntityName(surface, source)))
    write_record(services, entity, named)
    session.flush()
    return True


def find_by_name(
    session: DbSession, services: Services, study_id: UUID, surface: str
) -> list[Entity]:
    """Entities with this name, or with a name that contains all its words; exact ones first.

    Several people may have one name: a person decides which of them is meant.

    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    wanted, words = fold(surface), set(fold(surface).split())
    exact, partial = [], []
    entities = list_entities(session, study_id)
    records = read_records(services, entities)
    for entity in entities:
        names = [fold(name) for name in records[entity.id].surfaces] if entity.id in records else []
        if wanted in names:
            exact.append(entity)
        elif words and any(words <= set(name.split()) for name in names):
            partial.append(entity)
    return exact + partial


def look_up(
    session: DbSession,
    services: Services,
    caller: Caller,
    entities: Collection[Entity],
    reason: LookupReason,
    transcript_id: UUID | None = None,
) -> dict[UUID, EntityRecord]:
    """Read the names behind entities, and record each look-up with its reader and reason.

    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    records = read_records(services, entities)
    studies = {entity.id: entity.study_id for entity in entities}
    session.add_all(
        LinkageLookup(
            study_id=studies[id],
            entity_id=id,
            transcript_id=transcript_id,
            reason=reason,
            token_id=caller.token_id,
        )
        for id in records
    )
    known = [entity for entity in entities if entity.id in records]
    for study_id in {entity.study_id for entity in known}:
        _record_look_up(session, caller, study_id, reason, transcript_id, known)
    return records


def _record_look_up(
    session: DbSession,
    caller: Caller,
    study_id: UUID,
    reason: str,
    transcript_id: UUID | None,
    known: Sequence[Entity] | None = None,
) -> None:
    """Add the look-up to the audit trail, which says who has read what in one place.

    Args:
        known: whose names were read; None for all of the study's.
    """
    detail: dict[str, audit.Value] = {"all": known is None}
    if known is not None:
        detail["entities"] = [str(entity.id) for entity in known]
        detail["codes"] = [entity.pseudonym for entity in known if entity.pseudonym]
    objects: dict[str, UUID | str] = {} if transcript_id is None else {"transcript": transcript_id}
    audit.record(session, caller, "names.read", study_id, objects, reason=reason, detail=detail)


def record_reading(
    session: DbSession,
    caller: Caller,
    study_id: UUID,
    reason: LookupReason | Literal["deidentification"],
    transcript_id: UUID | None = None,
) -> None:
    """Record that somebody read all names of a study."""
    row = LinkageLookup(
        study_id=study_id, transcript_id=transcript_id, reason=reason, token_id=caller.token_id
    )
    session.add(row)
    _record_look_up(session, caller, study_id, reason, transcript_id)


@dataclass(frozen=True)
class LookupPage:
    rows: Sequence[LinkageLookup]
    next_cursor: str | None


def page_of_look_ups(
    session: DbSession, study_id: UUID, *, limit: int, cursor: str | None
) -> LookupPage:
    """Who has read names, newest first.

    Raises:
        BadCursor
    """
    query = select(LinkageLookup).where(LinkageLookup.study_id == study_id)
    place = tuple_(LinkageLookup.at, LinkageLookup.id)
    if cursor is not None:
        query = query.where(place < read_cursor(cursor))
    rows = session.scalars(
        query.order_by(LinkageLookup.at.desc(), LinkageLookup.id.desc()).limit(limit + 1)
    ).all()
    last = rows[limit - 1] if len(rows) > limit else None
    return LookupPage(rows[:limit], make_cursor(last.at, last.id) if last else None)


def allowed_surfaces(session: DbSession, services: Services, study_id: UUID) -> frozenset[str]:
    """The study's allow-list, folded: names that identify nobody.

    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    entities = [one for one in list_entities(session, study_id) if one.kind == "allowed"]
    records = read_records(services, entities).values()
    return frozenset(fold(surface) for record in records for surface in record.surfaces)


def claim_roster(session: DbSession, services: Services, study_id: UUID) -> list[dict[str, Any]]:
    """The study's names for a de-identifier: `id`, `kind`, `name` and `aliases`, no pseudonyms.

    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    entities = [one for one in list_entities(session, study_id) if one.kind in KIND_IN_CLAIMS]
    records = read_records(services, entities)
    return [
        {
            "id": str(entity.id),
            "kind": KIND_IN_CLAIMS[entity.kind],
            "name": records[entity.id].surfaces[0],
            "aliases": list(records[entity.id].surfaces[1:]),
        }
        for entity in entities
        if entity.id in records and records[entity.id].names
    ]


# --- pseudonyms -----------------------------------------------------------------------------------


def require_pseudonym(text: str) -> None:
    """
    Raises:
        BadPseudonym
    """
    if not is_valid_pseudonym(text):
        raise BadPseudonym("A pseudonym is a code, such as P07, I1 or PLACE-1")


def assign_pseudonym(session: DbSession, services: Services, entity: Entity) -> str:
    """The entity's code; if it has none yet, a random one that was never used.

    Call it when a mention of the entity is accepted. If the study gives people chosen names, it
    also chooses one, unless a release already shows the entity under its code.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    if entity.pseudonym is None:
        study = lock_study(session, entity.study_id)
        session.refresh(entity, with_for_update={"key_share": True})
        if entity.pseudonym is None:
            entity.pseudonym = free_code(entity.kind, used_pseudonyms(session, entity.study_id))
            entity.version += 1
            session.flush()
    if entity.kind in NAMED_KINDS and entity.record_artefact_id is not None:
        study = session.get_one(Study, entity.study_id)
        if read_policy(study).names == "chosen":
            _choose_name(session, services, entity)
    return entity.pseudonym


def _choose_name(session: DbSession, services: Services, entity: Entity) -> None:
    record = read_record(services, entity)
    if record.chosen_name is not None or is_released(session, entity):
        return
    study = lock_study(session, entity.study_id)
    session.refresh(entity, with_for_update={"key_share": True})
    record = read_record(services, entity)
    if record.chosen_name is None:
        name = choose_name(session, services, study, all_surfaces(session, services, study.id))
        if name is None:
            log.warning("study %s: no chosen name is left: people get codes", study.id)
            return
        write_record(services, entity, replace(record, chosen_name=name))
        session.flush()


def take_chosen_name(session: DbSession, services: Services, study_id: UUID, name: str) -> None:
    """Check that a name can be a pseudonym in the study, and record that it is used.

    Raises:
        BadPseudonym, PseudonymTaken, PseudonymOccurs
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    study = lock_study(session, study_id)
    take_name(session, services, study, name, all_surfaces(session, services, study_id))


def all_surfaces(session: DbSession, services: Services, study_id: UUID) -> list[str]:
    """Every name on the study's roster.

    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    records = read_records(services, list_entities(session, study_id)).values()
    return [surface for record in records for surface in record.surfaces]


def lock_study(session: DbSession, study_id: UUID) -> Study:
    """Lock the study: only one transaction at a time chooses pseudonyms or imports a roster."""
    session.flush()
    study = session.get(
        Study, study_id, with_for_update={"key_share": True}, populate_existing=True
    )
    assert study is not None
    return study


def is_released(session: DbSession, entity: Entity) -> bool:
    """Whether a transcript in which the entity speaks or is mentioned has been released."""
    mentions = select(Mention.transcript_id).where(
        Mention.entity_id == entity.id, Mention.state == "accepted"
    )
    query = select(Release.transcript_id, StoredTranscript.speakers).join(
        StoredTranscript, StoredTranscript.id == Release.transcript_id
    )
    released = session.execute(query.where(Release.study_id == entity.study_id)).all()
    mentioned = set(session.scalars(mentions.distinct()))
    return any(
        transcript_id in mentioned
        or any(speaker.get("code") == entity.pseudonym for speaker in speakers.values())
        for transcript_id, speakers in released
    )


def used_pseudonyms(session: DbSession, study_id: UUID) -> set[str]:
    """All present and former pseudonyms of entities, and the codes of people in sessions."""
    used = select(Entity.pseudonym).where(Entity.study_id == study_id)
    rosters = select(tables.Session.roster).where(tables.Session.study_id == study_id)
    named = select(StoredTranscript.speakers).where(StoredTranscript.study_id == study_id)
    codes = {person["code"] for roster in session.scalars(rosters) for person in roster}
    codes |= {
        name["code"]
        for speakers in session.scalars(named)
        for name in speakers.values()
        if name.get("code")
    }
    return codes | {pseudonym for pseudonym in session.scalars(used) if pseudonym}


def replacement(entity: Entity, record: EntityRecord | None) -> str:
    """The entity's text in releases: `P07`, `[PLACE-1: regional town]` or a chosen name.

    Args:
        record: None for an erased entity, which has only its code left.
    """
    if entity.pseudonym is None:
        raise ValueError("the entity has no pseudonym yet")
    if record is not None and record.chosen_name is not None:
        return record.chosen_name
    return bracket(entity.pseudonym, record.descriptor if record else None)
