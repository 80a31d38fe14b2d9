"""Claims: which run transcribes which session, when several runs write to one output folder.

A claim is a small file, `.fieldscribe-claims/NAME.1`, that only one run can create. The run touches
it every few seconds and removes it when the session is finished. If it is not touched for two
minutes, or if its process has ended on this machine, another run takes the session over by creating
`NAME.2`: the highest number holds the claim, and a run that was only frozen finds out before it
writes. The file of a session that failed stays until the last run ends, so that none tries again.

The file system must create a file exclusively, as local ones, NFS, Lustre, GPFS and BeeGFS do. It
needs no locks. Times are not compared between machines: each run watches whether a claim changes.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from service.errors import ServiceError

FOLDER = ".fieldscribe-claims"
RUN = "run~"  # begins the name of a claim that says only that a run is going on
BEAT = 10.0  # s between touches
STALE = 120.0  # s without a touch after which a run is presumed dead; NFS may cache for a minute
MAX_DEATHS = 3  # runs that may die of one session


class RunsDied(ServiceError):
    """Several runs ended in the middle of this session."""

    code: ClassVar[str] = "runs_died"
    user_action: ClassVar[str] = (
        "Check whether the machine's memory suffices, then run the same command again."
    )


@dataclass(frozen=True)
class Failure:
    """Why another run could not transcribe a session."""

    code: str
    message: str


BUSY, HELD = "busy", "held"


def find_failures(folder: Path) -> frozenset[str]:
    """The claim files of sessions that failed before now, for `Claims`."""
    failures = set()
    with suppress(OSError):
        for path in (folder / FOLDER).iterdir():
            with suppress(OSError, ValueError):
                if "failed" in json.loads(path.read_bytes()):
                    failures.add(path.name)
    return frozenset(failures)


class Claims:
    """The claims of one run.

    Args:
        folder: for the transcripts.
        old_failures: claim files of sessions that failed before this run began, which it tries
            again; None: those that are there now.
    """

    def __init__(
        self,
        folder: Path,
        old_failures: Iterable[str] | None = None,
        *,
        beat: float = BEAT,
        stale: float = STALE,
    ) -> None:
        self._folder, self._beat, self._stale = folder / FOLDER, beat, stale
        self.old_failures = (
            find_failures(folder) if old_failures is None else frozenset(old_failures)
        )
        self._token = secrets.token_hex(8)
        self._held: dict[str, int] = {}  # numbers, by session
        self._seen: dict[str, tuple[int, float]] = {}  # mtime and since when, by file
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_touching, daemon=True)

    def __enter__(self) -> Self:
        with suppress(OSError):  # each session will report it
            self.take(f"{RUN}{self._token}")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)
        if not any(self._is_alive(file) for file in self._list()):
            with suppress(OSError):  # another run may begin at this moment
                for file in self._list():
                    if not self._is_alive(file):
                        self._path(file).unlink(missing_ok=True)
                self._folder.rmdir()

    def take(self, name: str) -> str | Failure:
        """Take a claim: `HELD`; `BUSY` if another run has it; or why its session failed there.

        Raises:
            OSError: the folder cannot be written to.
        """
        number, deaths = self._highest(name), 0
        if number:
            file = f"{name}.{number}"
            content = self._read(file)
            failed = (content or {}).get("failed")
            if failed and file not in self.old_failures:
                return Failure(**failed)
            if not failed:
                if content is None or not self._is_dead(file, content):
                    return BUSY
                deaths = content.get("deaths", 0) + 1
        if not self._create(name, number + 1, deaths):
            return BUSY
        with self._lock:
            self._held[name] = number + 1
        if deaths >= MAX_DEATHS:
            error = RunsDied("Three runs ended while they transcribed this session")
            self.fail(name, error.code, f"{error}: {error.user_action}")
            return Failure(error.code, f"{error}: {error.user_action}")
        return HELD

    def is_busy(self, name: str) -> bool:
        """Whether another run has the session and seems to be alive."""
        number = self._highest(name)
        if not number or self._held.get(name) == number:
            return False
        content = self._read(f"{name}.{number}")
        if content is None or content.get("failed"):
            return False
        return not self._is_dead(f"{name}.{number}", content)

    def count_runs(self) -> int:
        """How many runs seem to be going on in the folder, with this one."""
        others = {file for file in self._list() if file.startswith(RUN)}
        others.discard(f"{RUN}{self._token}.1")
        return 1 + sum(map(self._is_alive, others))

    def still_holds(self, name: str) -> bool:
        """Whether this run may write the session's transcript: no other has taken it over."""
        number = self._held.get(name)
        return number is not None and self._is_ours(name, number)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait until no other run is in this block for the same name; it should be short."""
        while self.take(name) == BUSY:
            time.sleep(0.05)
        try:
            yield
        finally:
            self.release(name)

    def release(self, name: str) -> None:
        """End a claim, whatever became of the session."""
        with self._lock:
            number = self._held.pop(name, 0)
        # The highest last: without it, a lower one would look like the claim of a dead run.
        if number and self._is_ours(name, number):
            for each in range(1, number + 1):
                with suppress(OSError):
                    self._path(f"{name}.{each}").unlink(missing_ok=True)

    def fail(self, name: str, code: str, message: str) -> None:
        """End a claim, and tell other runs not to try the session again."""
        with self._lock:
            number = self._held.pop(name, 0)
        if number and self._is_ours(name, number):
            path = self._path(f"{name}.{number}")
            partial = path.with_name(f".{self._token}")
            with suppress(OSError):
                content = {"run": self._token, "failed": {"code": code, "message": message}}
                _write_new(partial, content)
                partial.replace(path)

    def _create(self, name: str, number: int, deaths: int) -> bool:
        content = {"run": self._token, "deaths": deaths, "process": _this_process()}
        while True:
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                _write_new(self._path(f"{name}.{number}"), content)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:  # the last of the other runs has just removed the folder
                continue

    def _highest(self, name: str) -> int:
        numbers = [0]
        for file in self._list():
            stem, _, number = file.rpartition(".")
            if stem == name and number.isdecimal():
                numbers.append(int(number))
        return max(numbers)

    def _list(self) -> list[str]:
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []

    def _path(self, file: str) -> Path:
        return self._folder / file

    def _read(self, file: str) -> dict[str, Any] | None:
        """What a claim says; empty while it is being written, None if it is gone."""
        try:
            content = json.loads(self._path(file).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _is_ours(self, name: str, number: int) -> bool:
        content = self._read(f"{name}.{number}")
        return (content or {}).get("run") == self._token and self._highest(name) == number

    def _is_alive(self, file: str) -> bool:
        """Whether a file is the claim of a run that seems to be running."""
        content = self._read(file)
        return bool(content and content.get("process")) and not self._is_dead(file, content or {})

    def _is_dead(self, file: str, content: dict[str, Any]) -> bool:
        """Whether the run that has this claim has ended, or has not touched it for long."""
        process = content.get("process")
        if process and process["machine"] == _machine():
            if not _is_running(process["pid"], process["started"]):
                return True
        try:
            with self._path(file).open("rb") as opened:  # which makes NFS look for changes
                modified = os.fstat(opened.fileno()).st_mtime_ns
        except OSError:
            return False
        now = time.monotonic()
        before, since = self._seen.setdefault(file, (modified, now))
        if before != modified:
            self._seen[file] = (modified, now)
            return False
        return now - since > self._stale

    def _keep_touching(self) -> None:
        while not self._stop.wait(self._beat):
            with self._lock:
                held = dict(self._held)
            for name, number in held.items():
                with suppress(OSError):
                    if self._is_ours(name, number):
                        os.utime(self._path(f"{name}.{number}"))


def _write_new(path: Path, content: dict[str, Any]) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
    except OSError:  # the disk is full
        path.unlink(missing_ok=True)
        raise


def _this_process() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "started": _read_start(os.getpid())}


def _machine() -> str:
    """This boot of this machine, and the container, whose process ids are its own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _is_running(pid: int, started: int) -> bool:
    return _read_start(pid) == started


def _read_start(pid: int) -> int | None:
    """When a process started, in ticks since the boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
