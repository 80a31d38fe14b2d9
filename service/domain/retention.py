"""Retention: how long a study keeps each class of data, and its destruction by two people.

A rule names a basis (publication, completion or last contact), a number of years, and what happens
then. The researcher sets the date of the basis. Nothing is ever destroyed by the clock alone: when
a class is due, one person asks for its destruction and another confirms it.

| class | what is destroyed |
|---|---|
| identified | recordings, jobs, transcripts, masked audio, reviews, the vocabulary |
| deidentified | releases and their reports |
| linkage | the names behind pseudonyms, participants' contacts and attributes |
| consent | records of consent |

ServiceError
├── DestructionNotFound
├── RetentionNotDue, OnLegalHold, SamePerson, DestructionOver
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar, Literal
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as DbSession

from service.database.tables import (
    AuditEntry,
    Consent,
    Destruction,
    Entity,
    Job,
    LegalHold,
    Participant,
    Recording,
    Release,
    RetentionDate,
    RetentionRule,
    Study,
    Token,
)
from service.domain import audit
from service.domain.audit_search import READING
from service.domain.callers import Caller
from service.domain.certificates import Check, Item, Passed, Statement, describe_backups, issue
from service.domain.entity_changes import erase_entity
from service.domain.erasure import erase_identified, refuse_unfinished
from service.domain.releases import erase_release
from service.domain.studies import find_study
from service.errors import ServiceError
from service.services import Services
from service.vault import ArtefactClass
from service.vault.errors import Erased, KeyMissing, Sealed

DataClass = Literal["identified", "deidentified", "linkage", "consent"]
Basis = Literal["publication", "completion", "last_contact"]
AtEnd = Literal["review", "destroy"]
HoldReason = Literal[
    "legal_proceedings", "freedom_of_information", "complaint", "audit", "misconduct_inquiry"
]
State = Literal["no_date", "kept", "due", "held", "destroyed"]
CLASSES: tuple[DataClass, ...] = ("identified", "deidentified", "linkage", "consent")
REQUEST_LASTS = timedelta(days=7)  # within which the second person must confirm

log = logging.getLogger(__name__)


class DestructionNotFound(ServiceError):
    """There is no such request for destruction, or legal hold, or it is not of your studies."""

    code: ClassVar[str] = "destruction_not_found"
    status: ClassVar[int] = 404


class RetentionNotDue(ServiceError):
    """The retention rule of this class is not due yet, or has no date, or there is no rule."""

    code: ClassVar[str] = "retention_not_due"
    status: ClassVar[int] = 409


class OnLegalHold(ServiceError):
    """A legal hold blocks destruction in this study."""

    code: ClassVar[str] = "on_legal_hold"
    status: ClassVar[int] = 409


class SamePerson(ServiceError):
    """The person who asked for a destruction cannot confirm it."""

    code: ClassVar[str] = "same_person"
    status: ClassVar[int] = 403


class DestructionOver(ServiceError):
    """The request has expired, was cancelled, or is already carried out."""

    code: ClassVar[str] = "destruction_over"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class Due:
    """The rule of one class, and when it is due."""

    rule: RetentionRule
    due_on: date | None
    state: State


@dataclass(frozen=True)
class Retention:
    rules: Sequence[Due]
    dates: dict[str, date]
    holds: Sequence[LegalHold]
    destructions: Sequence[Destruction]


# --- rules, dates, holds --------------------------------------------------------------------------


def read_retention(session: DbSession, caller: Caller, study: str) -> Retention:
    """
    Raises:
        StudyNotFound, Erased
    """
    found = find_study(session, caller, study)
    return retention_of(session, found)


def retention_of(session: DbSession, study: Study, today: date | None = None) -> Retention:
    own = select(RetentionRule).where(RetentionRule.study_id == study.id)
    rules = {rule.data_class: rule for rule in session.scalars(own)}
    dates = {
        row.basis: row.on_date
        for row in session.scalars(select(RetentionDate).where(RetentionDate.study_id == study.id))
    }
    holds = _holds(session, study.id)
    requests = select(Destruction).where(Destruction.study_id == study.id)
    destructions = session.scalars(requests.order_by(Destruction.requested_at)).all()
    destroyed = {each.data_class for each in destructions if each.finished_at is not None}
    today = today or datetime.now(UTC).date()
    listed = []
    for data_class in CLASSES:
        if (rule := rules.get(data_class)) is not None:
            on = dates.get(rule.basis)
            due_on = None if on is None else add_years(on, rule.years)
            state = _state(due_on, today, is_held=bool(holds), is_gone=data_class in destroyed)
            listed.append(Due(rule, due_on, state))
    return Retention(listed, dates, holds, destructions)


def _state(due_on: date | None, today: date, *, is_held: bool, is_gone: bool) -> State:
    if is_gone:
        return "destroyed"
    if due_on is None:
        return "no_date"
    if due_on > today:
        return "kept"
    return "held" if is_held else "due"


def add_years(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year + years)
    except ValueError:  # 29 February
        return day.replace(year=day.year + years, month=3, day=1)


def set_rule(
    session: DbSession,
    caller: Caller,
    study: str,
    data_class: DataClass,
    basis: Basis,
    years: int,
    at_end: AtEnd,
) -> None:
    """
    Raises:
        StudyNotFound, Erased
    """
    found = find_study(session, caller, study)
    session.merge(
        RetentionRule(
            study_id=found.id,
            data_class=data_class,
            basis=basis,
            years=years,
            at_end=at_end,
            token_id=caller.token_id,
        )
    )
    detail: dict[str, audit.Value] = {
        "class": data_class,
        "basis": basis,
        "years": years,
        "at_end": at_end,
    }
    audit.record(session, caller, "retention.rule_set", found.id, {}, detail=detail)


def remove_rule(session: DbSession, caller: Caller, study: str, data_class: DataClass) -> None:
    """
    Raises:
        StudyNotFound, Erased
    """
    found = find_study(session, caller, study)
    session.execute(
        delete(RetentionRule).where(
            RetentionRule.study_id == found.id, RetentionRule.data_class == data_class
        )
    )
    detail: dict[str, audit.Value] = {"class": data_class}
    audit.record(session, caller, "retention.rule_removed", found.id, {}, detail=detail)


def set_date(session: DbSession, caller: Caller, study: str, basis: Basis, on: date | None) -> None:
    """
    Args:
        on: when the study was published or completed, or last contacted somebody; None if that
            is not known any more.

    Raises:
        StudyNotFound, Erased
    """
    found = find_study(session, caller, study)
    if on is None:
        own = RetentionDate.study_id == found.id, RetentionDate.basis == basis
        session.execute(delete(RetentionDate).where(*own))
    else:
        session.merge(
            RetentionDate(study_id=found.id, basis=basis, on_date=on, token_id=caller.token_id)
        )
    detail: dict[str, audit.Value] = {"basis": basis, "on": None if on is None else on.isoformat()}
    audit.record(session, caller, "retention.date_set", found.id, {}, detail=detail)


def place_hold(session: DbSession, caller: Caller, study: str, reason: HoldReason) -> LegalHold:
    """Block destruction in a study until the hold is lifted.

    Raises:
        StudyNotFound, Erased
    """
    found = find_study(session, caller, study)
    hold = LegalHold(id=uuid4(), study_id=found.id, reason=reason, token_id=caller.token_id)
    session.add(hold)
    session.flush()
    place = {"hold": hold.id}
    audit.record(session, caller, "retention.hold_placed", found.id, place, reason=reason)
    return hold


def lift_hold(session: DbSession, caller: Caller, study: str, hold_id: UUID) -> None:
    """
    Raises:
        StudyNotFound, DestructionNotFound, Erased
    """
    found = find_study(session, caller, study)
    hold = session.get(LegalHold, hold_id, with_for_update=True)
    if hold is None or hold.study_id != found.id:
        raise DestructionNotFound("The study has no such legal hold")
    hold.lifted_at, hold.lifted_by = hold.lifted_at or datetime.now(UTC), caller.token_id
    place = {"hold": hold.id}
    audit.record(session, caller, "retention.hold_lifted", found.id, place, reason=hold.reason)


def _holds(session: DbSession, study_id: UUID) -> Sequence[LegalHold]:
    query = select(LegalHold).where(LegalHold.study_id == study_id, LegalHold.lifted_at.is_(None))
    return session.scalars(query.order_by(LegalHold.created_at)).all()


# --- destruction ----------------------------------------------------------------------------------


def request_destruction(
    session: DbSession, caller: Caller, study: str, data_class: DataClass
) -> Destruction:
    """Ask for the destruction of a class. Another person confirms it within a week.

    Raises:
        StudyNotFound, RetentionNotDue, OnLegalHold, Erased
        RecordingInUse: a job has not ended.
    """
    found = find_study(session, caller, study)
    _require_due(session, found, data_class)
    now = datetime.now(UTC)
    made = Destruction(
        id=uuid4(),
        study_id=found.id,
        data_class=data_class,
        token_id=caller.token_id,
        requested_at=now,
        expires_at=now + REQUEST_LASTS,
    )
    session.add(made)
    session.flush()
    _record(session, caller, "destruction.requested", made)
    return made


def _require_due(session: DbSession, study: Study, data_class: str) -> None:
    if _holds(session, study.id):
        raise OnLegalHold("A legal hold blocks destruction in this study: lift it first")
    due = {each.rule.data_class: each for each in retention_of(session, study).rules}
    rule = due.get(data_class)
    if rule is None or rule.due_on is None:
        raise RetentionNotDue(
            "Set a retention rule for this class and the date that it counts from first"
        )
    if rule.state == "kept":
        raise RetentionNotDue(f"The class is kept until {rule.due_on.isoformat()}")
    if rule.state == "destroyed":
        raise RetentionNotDue("The class was destroyed already")
    if data_class == "identified":
        refuse_unfinished(session, study.id)


def find_destruction(
    session: DbSession, caller: Caller, id: UUID, *, lock: bool = False
) -> Destruction:
    """
    Raises:
        DestructionNotFound
    """
    found = session.get(Destruction, id, with_for_update=lock or None)
    if found is None or not caller.may_see(found.study_id):
        raise DestructionNotFound("There is no such request, or it is not of your studies")
    return found


def cancel_destruction(session: DbSession, caller: Caller, id: UUID) -> Destruction:
    """
    Raises:
        DestructionNotFound, DestructionOver
    """
    row = find_destruction(session, caller, id, lock=True)
    if row.confirmed_at is not None:
        raise DestructionOver("The destruction was confirmed already")
    row.cancelled_at = row.cancelled_at or datetime.now(UTC)
    _record(session, caller, "destruction.cancelled", row)
    return row


def confirm_destruction(services: Services, caller: Caller, id: UUID) -> Destruction:
    """Destroy what somebody else has asked for, and issue a certificate.

    Repeating it completes a destruction that was interrupted.

    Raises:
        DestructionNotFound, DestructionOver, SamePerson
        RetentionNotDue, OnLegalHold, RecordingInUse, UploadBusy
    """
    with services.sessionmaker.begin() as session:
        row = find_destruction(session, caller, id, lock=True)
        if row.finished_at is not None or row.cancelled_at is not None:
            raise DestructionOver("The request is over: ask again if something is left")
        if caller.token_id == row.token_id:
            raise SamePerson("Somebody else, with another account, must confirm what you asked for")
        if row.confirmed_at is None:
            if row.expires_at <= datetime.now(UTC):
                raise DestructionOver("The request has expired: ask again")
            _require_due(session, session.get_one(Study, row.study_id), row.data_class)
            row.confirmed_by, row.confirmed_at = caller.token_id, datetime.now(UTC)
            _record(session, caller, "destruction.confirmed", row)
    return _carry_out(services, caller, id)


def finish_interrupted(services: Services) -> None:
    """Complete destructions that were confirmed when the service was killed."""
    with services.sessionmaker() as session:
        left = select(Destruction).where(
            Destruction.confirmed_at.is_not(None), Destruction.finished_at.is_(None)
        )
        rows = session.scalars(left).all()
    for row in rows:
        log.info("destruction %s: continued", row.id)
        with services.sessionmaker() as session:
            token = session.get_one(Token, row.confirmed_by)
        caller = Caller(token.id, token.role, token.all_studies, frozenset([row.study_id]))
        _carry_out(services, caller, row.id)


def _carry_out(services: Services, caller: Caller, id: UUID) -> Destruction:
    with services.sessionmaker.begin() as session:
        row = session.get_one(Destruction, id, with_for_update=True)
        if not row.ids:  # remembered, so that the certificate lists them after an interruption
            row.ids = {
                what: list(map(str, ids)) for what, ids in _find(session, row).items() if ids
            }
    DESTROYERS[row.data_class](services, caller, row)
    with services.sessionmaker.begin() as session:
        row = session.get_one(Destruction, id, with_for_update=True)
        if row.finished_at is None:
            row.finished_at = datetime.now(UTC)
            statement = _statement(session, services, row)
            row.certificate_id = issue(session, services, caller, statement).id
            _record(session, caller, "destruction.finished", row)
            log.info("destruction %s: finished", row.id)
        return row


def _find(session: DbSession, row: Destruction) -> dict[str, list[UUID]]:
    """Ids of what is there, by kind."""

    def ids(query: "select[tuple[UUID]]") -> list[UUID]:  # type: ignore[valid-type]
        return list(session.scalars(query))

    study_id = row.study_id
    if row.data_class == "identified":
        recordings = select(Recording.id).where(Recording.study_id == study_id)
        jobs = select(Job.id).where(Job.study_id == study_id, Job.status != "erased")
        return {
            "recording": ids(recordings.where(Recording.state != "erased")),
            "job": ids(jobs),
        }
    if row.data_class == "deidentified":
        releases = select(Release.id).where(Release.study_id == study_id)
        return {"release": ids(releases.where(Release.erased_at.is_(None)))}
    if row.data_class == "linkage":
        entities = select(Entity.id).where(Entity.study_id == study_id)
        return {"entity": ids(entities.where(Entity.erased_at.is_(None)))}
    return {"consent": ids(select(Consent.id).where(Consent.study_id == study_id))}


def _destroy_identified(services: Services, caller: Caller, row: Destruction) -> None:
    erase_identified(services, caller, row.study_id)


def _destroy_releases(services: Services, caller: Caller, row: Destruction) -> None:
    with services.sessionmaker.begin() as session:
        audit.act_for(session, caller)
        query = select(Release).where(Release.study_id == row.study_id, Release.erased_at.is_(None))
        for release in session.scalars(query.with_for_update()).all():
            release.revoked_at = release.revoked_at or datetime.now(UTC)
            erase_release(session, services, release)


def _destroy_names(services: Services, caller: Caller, row: Destruction) -> None:
    store = services.vault.stores[ArtefactClass.LINKAGE]
    with services.sessionmaker.begin() as session:
        audit.act_for(session, caller)
        entities = select(Entity).where(Entity.study_id == row.study_id, Entity.erased_at.is_(None))
        for entity in session.scalars(entities.with_for_update()).all():
            erase_entity(session, services, entity)
        people = select(Participant).where(Participant.study_id == row.study_id)
        for person in session.scalars(people).all():
            if person.record_artefact_id is not None:
                store.delete(person.record_artefact_id)
                person.record_artefact_id = None


def _destroy_consents(services: Services, caller: Caller, row: Destruction) -> None:
    """Delete the rows. They have no key, but their entries in the ledger survive a restore."""
    keyring = services.vault.keyrings[ArtefactClass.LINKAGE]
    with services.sessionmaker.begin() as session:
        own = Consent.study_id == row.study_id
        for id in session.scalars(select(Consent.id).where(own)).all():
            keyring.erase(row.study_id, id)
        session.execute(delete(Consent).where(own))


DESTROYERS: dict[str, Callable[[Services, Caller, Destruction], None]] = {
    "identified": _destroy_identified,
    "deidentified": _destroy_releases,
    "linkage": _destroy_names,
    "consent": _destroy_consents,
}


# --- the certificate ------------------------------------------------------------------------------


def _statement(session: DbSession, services: Services, row: Destruction) -> Statement:
    assert row.finished_at is not None
    requested = session.get_one(Token, row.token_id).role
    confirmed = session.get_one(Token, row.confirmed_by).role
    kept, left = [], []
    if row.data_class == "identified":
        kept.append(Item("release", _count_releases(session, row), (), "De-identified: not asked."))
        kept.append(
            Item("session", 0, (), "Codes of sessions and participants, counts and times stay.")
        )
    if row.data_class in ("linkage", "deidentified", "consent"):
        kept.append(Item("audit_entry", 0, (), "The audit trail stays: it has ids and codes."))
    opened = list(_still_there(session, services, row))
    if opened:
        left.append(Item("key", len(opened), tuple(opened), "It can still be opened."))
    return Statement(
        kind="destruction",
        study_id=row.study_id,
        subject=row.data_class,
        scope=f"requested by a {requested}, confirmed by a {confirmed}",
        requested_at=row.requested_at,
        requested_by=requested,
        reason="retention",
        removed=tuple(Item(what, len(ids), tuple(ids)) for what, ids in row.ids.items()),
        kept=tuple(kept),
        not_removed=tuple(left),
        checks=(
            Check(
                "Nothing of what was destroyed can be opened or is in the database.",
                "failed" if opened else "passed",
                tuple(opened),
            ),
        ),
        passed_on=tuple(_passed_on(session, row)),
        backups=describe_backups(services.settings, row.finished_at),
    )


def _count_releases(session: DbSession, row: Destruction) -> int:
    query = select(Release.id).where(Release.study_id == row.study_id, Release.erased_at.is_(None))
    return len(session.scalars(query).all())


def _still_there(session: DbSession, services: Services, row: Destruction) -> Iterable[str]:
    """Ids of what can still be read, also while the vault is sealed."""
    if row.data_class == "consent":
        query = select(Consent.id).where(Consent.study_id == row.study_id)
        yield from map(str, session.scalars(query))
        return
    artefact_class = ArtefactClass(row.data_class)
    keyring = services.vault.keyrings[artefact_class]
    keys = keyring.keys().get(row.study_id, set())
    for ids in row.ids.values():
        for id in map(UUID, ids):
            try:
                keyring.data_key(row.study_id, id)
            except (Erased, KeyMissing):
                continue
            except Sealed:
                if id not in keys:
                    continue
            yield str(id)


EXPORTING = tuple(action for action in READING if action.endswith(("exported", "played")))


def _passed_on(session: DbSession, row: Destruction) -> Iterable[Passed]:
    """Who has downloaded what of the study: whom to ask to delete it."""
    query = select(AuditEntry).where(
        AuditEntry.study_id == row.study_id, AuditEntry.action.in_(EXPORTING)
    )
    newest: dict[tuple[str, str, UUID | None], AuditEntry] = {}
    for entry in session.scalars(query.order_by(AuditEntry.position)):
        subject = next(iter(entry.objects.values()), str(row.study_id))
        newest[entry.action, subject, entry.token_id] = entry
    for (action, subject, _), entry in newest.items():
        at = entry.at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        yield Passed(action.replace(".", " "), subject, entry.role or "the service", at)


def _record(session: DbSession, caller: Caller, action: audit.Action, row: Destruction) -> None:
    place = {"destruction": row.id}
    detail: dict[str, audit.Value] = {"class": row.data_class}
    audit.record(session, caller, action, row.study_id, place, reason="retention", detail=detail)
