"""`fieldscribe serve`: a small parent of the database, the API and one worker. It restarts them.

It does nothing else, so that there is little in it that could fail. If it is killed all the same,
the API ends with it, the worker puts its job back, and the next `serve` adopts the database.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

from service.api.process import prepare, require_port
from service.database import DatabaseNotStarted, DatabaseUnreachable
from service.database.embedded import EmbeddedPostgres
from service.domain.queue import DRAINING
from service.processes import log_to_stderr, no_core_dumps
from service.settings import OTHER_VARIABLES, Settings
from service.worker.process import ENGINE

LOOK_EVERY = 0.5  # s
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # s before a process that died is started again
SETTLED = 30.0  # s after which it is taken to run

log = logging.getLogger(__name__)


class Child:
    """A process that is started again, ever more slowly while it keeps dying."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.name, self._arguments, self._environment = name, arguments, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._pause = 0.0, FIRST_PAUSE

    def look(self) -> None:
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None:
                return
            settled = now - self._started > SETTLED
            self._pause = FIRST_PAUSE if settled else min(2 * self._pause, LONGEST_PAUSE)
            log.warning(
                "the %s ended with status %d; it is started again in %.1f s",
                self.name,
                self._process.returncode,
                self._pause,
            )
            self._process = None
            self._started = now
        elif self._started and now - self._started < self._pause:
            return
        else:
            self.start()

    def start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service.child", str(os.getpid()), *self._arguments],
            stdin=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for us: we stop it in order
        )
        log.info("the %s is process %d", self.name, self._process.pid)

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Database:
    """The embedded server, which may be another's child; looked after in the same way."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self._pause, self._not_before = FIRST_PAUSE, 0.0

    def look(self) -> None:
        if time.monotonic() < self._not_before:
            return
        try:
            if self._postgres.check():
                log.warning("the database died and was started again")
            self._pause = FIRST_PAUSE
        except (DatabaseNotStarted, DatabaseUnreachable) as error:
            # Backends of the dead server may still be ending; or the disk is full, for hours.
            log.error("%s; it is tried again in %.1f s", error, self._pause)
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)


def serve(settings: Settings, *, passphrase: str | None = None, engine_module: str = ENGINE) -> int:
    """Runs until SIGTERM or Ctrl-C.

    Args:
        passphrase: of the root keys, if this is the first start.

    Raises:
        ServiceError: it cannot start.
    """
    os.umask(0o077)
    no_core_dumps()
    log_to_stderr()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    postgres = None
    if settings.database_url is None:
        postgres = EmbeddedPostgres(settings.database)
        postgres.start()
    # Somebody's token, or another service's address, is not for the worker of this one.
    own = {name: value for name, value in os.environ.items() if name not in OTHER_VARIABLES}
    environment = {**own, **settings.as_environment()}
    database = None if postgres is None else Database(postgres)
    children = [
        Child("API", ["api"], environment),
        Child("worker", ["worker", engine_module], environment),
    ]
    try:
        prepare(settings, passphrase)
        require_port(settings)
        while not stop.is_set():
            if database is not None:
                database.look()
            for child in children:
                child.look()
            stop.wait(LOOK_EVERY)
    finally:
        for child in children:
            child.ask_to_stop()
        for child in children:
            child.wait(DRAINING + 10)
        if postgres is not None:
            postgres.stop()
    return 0
