"""Withdrawal of a participant: what exists is shown, removed step by step, verified and certified.

    removing   steps are left; a start of the service, or the same request again, goes on
    finished   the certificate says what was removed, and what was not

Each step can be repeated, and is recorded when it is done: a power cut at any point loses nothing.
Interviews of the participant are erased. In a group only the participant's voice leaves: see
`withdrawn_voice`. Mentions of the participant by others become open mentions of their reviews.

ServiceError
├── WithdrawalNotFound
├── WithdrawalNotConfirmed
└── of withdrawal_plan: WithdrawalUnknownCode, VoicesUnknown
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal, get_args
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from models.errors import SpeechError, Stopped
from service.database.queries import read_clock
from service.database.tables import (
    Withdrawal,
)
from service.domain import audit, withdrawal_steps
from service.domain.background import BackgroundWork
from service.domain.callers import Caller
from service.domain.certificates import (
    Passed,
    issue,
    last_backup_at,
)
from service.domain.entities import (
    read_record,
)
from service.domain.job_errors import InternalError
from service.domain.recordings import OPERATIONAL_ERRORS, error_name, identified
from service.domain.releases import Renderer
from service.domain.studies import find_study
from service.domain.withdrawal_certificate import make_statement
from service.domain.withdrawal_ledger import write
from service.domain.withdrawal_plan import (
    Person,
    Unit,
    UnitCounts,
    about,
    count,
    count_consents,
    count_mentions,
    find_person,
    find_units,
    passed_on,
    require_known_voices,
)
from service.domain.withdrawal_steps import STEP_FUNCTIONS, STEPS_OF, Work, ledger_entry
from service.domain.withdrawn_voice import (
    still_heard,
)
from service.errors import ServiceError, locate
from service.services import Services
from service.vault.errors import Sealed

Scope = Literal["data", "identified", "participation"]
Reason = Literal["no_reason", "changed_mind", "privacy", "distress", "harm_feared", "other"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
REASONS: tuple[Reason, ...] = get_args(Reason)
"""A fixed list, so that nobody can enter a name."""
RETRY_AFTER = 30.0  # s

log = logging.getLogger(__name__)


class WithdrawalNotFound(ServiceError):
    """There is no such withdrawal, or it is not of your studies."""

    code: ClassVar[str] = "withdrawal_not_found"
    status: ClassVar[int] = 404


class WithdrawalNotConfirmed(ServiceError):
    """The code that confirms a withdrawal is not the participant's."""

    code: ClassVar[str] = "withdrawal_not_confirmed"
    status: ClassVar[int] = 422


# --- what exists ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inventory:
    """What exists of a participant. `costs`: sentences to read before a withdrawal."""

    study: str
    code: str
    withdrawn_at: datetime | None
    units: tuple[UnitCounts, ...]
    has_names: bool
    n_consents: int
    n_mentions: int
    passed_on: tuple[Passed, ...]
    last_backup_at: datetime | None
    costs: tuple[str, ...]


def take_inventory(services: Services, caller: Caller, study: str, code: str) -> Inventory:
    """
    Raises:
        StudyNotFound, WithdrawalUnknownCode
    """
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
        person = find_person(session, found, code)
        units = find_units(session, person)
        entity, participant = person.entity, person.participant
        return Inventory(
            found.code,
            code,
            None if participant is None else participant.withdrawn_at,
            tuple(count(session, unit) for unit in units),
            entity is not None and entity.record_artefact_id is not None,
            count_consents(session, person),
            count_mentions(session, person),
            tuple(passed_on(session, found, about(session, person, units))),
            last_backup_at(services.settings),
            tuple(_costs(services, units)),
        )


def _costs(services: Services, units: Sequence[Unit]) -> Iterator[str]:
    groups = [unit for unit in units if unit.is_group]
    if groups:
        names = ", ".join(unit.name for unit in groups)
        yield (
            f"{names}: the others stay. Where the participant speaks, the recording is silent, "
            "also for those who speak at the same time. The copy has 16 kHz and one channel."
        )
        yield (
            "What was said is the participant's only where the transcript says so: check the "
            "speakers of the group first."
        )
        yield (
            f"{names}: backups from before the withdrawal can no longer restore this recording or "
            "its transcript, because their keys are destroyed. Make a new backup at once after it."
        )
    for unit in units:
        others = [job for job in unit.jobs if job.id not in {each.job_id for each in unit.voices}]
        if unit.is_group and unit.voices and others:
            yield (
                f"{unit.name}: {len(others)} jobs in which nobody is named by this code are erased "
                "with the old recording."
            )
    yield (
        "Words of others about the participant stay until a reviewer has decided: they become open "
        "mentions."
    )


