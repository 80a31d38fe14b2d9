"""What is stored about participants: contacts and attributes, in the vault's linkage class.

A participant is an entity whose pseudonym is the code. The names are in the entity's record;
contacts and attributes are a second artefact, under the same key.

ServiceError
├── ParticipantExists
└── ParticipantChanged
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID, uuid4

from sqlalchemy import or_, select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.participants import GivenConsent, ParticipantRow
from models.errors import BadParticipants
from models.roster import MAX_ROSTER
from service.database import tables
from service.database.tables import FINAL, Entity, Job, JobRecording, Participant, Recording, Study
from service.domain import audit
from service.domain.callers import Caller
from service.domain.entities import (
    EntityName,
    create_entity,
    fold,
    linkage,
    lock_study,
    read_record,
    write_record,
)
from service.domain.participants import (
    ROLE,
    list_participants,
    newest_consents,
    record_consent,
    sessions_of,
)
from service.domain.queue import request_cancel
from service.errors import ServiceError
from service.services import Services
from service.vault.errors import Erased
from service.vault.store import Artefact

RECORD = "participant"  # kind of the artefact

log = logging.getLogger(__name__)


class ParticipantExists(ServiceError):
    """The study has a participant with this code, or had one."""

    code: ClassVar[str] = "participant_exists"
    status: ClassVar[int] = 409


class ParticipantChanged(ServiceError):
    """The participant was changed since the version that the request is based on."""

    code: ClassVar[str] = "participant_changed"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class ParticipantRecord:
    """What the linkage store holds about a participant, apart from names."""

    contacts: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


# --- creating and changing ------------------------------------------------------------------------


def create_participant(
    session: DbSession,
    services: Services,
    caller: Caller,
    study_id: UUID,
    code: str,
    *,
    names: Sequence[str] = (),
    record: ParticipantRecord = ParticipantRecord(),
) -> Participant:
    """Create a participant. The entity with this code is theirs; without one, it is created.

    Raises:
        ParticipantExists, PseudonymTaken, BadPseudonym, BadParticipants
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    study = lock_study(session, study_id)
    _refuse_unknown_attributes(study, record)
    same = select(Participant.id).where(Participant.study_id == study_id, Participant.code == code)
    if session.scalar(same) is not None:
        raise ParticipantExists(f"The study has a participant {code}, or had one")
    entity = session.scalar(
        select(Entity).where(Entity.study_id == study_id, Entity.pseudonym == code)
    )
    if entity is None:
        entity = create_entity(
            session, services, caller, study_id, "participant", names, pseudonym=code
        )
    elif entity.erased_at is not None or entity.merged_into is not None:
        raise ParticipantExists(f"{code} was the code of a person who was erased or renamed")
    else:
        _add_names(services, entity, names)
        entity.kind = "participant"
    made = Participant(
        id=uuid4(),
        study_id=study_id,
        code=code,
        entity_id=entity.id,
        token_id=caller.token_id,
        version=1,
    )
    session.add(made)
    session.flush()
    if record != ParticipantRecord():
        _write(services, made, record)
    session.flush()
    audit.record(session, caller, "participant.created", study_id, {"participant": code})
    return made


def _add_names(services: Services, entity: Entity, names: Sequence[str]) -> bool:
    """
    Returns:
        False if the entity has these names.
    """
    record = read_record(services, entity)
    known = set(map(fold, record.surfaces))
    added = tuple(EntityName(name, "import") for name in names if fold(name) not in known)
    if added:
        write_record(services, entity, replace(record, names=record.names + added))
    return bool(added)


def _refuse_unknown_attributes(study: Study, record: ParticipantRecord) -> None:
    """
    Raises:
        BadParticipants
    """
    if not set(record.attributes) <= set(study.attributes):
        raise BadParticipants(
            "An attribute is not defined: fieldscribe study set CODE --attribute NAME."
        )


def change_participant(
    session: DbSession,
    services: Services,
    caller: Caller,
    row: Participant,
    based_on: int,
    changes: Mapping[str, object],
) -> None:
    """
    Args:
        based_on: the version that the caller has read.
        changes: new `contacts` and `attributes`, each replacing all of the old ones.

    Raises:
        ParticipantChanged, BadParticipants
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    session.refresh(row, with_for_update=True)
    if row.erased_at is not None:
        raise Erased("The participant was erased")
    if row.version != based_on:
        raise ParticipantChanged(f"The participant's version is {row.version}: read it again")
    record = replace(read_participant(services, row), **changes)  # type: ignore[arg-type]
    _refuse_unknown_attributes(session.get_one(Study, row.study_id), record)
    _write(services, row, record)
    row.version += 1
    audit.record(session, caller, "participant.changed", row.study_id, {"participant": row.code})


# --- contacts and attributes ----------------------------------------------------------------------


def read_participant(services: Services, row: Participant) -> ParticipantRecord:
    """
    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    if row.erased_at is not None:
        raise Erased("The participant was erased")
    if row.record_artefact_id is None:
        return ParticipantRecord()
    store, keyring = linkage(services)
    artefact = Artefact(row.study_id, row.entity_id, RECORD, row.record_artefact_id)
    with store.open(artefact, keyring.data_key(row.study_id, row.entity_id)) as file:
        document = json.loads(file.read())
    return ParticipantRecord(tuple(document["contacts"]), document["attributes"])


def _write(services: Services, row: Participant, record: ParticipantRecord) -> None:
    store, keyring = linkage(services)
    artefact = Artefact(row.study_id, row.entity_id, RECORD)
    with store.write(artefact, keyring.data_key(row.study_id, row.entity_id)) as file:
        file.write(json.dumps(asdict(record)).encode())
    if row.record_artefact_id is not None:
        store.keep_another_week(row.record_artefact_id)  # a backup that is running may name it
    row.record_artefact_id = artefact.id


