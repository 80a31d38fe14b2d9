"""What every process of the service sets up first: core dumps, its parent's death, limits, logs."""

import ctypes
import logging
import os
import resource
import signal
from contextlib import suppress

PR_SET_PDEATHSIG = 1
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


def log_to_stderr() -> None:
    """Log ids, codes, counts and times, for systemd or Docker to store."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # we report an outage ourselves
    logging.getLogger("procrastinate").setLevel(logging.WARNING)  # it logs every step of the queue
