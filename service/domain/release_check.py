"""Searches all releases of a study for names and aliases of its entities."""

import html
import io
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.transcript_json import from_json
from service.database.tables import Release, ReleaseFile
from service.domain import release_content
from service.domain.callers import Caller
from service.domain.releases import FILE, REPORT, TRANSCRIPT, read_artefact
from service.domain.studies import find_study
from service.services import Services

TAG = re.compile(r"<[^>]*>")
ATTRIBUTE = re.compile(r'"([^"]*)"')
REPORT_JSON = "report.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamesFound:
    """Names of an entity in a file of a release.

    `is_doubtful`: all of them are common words, such as Hope or June.
    """

    release_id: UUID
    format: str
    entity_id: UUID
    n: int
    is_doubtful: bool


@dataclass(frozen=True)
class Checked:
    releases: int
    files: int
    found: tuple[NamesFound, ...]


def check_releases(session: DbSession, services: Services, caller: Caller, study: str) -> Checked:
    """Search every file of a study's releases. The search is recorded as a look-up of all entities.

    Names that a reviewer has left in a text, because they name somebody else, do not count.

    Raises:
        StudyNotFound
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    found_study = find_study(session, caller, study)
    search = release_content.search_names(session, services, caller, found_study.id)
    query = select(Release).where(Release.study_id == found_study.id, Release.erased_at.is_(None))
    rows = session.scalars(query.order_by(Release.created_at, Release.id)).all()
    n_files, found = 0, list[NamesFound]()
    for release in rows:
        for format, content in _read_files(session, services, release):
            n_files += 1
            certain, doubtful = Counter[UUID](), Counter[UUID]()
            if format == TRANSCRIPT:
                leaks = release_content.find_leaks(search, from_json(content.decode()))
                for _, leak in leaks:
                    (doubtful if leak.is_doubtful else certain)[leak.entity] += 1
            else:
                for leak in search.find(plain_text(content)):
                    if not leak.is_doubtful:  # the words of the format itself may be meant
                        certain[leak.entity] += 1
            for counted, is_doubtful in ((certain, False), (doubtful, True)):
                for entity_id, n in sorted(counted.items()):
                    kept = release.names_kept.get(str(entity_id), 0)
                    # Each place appears several times in some formats.
                    if n > kept if format == TRANSCRIPT else not kept:
                        found.append(NamesFound(release.id, format, entity_id, n, is_doubtful))
    log.info("study %s: %d releases checked, %d found", found_study.id, len(rows), len(found))
    return Checked(len(rows), n_files, tuple(found))


def _read_files(
    session: DbSession, services: Services, release: Release
) -> Iterator[tuple[str, bytes]]:
    query = select(ReleaseFile).where(ReleaseFile.release_id == release.id)
    for file in session.scalars(query.order_by(ReleaseFile.format)):
        yield file.format, read_artefact(services, release, FILE, file.artefact_id)
    if release.report_artefact_id is not None:
        yield REPORT_JSON, read_artefact(services, release, REPORT, release.report_artefact_id)


def plain_text(content: bytes) -> str:
    """The text of a file: that of all members of a zip, without the tags of XML."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [archive.read(name) for name in archive.namelist()]
            return "\n".join([*archive.namelist(), *map(plain_text, members)])
    text = content.decode("utf-8", "replace")
    if text.lstrip("\ufeff").startswith("<?xml"):
        text = html.unescape(TAG.sub(_attributes, text))
    return text


def _attributes(tag: re.Match[str]) -> str:
    """The values of a tag's attributes, such as the name of a speaker, on lines of their own."""
    return "\n".join(["", *ATTRIBUTE.findall(tag[0]), ""])
