"""Releases: frozen, de-identified versions of transcripts, made after a finished review.

A release holds every format, rendered once. Its files are in the vault's deidentified class, under
a key of their own. It is never changed: a release that no longer agrees with its transcript, its
review or the study's entities is listed as outdated.

ServiceError
├── ReleaseNotFound
├── NothingReleased
└── FormatNotReleased
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, get_args
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.risk_report import RiskReport
from models.transcript import Transcript
from service.database import tables
from service.database.tables import (
    Decision,
    Job,
    Release,
    ReleaseFile,
    Review,
    StoredTranscript,
    Study,
)
from service.domain import audit, release_content
from service.domain.callers import Caller
from service.domain.consent import require_release
from service.domain.entity_changes import EntityAction
from service.domain.pages import Page, page_of
from service.domain.release_content import Context
from service.domain.studies import find_study
from service.domain.transcripts import find_interview, find_transcript
from service.errors import ServiceError
from service.services import Services
from service.vault import ArtefactClass
from service.vault.errors import Erased
from service.vault.keys import KeyRing
from service.vault.store import Artefact, Store

Outdated = Literal["newer_release", "transcript_changed", "review_changed", "entity_changed"]
Renderer = Callable[[Transcript, RiskReport], Mapping[str, bytes]]
"""Renders the files of a release, by format."""

FILE, REPORT = "release_file", "release_report"  # kinds of artefacts
TRANSCRIPT = "json"  # the format that holds the transcript itself

log = logging.getLogger(__name__)


class ReleaseNotFound(ServiceError):
    """There is no such release, or it is not yours."""

    code: ClassVar[str] = "release_not_found"
    status: ClassVar[int] = 404


class NothingReleased(ServiceError):
    """The study has no release yet."""

    code: ClassVar[str] = "nothing_released"
    status: ClassVar[int] = 409


class FormatNotReleased(ServiceError):
    """The release has no file in this format."""

    code: ClassVar[str] = "format_not_released"
    status: ClassVar[int] = 404


@dataclass(frozen=True)
class ReleaseState:
    """A release with the codes of its study and session.

    `outdated`: why it no longer matches its transcript, review or entities; empty if it does.
    """

    row: Release
    study: str
    session: str
    files: tuple[ReleaseFile, ...]
    outdated: tuple[Outdated, ...]


def deidentified(services: Services) -> tuple[Store, KeyRing]:
    vault = services.vault
    return vault.stores[ArtefactClass.DEIDENTIFIED], vault.keyrings[ArtefactClass.DEIDENTIFIED]


# --- making ---------------------------------------------------------------------------------------


def create_release(
    services: Services, caller: Caller, transcript_id: UUID, context: Context, render: Renderer
) -> ReleaseState:
    """Freeze the de-identified transcript, in every format, with its residual-risk report.

    Corrections of the transcript and decisions of its review wait until this ends.

    Raises:
        TranscriptNotFound, ReviewNotReady, ReviewOpen, NamesLeft, ConsentMissing
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    with services.sessionmaker.begin() as session:
        row = _lock(session, caller, transcript_id)
        _require_consent(session, caller, row, context)
        same = earlier_transcripts(session, row)
        newest = select(func.max(Release.number)).where(Release.transcript_id.in_(same))
        number = (session.scalar(newest) or 0) + 1
        content = release_content.prepare(session, services, caller, row, number, context)
        files = render(content.transcript, content.report)
        interview = content.interview
        release = Release(
            id=uuid4(),
            study_id=row.study_id,
            session_id=None if interview is None else interview.id,
            transcript_id=row.id,
            transcript_version=content.transcript.version,
            number=number,
            review_version=content.review_version,
            context=context,
            names_kept={str(id): n for id, n in content.names_kept.items()},
            token_id=caller.token_id,
        )
        session.add(release)
        session.flush()
        with _new_key(services, release):
            # Accents as they are: the search for names would not find escaped ones.
            report = json.dumps(content.report.to_json(), ensure_ascii=False)
            release.report_artefact_id = _write(services, release, REPORT, report.encode())
            for format, written in files.items():
                session.add(
                    ReleaseFile(
                        release_id=release.id,
                        format=format,
                        artefact_id=_write(services, release, FILE, written),
                        n_bytes=len(written),
                        sha256=hashlib.sha256(written).hexdigest(),
                    )
                )
            session.flush()
        audit.record(
            session,
            caller,
            "release.created",
            release.study_id,
            place_of(release),
            detail={
                "context": context,
                "version": release.transcript_version,
                "sha256": [hashlib.sha256(written).hexdigest() for written in files.values()],
            },
        )
        log.info("release %s: number %d, %d files", release.id, number, len(files))
        return describe(session, [release])[0]


