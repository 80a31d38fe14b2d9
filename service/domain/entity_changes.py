"""Renames, merges, splits and erases entities, and marks releases as outdated.

A release is never changed. When the replacement of an entity changes, the reviews of the
transcripts that mention it get a new version, so that their earlier releases count as outdated.

ServiceError
├── EntityChanged
├── AliasNotFound
└── EntitiesNotMergeable
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session as DbSession

from service.database.tables import (
    Decision,
    Entity,
    Job,
    Mention,
    Review,
    StoredTranscript,
    Study,
)
from service.domain import audit
from service.domain.callers import Caller
from service.domain.entities import (
    EntityKind,
    EntityNotFound,
    assign_pseudonym,
    create_entity,
    find_entity,
    fold,
    linkage,
    lock_study,
    place_of,
    pseudonym_taken,
    read_record,
    require_pseudonym,
    take_chosen_name,
    write_record,
)
from service.domain.locks import refuse_duplicate
from service.domain.participant_records import erase_records
from service.domain.transcripts import read_transcript
from service.errors import ServiceError
from service.services import Services
from service.vault.errors import Erased

EntityAction = Literal["rename", "merge", "split"]
CODED_KINDS = ("participant", "interviewer")

log = logging.getLogger(__name__)


class EntityChanged(ServiceError):
    """The entity was changed since the version that the request is based on."""

    code: ClassVar[str] = "entity_changed"
    status: ClassVar[int] = 409


class AliasNotFound(ServiceError):
    """The entity does not have this name, or it is its only one."""

    code: ClassVar[str] = "alias_not_found"
    status: ClassVar[int] = 409


class EntitiesNotMergeable(ServiceError):
    """The two entities cannot be merged, or only the other way round."""

    code: ClassVar[str] = "entities_not_mergeable"
    status: ClassVar[int] = 409


def remove_alias(session: DbSession, services: Services, entity: Entity, surface: str) -> None:
    """Remove a spelling, for example one that was added by mistake.

    If it was the main name, the next one becomes the main name.

    Raises:
        AliasNotFound
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    session.flush()
    session.refresh(entity, with_for_update={"key_share": True})
    record = read_record(services, entity)
    kept = tuple(name for name in record.names if fold(name.surface) != fold(surface))
    if len(kept) == len(record.names) or not kept:
        raise AliasNotFound("The entity does not have this name, or it is its only one")
    write_record(services, entity, replace(record, names=kept))
    session.flush()


