"""What a deposit for a data archive holds: the newest releases that were made for outsiders.

ServiceError
├── NothingToDeposit
└── DepositOutdated
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import ClassVar
from uuid import UUID

from sqlalchemy.orm import Session as DbSession

from models.deidentification.participants import SmallCell, small_cells
from models.study_facts import StudyFacts
from models.transcript_json import from_json
from service.database import tables
from service.domain import release_check, releases
from service.domain.callers import Caller
from service.domain.consent import require_release
from service.domain.participant_records import read_attributes
from service.domain.release_content import NamesLeft
from service.domain.releases import ReleaseState
from service.domain.studies import find_study
from service.domain.study_facts import read_facts
from service.errors import ServiceError
from service.services import Services

OUTSIDERS = ("repository", "publication")  # contexts of releases


class NothingToDeposit(ServiceError):
    """No transcript was last released for a repository or a publication."""

    code: ClassVar[str] = "nothing_to_deposit"
    status: ClassVar[int] = 409


class DepositOutdated(ServiceError):
    """A release no longer agrees with its transcript, its review or the study's pseudonyms."""

    code: ClassVar[str] = "deposit_outdated"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class Deposited:
    """A release, and its files by format."""

    release_id: UUID
    session: str
    kind: str | None
    number: int
    created_on: date
    language: str
    files: Mapping[str, bytes]


def read_deposit(
    session: DbSession, services: Services, caller: Caller, study: str, formats: Sequence[str]
) -> tuple[StudyFacts, list[Deposited], list[SmallCell]]:
    """
    Args:
        formats: of the transcripts.

    Returns:
        What is recorded about the study, the releases, and the combinations of attributes that few
        participants share.

    Raises:
        ConsentMissing
        StudyNotFound, NothingReleased, NothingToDeposit, DepositOutdated, NamesLeft
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    found = find_study(session, caller, study)
    states = releases.describe(session, releases.newest_releases(session, caller, study))
    chosen = [state for state in states if state.row.context in OUTSIDERS]
    if not chosen:
        raise NothingToDeposit(
            "No transcript was last released for a repository or a publication: release the "
            "transcripts with `--for repository` first"
        )
    _refuse_outdated(chosen)
    _refuse_names(session, services, caller, study, chosen)
    for state in chosen:
        interview = _interview(session, state)
        require_release(session, caller, found, interview, state.row.context)
    facts = read_facts(session, services, found)
    attributes = read_attributes(session, services, caller, found.id)
    cells = small_cells(list(attributes.values()))
    return facts, [_read(session, services, caller, state, formats) for state in chosen], cells


def _interview(session: DbSession, state: ReleaseState) -> tables.Session | None:
    id = state.row.session_id
    return None if id is None else session.get(tables.Session, id)


def _refuse_outdated(states: Sequence[ReleaseState]) -> None:
    """
    Raises:
        DepositOutdated
    """
    outdated = [state.session for state in states if state.outdated]
    if outdated:
        raise DepositOutdated(
            f"The newest releases of {', '.join(outdated)} no longer match their transcripts, "
            "reviews or pseudonyms: release them again"
        )


def _refuse_names(
    session: DbSession,
    services: Services,
    caller: Caller,
    study: str,
    states: Sequence[ReleaseState],
) -> None:
    """
    Raises:
        NamesLeft
    """
    checked = release_check.check_releases(session, services, caller, study)
    ids = {state.row.id: state.session for state in states}
    named = {
        ids[each.release_id]
        for each in checked.found
        if each.release_id in ids and not each.is_doubtful
    }
    if named:
        raise NamesLeft(
            f"Names of the study are in releases of {', '.join(sorted(named))}: review them and "
            "release them again"
        )


def _read(
    session: DbSession,
    services: Services,
    caller: Caller,
    state: ReleaseState,
    formats: Sequence[str],
) -> Deposited:
    row = state.row
    interview = _interview(session, state)

    def read(format: str) -> bytes:
        return releases.read_file(session, services, caller, row.id, format)[1]

    return Deposited(
        row.id,
        state.session,
        None if interview is None else interview.kind,
        row.number,
        row.created_at.date(),
        from_json(read(releases.TRANSCRIPT).decode()).language,
        {format: read(format) for format in formats},
    )
