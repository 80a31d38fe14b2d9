"""Writing files safely: atomically, synced to disk, readable by their owner only."""

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from service.vault.errors import DiskFull, UploadBusy

PARTIAL = ".partial"
ABANDONED_AFTER = 24 * 3600  # seconds without a write


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Write a file that replaces `path` when the block ends, or is deleted if it raises. Mode 0600.

    It is synced to disk before this returns. A process that is killed leaves a `.partial` file.

    Raises:
        DiskFull: there was not enough space.
    """
    with report_full_disk():
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


@contextmanager
def report_full_disk() -> Iterator[None]:
    """
    Raises:
        DiskFull: the block ran out of disk space.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("The disk became full during a write") from error
        raise


def files_below(folder: Path) -> Iterator[Path]:
    """Files below a folder, without links to folders. What vanishes meanwhile is skipped."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def delete_abandoned(files: Iterable[Path]) -> None:
    """Delete those that killed processes left half-written, which take up space."""
    for path in files:
        if path.name.startswith(".") and path.suffix == PARTIAL:
            with suppress(FileNotFoundError, PermissionError):  # just finished; not ours
                if path.stat().st_mtime < time.time() - ABANDONED_AFTER:
                    path.unlink()


def make_folder(folder: Path) -> None:
    """Like `mkdir -p`, but every new folder has mode 0700: pathlib's `parents` ignores the mode.

    Raises:
        DiskFull: there was not enough space.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        with report_full_disk():
            folder.mkdir(mode=0o700, exist_ok=True)
            fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Sync a folder's entries, so that a created, renamed or deleted name survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shred(path: Path) -> None:
    """Overwrite and delete a file. For its effect on an SSD see docs/administrator/vault.md."""
    with report_full_disk(), open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    fsync_folder(path.parent)


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Lock a folder against other processes and threads. A killed process releases its lock.

    Raises:
        UploadBusy: another holds the lock, and `wait` is false.
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
