"""Files of the vault that no row of the database names: they are noise, but take room.

A crash between writing a file and committing its row leaves one, and so does a result that replaces
another. The sound of a recording is never taken for a stray while its key is there: if the database
were an older one than the vault, nobody else would know of it.
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

STRAY_AFTER = 7 * 24 * 3600.0  # s without a write; a row is committed seconds after its file

log = logging.getLogger(__name__)


def remove_strays(services: Services) -> None:
    """Those that are a week old, and what killed processes left half-written a day ago."""
    for each in services.vault.stores.values():
        each.delete_abandoned()
    store, keyring = identified(services)  # nothing is written to the other classes yet
    before = time.time() - STRAY_AFTER
    # The files first: the rows of those that were there then have been committed since.
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
        log.info("vault: %d files without a row removed", n)


def _unknown(session: DbSession, ids: list[UUID]) -> set[UUID]:
    """Those that no row names, in whatever table."""
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
