"""The audit trail: who did what, when, and why, in a chain of hashes.

An entry holds ids, codes, numbers and checksums, never text or names, so that the trail can outlive
what it is about. It is written in the transaction of the action: either both are stored or
neither. The hash of an entry covers the hash of the one before, so that an entry that was changed
or removed is found (see `verify`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import event, select, text
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import SessionTransaction

from service import audit_chain
from service.audit_chain import Checked, Head
from service.database.tables import AuditEntry
from service.domain.callers import Caller
from service.services import Services

Value = str | int | bool | None | list[str] | list[int] | list[list[int]]
Action = Literal[
    "packet.created",
    "packet.opened",
    "packet.answered",
    "packet.read",
    "packet.decided",
    "packet.revoked",
    "participant.created",
    "participant.changed",
    "participant.attributes_read",
    "consent.recorded",
    "consent.rule_changed",
    "consent.overridden",
    "approval.recorded",
    "approval.removed",
    "certificate.issued",
    "withdrawal.requested",
    "withdrawal.step_done",
    "withdrawal.finished",
    # studies, sessions
    "study.created",
    "study.changed",
    "study.erased",
    "vocabulary.read",
    "vocabulary.replaced",
    "session.created",
    "session.recordings_set",
    "session.erased",
    # recordings
    "recording.announced",
    "recording.uploaded",
    "recording.checked",
    "recording.check_repeated",
    "recording.searched",
    "recording.details_read",
    "recording.played",
    "recording.erased",
    "recording.destroyed",
    "masked_audio.requested",
    "masked_audio.finished",
    "masked_audio.played",
    "masked_audio.erased",
    # jobs
    "job.created",
    "job.cancelled",
    "job.keys_given",
    "job.succeeded",
    "job.failed",
    "job.erased",
    # transcripts
    "transcript.read",
    "transcript.exported",
    "transcript.corrected",
    "handoff.claimed",
    "handoff.completed",
    "handoff.failed",
    "handoff.reopened",
    # names, review
    "names.imported",
    "names.exported",
    "names.read",
    "names.searched",
    "entity.created",
    "entity.changed",
    "entity.merged",
    "entity.split",
    "entity.erased",
    "review.begun",
    "review.read",
    "review.decided",
    "sample.drawn",
    "sample.finished",
    # what leaves the service
    "release.created",
    "release.read",
    "release.exported",
    "release.erased",
    "paper.exported",
    "deposit.exported",
    # access, the service itself
    "token.created",
    "token.revoked",
    "sign_in_link.created",
    "sign_in.refused",
    "browser.signed_in",
    "browser.signed_out",
    "vault.unsealed",
    "vault.unseal_refused",
    "webhook.created",
    "webhook.tested",
    "webhook.deleted",
    # retention
    "retention.rule_set",
    "retention.rule_removed",
    "retention.date_set",
    "retention.hold_placed",
    "retention.hold_lifted",
    "destruction.requested",
    "destruction.cancelled",
    "destruction.confirmed",
    "destruction.finished",
    "trail.read",
    "trail.verified",
    "trail.exported",
    "backup.begun",
    "backup.finished",
    "backup.restored",
]

FIRST = bytes(32)  # the hash before the first entry
LOCK = "hashtext('fieldscribe:audit')"
# In `Session.info`: entries that are written when the transaction is committed, and who acts.
PENDING = "audit"
ACTING = "audit_caller"


def act_for(session: DbSession, caller: Caller) -> None:
    """Record the entries of this transaction that name no caller as the caller's."""
    session.info[ACTING] = caller


def record(
    session: DbSession,
    caller: Caller | None,
    action: Action,
    study_id: UUID | None,
    objects: Mapping[str, UUID | str],
    *,
    reason: str | None = None,
    detail: Mapping[str, Value] | None = None,
) -> None:
    """Add an entry when the transaction is committed.

    Args:
        caller: None for the service itself, or for the caller of `act_for`.
        objects: ids, or codes, by kind: `{"transcript": id, "participant": id}`.
        reason: one of a fixed list.
        detail: numbers, codes and checksums; no fractions, which the database may write otherwise.
    """
    caller = caller or session.info.get(ACTING)
    entry = AuditEntry(
        study_id=study_id,
        token_id=None if caller is None else caller.token_id,
        role=None if caller is None else caller.role,
        action=action,
        objects={kind: str(id) for kind, id in objects.items()},
        reason=reason,
        detail=dict(detail or {}),
    )
    session.info.setdefault(PENDING, []).append(entry)


def record_now(
    services: Services,
    caller: Caller | None,
    action: Action,
    study_id: UUID | None,
    objects: Mapping[str, UUID | str],
    *,
    reason: str | None = None,
    detail: Mapping[str, Value] | None = None,
) -> None:
    """Add an entry at once, for something that has no transaction, such as reading."""
    with services.sessionmaker.begin() as session:
        record(session, caller, action, study_id, objects, reason=reason, detail=detail)


@event.listens_for(DbSession, "before_commit")
def _write_pending(session: DbSession) -> None:
    """Write the entries last: those of other requests wait for the lock until the commit."""
    if session.in_nested_transaction() or PENDING not in session.info:
        return
    entries = session.info.pop(PENDING)
    session.flush()
    session.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    _append(session, entries)


@event.listens_for(DbSession, "after_soft_rollback")
def _drop_pending(session: DbSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(PENDING, None)


def _append(session: DbSession, entries: Iterable[AuditEntry]) -> None:
    newest = select(AuditEntry).order_by(AuditEntry.position.desc()).limit(1)
    last = session.scalar(newest)
    position, previous = (0, FIRST) if last is None else (last.position, last.hash)
    for entry in entries:
        position += 1
        entry.position, entry.previous, entry.at = position, previous, datetime.now(UTC)
        entry.hash = previous = hash_entry(entry)
        session.add(entry)
    session.flush()


def content_of(entry: AuditEntry) -> dict[str, Any]:
    """Everything that an entry says, and its hash, as `audit_chain` checks it."""
    return {
        "position": entry.position,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "study": None if entry.study_id is None else str(entry.study_id),
        "token": None if entry.token_id is None else str(entry.token_id),
        "role": entry.role,
        "action": entry.action,
        "objects": entry.objects,
        "reason": entry.reason,
        "detail": entry.detail,
        "previous": entry.previous.hex(),
        "hash": None if entry.hash is None else entry.hash.hex(),
    }


def hash_entry(entry: AuditEntry) -> bytes:
    return bytes.fromhex(audit_chain.hash_content(content_of(entry)))


def read_all(session: DbSession) -> Iterator[dict[str, Any]]:
    """All entries as JSON, in order."""
    entries = select(AuditEntry).order_by(AuditEntry.position).execution_options(yield_per=1000)
    with closing(session.scalars(entries)) as found:
        for entry in found:
            yield content_of(entry)


def verify(session: DbSession, heads: Iterable[Head] = ()) -> Checked:
    """Check the whole trail, and that it still has the entries that earlier heads name."""
    return audit_chain.check(read_all(session), heads)


def read_head(session: DbSession) -> Head | None:
    """The newest entry."""
    newest = select(AuditEntry).order_by(AuditEntry.position.desc()).limit(1)
    last = session.scalar(newest)
    return None if last is None else Head(last.position, last.hash.hex())
