"""What every process of the service sets up first: core dumps, its parent's death, limits, logs."""

import ctypes
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

PR_SET_PDEATHSIG = 1
# Packages and classes, by name: this module is imported where the packages are not installed.
OUTAGES = frozenset(
    {
        ("psycopg", "OperationalError"),
        ("psycopg", "InterfaceError"),
        ("psycopg_pool", "PoolTimeout"),
        ("sqlalchemy", "OperationalError"),
        ("sqlalchemy", "InterfaceError"),
        ("sqlalchemy", "TimeoutError"),
    }
)
REPEAT_AFTER = 60.0  # s
OPEN_FILE_LIMIT = 65_536

log = logging.getLogger(__name__)


def disable_core_dumps() -> None:
    """Prevent dumps, which would write keys and speech to the disk. Children inherit this.

    The limit does not apply to dumps that are piped to a program; the filter leaves those empty.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/coredump_filter", "w") as file:  # Linux only
        file.write("0")


def end_with_parent(signal_number: signal.Signals, parent: int) -> None:
    """Have the kernel send this process a signal when its parent ends.

    Args:
        parent: process id, as the parent passed it on: it may have ended before this call.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def raise_open_file_limit() -> None:
    """Each waiting request is an open file, and systemd's default limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILE_LIMIT if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILE_LIMIT)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def set_up_sandbox(allow_weak: bool) -> None:
    """Set whether this process may decode where nothing hides files from ffmpeg; log the walls."""
    from models.audio.ffmpeg_child import allow_weak_sandbox, find_walls  # the client needs neither

    allow_weak_sandbox(allow_weak)
    walls = find_walls()
    log.info("ffmpeg's sandbox: %s", walls)
    if not walls.hide_files and allow_weak:
        log.warning(
            "nothing hides files from ffmpeg, and FIELDSCRIBE_ALLOW_WEAK_SANDBOX is set: a hostile"
            " recording could read what this user can read"
        )
    elif not walls.hide_files:
        log.error(
            "nothing hides files from ffmpeg, so no recording will be decoded: run `fieldscribe"
            " doctor`"
        )


class LineFormatter(logging.Formatter):
    """Writes an outage of the database in a line: its tracebacks say nothing, and come in dozens.

    Libraries log them too. Every other exception keeps its traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        outage = None if error is None else find_outage(error)
        if outage is None:
            return super().format(record)
        line = logging.makeLogRecord({**vars(record), "exc_info": None, "exc_text": None})
        line.msg = f"{record.getMessage().strip()}: the database does not respond ({outage})"
        line.args = None
        return super().format(line)


class RepeatFilter(logging.Filter):
    """Lets the same warning through once a minute: an outage would write one every second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how often since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        key, now = (record.name, record.getMessage()), self._clock()
        at, n_held = self._seen.get(key, (-REPEAT_AFTER, 0))
        if now < at + REPEAT_AFTER:
            self._seen[key] = (at, n_held + 1)
            return False
        self._seen = {old: seen for old, seen in self._seen.items() if now < seen[0] + REPEAT_AFTER}
        self._seen[key] = (now, 0)
        if n_held:
            record.msg, record.args = f"{record.getMessage()} ({n_held} more times before)", None
        return True


def find_outage(error: BaseException) -> str | None:
    """The name of the database's error that caused this one, if one did."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        for kind in type(current).__mro__:
            if (kind.__module__.partition(".")[0], kind.__name__) in OUTAGES:
                return type(current).__name__
        if isinstance(current, BaseExceptionGroup):
            found = [find_outage(each) for each in current.exceptions]
            return found[0] if found and all(found) else None
        current = current.__cause__  # not its context: a bug may follow an outage
    return None


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if find_outage(error) is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        log.critical("the process ends", exc_info=(kind, error, traceback))


def log_to_stderr() -> None:
    """Log ids, codes, counts and times, for systemd or Docker to store."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    sys.excepthook = _log_uncaught
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # we report an outage ourselves
    logging.getLogger("procrastinate").setLevel(logging.WARNING)  # it logs every step of the queue
