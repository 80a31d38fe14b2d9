"""Children of the tests' own process."""

import os
import signal
from pathlib import Path


def kill_decoders(with_signal: int = signal.SIGKILL) -> None:
    """Every ffmpeg that this process runs."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, fields = rest.rpartition(") ")
        if name == "ffmpeg" and int(fields.split()[1]) == os.getpid():
            os.kill(int(pid), with_signal)
