"""Entities of a study: the people, organisations and places behind its pseudonyms.

A row holds the kind and the pseudonym. The names are in the vault's linkage class, each entity's
under a key of its own, so that one person can be erased.

ServiceError
├── EntityNotFound
├── PseudonymTaken
└── BadPseudonym
"""

import json
import logging
import random
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.pseudonyms import bracket, free_code, is_entity_code
from models.speaker_names import is_code, is_pseudonym
from service.database import tables
from service.database.tables import Entity, LinkageLookup, StoredTranscript, Study
from service.domain.callers import Caller
from service.domain.locks import refuse_duplicate
from service.errors import ServiceError
from service.services import Services
from service.vault import ArtefactClass
from service.vault.errors import Erased
from service.vault.keys import KeyRing
from service.vault.store import Artefact, Store

RECORD = "entity"  # kind of the artefact
MAX_DATE_SHIFT = 180  # days

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
"""A fixed list, so that no name can arrive here."""
KIND_IN_CLAIMS = {
    "participant": "person",
    "interviewer": "person",
    "person": "person",
    "organisation": "organisation",
    "place": "place",
    "other": "organisation",  # detectors know three kinds; this one expects the fewest variants
}

log = logging.getLogger(__name__)


class EntityNotFound(ServiceError):
    """There is no such entity, or it is not yours."""

    code: ClassVar[str] = "entity_not_found"
    status: ClassVar[int] = 404


class PseudonymTaken(ServiceError):
    """Another entity of the study has or had this pseudonym; it is never used again."""

    code: ClassVar[str] = "pseudonym_taken"
    status: ClassVar[int] = 409


class BadPseudonym(ServiceError):
    """The pseudonym is neither a code, such as P07 or PLACE-1, nor a name."""

    code: ClassVar[str] = "bad_pseudonym"
    status: ClassVar[int] = 422


@dataclass(frozen=True)
class EntityName:
    """One spelling of an entity's name. `match`: `exact`, or `fuzzy` if variants count too."""

    surface: str
    source: str
    match: str = "fuzzy"


@dataclass(frozen=True)
class EntityRecord:
    """What the linkage store holds about an entity. The first name is the main one.

    `date_shift_days`: of a participant, added to dates where the study's policy is to shift them.
    """

    names: tuple[EntityName, ...]
    descriptor: str | None = None
    date_shift_days: int | None = None

    @property
    def surfaces(self) -> tuple[str, ...]:
        return tuple(name.surface for name in self.names)


def fold(surface: str) -> str:
    """The form in which surfaces are compared: without case, and white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", surface).casefold().split())


def clean_name(surface: str) -> str:
    return " ".join(unicodedata.normalize("NFC", surface).split())


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
    source: NameSource = "reviewer",
) -> Entity:
    """Create an entity with a key of its own and store its names.

    Args:
        names: the main name, then aliases.
        pseudonym: None to choose one when a mention is first accepted.
        always: replace its names in every transcript.

    Raises:
        PseudonymTaken, BadPseudonym
        Sealed, Erased, KeyMissing, KeyDamaged, DiskFull
    """
    if pseudonym is not None:
        require_pseudonym(pseudonym)
    store, keyring = linkage(services)
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
    with refuse_duplicate("uq_entity_pseudonym", _taken()):
        session.flush()
    keyring.create_data_key(study_id, entity.id)
    spelt: dict[str, str] = {}
    for name in map(clean_name, names):
        if name:
            spelt.setdefault(fold(name), name)
    record = EntityRecord(
        tuple(EntityName(name, source) for name in spelt.values()),
        descriptor,
        _new_date_shift() if kind == "participant" else None,
    )
    write_record(services, entity, record)
    session.flush()
    return entity


def _taken() -> PseudonymTaken:
    return PseudonymTaken("The study has used this pseudonym already: choose another")


def _new_date_shift() -> int:
    """Days, never 0."""
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
    if entity.record_artefact_id is None:
        raise Erased("The entity was erased")
    store, keyring = linkage(services)
    artefact = Artefact(entity.study_id, entity.id, RECORD, entity.record_artefact_id)
    with store.open(artefact, keyring.data_key(entity.study_id, entity.id)) as file:
        document = json.loads(file.read())
    return EntityRecord(
        tuple(EntityName(**name) for name in document["names"]),
        document["descriptor"],
        document["date_shift_days"],
    )


def read_records(services: Services, entities: Iterable[Entity]) -> dict[UUID, EntityRecord]:
    """The records by entity, without those of erased entities.

    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    return {
        entity.id: read_record(services, entity)
        for entity in entities
        if entity.record_artefact_id is not None
    }


def write_record(services: Services, entity: Entity, record: EntityRecord) -> None:
    """Store a new record. The one that it replaces stays for a week, under the same key.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, DiskFull
    """
    store, keyring = linkage(services)
    artefact = Artefact(entity.study_id, entity.id, RECORD)
    with store.write(artefact, keyring.data_key(entity.study_id, entity.id)) as file:
        file.write(json.dumps(asdict(record)).encode())
    if entity.record_artefact_id is not None:
        store.keep_another_week(entity.record_artefact_id)
        entity.version += 1
    entity.record_artefact_id = artefact.id


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
    surface = clean_name(surface)
    if not surface or fold(surface) in map(fold, record.surfaces):
        return False
    named = replace(record, names=(*record.names, EntityName(surface, source)))
    write_record(services, entity, named)
    session.flush()
    return True


def look_up(
    session: DbSession,
    services: Services,
    caller: Caller,
    entities: Iterable[Entity],
    reason: LookupReason,
    transcript_id: UUID | None = None,
) -> dict[UUID, EntityRecord]:
    """Read who is behind entities, and record for each that it was read, by whom and why.

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
    return records


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
    if not (is_entity_code(text) or is_code(text) or is_pseudonym(text)):
        raise BadPseudonym(
            "A pseudonym is a code, such as P07 or PLACE-1, or a name of letters, digits, spaces "
            "and .'-"
        )


def assign_pseudonym(session: DbSession, services: Services, entity: Entity) -> str:
    """The entity's pseudonym; if it has none yet, a random one that was never used.

    Call it when a mention of the entity is first accepted.
    """
    if entity.pseudonym is None:
        # One transaction at a time chooses pseudonyms of a study.
        study = select(Study.id).where(Study.id == entity.study_id)
        session.execute(study.with_for_update(key_share=True))
        session.flush()
        session.refresh(entity, with_for_update={"key_share": True})
    if entity.pseudonym is None:
        entity.pseudonym = free_code(entity.kind, used_pseudonyms(session, entity.study_id))
        entity.version += 1
        session.flush()
    return entity.pseudonym


def used_pseudonyms(session: DbSession, study_id: UUID) -> set[str]:
    """Every pseudonym that an entity has or had, and the codes of people in sessions."""
    used = select(Entity.pseudonym).where(
        Entity.study_id == study_id, Entity.pseudonym.is_not(None)
    )
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
    """What stands for the entity in releases: `P07`, `[PLACE-1: regional town]`, a chosen name.

    Args:
        record: None for an erased entity.
    """
    if entity.pseudonym is None:
        raise ValueError("the entity has no pseudonym yet")
    return bracket(entity.pseudonym, record.descriptor if record else None)
