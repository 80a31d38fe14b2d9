"""Strays: files of the vault that no row of the database refers to. They only take up space.

A crash between writing a file and committing its row leaves one, and so does replacing a result.
A recording whose key exists is never taken for a stray: if the database were older than the vault,
the file would be the only trace of the recording.
"""

import logging
import time
from contextlib import suppress
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, cast, func, select
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Recording, Table
from service.domain.recordings import identified
from service.services import Services
from service.vault import uploads
from service.vault.errors import UploadBusy

STRAY_AFTER = 7 * 24 * 3600.0  # s since the last write; rows are committed seconds after it

log = logging.getLogger(__name__)


def remove_strays(services: Services) -> None:
    """Delete strays that are a week old, and files that killed processes left half-written."""
    for each in services.vault.stores.values():
        each.delete_abandoned()
    store, keyring = identified(services)  # the other classes are not used yet
    before = time.time() - STRAY_AFTER
    # List files before rows: by then the rows of these files are committed.
    files, parts = list(store.ids(before)), list(uploads.ids(store, before))
    with services.sessionmaker() as session:
        strays = _unknown(session, files)
        given_up = _unknown(session, parts)
    if strays or given_up:
        keys = keyring.subjects()
        strays, given_up = strays - keys, given_up - keys
    for id in strays:
        store.delete(id)
    for id in given_up:
        with suppress(UploadBusy):
            uploads.discard(store, id)
    if n := len(strays) + len(given_up):
        log.info("vault: %d files without a row deleted", n)


def _unknown(session: DbSession, ids: list[UUID]) -> set[UUID]:
    """The ids that no row of any table refers to."""
    if not ids:
        return set()
    columns = [
        column
        for table in Table.metadata.tables.values()
        for column in table.columns
        if column.name.endswith("artefact_id")
    ]
    named = [select(column).where(column.is_not(None)) for column in columns]
    sound = select(Recording.id).where(Recording.state != "erased")
    every = select(func.unnest(cast(ids, ARRAY(Uuid))))
    return set(session.scalars(every.except_(*named, sound)))
