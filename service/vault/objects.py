"""Where the encrypted artefacts of one class are kept: a folder, or a bucket (`bucket.py`).

Both hold the same bytes under the same names, `ab/cd/<id>`. Neither knows keys or plaintext.
"""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import UUID

from service.vault.files import PARTIAL, fsync_folder, write_atomically


class Objects(Protocol):
    """Encrypted objects by id. Each is complete or absent, and durable once it is written.

    Any method may raise StorageUnreachable if the objects are not on this machine.
    """

    def write(self, id: UUID) -> AbstractContextManager[BinaryIO]:
        """Write or replace an object when the block ends. Nothing is stored if it raises.

        Raises:
            DiskFull: there was not enough space.
        """

    def open(self, id: UUID) -> BinaryIO:
        """Open an object for seekable reading.

        Raises:
            FileNotFoundError
        """

    def __contains__(self, id: UUID) -> bool: ...

    def ids(self, before: float = math.inf) -> Iterator[UUID]:
        """
        Args:
            before: POSIX time; only objects last written before it.
        """

    def delete(self, id: UUID) -> None:
        """Delete an object if it exists. Afterwards it is gone."""

    def touch(self, id: UUID) -> None:
        """Make an object as young as a new one, if it exists."""

    def check(self) -> None:
        """
        Raises:
            StorageUnreachable: objects cannot be read now.
        """


class FolderObjects:
    """Objects as files in a folder of this machine, or one that it has mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def write(self, id: UUID) -> Iterator[BinaryIO]:
        with write_atomically(self.path(id)) as file:
            yield file

    def open(self, id: UUID) -> BinaryIO:
        return open(self.path(id), "rb")

    def __contains__(self, id: UUID) -> bool:
        return self.path(id).exists()

    def ids(self, before: float = math.inf) -> Iterator[UUID]:
        for path in self._folder.glob("??/??/*"):
            with suppress(FileNotFoundError, ValueError):  # just deleted; not an artefact
                if path.suffix != PARTIAL and path.stat().st_mtime < before:
                    yield UUID(path.name)

    def delete(self, id: UUID) -> None:
        path = self.path(id)
        if path.exists():
            path.unlink()
            fsync_folder(path.parent)

    def touch(self, id: UUID) -> None:
        with suppress(FileNotFoundError):
            os.utime(self.path(id))

    def check(self) -> None:
        """Nothing: a folder that is missing is created by the first write."""

    def path(self, id: UUID) -> Path:
        return self._folder / object_name(id)


def object_name(id: UUID) -> str:
    return f"{id.hex[:2]}/{id.hex[2:4]}/{id}"
