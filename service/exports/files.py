"""Transcripts as files: whole or not at all, readable by their owner only."""

import fcntl
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

PREFIX, SUFFIX = ".fieldscribe-", ".partial"


def write_whole(path: Path, text: str) -> None:
    """A crash leaves the old file or the new one, never half of one. Mode 0600."""
    write_all_whole({path: text})


def write_all_whole(files: Mapping[Path, str]) -> None:
    """All of them or none: they are moved into place, in their order, once every one is on disk.

    What a killed process leaves under a hidden name goes with the next `remove_abandoned`.
    """
    with ExitStack() as stack:
        partials = {path: _write_partial(path, text, stack) for path, text in files.items()}
        for path, partial in partials.items():
            os.replace(partial, path)


def _write_partial(path: Path, text: str, stack: ExitStack) -> str:
    """Its lock lasts as long as the `stack`, and says that somebody is still writing."""
    descriptor, partial = tempfile.mkstemp(prefix=PREFIX, suffix=SUFFIX, dir=path.parent)
    stack.callback(os.close, descriptor)
    stack.callback(Path(partial).unlink, missing_ok=True)
    with suppress(OSError):  # some network folders know no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    return partial


def remove_abandoned(folder: Path) -> None:
    """Delete what killed processes had begun to write: it holds what people said."""
    for partial in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError), partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if a run is writing it
            partial.unlink()
