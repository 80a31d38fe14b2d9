"""Row locks of recordings, which a check holds for minutes."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import OperationalError

from service.vault.errors import UploadBusy


@contextmanager
def refuse_while_checked() -> Iterator[None]:
    """Turn a lock that is not free into an error that tells the client to try again.

    Raises:
        UploadBusy
    """
    try:
        yield
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise UploadBusy("A recording is being checked: try again in a moment") from None
        raise
