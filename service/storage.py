"""Copies the encrypted artefacts from the storage in use to another: a folder, or a bucket.

Every copy is read back and its SHA-256 compared. Keys, ledger and uploads in progress stay where
they are. The bytes are the same in both, so nothing is decrypted.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from service.errors import Misused, ServiceError
from service.services import open_store
from service.settings import Settings
from service.vault import ArtefactClass
from service.vault.bucket import BucketObjects
from service.vault.errors import ArtefactMissing
from service.vault.objects import Objects

Storage = Literal["folder", "s3"]

log = logging.getLogger(__name__)


class StorageInUse(Misused):
    """The artefacts are to be copied to the storage that is in use."""

    code = "storage_in_use"


class CopyDiffers(ServiceError):
    """What was written to the storage comes back changed."""

    code = "copy_differs"


@dataclass(frozen=True)
class Copied:
    copied: int
    present: int
    """Artefacts that were in the target already, with the same checksum."""
    n_bytes: int


def copy_vault(
    settings: Settings, to: Storage, on_progress: Callable[[int], None] | None = None
) -> Copied:
    """Copy all artefacts. Safe to repeat: what is there already is only compared.

    Args:
        on_progress: called with the number of artefacts done.

    Raises:
        StorageInUse, CopyDiffers, BadSettings, StorageUnreachable, DiskFull
    """
    if settings.storage == to:
        raise StorageInUse(
            f"The vault is in use there already: FIELDSCRIBE_STORAGE is {to}. Nothing was copied."
        )
    target_settings = settings.model_copy(update={"storage": to})
    n_copied = n_present = n_bytes = 0
    for name in ArtefactClass:
        source = open_store(settings, name).objects
        target = open_store(target_settings, name).objects
        present = set(target.ids())
        for id in source.ids():
            try:
                if id in present and checksum(source, id) == checksum(target, id):
                    n_present += 1
                else:
                    n_bytes += _copy(source, target, id)
                    n_copied += 1
            except (FileNotFoundError, ArtefactMissing):  # just erased
                if id not in source:
                    target.delete(id)
                    continue
                raise CopyDiffers(
                    f"Artefact {id} is gone from the storage it was copied to"
                ) from None
            if on_progress is not None:
                on_progress(n_copied + n_present)
    log.info("storage: %d artefacts copied, %d present", n_copied, n_present)
    return Copied(n_copied, n_present, n_bytes)


def checksum(objects: Objects, id: UUID) -> str:
    """SHA-256 of the encrypted bytes: as the bucket has noted it, else by reading them."""
    noted = objects.checksum(id) if isinstance(objects, BucketObjects) else None
    return noted or read_checksum(objects, id)


def read_checksum(objects: Objects, id: UUID) -> str:
    digest = hashlib.sha256()
    with objects.open(id) as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()


def _copy(source: Objects, target: Objects, id: UUID) -> int:
    """
    Returns:
        Number of bytes.
    """
    expected = read_checksum(source, id)
    with source.open(id) as old, target.write(id) as new:
        shutil.copyfileobj(old, new, 2**20)
        size = new.tell()
    if read_checksum(target, id) != expected:
        target.delete(id)
        raise CopyDiffers(f"Artefact {id} came back changed, and its copy was deleted: try again")
    return size
