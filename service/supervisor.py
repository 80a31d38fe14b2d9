"""`fieldscribe serve`: the parent of the database, the API, workers and a de-identifier.

There is a worker for each device. The parent starts them all, restarts any that dies, and does
nothing else, so that little in it can fail. If it is killed nevertheless, the API ends with it, the
workers return their jobs to the queue, and the next `serve` adopts the database.
"""

import logging
import os
import signal
import subprocess
import threading
import time
from uuid import uuid4

from models.environment import child_environment
from service.api.process import prepare, require_port
from service.child import API, DEIDENTIFIER, WORKER, child_command
from service.database import DatabaseNotStarted, DatabaseUnreachable
from service.database.embedded import EmbeddedPostgres
from service.devices import find_devices
from service.domain.queue import DRAINING
from service.processes import disable_core_dumps, log_to_stderr
from service.services import check_root_keys
from service.settings import Settings
from service.worker.protocol import PIPELINE_ENGINE

CHECK_INTERVAL = 0.5  # s
FIRST_DELAY, MAX_DELAY = 0.5, 10.0  # s before a process that died is restarted
STABLE_AFTER = 30.0  # s of running, after which the delay starts from the first one again

log = logging.getLogger(__name__)


def serve(
    settings: Settings, *, passphrase: str | None = None, engine_module: str = PIPELINE_ENGINE
) -> int:
    """Run until SIGTERM or Ctrl-C.

    Args:
        passphrase: for the root keys, if this is the first start.

    Raises:
        ServiceError: the service cannot start.
    """
    os.umask(0o077)
    disable_core_dumps()
    log_to_stderr()
    check_root_keys(settings)  # with disordered keys, the API would be restarted for ever
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    postgres = None
    if settings.database_url is None:
        postgres = EmbeddedPostgres(settings.database, settings.postgres_programs)
        postgres.start()
    database = None if postgres is None else SupervisedDatabase(postgres)
    devices = find_devices(settings.devices)
    settings = settings.model_copy(update={"devices": ",".join(devices)})
    environment = child_environment(settings.as_environment())
    processes = [
        SupervisedProcess("API", child_command(API), environment),
        *(
            SupervisedProcess(
                f"worker on {device}",
                # A restarted worker has the id of the one that died, so it replaces its row.
                child_command(WORKER, engine_module, device, str(uuid4())),
                environment,
            )
            for device in devices
        ),
    ]
    if settings.deidentifier:
        command = child_command(DEIDENTIFIER)
        processes.append(SupervisedProcess("de-identifier", command, environment))
    try:
        prepare(settings, passphrase)
        require_port(settings)
        while not stop.is_set():
            if database is not None:
                database.check()
            for process in processes:
                process.check()
            stop.wait(CHECK_INTERVAL)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(DRAINING + 10)
        if postgres is not None:
            postgres.stop()
    return 0


class SupervisedProcess:
    """A process that is restarted when it dies, after growing delays if it keeps dying."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name, self._command, self._environment = name, command, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._delay = 0.0, FIRST_DELAY

    def check(self) -> None:
        """Start the process if it is not running and its delay is over."""
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None:
                return
            was_stable = now - self._started > STABLE_AFTER
            self._delay = FIRST_DELAY if was_stable else min(2 * self._delay, MAX_DELAY)
            log.error(
                "the %s ended with status %d; restarting it in %.1f s",
                self.name,
                self._process.returncode,
                self._delay,
            )
            self._process = None
            self._started = now
        elif self._started and now - self._started < self._delay:
            return
        else:
            self.start()

    def start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,  # so that Ctrl-C reaches only us: we stop our children in order
        )
        log.info("the %s is process %d", self.name, self._process.pid)

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for the process to end, and kill it if it takes longer than this."""
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class SupervisedDatabase:
    """The embedded Postgres, which is restarted in the same way. It need not be our child."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self._delay, self._not_before = FIRST_DELAY, 0.0

    def check(self) -> None:
        if time.monotonic() < self._not_before:
            return
        try:
            if self._postgres.check():
                log.warning("the database died and was restarted")
            self._delay = FIRST_DELAY
        except (DatabaseNotStarted, DatabaseUnreachable) as error:
            # The dead server's backends may still be ending, or the disk may be full for hours.
            log.error("%s; trying again in %.1f s", error, self._delay)
            self._not_before = time.monotonic() + self._delay
            self._delay = min(2 * self._delay, MAX_DELAY)
