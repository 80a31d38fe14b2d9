"""What processes of the service do first: no core dumps, no outliving their parent."""

import ctypes
import logging
import os
import resource
import signal
from contextlib import suppress

PR_SET_PDEATHSIG = 1
MANY_FILES = 65_536


def no_core_dumps() -> None:
    """A dump would put keys and what people said on the disk. Inherited by children.

    The limit does not bind a dump that is piped to a program; the filter leaves nothing to pipe.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/coredump_filter", "w") as file:  # Linux only
        file.write("0")


def die_with_parent(signal_number: signal.Signals, parent: int) -> None:
    """
    Args:
        parent: its process id, as it told us: it may have died before this call.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def allow_many_files() -> None:
    """A request that waits is an open file; systemd begins with 1,024 of them, if nobody asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def log_to_stderr() -> None:
    """Ids, codes, counts and times: systemd or docker keep them."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # we say ourselves that it is away
    logging.getLogger("procrastinate").setLevel(logging.WARNING)  # says every step of the queue
