"""Strays: files and keys of the vault that no row of the database refers to.

A crash between writing a file or a key and committing its row leaves a stray, and so does replacing
a result. A recording whose key exists is never taken for one: if the database were older than the
vault, the file would be the only trace of the recording.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import ARRAY, ColumnElement, Select, Uuid, cast, func, select, text
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Entity, Job, Recording, Release, Study, Table
from service.domain.recordings import identified
from service.services import Services
from service.vault import ArtefactClass, uploads
from service.vault.errors import UploadBusy
from service.vault.files import delete_abandoned, files_below
from service.vault.store import Store

STRAY_AFTER = 7 * 24 * 3600.0  # s since the last write; rows are committed seconds after it
KEY_OWNERS = (Study, Recording, Job)  # of the identified class
OTHER_OWNERS: dict[ArtefactClass, type[Entity] | type[Release]] = {
    ArtefactClass.LINKAGE: Entity,
    ArtefactClass.DEIDENTIFIED: Release,
}
FILES = "hashtext('fieldscribe:files')"  # advisory lock: held to delete strays, or to keep them

log = logging.getLogger(__name__)


def remove_strays(services: Services) -> None:
    """Delete strays that are a week old, and files that killed processes left half-written.

    Does nothing while a backup runs: its dump of the database may name them.
    """
    settings = services.settings
    with services.sessionmaker.begin() as session:
        if not session.scalar(text(f"SELECT pg_try_advisory_xact_lock({FILES})")):
            log.info("vault: not tidied, because a backup is running")
            return
        delete_abandoned(files_below(settings.vault))
        delete_abandoned(files_below(settings.keys))
        delete_abandoned(settings.data.iterdir())
        before = time.time() - STRAY_AFTER
        if not _knows_studies(session, services, before):
            log.error(
                "vault: not tidied, because the database knows none of the studies that there are "
                "keys of: check FIELDSCRIBE_DATABASE_URL and FIELDSCRIBE_KEYS"
            )
            return
        n_files = sum(
            _remove_files(session, services, each, before)
            for each in services.vault.stores.values()
        )
        n_keys = _remove_keys(session, services, before)
    if n_files or n_keys:
        log.info("vault: %d files and %d keys without a row deleted", n_files, n_keys)


@contextmanager
def keep_strays(conninfo: str) -> Iterator[None]:
    """Delete no strays until the block ends.

    Raises:
        psycopg.Error: the connection was lost meanwhile, so strays may have been deleted.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"SELECT pg_advisory_lock_shared({FILES})")
        yield
        connection.execute(f"SELECT pg_advisory_unlock_shared({FILES})")


def _remove_files(session: DbSession, services: Services, store: Store, before: float) -> int:
    # List files before rows: by then the rows of these files are committed.
    files, parts = list(store.ids(before)), list(uploads.ids(store, before))
    sound = select(Recording.id).where(Recording.state != "erased")
    named = [*_artefact_columns(), sound]
    strays, given_up = _unknown(session, files, named), _unknown(session, parts, named)
    if strays or given_up:
        keys = services.vault.keyrings[store.artefact_class].subjects()
        strays, given_up = strays - keys, given_up - keys
    for id in strays:
        store.delete(id)
    for id in given_up:
        with suppress(UploadBusy):
            uploads.discard(store, id)
    return len(strays) + len(given_up)


def _remove_keys(session: DbSession, services: Services, before: float) -> int:
    """Delete keys without a row, except of recordings with sound.

    In the identified class they are of studies, recordings and jobs, in the linkage class of
    entities, in the de-identified class of releases.
    """
    store, keyring = identified(services)
    keys = keyring.keys(before)
    subjects = [id for ids in keys.values() for id in ids]
    owners = [select(table.id) for table in KEY_OWNERS]
    unknown = _unknown(session, subjects, owners)
    unknown = {id for id in unknown if id not in store and not uploads.received(store, id)}
    for study_id, ids in keys.items():
        for id in ids & unknown:
            keyring.discard(study_id, id)
    n_others = 0
    for artefact_class, table in OTHER_OWNERS.items():
        other = services.vault.keyrings[artefact_class]
        keys = other.keys(before)
        subjects = [id for ids in keys.values() for id in ids]
        gone = _unknown(session, subjects, [select(table.id)])
        for study_id, ids in keys.items():
            for id in ids & gone:
                other.discard(study_id, id)
        n_others += len(gone)
    n_studies = 0
    for each in services.vault.keyrings.values():
        for study_id in _unknown(session, each.keys(before), [select(Study.id)]):
            n_studies += each.discard_study(study_id)
    return len(unknown) + n_others + n_studies


def _knows_studies(session: DbSession, services: Services, before: float) -> bool:
    """Whether the database is the one of these keys: in another, every file would be a stray."""
    keys = identified(services)[1].keys(before)
    used = [study_id for study_id, ids in keys.items() if ids - {study_id}]
    return not used or len(_unknown(session, used, [select(Study.id)])) < len(used)


def _artefact_columns() -> list[Select[Any]]:
    columns: list[ColumnElement[UUID]] = [
        column
        for table in Table.metadata.tables.values()
        for column in table.columns
        if column.name.endswith("artefact_id")
    ]
    return [select(column).where(column.is_not(None)) for column in columns]


def _unknown(session: DbSession, ids: Iterable[UUID], known: list[Select[Any]]) -> set[UUID]:
    """The ids that none of the queries returns."""
    listed = list(ids)
    if not listed:
        return set()
    return set(session.scalars(select(func.unnest(cast(listed, ARRAY(Uuid)))).except_(*known)))
