"""The worker's transactions: each runs in a thread, and is repeated until the database is back."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

log = logging.getLogger(__name__)
T = TypeVar("T")


async def run_transaction(
    sessions: sessionmaker[DbSession], work: Callable[..., T], *arguments: Any
) -> T:
    """Call `work` with a session and the arguments; repeat it after an outage of the database."""

    def run_once() -> T:
        with sessions.begin() as session:
            return work(session, *arguments)

    is_waiting = False
    while True:
        try:
            return await _finish_before_cancelling(asyncio.to_thread(run_once))
        except DBAPIError as error:
            if not _is_outage(error):
                raise
            if not is_waiting:
                log.warning(
                    "the database is not reachable; waiting for it: %s", type(error.orig).__name__
                )
            is_waiting = True
            await asyncio.sleep(0.5)


async def _finish_before_cancelling(work: Coroutine[Any, Any, T]) -> T:
    """Await a thread to its end even if the caller is cancelled, so that writes stay in order."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _is_outage(error: DBAPIError) -> bool:
    return error.connection_invalidated or isinstance(
        error.orig, psycopg.OperationalError | psycopg.InterfaceError
    )
