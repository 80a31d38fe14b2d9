"""Small promises about files: whole or not there, on disk, readable by their owner only."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from service.vault.errors import DiskFull, UploadBusy

PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` when the block ends, and vanishes if it raises. Mode 0600.

    It is on disk when this returns. Only a killed process leaves something: a `.partial` file.

    Raises:
        DiskFull: there was no room.
    """
    try:
        make_folder(path.parent)
        descriptor, partial = tempfile.mkstemp(prefix=".", suffix=PARTIAL, dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("The disk became full while it was written to") from error
        raise


def make_folder(folder: Path) -> None:
    """`mkdir -p` with mode 0700 for every new folder (pathlib's `parents` ignores the mode)."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """A new, renamed or deleted name is on disk only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shred(path: Path) -> None:
    """Overwrite and delete. What that is worth on an SSD is in docs/administrator/vault.md."""
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    fsync_folder(path.parent)


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """One process and thread at a time; a killed one lets go.

    Raises:
        UploadBusy: somebody else is there, and `wait` is false.
    """
    make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UploadBusy("Another request is writing to this upload") from error
        yield
    finally:
        os.close(descriptor)