def read_attributes(
    session: DbSession, services: Services, caller: Caller, study_id: UUID
) -> dict[str, Mapping[str, str]]:
    """The attributes of everybody who takes part, by code. The reading is recorded.

    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    rows = [row for row in list_participants(session, study_id) if row.erased_at is None]
    audit.record(session, caller, "participant.attributes_read", study_id, {"study": study_id})
    return {row.code: read_participant(services, row).attributes for row in rows}


# --- import ---------------------------------------------------------------------------------------


@dataclass
class Imported:
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    consents: int = 0


def import_participants(
    session: DbSession,
    services: Services,
    caller: Caller,
    study_id: UUID,
    rows: Iterable[ParticipantRow],
) -> Imported:
    """Add the entries of a list. Nothing is removed, and a second import changes nothing.

    Raises:
        BadParticipants, ParticipantExists, PseudonymTaken, BadPseudonym
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    study = lock_study(session, study_id)
    known = {row.code: row for row in list_participants(session, study_id)}
    query = select(tables.Session).where(
        tables.Session.study_id == study_id, tables.Session.erased_at.is_(None)
    )
    interviews = {each.code: each for each in session.scalars(query.with_for_update())}
    done, renewed = Imported(), []
    for entry in rows:
        unknown = set(entry.sessions) - set(interviews)
        if unknown:
            raise BadParticipants(
                f"Entry {entry.number} of the list names a session that the study does not have."
            )
        row = known.get(entry.code)
        is_new = row is None
        if row is None:
            record = ParticipantRecord(entry.contacts, entry.attributes)
            row = create_participant(
                session, services, caller, study_id, entry.code, names=entry.names, record=record
            )
            changed = False
        else:
            changed = _update(session, services, caller, study, row, entry)
        for code in entry.sessions:
            changed |= _add_to_roster(interviews[code], entry)
        if entry.consent is not None:
            if _record_new_consent(session, caller, row, entry.consent):
                done.consents += 1
                renewed.append(row)
        done.created += is_new
        done.updated += changed and not is_new
        done.unchanged += not changed and not is_new
    session.flush()
    for row in renewed:
        cancel_unconsented(session, row)
    log.info("study %s: participants imported, %d new", study_id, done.created)
    return done


def _update(
    session: DbSession,
    services: Services,
    caller: Caller,
    study: Study,
    row: Participant,
    entry: ParticipantRow,
) -> bool:
    if row.erased_at is not None:
        raise ParticipantExists(f"{row.code} was the code of a person who has withdrawn")
    changed = _add_names(services, session.get_one(Entity, row.entity_id), entry.names)
    old = read_participant(services, row)
    contacts = (*old.contacts, *(one for one in entry.contacts if one not in old.contacts))
    new = ParticipantRecord(contacts, {**old.attributes, **entry.attributes})
    _refuse_unknown_attributes(study, new)
    if new != old:
        _write(services, row, new)
    if changed or new != old:
        row.version += 1
        objects = {"participant": row.code}
        audit.record(session, caller, "participant.changed", row.study_id, objects)
    return changed or new != old


def _add_to_roster(interview: tables.Session, entry: ParticipantRow) -> bool:
    """
    Returns:
        False if the person is on the session's roster.
    """
    if any(person["code"] == entry.code for person in interview.roster):
        return False
    if len(interview.roster) >= MAX_ROSTER:
        raise BadParticipants(
            f"Entry {entry.number} of the list: {interview.code} has {MAX_ROSTER} people already."
        )
    interview.roster = [*interview.roster, {"code": entry.code, "role": ROLE}]
    return True


def _record_new_consent(
    session: DbSession, caller: Caller, row: Participant, given: GivenConsent
) -> bool:
    newest = newest_consents(session, [row]).get(row.id)
    if newest is not None:
        known = GivenConsent(newest.sheet_version, newest.given_on, tuple(newest.scopes))
        if known == given:
            return False
    record_consent(session, caller, row, given)
    return True


# --- jobs ---------------------------------------------------------------------------------------


def cancel_unconsented(session: DbSession, row: Participant) -> int:
    """Cancel the unfinished jobs of a participant's sessions, if they no longer consent.

    Returns:
        The number of jobs.
    """
    consent = newest_consents(session, [row]).get(row.id)
    consents = set() if consent is None else set(consent.scopes)
    if {"recording", "transcription"} <= consents and row.withdrawn_at is None:
        return 0
    study = session.get_one(Study, row.study_id)
    if "recording" in study.consent_warnings:
        return 0
    ids = [each.id for each in sessions_of(session, row.study_id).get(row.code, ())]
    recorded = (
        select(JobRecording.job_id)
        .join(Recording, Recording.id == JobRecording.recording_id)
        .where(Recording.session_id.in_(ids))
    )
    query = select(Job).where(
        or_(Job.session_id.in_(ids), Job.id.in_(recorded)), Job.status.not_in(FINAL)
    )
    jobs = session.scalars(query.order_by(Job.id).with_for_update()).all()
    for job in jobs:
        request_cancel(session, job)
    return len(jobs)


# --- erasing --------------------------------------------------------------------------------------


def erase_records(session: DbSession, services: Services, entities: Iterable[UUID]) -> None:
    """Delete the records of participants whose entities are erased. Safe to run twice."""
    store, _ = linkage(services)
    query = select(Participant).where(Participant.entity_id.in_(list(entities)))
    for row in session.scalars(query):
        if row.record_artefact_id is not None:
            store.delete(row.record_artefact_id)
        row.record_artefact_id = None
        row.erased_at = row.erased_at or datetime.now(UTC)
