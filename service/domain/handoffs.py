"""Hand-offs: finished transcripts, offered to the de-identifier, which is a client of the API.

A claim has a lease and a fence, which the de-identifier sends with every request about the
hand-off. After the lease expires, the next claimant gets the hand-off and the old fence is refused.

Several de-identifiers can work on a transcript, each as a stage of its own. A transcript's hand-off
for the stage `default` is made with the transcript, those for other stages when first claimed.

ServiceError
├── HandoffNotFound
├── HandoffTaken
├── HandoffNotFailed
└── BadOccurrence
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session as DbSession

from models.transcript import Transcript
from service.database.queries import read_clock
from service.database.tables import Handoff, Job, StoredTranscript
from service.domain import audit, results
from service.domain.callers import Caller
from service.domain.clock import LEASE
from service.domain.jobs import refuse_erased
from service.domain.outbox import emit_handoff
from service.domain.pages import Page, page_of
from service.domain.review import record_occurrences
from service.domain.studies import find_study
from service.domain.transcripts import read_transcript
from service.errors import ServiceError
from service.services import Services
from service.vault.errors import MISSING_ERRORS, PERMANENT_ERRORS

OCCURRENCES = "occurrences"
DEFAULT_STAGE = "default"

log = logging.getLogger(__name__)


class HandoffNotFound(ServiceError):
    """There is no such hand-off, or it is not yours."""

    code: ClassVar[str] = "handoff_not_found"
    status: ClassVar[int] = 404


class HandoffTaken(ServiceError):
    """The fence is not that of the current claim: the lease expired, or the hand-off has ended."""

    code: ClassVar[str] = "handoff_taken"
    status: ClassVar[int] = 409


class HandoffNotFailed(ServiceError):
    """Only a hand-off that failed can be opened again."""

    code: ClassVar[str] = "handoff_not_failed"
    status: ClassVar[int] = 409


class BadOccurrence(ServiceError):
    """An occurrence lies outside its transcript."""

    code: ClassVar[str] = "bad_occurrence"
    status: ClassVar[int] = 422


@dataclass(frozen=True)
class HandoffClaim:
    """A claimed hand-off with its transcript."""

    handoff: Handoff
    row: StoredTranscript
    transcript: Transcript


def claim(
    services: Services, caller: Caller, study: str | None = None, stage: str = DEFAULT_STAGE
) -> HandoffClaim | None:
    """Claim the stage's oldest free hand-off, with the newest version of its transcript.

    Args:
        study: id or code; None for all of the caller's studies.

    Returns:
        None if there is none.

    A hand-off whose transcript is permanently unreadable fails, and the next one is tried. One
    whose transcript or key is missing stays open.

    Raises:
        StudyNotFound
        KeyMissing, ArtefactMissing: of every free hand-off.
    """
    skipped: dict[UUID, ServiceError] = {}
    while True:
        with services.sessionmaker.begin() as session:
            study_id = None if study is None else find_study(session, caller, study).id
            free = _free_handoff(caller, stage).where(Handoff.id.not_in(list(skipped)))
            if study_id is not None:
                free = free.where(Handoff.study_id == study_id)
            handoff = session.scalar(free)
            if handoff is None and stage != DEFAULT_STAGE:
                handoff = _offer(session, caller, stage, study_id)
            if handoff is None:
                for error in skipped.values():
                    raise error
                return None
            row = session.get_one(StoredTranscript, handoff.transcript_id)
            try:
                transcript = read_transcript(session, services, row)
            except PERMANENT_ERRORS as error:
                log.error("hand-off %s: its transcript is unreadable: %s", handoff.id, error.code)
                _end(handoff, read_clock(session), "failed", failure_code=error.code)
                _record(session, None, "handoff.failed", handoff, {"code": error.code})
                emit_handoff(session, handoff)
                continue
            except MISSING_ERRORS as error:
                log.error("hand-off %s: its transcript is missing: %s", handoff.id, error.code)
                skipped[handoff.id] = error
                continue
            handoff.status = "claimed"
            handoff.fence += 1
            handoff.token_id = caller.token_id
            handoff.lease_until = read_clock(session) + LEASE
            handoff.transcript_version = transcript.version
            _record(session, caller, "handoff.claimed", handoff)
            log.info("hand-off %s: claimed by token %s", handoff.id, caller.token_id)
            return HandoffClaim(handoff, row, transcript)


def _offer(session: DbSession, caller: Caller, stage: str, study_id: UUID | None) -> Handoff | None:
    """Make the stage's hand-off for the oldest transcript that has none."""
    has_one = (
        select(Handoff.id)
        .where(Handoff.transcript_id == StoredTranscript.id, Handoff.stage == stage)
        .exists()
    )
    query = (
        select(StoredTranscript)
        .join(Job, Job.id == StoredTranscript.job_id)
        .where(Job.status != "erased", ~has_one)
        .order_by(StoredTranscript.created_at, StoredTranscript.id)
        .limit(1)
        .with_for_update(of=StoredTranscript, skip_locked=True)
    )
    query = caller.restrict(query, StoredTranscript.study_id)
    if study_id is not None:
        query = query.where(StoredTranscript.study_id == study_id)
    row = session.scalar(query)
    if row is None:
        return None
    made = select(Handoff.id).where(Handoff.transcript_id == row.id, Handoff.stage == stage)
    if session.scalar(made) is not None:  # another client made it before the row was locked
        return None
    handoff = Handoff(study_id=row.study_id, transcript_id=row.id, stage=stage, fence=0)
    session.add(handoff)
    session.flush()
    return handoff


