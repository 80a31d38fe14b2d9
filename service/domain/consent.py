"""What participants have consented to, and approvals of committees: checked before each use.

The rules apply as soon as a study has a participant, the one about approvals as soon as it has an
approval. Then everybody who takes part must be known. A study can turn a rule into a warning, which
is recorded each time.

ServiceError
├── ConsentMissing
└── ApprovalMissing
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal

from sqlalchemy.orm import Session as DbSession

from service.database import tables
from service.database.tables import Study
from service.domain import audit
from service.domain.callers import Caller
from service.domain.participants import (
    ROLE,
    list_approvals,
    list_participants,
    newest_consents,
)
from service.errors import ServiceError

Rule = Literal["recording", "release", "export", "approval"]
RULES: tuple[Rule, ...] = ("recording", "release", "export", "approval")
SCOPES_OF_CONTEXT = {
    "team": ("transcription",),
    "member_checking": ("transcription", "recontact"),
    "publication": ("transcription", "quotation"),
    "repository": ("transcription", "sharing"),
}
"""What a release needs, by its context."""
TRANSCRIBED = ("recording", "transcription")  # what a job needs
USES = {
    "recording": "being recorded",
    "transcription": "transcription",
    "quotation": "quotation",
    "sharing": "sharing",
    "recontact": "being contacted again",
}


class ConsentMissing(ServiceError):
    """Somebody in the session has not consented to this, or nobody says who took part."""

    code: ClassVar[str] = "consent_missing"
    status: ClassVar[int] = 409


class ApprovalMissing(ServiceError):
    """None of the study's approvals is valid today."""

    code: ClassVar[str] = "approval_missing"
    status: ClassVar[int] = 409


def require_recording(
    session: DbSession, caller: Caller, study: Study, sessions: Sequence[tables.Session | None]
) -> list[str]:
    """Check that recordings of these sessions may be transcribed.

    Args:
        sessions: None for a recording of no session.

    Returns:
        Warnings, where a rule of the study only warns.

    Raises:
        ConsentMissing, ApprovalMissing
    """
    warnings = require_approval(session, caller, study)
    return warnings + _require(
        session, caller, study, sessions, "recording", TRANSCRIBED, still_takes_part=True
    )


def has_ended(session: DbSession, study: Study, sessions: Sequence[tables.Session]) -> bool:
    """Whether somebody in these sessions has withdrawn, or ended their consent to transcription.

    Checked when a queued job begins; approvals are checked only when it is submitted.
    """
    if "recording" in study.consent_warnings:
        return False
    codes = {code for interview in sessions for code in _participants_of(interview)}
    rows = [row for row in list_participants(session, study.id) if row.code in codes]
    consents = newest_consents(session, rows)
    return any(
        row.erased_at is None
        and (
            row.withdrawn_at is not None
            or (row.id in consents and not set(TRANSCRIBED) <= set(consents[row.id].scopes))
        )
        for row in rows
    )


def require_release(
    session: DbSession,
    caller: Caller,
    study: Study,
    interview: tables.Session | None,
    context: str,
    *,
    only: str | None = None,
) -> list[str]:
    """
    Args:
        only: code of the one participant whose words are released.

    Raises:
        ConsentMissing
    """
    scopes = SCOPES_OF_CONTEXT[context]
    return _require(session, caller, study, [interview], "release", scopes, only=only)


def require_export(
    session: DbSession, caller: Caller, study: Study, interview: tables.Session | None
) -> list[str]:
    """Check that the identified transcript of a session may be handed out.

    Raises:
        ConsentMissing
    """
    return _require(session, caller, study, [interview], "export", ("transcription",))


def require_approval(session: DbSession, caller: Caller, study: Study) -> list[str]:
    """
    Raises:
        ApprovalMissing
    """
    approvals = list_approvals(session, study.id)
    today = datetime.now(UTC).date()
    if not approvals or any(
        each.valid_from <= today and (each.valid_until is None or today <= each.valid_until)
        for each in approvals
    ):
        return []
    ends = [each.valid_until for each in approvals if each.valid_until is not None]
    when = (
        f"the last one ran out on {max(ends)}" if ends and max(ends) < today else "none has begun"
    )
    message = f"No approval of the study is valid today: {when}. Record a new approval"
    if "approval" in study.consent_warnings:
        _record_override(session, caller, study, "approval", [])
        return [f"{message}."]
    raise ApprovalMissing(message)


def _require(
    session: DbSession,
    caller: Caller,
    study: Study,
    sessions: Sequence[tables.Session | None],
    rule: Rule,
    scopes: Sequence[str],
    *,
    still_takes_part: bool = False,
    only: str | None = None,
) -> list[str]:
    participants = {row.code: row for row in list_participants(session, study.id)}
    if not participants:
        return []
    consents = newest_consents(session, list(participants.values()))
    problems, places = [], []
    for interview in sessions:
        place = "a recording without a session" if interview is None else interview.code
        people = _participants_of(interview) if only is None else [only]
        if not people:
            problems.append(f"nobody says who took part in {place}")
            places.append(place)
        lacking = []
        for code in people:
            row = participants.get(code)
            if row is not None and row.erased_at is not None:
                continue  # the withdrawal has removed their part
            consent = None if row is None else consents.get(row.id)
            has_left = row is not None and row.withdrawn_at is not None and still_takes_part
            if consent is None or has_left or not set(scopes) <= set(consent.scopes):
                lacking.append(code)
        if lacking:
            uses = " and ".join(USES[scope] for scope in scopes)
            has = "has" if len(lacking) == 1 else "have"
            problems.append(f"{', '.join(lacking)} in {place} {has} not consented to {uses}")
            places.append(place)
    if not problems:
        return []
    message = "; ".join(problems)
    message = f"{message[0].upper()}{message[1:]}: record who took part and their consent"
    if rule in study.consent_warnings:
        _record_override(session, caller, study, rule, places)
        return [f"{message}."]
    raise ConsentMissing(message)


def _participants_of(interview: tables.Session | None) -> list[str]:
    roster = [] if interview is None else interview.roster
    return [person["code"] for person in roster if person["role"] == ROLE]


def _record_override(
    session: DbSession, caller: Caller, study: Study, rule: Rule, places: Sequence[str]
) -> None:
    detail: dict[str, audit.Value] = {"rule": rule, "sessions": list(places)}
    audit.record(
        session, caller, "consent.overridden", study.id, {"study": study.id}, detail=detail
    )


def change_rules(
    session: DbSession, caller: Caller, study: Study, warnings: Sequence[Rule]
) -> None:
    """Choose the rules that only warn."""
    chosen: list[str] = [rule for rule in RULES if rule in warnings]
    if chosen == study.consent_warnings:
        return
    study.consent_warnings = chosen
    detail: dict[str, audit.Value] = {"only_warn": chosen}
    objects = {"study": study.id}
    audit.record(session, caller, "consent.rule_changed", study.id, objects, detail=detail)
