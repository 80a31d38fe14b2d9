"""Sessions, which are interviews or focus groups: created, found, and the order of recordings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session as DbSession

from models.options import SpeakerCount
from service.database.tables import Recording, Session, Study
from service.domain import audit
from service.domain.callers import Caller
from service.domain.locks import refuse_duplicate, refuse_while_checked
from service.domain.pages import decode_cursor, encode_cursor, parse_cursor_id
from service.domain.studies import find_study, parse_id, refuse_erased
from service.errors import RecordingNotFound, SessionCodeTaken, SessionNotFound
from service.services import Services

UNUSABLE = ("erased", "refused")  # recordings that no longer count as a session's
PREFIXES = {"interview": "INT", "focus_group": "FG"}


def create_session(
    session: DbSession,
    caller: Caller,
    *,
    study: str,
    code: str | None,
    kind: str,
    speakers: SpeakerCount,
    roster: list[dict[str, Any]],
) -> Session:
    """
    Args:
        study: id or code.
        code: None for the next free one.
        kind: "interview" or "focus_group".

    Raises:
        StudyNotFound, SessionCodeTaken, Erased
    """
    study_id = find_study(session, caller, study).id
    made = Session(
        id=uuid4(),
        study_id=study_id,
        code=_choose_code(session, study_id, kind, code),
        kind=kind,
        speakers_min=speakers.minimum,
        speakers_max=speakers.maximum,
        roster=roster,
    )
    session.add(made)
    with refuse_duplicate("uq_session_code", _code_taken()):
        session.flush()
    audit.record(session, caller, "session.created", study_id, {"session": made.id})
    return made


def _choose_code(session: DbSession, study_id: UUID, kind: str, wanted: str | None) -> str:
    """Return the wanted code, otherwise the next: INT-01, INT-02, or FG-1.

    Locks the study, so that two sessions created at once get different codes.

    Raises:
        SessionCodeTaken
    """
    session.execute(select(Study.id).where(Study.id == study_id).with_for_update())
    taken = set(session.scalars(select(Session.code).where(Session.study_id == study_id)))
    if wanted is not None:
        if wanted in taken:
            raise _code_taken()
        return wanted
    prefix = PREFIXES[kind]
    numbers = [int(match[1]) for code in taken if (match := re.fullmatch(rf"{prefix}-(\d+)", code))]
    width = 2 if kind == "interview" else 1
    return f"{prefix}-{max(numbers, default=0) + 1:0{width}}"


@dataclass(frozen=True)
class SessionPage:
    """Sessions, each with the ids of its recordings in order."""

    rows: Sequence[tuple[Session, list[UUID]]]
    next_cursor: str | None


def _code_taken() -> SessionCodeTaken:
    return SessionCodeTaken(
        "Another session of the study has this code, or had it before it was deleted: choose "
        "another"
    )


def list_sessions(
    session: DbSession, caller: Caller, study: str | None, *, limit: int, cursor: str | None
) -> SessionPage:
    """A page of the caller's sessions, by study and code, in one statement.

    Raises:
        StudyNotFound, Erased, BadCursor
    """
    recordings = (
        select(Recording.id)
        .where(Recording.session_id == Session.id, Recording.state.not_in(UNUSABLE))
        .order_by(Recording.position, Recording.created_at)
        .correlate(Session)
        .scalar_subquery()
    )
    query = caller.restrict(select(Session, func.array(recordings)), Session.study_id).where(
        Session.erased_at.is_(None)
    )
    if study is not None:
        query = query.where(Session.study_id == find_study(session, caller, study).id)
    if cursor is not None:
        study_id, code = decode_cursor(cursor)
        after = (parse_cursor_id(study_id), code)
        query = query.where(tuple_(Session.study_id, Session.code) > after)
    rows = session.execute(query.order_by(Session.study_id, Session.code).limit(limit + 1)).all()
    last = rows[limit - 1][0] if len(rows) > limit else None
    return SessionPage(
        [(row[0], row[1]) for row in rows[:limit]],
        encode_cursor(str(last.study_id), last.code) if last else None,
    )


def find_session(
    session: DbSession, caller: Caller, id_or_code: str | UUID, study: Study | None = None
) -> Session:
    """
    Args:
        study: the session must belong to it; needed if a code is given.

    Raises:
        SessionNotFound: it does not exist, or is not the caller's.
        Erased
    """
    id = parse_id(id_or_code)
    query = select(Session).where(Session.id == id if id else Session.code == id_or_code)
    if study is not None:
        query = query.where(Session.study_id == study.id)
    elif id is None:
        raise ValueError("a code needs its study")
    found = session.scalar(query)
    if found is None or not caller.may_see(found.study_id):
        raise SessionNotFound("There is no such session, or it is not yours")
    refuse_erased(found)
    return found


# --- the recordings of a session ------------------------------------------------------------------


def session_recordings(session: DbSession, session_id: UUID) -> list[Recording]:
    """Its recordings in order, without erased and refused ones."""
    query = select(Recording).where(
        Recording.session_id == session_id, Recording.state.not_in(UNUSABLE)
    )
    return list(session.scalars(query.order_by(Recording.position, Recording.created_at)))


def distinct_recordings(session: DbSession, session_id: UUID) -> list[Recording]:
    """Its recordings without copies: the same file, uploaded twice, would be transcribed twice."""
    first: dict[bytes | UUID, Recording] = {}
    for recording in session_recordings(session, session_id):
        first.setdefault(recording.digest or recording.id, recording)
    return list(first.values())


def set_recordings(
    services: Services, caller: Caller, session_id: UUID, recording_ids: list[UUID]
) -> tuple[Session, list[Recording]]:
    """Make these recordings, in this order, the only ones of the session.

    Raises:
        SessionNotFound, Erased
        RecordingNotFound: one of them does not belong to the study.
        UploadBusy: one of them is being checked, which locks its row for minutes.
    """
    with refuse_while_checked(), services.sessionmaker.begin() as session:
        found = find_session(session, caller, session_id)
        lock_positions(session, found)
        _lock_and_order(session, found, recording_ids)
        session.flush()
        audit.record(
            session,
            caller,
            "session.recordings_set",
            found.study_id,
            {"session": found.id},
            detail={"recordings": [str(id) for id in recording_ids]},
        )
        return found, session_recordings(session, found.id)


def _lock_and_order(session: DbSession, interview: Session, ids: list[UUID]) -> None:
    rows = {
        row.id: row
        for row in session.scalars(
            select(Recording)
            .where(Recording.study_id == interview.study_id, Recording.erased_at.is_(None))
            .where((Recording.session_id == interview.id) | Recording.id.in_(ids))
            .with_for_update(nowait=True, key_share=True)
        )
    }
    if not set(ids) <= set(rows):
        raise RecordingNotFound("The session's study has no such recording")
    for row in rows.values():
        row.session_id = interview.id if row.id in ids else None
        row.position = ids.index(row.id) if row.id in ids else None


def lock_positions(session: DbSession, interview: Session) -> None:
    """Let one transaction at a time give positions to recordings of a session."""
    session.refresh(interview, with_for_update={"key_share": True})
    refuse_erased(interview)


def next_position(session: DbSession, session_id: UUID) -> int:
    """
    Args:
        session_id: after `lock_positions`.
    """
    last = session.scalar(
        select(func.max(Recording.position)).where(Recording.session_id == session_id)
    )
    return 0 if last is None else last + 1
