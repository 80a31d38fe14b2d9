"""Work that a thread of the API does in the background, one piece at a time, at a low priority."""

import asyncio
import logging
import os
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import ClassVar

from service.domain.recordings import OPERATIONAL_ERRORS, error_name

LOOK_EVERY = 5.0  # s
NICENESS = 10

log = logging.getLogger(__name__)


class BackgroundWork(ABC):
    """A loop that makes one thing after the other while there is one to make."""

    what: ClassVar[str]
    """What is made, for the log."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, initializer=os.nice, initargs=(NICENESS,))
        self._stop = threading.Event()

    def wake(self) -> None:
        """Look for work now. Call it from the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        try:
            while True:
                self._wake.clear()
                try:
                    if await in_thread(self._make_next):
                        continue
                except OPERATIONAL_ERRORS as error:
                    log.warning("no %s can be made: %s", self.what, error_name(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), LOOK_EVERY)
        finally:
            self._stop.set()

    def close(self) -> None:
        """After `run`, wait until the thread no longer uses the database."""
        self._thread.shutdown()

    @abstractmethod
    def _make_next(self) -> bool:
        """Try to make one thing; return False if there is none to make now."""
