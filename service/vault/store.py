"""The artefacts of one class: encrypted, named by ids and written atomically."""

import io
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from service.vault import ArtefactClass
from service.vault.errors import ArtefactMissing, DiskFull
from service.vault.objects import FolderObjects, Objects
from service.vault.streaming import EncryptingWriter, Key, decrypt

RESERVED_SPACE = 2**30  # bytes left free: an upload must not stop the database on the same disk


@dataclass(frozen=True)
class Artefact:
    """What identifies one file. All fields are authenticated when it is opened, as is its class."""

    study_id: UUID
    subject_id: UUID  # owner of the data key: a recording or a job; for linkage an entity
    kind: str  # "recording", "transcript"
    id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z_]+", self.kind):
            raise ValueError("a kind is a plain word")  # `binding` separates with |


class Store:
    """
    Args:
        folder: on this machine, for uploads in progress.
        objects: where the artefacts are; None: in this folder too.
    """

    def __init__(
        self, artefact_class: ArtefactClass, folder: Path, objects: Objects | None = None
    ) -> None:
        self.artefact_class = artefact_class
        self.folder = folder
        self.objects = FolderObjects(folder / "artefacts") if objects is None else objects

    @contextmanager
    def write(self, artefact: Artefact, key: Key) -> Iterator[EncryptingWriter]:
        """Write or replace an artefact. Nothing is stored if the block raises.

        Raises:
            DiskFull: there was not enough space.
        """
        with self.objects.write(artefact.id) as file:
            writer = EncryptingWriter(file, key, self.binding(artefact))
            yield writer
            writer.finish()

    def open(self, artefact: Artefact, key: Key) -> io.BufferedReader:
        """
        Raises:
            ArtefactMissing: the file does not exist.
            ArtefactDamaged: now or while reading; everything read before that is authentic.
            StorageUnreachable: now or while reading.
        """
        try:
            file = self.objects.open(artefact.id)
        except FileNotFoundError as error:
            raise ArtefactMissing(f"The file of artefact {artefact.id} is missing") from error
        return decrypt(file, key, self.binding(artefact))

    def binding(self, artefact: Artefact) -> bytes:
        names = (artefact.study_id, artefact.subject_id, artefact.id, artefact.kind)
        return "|".join(["artefact 1", self.artefact_class, *map(str, names)]).encode()

    def __contains__(self, artefact_id: UUID) -> bool:
        return artefact_id in self.objects

    def ids(self, before: float = math.inf) -> Iterator[UUID]:
        """Ids of the stored artefacts.

        Args:
            before: POSIX time; only artefacts last written before it.
        """
        return self.objects.ids(before)

    def delete(self, artefact_id: UUID) -> None:
        """Delete a file if it exists. Only erasing its key makes every copy unreadable."""
        self.objects.delete(artefact_id)

    def require_space(self, n_bytes: int) -> None:
        """Check this machine's disk, which uploads and whatever is being written need.

        Raises:
            DiskFull: less than `RESERVED_SPACE` would be left free.
        """
        here = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(here).free
        if free < n_bytes + RESERVED_SPACE:
            raise DiskFull(
                f"{n_bytes} bytes are needed, but {free} are free, of which {RESERVED_SPACE} are "
                "reserved"
            )

    def keep_another_week(self, artefact_id: UUID) -> None:
        """Make a file that was replaced as young as a new one: strays are deleted after a week.

        A backup that is running, or a job that is being submitted, may still need it.
        """
        self.objects.touch(artefact_id)