def change_entity(
    session: DbSession,
    services: Services,
    caller: Caller,
    entity: Entity,
    based_on: int,
    changes: Mapping[str, Any],
) -> None:
    """
    Args:
        based_on: the version that the caller has read.
        changes: new values by name, of `kind`, `pseudonym`, `always`, `descriptor` and
            `chosen_name`. The last two may be None.

    Raises:
        EntityChanged
        PseudonymTaken, PseudonymOccurs, BadPseudonym
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    lock_for_change(session, entity)
    if based_on != entity.version:
        raise EntityChanged(f"The entity's version is {entity.version}: read it again")
    record = read_record(services, entity)
    shown = entity.pseudonym, record.descriptor, record.chosen_name
    for name in ("kind", "always"):
        if name in changes:
            setattr(entity, name, changes[name])
    if changes.get("pseudonym") not in (None, entity.pseudonym):
        _change_pseudonym(session, entity, changes["pseudonym"])
    if (chosen := changes.get("chosen_name")) not in (None, record.chosen_name):
        assert chosen is not None
        take_chosen_name(session, services, entity.study_id, chosen)
    new = replace(
        record, **{name: changes[name] for name in ("descriptor", "chosen_name") if name in changes}
    )
    entity.version += 1
    if new != record:
        write_record(services, entity, new)
    if shown != (entity.pseudonym, new.descriptor, new.chosen_name):
        _count_change(session, record_change(session, caller, entity, "rename"))
    session.flush()
    audit.record(
        session,
        caller,
        "entity.changed",
        entity.study_id,
        place_of(entity),
        detail={"fields": sorted(changes), "version": entity.version},
    )


def _change_pseudonym(session: DbSession, entity: Entity, pseudonym: str) -> None:
    """Change the pseudonym. A row without names keeps the old one reserved."""
    require_pseudonym(pseudonym)
    old, entity.pseudonym = entity.pseudonym, pseudonym
    with refuse_duplicate("uq_entity_pseudonym", pseudonym_taken()):
        session.flush()
    if old is not None:
        session.add(
            Entity(
                study_id=entity.study_id,
                kind=entity.kind,
                pseudonym=old,
                merged_into=entity.id,
                token_id=entity.token_id,
            )
        )


def record_change(
    session: DbSession, caller: Caller, entity: Entity, action: EntityAction
) -> set[UUID]:
    """Record for each transcript that mentions the entity that its replacement has changed.

    Returns:
        The transcripts.
    """
    mentions = select(Mention.transcript_id).where(
        Mention.entity_id == entity.id, Mention.state != "rejected"
    )
    affected = set(session.scalars(mentions.distinct()))
    for transcript_id in affected or [None]:
        _record(session, caller, entity, action, transcript_id)
    return affected


def _record(
    session: DbSession,
    caller: Caller,
    entity: Entity,
    action: EntityAction,
    transcript_id: UUID | None,
) -> None:
    decision = Decision(
        study_id=entity.study_id,
        transcript_id=transcript_id,
        entity_id=entity.id,
        action=action,
        token_id=caller.token_id,
    )
    session.add(decision)


# --- merging and splitting ------------------------------------------------------------------------


def merge_entities(
    session: DbSession, services: Services, caller: Caller, source_id: UUID, target_id: UUID
) -> Entity:
    """Merge two entities: the target gets the names and the mentions of the source.

    Mentions keep their states. The source's pseudonym stays reserved, and releases that show it
    are outdated. The source's record stays under its own key; erasing the target erases it too.

    Returns:
        The target.

    Raises:
        EntityNotFound, EntitiesNotMergeable, EntityChanged
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    source = find_entity(session, caller, source_id)
    target = find_entity(session, caller, target_id)
    _refuse_to_merge(source, target)
    lock_for_change(session, source, target)
    if source.merged_into is not None or target.merged_into is not None:
        raise EntityChanged("Another request has just merged one of the two: try again")
    ours, theirs = read_record(services, target), read_record(services, source)
    known = set(map(fold, ours.surfaces))
    added = tuple(name for name in theirs.names if fold(name.surface) not in known)
    write_record(
        services,
        target,
        replace(
            ours,
            names=ours.names + added,
            descriptor=ours.descriptor or theirs.descriptor,
        ),
    )
    target.always = target.always or source.always
    affected = record_change(session, caller, source, "merge")
    mentions = select(Mention).where(Mention.entity_id == source.id)
    rows = session.scalars(mentions.with_for_update()).all()
    for mention in rows:
        mention.entity_id = target.id
        mention.version += 1
    source.merged_into = target.id
    source.version += 1
    session.flush()
    if any(mention.state == "accepted" for mention in rows):
        assign_pseudonym(session, services, target)
    _count_change(session, affected)
    audit.record(
        session,
        caller,
        "entity.merged",
        target.study_id,
        place_of(target),
        detail={"merged": str(source.id), "mentions": len(rows)},
    )
    log.info("entity %s: merged into %s", source.id, target.id)
    return target


def lock_for_change(session: DbSession, *entities: Entity) -> None:
    """Lock the reviews of transcripts that mention entities, then the study, then the entities.

    A review's decisions and `assign_pseudonym` lock in this order too, to avoid deadlocks.

    Raises:
        Erased
    """
    ids = [entity.id for entity in entities]
    transcripts = select(Mention.transcript_id).where(Mention.entity_id.in_(ids))
    reviews = select(Review.transcript_id).where(Review.transcript_id.in_(transcripts))
    session.execute(reviews.order_by(Review.transcript_id).with_for_update()).all()
    for study_id in sorted({entity.study_id for entity in entities}):
        lock_study(session, study_id)
    for entity in sorted(entities, key=lambda entity: entity.id):
        session.refresh(entity, with_for_update={"key_share": True})
        if entity.erased_at is not None:
            raise Erased("The entity was erased")


def _refuse_to_merge(source: Entity, target: Entity) -> None:
    """
    Raises:
        EntitiesNotMergeable
    """
    if source.id == target.id:
        raise EntitiesNotMergeable("An entity cannot be merged into itself: name another one")
    if source.study_id != target.study_id:
        raise EntityNotFound("The study has no such entity")
    if "allowed" in (source.kind, target.kind):
        raise EntitiesNotMergeable("A name on the allow-list cannot be merged")
    if source.kind in CODED_KINDS and source.pseudonym is not None:
        raise EntitiesNotMergeable(
            f"{source.pseudonym} is the code of a person in sessions: merge the other entity into "
            "it"
        )


