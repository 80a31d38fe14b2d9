"""Turns conflicts with simultaneous requests into errors that the client can handle."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import IntegrityError, OperationalError

from service.errors import ServiceError
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


@contextmanager
def refuse_duplicate(constraint: str, error: ServiceError) -> Iterator[None]:
    """Raise `error` if the database finds that another row has the same unique value.

    Looking for that row first is not enough: another request may be creating it.
    """
    try:
        yield
    except IntegrityError as cause:
        violation = cause.orig
        if isinstance(violation, psycopg.errors.UniqueViolation):
            if violation.diag.constraint_name == constraint:
                raise error from None
        raise
