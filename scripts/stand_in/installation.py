"""A service of real processes in its own folder, whose parts can be killed."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from scripts.stand_in.jobs import read_job
from service.child import WORKER, child_command
from service.errors import ServiceError
from service.services import Services, create_root_keys, open_services
from service.settings import Settings, read_settings
from service.supervisor import serve
from service.tls import trust_only
from service.worker.protocol import ENGINE_CHILD

ROOT = Path(__file__).parents[2]
STAND_IN = "scripts.stand_in.engine"
API = "scripts.stand_in.api"
RECOVERY = 45.0  # s in which work resumes after any kill


class Installation:
    """Everything but the database. The tests start the processes, which are killed at the end."""

    def __init__(self, folder: Path, database_url: str | None, **settings: Any) -> None:
        self.folder = folder
        self.log = folder / "stand-in.log"
        self.serve_log = folder / "serve.log"  # for the log of `serve`
        self.settings = Settings(
            data=folder / "data",
            keys=folder / "keys",
            weights=folder / "weights",
            database_url=None if database_url is None else SecretStr(database_url),
            port=find_free_port(),
            **{"deidentifier": False, **settings},  # the tests claim the hand-offs themselves
        )
        create_root_keys(self.settings)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.variables: dict[str, str] = {}  # more variables for the processes to be started

    def open(self) -> Services:
        """Open the services, for a test that uses the stand-in API."""
        self.services = open_services(self.settings)
        token = self.settings.worker_token
        token.parent.mkdir(exist_ok=True)
        token.write_text("stand-in")
        return self.services

    def start_serve(
        self, engine: str = STAND_IN, stderr: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `serve` with a stand-in for the models. Use `open_services` afterwards."""
        return self.start("scripts.stand_in.installation", "serve", engine, stderr=stderr)

    def is_ready(self) -> bool:
        try:
            certificate = self.settings.tls_certificate
            tls = None if certificate is None else trust_only(certificate)
            url = f"{self.settings.local_url}/healthz"
            with urllib.request.urlopen(url, timeout=2, context=tls) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def start(
        self, module: str, *arguments: str, stderr: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        return self._spawn([sys.executable, "-m", module, *arguments], stderr)

    def _spawn(
        self, command: list[str], stderr: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            **self.settings.as_environment(),
            "STAND_IN_LOG": str(self.log),
            "PYTHONPATH": str(ROOT),
            **self.variables,
        }
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=stderr)
        self.processes.append(process)
        return process

    def start_api(self) -> subprocess.Popen[bytes]:
        return self.start(API, str(self.settings.port))

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._spawn(child_command(WORKER, STAND_IN))

    def running(self, name: str) -> list[subprocess.Popen[bytes]]:
        """The running processes that were started as the API or as a worker, oldest first."""
        return [
            process
            for process in self.processes
            if process.poll() is None and name in cast(list[str], process.args)
        ]

    def lines(self, job_id: UUID) -> list[tuple[str, int]]:
        """What engines did for a job, as (stage, pid)."""
        if not self.log.exists():
            return []
        words = (line.split() for line in self.log.read_text().splitlines())
        return [(w[0], int(w[2])) for w in words if len(w) == 3 and w[1] == str(job_id)]

    def started_stages(self, job_id: UUID) -> list[str]:
        return [name for name, _ in self.lines(job_id) if not name.startswith(("end-", "load"))]

    def wait_for_stage(self, job_id: UUID, stage: str, seconds: float = 30) -> None:
        wait_until(lambda: stage in self.started_stages(job_id), seconds, f"{stage} to begin")

    def wait_for(self, job_id: UUID, status: str, seconds: float = 30) -> None:
        wait_until(lambda: self.status(job_id) == status, seconds, f"a job to be {status}")

    def status(self, job_id: UUID) -> str | None:
        """A job's status, or None while the database is unreachable."""
        try:
            return read_job(self.services, job_id).status
        except OperationalError:
            return None

    def pids(self) -> dict[str, list[int]]:
        """Process ids of this installation by name: serve, api, worker, engine, postgres."""
        found: dict[str, list[int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().decode().split("\0")
                environment = (folder / "environ").read_bytes().decode()
                if name := self._name_of(command, environment):
                    found.setdefault(name, []).append(int(folder.name))
        return found

    def _name_of(self, command: list[str], environment: str) -> str | None:
        data = str(self.settings.data)
        if command[0].endswith("bin/postgres") and f"{data}/database/data" in command:
            return "postgres"
        if ENGINE_CHILD in command and f"{data}/vault" in command:
            return "engine"
        if f"FIELDSCRIBE_DATA={data}\0" in environment and "-m" in command:
            words = ("serve", "api", "worker")
            return next((word for word in words if word in command[1:]), None)
        return None

    def cut_power(self) -> None:
        """Kill everything at once, as far as one process can."""
        for pids in self.pids().values():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        wait_until(lambda: not self.pids(), 20, "every process to end")

    def stop(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()
        self.services.close()


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait for a condition and return the seconds it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() > started + seconds:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.05)
    return time.monotonic() - started


def fill_disk(folder: Path) -> Path:
    """Fill a small disk with a file. Delete the returned path to free the space."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


if __name__ == "__main__":
    try:
        sys.exit(serve(read_settings(), engine_module=sys.argv[2]))
    except ServiceError as error:  # as the command reports it
        sys.exit(f"{error.code}: {error}")
