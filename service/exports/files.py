"""Writing transcripts to files: whole or not at all, readable only by their owner."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

PREFIX, SUFFIX = ".fieldscribe-", ".partial"
Content = str | bytes | Callable[[IO[bytes]], None]


def write_whole(path: Path, content: Content) -> None:
    """Write a file with mode 0600. A crash leaves the old or the new file, never a partial one.

    Args:
        content: text, bytes, or a function that writes the open file.
    """
    write_all_whole({path: content})


def write_all_whole(files: Mapping[Path, Content]) -> None:
    """Write several files, or none of them if one fails.

    They are moved into place, in order, once all are on disk. A killed process leaves hidden files,
    which `remove_abandoned` deletes.
    """
    with ExitStack() as stack:
        partials = {path: _write_partial(path, content, stack) for path, content in files.items()}
        for path, partial in partials.items():
            os.replace(partial, path)


def _write_partial(path: Path, content: Content, stack: ExitStack) -> str:
    """Returns the path. A lock, held until `stack` closes, marks the file as being written."""
    descriptor, partial = tempfile.mkstemp(prefix=PREFIX, suffix=SUFFIX, dir=path.parent)
    stack.callback(os.close, descriptor)
    stack.callback(Path(partial).unlink, missing_ok=True)
    with suppress(OSError):  # some network file systems have no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    with open(descriptor, "wb", closefd=False) as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(descriptor)
    return partial


def remove_abandoned(folder: Path) -> None:
    """Delete files that killed processes left unfinished: they hold what people said."""
    for partial in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError), partial.open("rb") as file:
            fcntl.flock(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # fails while another run is writing it
            partial.unlink()
