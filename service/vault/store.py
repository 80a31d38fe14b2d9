"""The folder of one class of artefacts: files named by ids, there whole or not at all."""

import io
import math
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from service.vault import ArtefactClass
from service.vault.errors import ArtefactMissing, DiskFull
from service.vault.files import PARTIAL, fsync_folder, whole_file
from service.vault.streaming import EncryptingWriter, Key, open_encrypted

KEPT_FREE = 2**30  # bytes; the database on the same disk must not stop because of an upload
ABANDONED_AFTER = 24 * 3600  # seconds without a write


@dataclass(frozen=True)
class Artefact:
    """What one file is. All of it is authenticated when the file is opened, the class too."""

    study_id: UUID
    subject_id: UUID  # whose data key it is: a recording's or a job's, for linkage an entity's
    kind: str  # "recording", "transcript"
    id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z_]+", self.kind):
            raise ValueError("a kind is a plain word")  # `binding` separates with |


class Store:
    def __init__(self, artefact_class: ArtefactClass, folder: Path) -> None:
        self.artefact_class = artefact_class
        self.folder = folder

    @contextmanager
    def write(self, artefact: Artefact, key: Key) -> Iterator[EncryptingWriter]:
        """Nothing is stored if the block raises. The same artefact written again is replaced.

        Raises:
            DiskFull: there was no room.
        """
        with whole_file(self._path(artefact.id)) as file:
            writer = EncryptingWriter(file, key, self.binding(artefact))
            yield writer
            writer.finish()

    def open(self, artefact: Artefact, key: Key) -> io.BufferedReader:
        """
        Raises:
            ArtefactMissing: there is no such file.
            ArtefactDamaged: now or while reading; what was read until then is authentic.
        """
        try:
            return open_encrypted(self._path(artefact.id), key, self.binding(artefact))
        except FileNotFoundError as error:
            raise ArtefactMissing(f"The file of artefact {artefact.id} is gone") from error

    def binding(self, artefact: Artefact) -> bytes:
        names = (artefact.study_id, artefact.subject_id, artefact.id, artefact.kind)
        return "|".join(["artefact 1", self.artefact_class, *map(str, names)]).encode()

    def __contains__(self, artefact_id: UUID) -> bool:
        return self._path(artefact_id).exists()

    def ids(self, before: float = math.inf) -> Iterator[UUID]:
        """
        Args:
            before: only of those that were last written before this time.
        """
        for path in (self.folder / "artefacts").glob("??/??/*"):
            with suppress(FileNotFoundError, ValueError):  # deleted just now; no artefact
                if path.suffix != PARTIAL and path.stat().st_mtime < before:
                    yield UUID(path.name)

    def delete(self, artefact_id: UUID) -> None:
        """Also if it is not there. What makes every copy unreadable is the erasure of its key."""
        path = self._path(artefact_id)
        if path.exists():
            path.unlink()
            fsync_folder(path.parent)

    def require_space(self, n_bytes: int) -> None:
        """
        Raises:
            DiskFull: the disk would have less than `KEPT_FREE` left.
        """
        here = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(here).free
        if free < n_bytes + KEPT_FREE:
            raise DiskFull(f"{n_bytes} bytes are needed; {free} are free, {KEPT_FREE} stay so")

    def delete_abandoned(self) -> None:
        """Half-written files of killed processes. They are encrypted, but take room."""
        for path in self.folder.rglob(f".*{PARTIAL}"):
            with suppress(FileNotFoundError):  # finished just now
                if path.stat().st_mtime < time.time() - ABANDONED_AFTER:
                    path.unlink()

    def _path(self, artefact_id: UUID) -> Path:
        return fan_out(self.folder / "artefacts", artefact_id)


def fan_out(folder: Path, id: UUID) -> Path:
    return folder / id.hex[:2] / id.hex[2:4] / str(id)
