"""Imports a study's roster from a list, and exports it for the custodian only.

ServiceError
├── RosterConflict
└── CustodianKeyMissing
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal
from uuid import UUID, uuid4

import pyrage
from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.lexicons import read_lexicons
from models.deidentification.study_roster import RosterRow, format_study_roster
from models.deidentification.vocabulary import MONTHS
from service.database import tables
from service.database.tables import Entity, Study
from service.domain.callers import Caller
from service.domain.chosen_names import is_used
from service.domain.entities import (
    EntityName,
    EntityRecord,
    LookupReason,
    fold,
    linkage,
    list_entities,
    lock_study,
    new_date_shift,
    pseudonym_taken,
    read_records,
    record_reading,
    store_record,
    take_chosen_name,
    used_pseudonyms,
    write_record,
)
from service.domain.locks import refuse_duplicate
from service.domain.studies import read_policy
from service.errors import ServiceError
from service.services import Services

WRITERS = 8  # threads: writing a file is mostly waiting for the disk
PEOPLE = ("person", "participant", "interviewer")
INTERVIEWING_ROLES = ("interviewer", "moderator")

RosterNote = Literal["common_word", "same_name", "name_differs", "pseudonym_in_use"]

log = logging.getLogger(__name__)


class RosterConflict(ServiceError):
    """An entry of the roster contradicts an entity that the study has."""

    code: ClassVar[str] = "roster_conflict"
    status: ClassVar[int] = 409


class CustodianKeyMissing(ServiceError):
    """The study has no custodian's key to encrypt the linkage table to."""

    code: ClassVar[str] = "custodian_key_missing"
    status: ClassVar[int] = 409


@dataclass
class Imported:
    """The result of an import. `notes`: the number of an entry, and what to look at."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    notes: list[tuple[int, RosterNote]] = field(default_factory=list)
    aliased: list[Entity] = field(default_factory=list)
    """Entities that have new names."""


def import_roster(
    session: DbSession,
    services: Services,
    caller: Caller,
    study_id: UUID,
    rows: Sequence[RosterRow],
) -> Imported:
    """Add the entries of a roster to a study. Nothing is removed; a second import changes nothing.

    An entry belongs to the entity with its code, else to the first one with its name that no
    earlier entry has taken: two entries of one name are two people.

    Args:
        rows: as `check_row` returns them.

    Raises:
        RosterConflict, PseudonymTaken, PseudonymOccurs, BadPseudonym
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    study = lock_study(session, study_id)
    known = _KnownEntities(session, services, study)
    done = Imported()
    new: list[tuple[Entity, EntityRecord]] = []
    for row in rows:
        entity = known.find(row)
        if entity is None:
            entity = _new_entity(known, caller, study_id, row)
            record = EntityRecord(
                tuple(EntityName(name, "roster") for name in row.names),
                row.descriptor,
                new_date_shift() if entity.kind == "participant" else None,
                row.chosen_name,
            )
            if row.chosen_name is not None:
                take_chosen_name(session, services, study_id, row.chosen_name)
            session.add(entity)
            new.append((entity, record))
            known.add(entity, record)
            done.created += 1
        elif _update(session, services, known, entity, row, done):
            done.updated += 1
        else:
            done.unchanged += 1
    with refuse_duplicate("uq_entity_pseudonym", pseudonym_taken()):
        session.flush()
    _store(services, new)
    session.flush()
    done.aliased += [entity for entity, _ in new]
    done.notes += _notes(services, study, known, rows)
    log.info(
        "study %s: roster imported, %d entities new, %d changed",
        study_id,
        done.created,
        done.updated,
    )
    return done


class _KnownEntities:
    """The study's entities by code and by name."""

    def __init__(self, session: DbSession, services: Services, study: Study) -> None:
        rosters = select(tables.Session.roster).where(tables.Session.study_id == study.id)
        self.roles = {
            person["code"]: person["role"]
            for roster in session.scalars(rosters)
            for person in roster
        }
        self.used = used_pseudonyms(session, study.id) - set(self.roles)
        self.records: dict[UUID, EntityRecord] = {}
        self.by_code: dict[str, Entity] = {}
        self.by_name: defaultdict[tuple[str, str], list[Entity]] = defaultdict(list)
        self.taken: set[UUID] = set()
        entities = list_entities(session, study.id)
        records = read_records(services, entities)
        for entity in entities:
            if entity.id in records:
                self._index(entity, records[entity.id])

    def add(self, entity: Entity, record: EntityRecord) -> None:
        self._index(entity, record)
        self.taken.add(entity.id)

    def _index(self, entity: Entity, record: EntityRecord) -> None:
        self.records[entity.id] = record
        if entity.pseudonym is not None:
            self.by_code[entity.pseudonym] = entity
        for name in record.surfaces[:1]:
            self.by_name[_group(entity.kind), fold(name)].append(entity)

    def find(self, row: RosterRow) -> Entity | None:
        """
        Raises:
            RosterConflict
        """
        if row.code is not None and (entity := self.by_code.get(row.code)) is not None:
            if _group(entity.kind) != _group(row.kind) or entity.id in self.taken:
                raise RosterConflict(
                    f"Entry {row.number} of the roster: {row.code} is the code of another entity"
                )
            self.taken.add(entity.id)
            return entity
        if row.code is not None and row.code in self.used:
            raise RosterConflict(
                f"Entry {row.number} of the roster: {row.code} was the code of an entity that was "
                "erased, merged or renamed"
            )
        for entity in self.by_name[_group(row.kind), fold(row.names[0])]:
            if entity.id not in self.taken and (row.code is None or entity.pseudonym is None):
                self.taken.add(entity.id)
                return entity
        return None