# --- requesting -----------------------------------------------------------------------------------


def request_withdrawal(
    services: Services,
    caller: Caller,
    study: str,
    code: str,
    scope: Scope,
    reason: Reason | None,
    confirmation: str,
) -> Withdrawal:
    """Begin a withdrawal; a request that repeats an earlier one returns that.

    Raises:
        StudyNotFound, WithdrawalUnknownCode, WithdrawalNotConfirmed, VoicesUnknown
        Sealed, KeyMissing, KeyDamaged: nothing has been done then.
    """
    if confirmation != code:
        raise WithdrawalNotConfirmed("Type the participant's code to confirm, such as P07")
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        session.refresh(found, with_for_update={"key_share": True})
        person = find_person(session, found, code)
        earlier = session.scalars(
            select(Withdrawal)
            .where(Withdrawal.study_id == found.id, Withdrawal.code == code)
            .order_by(Withdrawal.requested_at.desc())
        ).all()
        for row in earlier:
            if row.state == "removing":
                return row
        units = find_units(session, person)
        if scope != "participation":
            require_known_voices(units)
            _require_keys(services, person, units)
        for row in earlier:
            if row.scope == scope and not _is_left(session, services, person, units, scope):
                return row
        now = read_clock(session)
        row = Withdrawal(
            id=uuid4(),
            study_id=found.id,
            participant_id=None if person.participant is None else person.participant.id,
            code=code,
            scope=scope,
            reason=reason,
            token_id=caller.token_id,
            role=caller.role,
            requested_at=now,
            state="removing",
            steps=[],
            results={"about": sorted(about(session, person, units))},
        )
        session.add(row)
        if person.participant is not None:
            person.participant.withdrawn_at = person.participant.withdrawn_at or now
        session.flush()
        audit.record(
            session,
            caller,
            "withdrawal.requested",
            found.id,
            {"withdrawal": row.id, "participant": code},
            reason=reason,
            detail={"scope": scope},
        )
    log.info("withdrawal %s: requested, scope %s", row.id, scope)
    return row


def _require_keys(services: Services, person: Person, units: Sequence[Unit]) -> None:
    """Check that what has to be read can be read, before anything is removed.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    if services.vault.sealed:
        raise Sealed("The vault is sealed: run `fieldscribe unseal`")
    _, keyring = identified(services)
    for unit in units:
        if unit.is_group:
            for id in (*(one.id for one in unit.recordings), *(job.id for job in unit.jobs)):
                keyring.data_key(person.study.id, id)
    if person.entity is not None and person.entity.record_artefact_id is not None:
        read_record(services, person.entity)


def _is_left(
    session: DbSession, services: Services, person: Person, units: Sequence[Unit], scope: Scope
) -> bool:
    """Whether anything is left that a withdrawal of this scope would remove."""
    if scope == "participation":
        return False
    for unit in units:
        if unit.is_group:
            if any(still_heard(services, session, voice) for voice in unit.voices):
                return True
        elif unit.recordings or unit.jobs:
            return True
    return person.entity is not None and person.entity.record_artefact_id is not None


def find_withdrawal(session: DbSession, caller: Caller, id: UUID) -> Withdrawal:
    """
    Raises:
        WithdrawalNotFound
    """
    row = session.get(Withdrawal, id)
    if row is None or not caller.may_see(row.study_id):
        raise WithdrawalNotFound("There is no such withdrawal, or it is not of your studies")
    return row


def list_withdrawals(session: DbSession, caller: Caller, study: str) -> Sequence[Withdrawal]:
    """Newest first.

    Raises:
        StudyNotFound, Erased
    """
    found = find_study(session, caller, study)
    query = select(Withdrawal).where(Withdrawal.study_id == found.id)
    return session.scalars(query.order_by(Withdrawal.requested_at.desc())).all()


# --- running --------------------------------------------------------------------------------------


def run(
    services: Services,
    withdrawal_id: UUID,
    render: Renderer,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Carry out the steps that are left, and issue the certificate. Safe to repeat.

    Raises:
        ServiceError, SpeechError: a step failed; what was done stays done.
        Stopped: by `on_progress`.
    """
    with services.sessionmaker() as session:
        row = session.get_one(Withdrawal, withdrawal_id)
    with _one_at_a_time(services, row.study_id):
        with services.sessionmaker() as session:
            row = session.get_one(Withdrawal, withdrawal_id)
        if row.state == "finished":
            return
        caller = Caller(row.token_id, row.role, False, frozenset([row.study_id]))
        work = Work(services, row, caller, render, dict(row.results), on_progress)
        for step in STEPS_OF[row.scope]:
            if step not in row.steps:
                STEP_FUNCTIONS[step](work)
                row = _record_step(work, step)
        _finish(work)


