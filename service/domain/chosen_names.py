"""Names that a study chooses as pseudonyms: none may occur in the study, none is used twice."""

import hashlib
import hmac
import logging
import random
from collections.abc import Iterable
from typing import ClassVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.pseudonyms import NEUTRAL_NAMES, neutral_names_in, words_of
from models.speaker_names import is_pseudonym
from models.transcript import Transcript
from service.database.tables import Job, StoredTranscript, Study
from service.domain.recordings import study_secret
from service.domain.transcripts import read_transcript
from service.errors import ServiceError
from service.services import Services
from service.vault.errors import READ_ERRORS

MAX_SEEN = 2000  # versions of transcripts
USED_NAMES = "used_names"  # in `Study.deidentification`: keyed hashes

log = logging.getLogger(__name__)


class PseudonymOccurs(ServiceError):
    """The chosen name occurs in the study: in a transcript or on the roster."""

    code: ClassVar[str] = "pseudonym_occurs"
    status: ClassVar[int] = 409


class BadPseudonym(ServiceError):
    """The pseudonym is not a code, or the chosen name contains other characters than names do."""

    code: ClassVar[str] = "bad_pseudonym"
    status: ClassVar[int] = 422


class PseudonymTaken(ServiceError):
    """Another entity of the study has or had this pseudonym; it is never used again."""

    code: ClassVar[str] = "pseudonym_taken"
    status: ClassVar[int] = 409


def choose_name(
    session: DbSession, services: Services, study: Study, surfaces: Iterable[str]
) -> str | None:
    """Choose a name of the list at random, and record that it is used.

    Args:
        study: locked.
        surfaces: every name on the study's roster.

    Returns:
        None if every name of the list occurs in the study or is used.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged
    """
    taken = set(neutral_names_in(surfaces))
    for row in _transcripts(session, study.id):
        taken |= _neutral_names_of(session, services, row)
    used = study.deidentification.get(USED_NAMES, [])
    free = [
        name
        for name in NEUTRAL_NAMES
        if name.lower() not in taken and _digest(services, study.id, name) not in used
    ]
    name = random.SystemRandom().choice(free) if free else None
    if name is not None:
        _record(services, study, name)
    return name


def take_name(
    session: DbSession, services: Services, study: Study, name: str, surfaces: Iterable[str]
) -> None:
    """Check a name that a participant or a researcher has chosen, and record that it is used.

    Args: as of `choose_name`.

    Raises:
        BadPseudonym, PseudonymTaken, PseudonymOccurs
        Sealed, Erased, KeyMissing, KeyDamaged
    """
    if not is_pseudonym(name):
        raise BadPseudonym("A chosen name consists of letters, digits, spaces and .'- only")
    if _digest(services, study.id, name) in study.deidentification.get(USED_NAMES, []):
        raise PseudonymTaken("The study has used this name already: choose another")
    words = words_of(name)
    if any(words & words_of(surface) for surface in surfaces):
        raise PseudonymOccurs("The name is on the study's roster: choose another")
    for row in _transcripts(session, study.id):
        transcript = _read(session, services, row)
        if transcript and any(words & words_of(one.text) for one in transcript.segments):
            raise PseudonymOccurs("The name occurs in a transcript of the study: choose another")
    _record(services, study, name)


def is_used(services: Services, study: Study, surface: str) -> bool:
    """Whether somebody's chosen name is this one.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged
    """
    used = study.deidentification.get(USED_NAMES, [])
    return bool(used) and _digest(services, study.id, surface) in used


def _record(services: Services, study: Study, name: str) -> None:
    used = study.deidentification.get(USED_NAMES, [])
    study.deidentification = {
        **study.deidentification,
        USED_NAMES: [*used, _digest(services, study.id, name)],
    }


def _digest(services: Services, study_id: UUID, name: str) -> str:
    """Keyed, because a chosen name must not be readable in the database."""
    secret = study_secret(services, study_id, b"chosen names")
    return hmac.new(secret, name.casefold().encode(), hashlib.sha256).hexdigest()


def _transcripts(session: DbSession, study_id: UUID) -> list[StoredTranscript]:
    query = (
        select(StoredTranscript)
        .join(Job, Job.id == StoredTranscript.job_id)
        .where(StoredTranscript.study_id == study_id, Job.status != "erased")
    )
    return list(session.scalars(query))


# Only names of the public list are kept in memory, never words of a transcript.
_seen: dict[tuple[UUID, int], frozenset[str]] = {}


def _neutral_names_of(
    session: DbSession, services: Services, row: StoredTranscript
) -> frozenset[str]:
    """Names of the list that occur in the newest version of a transcript."""
    found = _seen.get((row.id, row.version))
    if found is None:
        transcript = _read(session, services, row)
        if transcript is None:
            return frozenset()
        found = neutral_names_in(segment.text for segment in transcript.segments)
        if len(_seen) >= MAX_SEEN:
            _seen.clear()
        _seen[row.id, row.version] = found
    return found


def _read(session: DbSession, services: Services, row: StoredTranscript) -> Transcript | None:
    try:
        return read_transcript(session, services, row)
    except READ_ERRORS as error:
        log.warning("transcript %s: not searched for a chosen name, %s", row.id, error.code)
        return None