def split_entity(
    session: DbSession,
    services: Services,
    caller: Caller,
    entity: Entity,
    surfaces: Sequence[str],
    *,
    kind: EntityKind | None = None,
    pseudonym: str | None = None,
) -> Entity:
    """Move names of an entity to a new one, for example if two people were recorded as one.

    Mentions with these names move too, and are suggestions again, because somebody must decide
    which of the two is meant. Releases of their transcripts are outdated.

    Args:
        kind: of the new entity; None for that of the old one.

    Raises:
        AliasNotFound: the entity lacks one of the names, or none would be left.
        PseudonymTaken, BadPseudonym
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    lock_for_change(session, entity)
    record = read_record(services, entity)
    moved = set(map(fold, surfaces))
    kept = tuple(name for name in record.names if fold(name.surface) not in moved)
    if not kept or len(record.names) - len(kept) != len(moved):
        raise AliasNotFound("The entity does not have one of these names, or would have none left")
    new_kind = kind or entity.kind
    made = create_entity(
        session,
        services,
        caller,
        entity.study_id,
        new_kind,  # type: ignore[arg-type]  # a check constraint of the table
        [name.surface for name in record.names if fold(name.surface) in moved],
        pseudonym=pseudonym,
        always=entity.always,
    )
    write_record(services, entity, replace(record, names=kept))
    mentions = _mentions_with(session, services, entity, moved)
    for mention in mentions:
        if mention.state == "accepted":
            mention.state, mention.token_id, mention.decided_at = "suggested", None, None
        mention.entity_id = made.id
        mention.version += 1
    affected = {mention.transcript_id for mention in mentions}
    for transcript_id in affected:
        _record(session, caller, entity, "split", transcript_id)
    _count_change(session, affected)
    session.flush()
    audit.record(
        session,
        caller,
        "entity.split",
        entity.study_id,
        place_of(entity),
        detail={"new": str(made.id), "mentions": len(mentions)},
    )
    log.info("entity %s: split, new entity %s", entity.id, made.id)
    return made


def _mentions_with(
    session: DbSession, services: Services, entity: Entity, surfaces: set[str]
) -> list[Mention]:
    """The entity's mentions whose text is one of the surfaces, folded."""
    rows = session.scalars(
        select(Mention)
        .join(StoredTranscript, StoredTranscript.id == Mention.transcript_id)
        .join(Job, Job.id == StoredTranscript.job_id)
        .where(Mention.entity_id == entity.id, Job.status != "erased")
        .with_for_update(of=Mention)
    ).all()
    texts: dict[tuple[UUID, int], dict[str, str]] = {}
    found = []
    for mention in rows:
        version = mention.transcript_id, mention.transcript_version
        if version not in texts:
            row = session.get_one(StoredTranscript, mention.transcript_id)
            transcript = read_transcript(session, services, row, mention.transcript_version)
            texts[version] = {segment.id: segment.text for segment in transcript.segments}
        text = texts[version].get(mention.segment, "")[mention.start : mention.stop]
        if fold(text) in surfaces:
            found.append(mention)
    return found


def _count_change(session: DbSession, transcripts: Iterable[UUID]) -> None:
    """Raise the version of reviews, so that a reviewer who has read an older one notices."""
    session.execute(
        update(Review)
        .where(Review.transcript_id.in_(set(transcripts)))
        .values(version=Review.version + 1)
    )


# --- erasure --------------------------------------------------------------------------------------


def erase_entity(session: DbSession, services: Services, entity: Entity) -> None:
    """Destroy the keys of an entity and of those merged into it. Safe to run twice, and while the
    vault is sealed.

    Its row keeps the pseudonym, which remains in releases and is never used again.
    """
    store, keyring = linkage(services)
    every = [entity]
    for one in every:  # grows
        every += session.scalars(select(Entity).where(Entity.merged_into == one.id))
    for one in every:
        keyring.erase(one.study_id, one.id)
        if one.record_artefact_id is not None:
            store.delete(one.record_artefact_id)
        one.record_artefact_id = None
        one.erased_at = one.erased_at or datetime.now(UTC)
        one.version += 1
        audit.record(session, None, "entity.erased", one.study_id, place_of(one))
    erase_records(session, services, [one.id for one in every])
    log.info("entity %s: erased", entity.id)


def erase_entities(session: DbSession, services: Services, study: Study) -> None:
    """Erase the entities of a study whose keys are destroyed already."""
    store, _ = linkage(services)
    query = select(Entity).where(Entity.study_id == study.id, Entity.erased_at.is_(None))
    for entity in session.scalars(query):
        if entity.record_artefact_id is not None:
            store.delete(entity.record_artefact_id)
        entity.record_artefact_id, entity.erased_at = None, datetime.now(UTC)
        audit.record(session, None, "entity.erased", entity.study_id, place_of(entity))
    everybody = select(Entity.id).where(Entity.study_id == study.id)
    erase_records(session, services, session.scalars(everybody))