def _free_handoff(caller: Caller, stage: str) -> Any:
    expired = and_(Handoff.status == "claimed", Handoff.lease_until < func.now())
    query = (
        select(Handoff)
        .join(StoredTranscript, StoredTranscript.id == Handoff.transcript_id)
        .join(Job, Job.id == StoredTranscript.job_id)
        .where(or_(Handoff.status == "open", expired), Job.status != "erased")
        .where(Handoff.stage == stage)
        .order_by(Handoff.created_at, Handoff.id)
        .limit(1)
        .with_for_update(of=Handoff, skip_locked=True)
    )
    return caller.restrict(query, Handoff.study_id)


def renew_lease(session: DbSession, caller: Caller, handoff_id: UUID, fence: int) -> Handoff:
    """Extend the lease of a claim, from now.

    Raises:
        HandoffNotFound, HandoffTaken, Erased
    """
    handoff = _lock_claimed(session, caller, handoff_id, fence)
    handoff.lease_until = read_clock(session) + LEASE
    return handoff


def complete(
    session: DbSession,
    services: Services,
    caller: Caller,
    handoff_id: UUID,
    fence: int,
    occurrences: Sequence[dict[str, Any]],
) -> Handoff:
    """Store the occurrences and add them to the review.

    Safe to repeat with the same fence: the first ones stay.

    Args:
        occurrences: each with the id of its `segment`, and `start` and `end` in its text, both in
            the version that was claimed.

    Raises:
        HandoffNotFound, HandoffTaken, BadOccurrence, Erased
    """
    handoff = find_handoff(session, caller, handoff_id, lock=True)
    if handoff.status == "completed" and _is_current(handoff, caller, fence):
        return handoff  # the response to the first request was lost
    handoff = _lock_claimed(session, caller, handoff_id, fence)
    row = session.get_one(StoredTranscript, handoff.transcript_id)
    claimed = read_transcript(session, services, row, handoff.transcript_version)
    _refuse_outside(claimed, occurrences)
    content = json.dumps(list(occurrences)).encode()
    handoff.occurrences_artefact_id = results.write(
        services, handoff.study_id, row.job_id, OCCURRENCES, content
    )
    record_occurrences(session, services, caller, handoff, occurrences)
    _end(handoff, read_clock(session), "completed")
    emit_handoff(session, handoff)
    _record(session, caller, "handoff.completed", handoff, {"occurrences": len(occurrences)})
    log.info("hand-off %s: completed, %d occurrences", handoff.id, len(occurrences))
    return handoff