def _require_consent(
    session: DbSession, caller: Caller, row: StoredTranscript, context: Context
) -> None:
    """
    Raises:
        ConsentMissing
    """
    study = session.get_one(Study, row.study_id)
    require_release(session, caller, study, find_interview(session, row), context)


def _lock(session: DbSession, caller: Caller, transcript_id: UUID) -> StoredTranscript:
    """The transcript, which is neither erased nor corrected until the transaction ends.

    An erasure locks the job first, so this does too: a release that it does not see would stay.

    Raises:
        TranscriptNotFound, Erased
    """
    job_id = find_transcript(session, caller, transcript_id).job_id
    session.get(Job, job_id, with_for_update={"read": True}, populate_existing=True)
    row = find_transcript(session, caller, transcript_id, lock=True)
    session.refresh(row)
    return row


def earlier_transcripts(session: DbSession, row: StoredTranscript) -> list[UUID]:
    """The transcript and those that it stands in place of. Their releases are numbered as one."""
    ids, replaced = [row.id], row.replaces
    while replaced is not None:
        ids.append(replaced)
        replaced = session.get_one(StoredTranscript, replaced).replaces
    return ids


@contextmanager
def _new_key(services: Services, release: Release) -> Any:
    """Create the release's key; delete it if the block fails. The files are then strays."""
    _, keyring = deidentified(services)
    keyring.create_data_key(release.study_id, release.id)
    try:
        yield
    except BaseException:
        keyring.discard(release.study_id, release.id)
        raise


def _write(services: Services, release: Release, kind: str, content: bytes) -> UUID:
    store, keyring = deidentified(services)
    artefact = Artefact(release.study_id, release.id, kind)
    with store.write(artefact, keyring.data_key(release.study_id, release.id)) as file:
        file.write(content)
    return artefact.id


# --- reading --------------------------------------------------------------------------------------


def find_release(
    session: DbSession, caller: Caller, release_id: UUID, *, lock: bool = False
) -> Release:
    """
    Raises:
        ReleaseNotFound: it does not exist, or is not the caller's.
        Erased
    """
    release = session.get(Release, release_id, with_for_update=lock or None)
    if release is None or not caller.may_see(release.study_id):
        raise ReleaseNotFound("There is no such release, or it is not yours")
    if release.erased_at is not None:
        raise Erased("The release was erased")
    return release


def place_of(release: Release) -> dict[str, UUID | str]:
    """The release and its transcript, for the audit trail."""
    return {"release": release.id, "transcript": release.transcript_id}


def list_releases(
    session: DbSession,
    caller: Caller,
    *,
    study: str | None = None,
    interview: str | None = None,
    transcript_id: UUID | None = None,
    limit: int,
    cursor: str | None = None,
) -> Page[Release]:
    """The caller's releases, newest first, without erased ones.

    Raises:
        StudyNotFound, SessionNotFound, BadCursor
    """
    query = caller.restrict(select(Release).where(Release.erased_at.is_(None)), Release.study_id)
    if study is not None:
        query = query.where(Release.study_id == find_study(session, caller, study).id)
    if interview is not None:
        query = query.join(tables.Session, tables.Session.id == Release.session_id)
        query = query.where(tables.Session.code == interview)
    if transcript_id is not None:
        query = query.where(Release.transcript_id == transcript_id)
    return page_of(session, Release, query, limit=limit, cursor=cursor)


def describe(session: DbSession, releases: Sequence[Release]) -> list[ReleaseState]:
    """The releases with their files, in the given order, and why they are outdated."""
    ids = [release.id for release in releases]
    files: dict[UUID, list[ReleaseFile]] = {id: [] for id in ids}
    query = select(ReleaseFile).where(ReleaseFile.release_id.in_(ids)).order_by(ReleaseFile.format)
    for file in session.scalars(query):
        files[file.release_id].append(file)
    return [
        ReleaseState(
            release,
            session.get_one(Study, release.study_id).code,
            release_content.session_name(session, release.session_id, release.transcript_id),
            tuple(files[release.id]),
            tuple(_reasons(session, release)),
        )
        for release in releases
    ]