def _group(kind: str) -> str:
    return "person" if kind in PEOPLE else kind


def _new_entity(known: _KnownEntities, caller: Caller, study_id: UUID, row: RosterRow) -> Entity:
    return Entity(
        id=uuid4(),
        study_id=study_id,
        kind=_kind(known, row),
        pseudonym=row.code,
        always=row.always,
        token_id=caller.token_id,
        version=1,
    )


def _kind(known: _KnownEntities, row: RosterRow) -> str:
    """A person with a code takes part in sessions; the code or a session says how."""
    if row.kind != "person" or row.code is None or row.code.startswith("PERSON-"):
        return row.kind
    role = known.roles.get(row.code)
    if role is None:
        return "interviewer" if row.code[0] in "IM" else "participant"
    return "interviewer" if role in INTERVIEWING_ROLES else "participant"


def _update(
    session: DbSession,
    services: Services,
    known: _KnownEntities,
    entity: Entity,
    row: RosterRow,
    done: Imported,
) -> bool:
    """Add what an entry says of an entity.

    Returns:
        False if the entity has all of it.
    """
    record = known.records[entity.id]
    spelt = set(map(fold, record.surfaces))
    if fold(row.names[0]) not in spelt:
        done.notes.append((row.number, "name_differs"))
    added = tuple(EntityName(name, "roster") for name in row.names if fold(name) not in spelt)
    new = replace(
        record,
        names=record.names + added,
        descriptor=row.descriptor or record.descriptor,
        chosen_name=row.chosen_name or record.chosen_name,
    )
    if new.chosen_name is not None and new.chosen_name != record.chosen_name:
        take_chosen_name(session, services, entity.study_id, new.chosen_name)
    before = entity.always, entity.pseudonym, entity.kind
    entity.always = entity.always or row.always
    entity.pseudonym = entity.pseudonym or row.code
    if entity.kind == "person":
        entity.kind = _kind(known, row)
    if entity.kind == "participant" and new.date_shift_days is None:
        new = replace(new, date_shift_days=new_date_shift())
    if new != record:
        write_record(services, entity, new)
        known.records[entity.id] = new
    elif before != (entity.always, entity.pseudonym, entity.kind):
        entity.version += 1
    if added:
        done.aliased.append(entity)
    return new != record or before != (entity.always, entity.pseudonym, entity.kind)


def _store(services: Services, new: Sequence[tuple[Entity, EntityRecord]]) -> None:
    """Create the keys of new entities and store their records, several at the same time."""
    _, keyring = linkage(services)

    def store(item: tuple[UUID, UUID, EntityRecord]) -> UUID:
        study_id, entity_id, record = item
        keyring.create_data_key(study_id, entity_id)
        return store_record(services, study_id, entity_id, record)

    items = [(entity.study_id, entity.id, record) for entity, record in new]
    with ThreadPoolExecutor(WRITERS) as writers:
        for (entity, _), artefact_id in zip(new, writers.map(store, items), strict=True):
            entity.record_artefact_id = artefact_id


def _notes(
    services: Services, study: Study, known: _KnownEntities, rows: Iterable[RosterRow]
) -> list[tuple[int, RosterNote]]:
    """Names that need a person's attention, by the entry's number."""
    owners: defaultdict[str, set[UUID]] = defaultdict(set)
    for id, record in known.records.items():
        for surface in record.surfaces:
            owners[fold(surface)].add(id)
    lexicons = read_lexicons()
    notes: list[tuple[int, RosterNote]] = []
    checks: dict[RosterNote, Callable[[str], bool]] = {
        "common_word": lambda name: name in lexicons.band or name in MONTHS,
        "same_name": lambda name: len(owners.get(name, ())) > 1,
        "pseudonym_in_use": lambda name: is_used(services, study, name),
    }
    for row in rows:
        if row.kind != "allowed":
            spelt = [fold(name) for name in row.names]
            notes += [
                (row.number, note) for note, check in checks.items() if any(map(check, spelt))
            ]
    return notes


# --- export ---------------------------------------------------------------------------------------


def export_linkage(
    session: DbSession, services: Services, caller: Caller, study: Study, reason: LookupReason
) -> bytes:
    """The linkage table as CSV, encrypted with age to the study's custodian keys only.

    Raises:
        CustodianKeyMissing
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    keys = read_policy(study).custodian_keys
    if not keys:
        raise CustodianKeyMissing(
            "The study has no custodian's key: an administrator sets it with `fieldscribe study "
            "set CODE --custodian-key`"
        )
    entities = list_entities(session, study.id)
    records = read_records(services, entities)
    rows = [
        RosterRow(
            number,
            entity.kind,
            entity.pseudonym,
            records[entity.id].surfaces,
            entity.always,
            records[entity.id].descriptor,
            records[entity.id].chosen_name,
        )
        for number, entity in enumerate(entities, 1)
        if entity.id in records and records[entity.id].names
    ]
    record_reading(session, caller, study.id, reason)
    log.info("study %s: linkage table exported by token %s", study.id, caller.token_id)
    recipients = [pyrage.x25519.Recipient.from_str(key) for key in keys]
    encrypted: bytes = pyrage.encrypt(format_study_roster(rows).encode(), recipients)
    return encrypted


def is_recipient(text: str) -> bool:
    """Whether a text is a public key of age."""
    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        return False
    return True