@contextmanager
def _one_at_a_time(services: Services, study_id: UUID) -> Iterator[None]:
    """Two members of a group may withdraw at once: the second waits for the first."""
    place = func.hashtextextended(f"fieldscribe:withdrawal:{study_id}", 0)
    with services.engine.connect() as connection:
        connection.execute(select(func.pg_advisory_lock(place)))
        connection.commit()
        try:
            yield
        finally:
            connection.execute(select(func.pg_advisory_unlock(place)))
            connection.commit()


def _record_step(work: Work, step: str) -> Withdrawal:
    with work.services.sessionmaker.begin() as session:
        row = session.get_one(Withdrawal, work.row.id, with_for_update=True)
        row.steps = [*row.steps, step]
        row.results = dict(work.done)
        row.failure_code = None
        audit.record(
            session,
            work.caller,
            "withdrawal.step_done",
            row.study_id,
            {"withdrawal": row.id, "participant": row.code},
            detail={"step": step},
        )
    withdrawal_steps.at_boundary(step)
    log.info("withdrawal %s: %s done", row.id, step)
    return row


# --- the certificate ------------------------------------------------------------------------------


def _finish(work: Work) -> None:
    with work.services.sessionmaker.begin() as session:
        row = session.get_one(Withdrawal, work.row.id, with_for_update=True)
        if row.state == "finished":
            return
        certificate = issue(session, work.services, work.caller, make_statement(work, session))
        row.state, row.finished_at = "finished", read_clock(session)
        row.certificate_id, row.failure_code = certificate.id, None
        audit.record(
            session,
            work.caller,
            "withdrawal.finished",
            row.study_id,
            {"withdrawal": row.id, "participant": row.code, "certificate": certificate.id},
        )
        finished_at = row.finished_at
    signed = {
        "id": str(certificate.id),
        "document": certificate.document,
        "signature": certificate.signature,
        "public_key": certificate.public_key,
    }
    entry = ledger_entry(work, finished_at=finished_at.isoformat(), certificate=signed)
    write(work.services.settings, entry)
    log.info("withdrawal %s: finished", work.row.id)


# --- in the background ----------------------------------------------------------------------------


class Withdrawer(BackgroundWork):
    """Carries out withdrawals, one after the other; those that a stop interrupted first."""

    what = "withdrawals"

    def __init__(self, services: Services, render: Renderer) -> None:
        super().__init__()
        self._services = services
        self._render = render
        self._tried_at: dict[UUID, float] = {}

    def _make_next(self) -> bool:
        if self._stop.is_set() or self._services.vault.sealed:
            return False
        due = time.monotonic() - RETRY_AFTER
        self._tried_at = {id: at for id, at in self._tried_at.items() if at > due}
        with self._services.sessionmaker() as session:
            id = session.scalar(
                select(Withdrawal.id)
                .where(Withdrawal.state == "removing", Withdrawal.id.not_in(self._tried_at))
                .order_by(Withdrawal.requested_at)
                .limit(1)
            )
        if id is None:
            return False
        self._tried_at[id] = time.monotonic()
        try:
            run(self._services, id, self._render, self._look)
        except Stopped:
            return False
        except (ServiceError, SpeechError, *OPERATIONAL_ERRORS) as error:
            code = error.code if isinstance(error, (ServiceError, SpeechError)) else None
            log.warning("withdrawal %s: will be tried again: %s", id, code or error_name(error))
            self._record_failure(id, code or InternalError.code)
        except Exception as error:  # noqa: BLE001  # the top level of this thread
            log.error("withdrawal %s: %s at %s", id, type(error).__name__, locate(error))
            self._record_failure(id, InternalError.code)
        return True

    def _look(self, share: float) -> None:
        if self._stop.is_set():
            raise Stopped("The service is stopping")

    def _record_failure(self, id: UUID, code: str) -> None:
        with self._services.sessionmaker.begin() as session:
            row = session.get_one(Withdrawal, id, with_for_update=True)
            if row.state == "removing":
                row.failure_code = code