def _reasons(session: DbSession, release: Release) -> Iterable[Outdated]:
    later = select(Release.id).where(
        Release.transcript_id == release.transcript_id,
        Release.number > release.number,
        Release.erased_at.is_(None),
    )
    if session.scalar(later.limit(1)) is not None:
        yield "newer_release"
    transcript = session.get_one(StoredTranscript, release.transcript_id)
    if transcript.version != release.transcript_version:
        yield "transcript_changed"
    found = session.get(Review, release.transcript_id)
    if found is not None and found.version != release.review_version:
        yield "review_changed"
    changed = select(Decision.id).where(
        Decision.transcript_id == release.transcript_id,
        Decision.action.in_(get_args(EntityAction)),
        Decision.at > release.created_at,
    )
    if session.scalar(changed.limit(1)) is not None:
        yield "entity_changed"


def newest_releases(session: DbSession, caller: Caller, study: str) -> list[Release]:
    """The newest release of each transcript of a study, oldest first.

    Raises:
        StudyNotFound, Erased, NothingReleased
    """
    found = find_study(session, caller, study)
    query = select(Release).where(Release.study_id == found.id, Release.erased_at.is_(None))
    rows = session.scalars(query.order_by(Release.number, Release.created_at)).all()
    newest = {row.transcript_id: row for row in rows}
    if not newest:
        raise NothingReleased("The study has no release yet: release its transcripts first")
    return sorted(newest.values(), key=lambda row: (row.created_at, row.id))


def read_file(
    session: DbSession, services: Services, caller: Caller, release_id: UUID, format: str
) -> tuple[Release, bytes]:
    """
    Raises:
        ReleaseNotFound, FormatNotReleased
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    release = find_release(session, caller, release_id)
    file = session.get(ReleaseFile, (release.id, format))
    if file is None:
        raise FormatNotReleased("The release has no file in this format: see its list of files")
    return release, read_artefact(services, release, FILE, file.artefact_id)


def read_report(
    session: DbSession, services: Services, caller: Caller, release_id: UUID
) -> dict[str, Any]:
    """The residual-risk report as JSON.

    Raises:
        ReleaseNotFound
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    release = find_release(session, caller, release_id)
    if release.report_artefact_id is None:
        raise Erased("The release was erased")
    report: dict[str, Any] = json.loads(
        read_artefact(services, release, REPORT, release.report_artefact_id)
    )
    return report


def read_artefact(services: Services, release: Release, kind: str, artefact_id: UUID) -> bytes:
    """
    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    store, keyring = deidentified(services)
    artefact = Artefact(release.study_id, release.id, kind, artefact_id)
    with store.open(artefact, keyring.data_key(release.study_id, release.id)) as file:
        return file.read()


# --- erasing --------------------------------------------------------------------------------------


def withdraw_release(services: Services, caller: Caller, release_id: UUID) -> None:
    """Destroy a release's key and files. Its number is not used again. Safe to repeat.

    Raises:
        ReleaseNotFound
    """
    with services.sessionmaker.begin() as session:
        release = session.get(Release, release_id, with_for_update=True)
        if release is None or not caller.may_see(release.study_id):
            raise ReleaseNotFound("There is no such release, or it is not yours")
        audit.act_for(session, caller)
        release.revoked_at = release.revoked_at or datetime.now(UTC)
        erase_release(session, services, release)
    log.info("release %s: withdrawn by token %s", release_id, caller.token_id)


def erase_releases(session: DbSession, services: Services, transcript_id: UUID) -> int:
    """Destroy the releases of a transcript. Safe to run twice, and while the vault is sealed.

    Returns:
        The number of releases that were not yet erased.
    """
    query = select(Release).where(Release.transcript_id == transcript_id).with_for_update()
    found = session.scalars(query).all()
    n = sum(release.erased_at is None for release in found)
    for release in found:
        erase_release(session, services, release)
    return n


def erase_release(session: DbSession, services: Services, release: Release) -> None:
    """Destroy the key first: after that, no copy of the files can be read."""
    store, keyring = deidentified(services)
    keyring.erase(release.study_id, release.id)
    files = session.scalars(select(ReleaseFile).where(ReleaseFile.release_id == release.id)).all()
    for file in files:
        store.delete(file.artefact_id)
        session.delete(file)
    if release.report_artefact_id is not None:
        store.delete(release.report_artefact_id)
    release.report_artefact_id, release.names_kept = None, {}
    audit.record(session, None, "release.erased", release.study_id, place_of(release))
    release.erased_at = release.erased_at or datetime.now(UTC)