def fail(session: DbSession, caller: Caller, handoff_id: UUID, fence: int, code: str) -> Handoff:
    """Record that de-identification failed. Safe to repeat with the same fence.

    Raises:
        HandoffNotFound, HandoffTaken, Erased
    """
    handoff = find_handoff(session, caller, handoff_id, lock=True)
    if handoff.status == "failed" and _is_current(handoff, caller, fence):
        return handoff
    handoff = _lock_claimed(session, caller, handoff_id, fence)
    _end(handoff, read_clock(session), "failed", failure_code=code)
    emit_handoff(session, handoff)
    _record(session, caller, "handoff.failed", handoff, {"code": code})
    log.warning("hand-off %s: failed, %s", handoff.id, code)
    return handoff


def reopen(session: DbSession, caller: Caller, handoff_id: UUID) -> Handoff:
    """Offer a failed hand-off again. Safe to repeat.

    Raises:
        HandoffNotFound, Erased
        HandoffNotFailed: it is claimed or completed.
    """
    handoff = find_handoff(session, caller, handoff_id, lock=True)
    if handoff.status not in ("failed", "open"):
        raise HandoffNotFailed(f"The hand-off is {handoff.status}: only a failed one can be opened")
    handoff.status, handoff.failure_code, handoff.finished_at = "open", None, None
    _record(session, caller, "handoff.reopened", handoff)
    log.info("hand-off %s: opened again", handoff.id)
    return handoff


def find_handoff(
    session: DbSession, caller: Caller, handoff_id: UUID, *, lock: bool = False
) -> Handoff:
    """
    Raises:
        HandoffNotFound: it does not exist, or is not the caller's.
        Erased
    """
    handoff = session.get(Handoff, handoff_id, with_for_update=lock or None)
    if handoff is None or not caller.may_see(handoff.study_id):
        raise HandoffNotFound("There is no such hand-off, or it is not yours")
    transcript = session.get_one(StoredTranscript, handoff.transcript_id)
    refuse_erased(session.get_one(Job, transcript.job_id))
    return handoff


def list_handoffs(
    session: DbSession,
    caller: Caller,
    *,
    study: str | None = None,
    statuses: Sequence[str] = (),
    limit: int,
    cursor: str | None = None,
) -> Page[Handoff]:
    """The caller's hand-offs, newest first.

    Raises:
        StudyNotFound, BadCursor
    """
    query = caller.restrict(select(Handoff), Handoff.study_id)
    if study is not None:
        query = query.where(Handoff.study_id == find_study(session, caller, study).id)
    if statuses:
        query = query.where(Handoff.status.in_(statuses))
    return page_of(session, Handoff, query, limit=limit, cursor=cursor)


def _lock_claimed(session: DbSession, caller: Caller, handoff_id: UUID, fence: int) -> Handoff:
    handoff = find_handoff(session, caller, handoff_id, lock=True)
    if handoff.status != "claimed" or not _is_current(handoff, caller, fence):
        raise HandoffTaken("This claim is over: another claim holds the hand-off, or it has ended")
    return handoff


def _is_current(handoff: Handoff, caller: Caller, fence: int) -> bool:
    return handoff.fence == fence and handoff.token_id == caller.token_id


def _refuse_outside(transcript: Transcript, occurrences: Sequence[dict[str, Any]]) -> None:
    lengths = {segment.id: len(segment.text) for segment in transcript.segments}
    for i, occurrence in enumerate(occurrences):
        if not occurrence["start"] < occurrence["end"] <= lengths.get(occurrence["segment"], 0):
            raise BadOccurrence(f"Occurrence {i} lies outside the text of its segment")


def _end(handoff: Handoff, now: datetime, status: str, *, failure_code: str | None = None) -> None:
    handoff.status, handoff.failure_code = status, failure_code
    handoff.lease_until, handoff.finished_at = None, now


def _record(
    session: DbSession,
    caller: Caller | None,
    action: audit.Action,
    handoff: Handoff,
    detail: Mapping[str, audit.Value] | None = None,
) -> None:
    place: dict[str, UUID | str] = {"handoff": handoff.id, "transcript": handoff.transcript_id}
    version = {"stage": handoff.stage, "version": handoff.transcript_version}
    detail = {**version, **(detail or {})}
    audit.record(session, caller, action, handoff.study_id, place, detail=detail)
