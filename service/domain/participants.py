"""Participants of a study: who takes part in which sessions, their consents, and approvals.

Who was in a session is in its roster, and whose voice is whose in the transcript's speakers.
`participant_records` has what is stored in the vault.

ServiceError
├── ParticipantNotFound
└── ApprovalNotFound
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import ClassVar
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.participants import GivenConsent
from service.database import tables
from service.database.tables import Approval, Consent, Participant
from service.domain import audit
from service.domain.callers import Caller
from service.errors import ServiceError
from service.vault.errors import Erased

ROLE = "participant"  # on a session's roster


class ParticipantNotFound(ServiceError):
    """There is no such participant, or it is not yours."""

    code: ClassVar[str] = "participant_not_found"
    status: ClassVar[int] = 404


class ApprovalNotFound(ServiceError):
    """There is no such approval, or it is not yours."""

    code: ClassVar[str] = "approval_not_found"
    status: ClassVar[int] = 404


@dataclass(frozen=True)
class ParticipantState:
    """A participant with the codes of their sessions and their consents, newest first."""

    row: Participant
    sessions: tuple[str, ...]
    consents: tuple[Consent, ...]


# --- finding --------------------------------------------------------------------------------------


def find_participant(session: DbSession, caller: Caller, participant_id: UUID) -> Participant:
    """
    Raises:
        ParticipantNotFound: it does not exist, or is not the caller's.
    """
    found = session.get(Participant, participant_id)
    if found is None or not caller.may_see(found.study_id):
        raise ParticipantNotFound("There is no such participant, or it is not yours")
    return found


def find_by_code(session: DbSession, study_id: UUID, code: str) -> Participant:
    """
    Raises:
        ParticipantNotFound
    """
    query = select(Participant).where(Participant.study_id == study_id, Participant.code == code)
    found = session.scalar(query)
    if found is None:
        raise ParticipantNotFound("The study has no participant with this code")
    return found


def list_participants(session: DbSession, study_id: UUID) -> list[Participant]:
    """The study's participants by code, with those who have withdrawn."""
    query = select(Participant).where(Participant.study_id == study_id)
    return sorted(session.scalars(query), key=lambda each: (len(each.code), each.code))


def sessions_of(session: DbSession, study_id: UUID) -> dict[str, list[tables.Session]]:
    """The sessions of a study, in the order of their codes, by the code of a person in them."""
    query = select(tables.Session).where(
        tables.Session.study_id == study_id, tables.Session.erased_at.is_(None)
    )
    found: dict[str, list[tables.Session]] = {}
    for interview in session.scalars(query.order_by(tables.Session.code)):
        for person in interview.roster:
            found.setdefault(person["code"], []).append(interview)
    return found


def describe(session: DbSession, rows: Sequence[Participant]) -> list[ParticipantState]:
    """All are of one study."""
    if not rows:
        return []
    sessions = sessions_of(session, rows[0].study_id)
    consents: dict[UUID, list[Consent]] = {row.id: [] for row in rows}
    query = select(Consent).where(Consent.participant_id.in_(consents))
    for consent in session.scalars(query.order_by(Consent.created_at.desc(), Consent.id)):
        consents[consent.participant_id].append(consent)
    return [
        ParticipantState(
            row,
            tuple(interview.code for interview in sessions.get(row.code, ())),
            tuple(consents[row.id]),
        )
        for row in rows
    ]


# --- consents and approvals -----------------------------------------------------------------------


def record_consent(
    session: DbSession, caller: Caller, row: Participant, given: GivenConsent
) -> Consent:
    """Record what a participant has consented to from now on.

    Raises:
        Erased
    """
    if row.erased_at is not None:
        raise Erased("The participant was erased")
    made = Consent(
        id=uuid4(),
        study_id=row.study_id,
        participant_id=row.id,
        sheet_version=given.sheet_version,
        given_on=given.given_on,
        scopes=list(given.scopes),
        token_id=caller.token_id,
    )
    session.add(made)
    session.flush()
    detail: dict[str, audit.Value] = {
        "scopes": list(given.scopes),
        "sheet": given.sheet_version,
        "given_on": given.given_on.isoformat(),
    }
    objects = {"participant": row.code}
    audit.record(session, caller, "consent.recorded", row.study_id, objects, detail=detail)
    return made


def newest_consents(session: DbSession, rows: Sequence[Participant]) -> dict[UUID, Consent]:
    """The consent that counts, by participant, without those who have given none."""
    query = select(Consent).where(Consent.participant_id.in_([row.id for row in rows]))
    ordered = session.scalars(query.order_by(Consent.created_at, Consent.id))
    return {consent.participant_id: consent for consent in ordered}


def record_approval(
    session: DbSession,
    caller: Caller,
    study_id: UUID,
    *,
    committee: str,
    number: str,
    site: str | None,
    valid_from: date,
    valid_until: date | None,
) -> Approval:
    made = Approval(
        id=uuid4(),
        study_id=study_id,
        committee=committee,
        site=site,
        number=number,
        valid_from=valid_from,
        valid_until=valid_until,
        token_id=caller.token_id,
    )
    session.add(made)
    session.flush()
    audit.record(session, caller, "approval.recorded", study_id, {"approval": made.id})
    return made


def list_approvals(session: DbSession, study_id: UUID) -> list[Approval]:
    query = select(Approval).where(Approval.study_id == study_id, Approval.removed_at.is_(None))
    return list(session.scalars(query.order_by(Approval.valid_from, Approval.created_at)))


def remove_approval(session: DbSession, caller: Caller, approval_id: UUID) -> None:
    """
    Raises:
        ApprovalNotFound
    """
    found = session.get(Approval, approval_id, with_for_update=True)
    if found is None or not caller.may_see(found.study_id) or found.removed_at is not None:
        raise ApprovalNotFound("There is no such approval, or it is not yours")
    found.removed_at = datetime.now(UTC)
    audit.record(session, caller, "approval.removed", found.study_id, {"approval": found.id})
