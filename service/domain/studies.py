"""Studies and sessions: found, made, and their vocabulary."""

import json
import re
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from service.database import tables
from service.database.tables import Recording, Study
from service.domain.callers import Caller
from service.errors import RecordingNotFound, SessionCodeTaken, SessionNotFound, StudyNotFound
from service.services import Services
from service.vault import ArtefactClass
from service.vault.errors import Erased
from service.vault.store import Artefact

PREFIXES = {"interview": "INT", "focus_group": "FG"}
VOCABULARY = "vocabulary"


def find_study(session: DbSession, caller: Caller, id_or_code: str | UUID) -> Study:
    """
    Raises:
        StudyNotFound: there is none, or it is not the caller's.
        Erased
    """
    id = as_id(id_or_code)
    study = session.scalar(
        select(Study).where(Study.id == id if id is not None else Study.code == id_or_code)
    )
    if study is None or not caller.may_see(study.id):
        raise StudyNotFound("There is no such study, or it is not yours")
    refuse_erased(study)
    return study


def refuse_erased(owner: Study | tables.Session) -> None:
    """
    Raises:
        Erased
    """
    if owner.erased_at is not None:
        raise Erased(f"The {owner.__tablename__} was erased")


def find_session(
    session: DbSession, caller: Caller, id_or_code: str | UUID, study: Study | None = None
) -> tables.Session:
    """
    Args:
        study: whose session it must be; needed for a code.

    Raises:
        SessionNotFound, Erased
    """
    id = as_id(id_or_code)
    query = select(tables.Session)
    query = query.where(tables.Session.id == id if id else tables.Session.code == id_or_code)
    if study is not None:
        query = query.where(tables.Session.study_id == study.id)
    elif id is None:
        raise ValueError("a code needs its study")
    found = session.scalar(query)
    if found is None or not caller.may_see(found.study_id):
        raise SessionNotFound("There is no such session, or it is not yours")
    refuse_erased(found)
    return found


def as_id(id_or_code: str | UUID) -> UUID | None:
    """A code is never as long as an id."""
    if isinstance(id_or_code, UUID):
        return id_or_code
    return UUID(id_or_code) if len(id_or_code) == 36 and "-" in id_or_code[8:9] else None


def session_code(session: DbSession, study_id: UUID, kind: str, wanted: str | None) -> str:
    """The code that was asked for, else the next one: INT-01, INT-02, FG-1.

    Locks the study, so that two sessions made at once get two codes.

    Raises:
        SessionCodeTaken
    """
    session.execute(select(Study.id).where(Study.id == study_id).with_for_update())
    codes = select(tables.Session.code).where(tables.Session.study_id == study_id)
    taken = set(session.scalars(codes))
    if wanted is not None:
        if wanted in taken:
            raise SessionCodeTaken("Another session of the study has this code")
        return wanted
    prefix = PREFIXES[kind]
    numbers = [int(match[1]) for code in taken if (match := re.fullmatch(rf"{prefix}-(\d+)", code))]
    width = 2 if kind == "interview" else 1
    return f"{prefix}-{max(numbers, default=0) + 1:0{width}}"


def order_recordings(session: DbSession, made: tables.Session, ids: list[UUID]) -> None:
    """These recordings of the study, in this order and no others, are the session's.

    Who checks a recording has its row for minutes; nobody waits for that, see `not_while_checked`.

    Raises:
        RecordingNotFound: one of them is not the study's.
        OperationalError: somebody has one of them (LockNotAvailable).
    """
    rows = {
        row.id: row
        for row in session.scalars(
            select(Recording)
            .where(Recording.study_id == made.study_id, Recording.erased_at.is_(None))
            .where((Recording.session_id == made.id) | Recording.id.in_(ids))
            .with_for_update(nowait=True, key_share=True)
        )
    }
    if not set(ids) <= set(rows):
        raise RecordingNotFound("There is no such recording in the session's study")
    for row in rows.values():
        row.session_id = made.id if row.id in ids else None
        row.position = ids.index(row.id) if row.id in ids else None


def next_position(session: DbSession, session_id: UUID) -> int:
    last = session.scalar(
        select(func.max(Recording.position)).where(Recording.session_id == session_id)
    )
    return 0 if last is None else last + 1


# --- words that transcripts of the study are likely to hold ---------------------------------------


def study_vocabulary(services: Services, study: Study) -> list[str]:
    if study.vocabulary_artefact_id is None:
        return []
    key = services.vault.keyrings[ArtefactClass.IDENTIFIED].data_key(study.id, study.id)
    artefact = Artefact(study.id, study.id, VOCABULARY, study.vocabulary_artefact_id)
    with services.vault.stores[ArtefactClass.IDENTIFIED].open(artefact, key) as file:
        words: list[str] = json.loads(file.read())
    return words


def store_vocabulary(services: Services, study_id: UUID, words: list[str]) -> UUID:
    """
    Returns:
        Id of a new artefact. The older one stays until the caller has committed.
    """
    key = services.vault.keyrings[ArtefactClass.IDENTIFIED].data_key(study_id, study_id)
    artefact = Artefact(study_id, study_id, VOCABULARY, uuid4())
    with services.vault.stores[ArtefactClass.IDENTIFIED].write(artefact, key) as file:
        file.write(json.dumps(words).encode())
    return artefact.id


def create_study_keys(services: Services, study_id: UUID) -> None:
    """Of the study in every class, and one for what belongs to the study itself."""
    for keyring in services.vault.keyrings.values():
        keyring.create_study_key(study_id)
    services.vault.keyrings[ArtefactClass.IDENTIFIED].create_data_key(study_id, study_id)
