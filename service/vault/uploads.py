"""Uploads: a recording arrives in parts, each encrypted and synced before it is acknowledged.

The parts stay in a folder of this machine until the recording is complete, wherever the artefacts
are kept.

Each part is a file named after its offset. It is bound to that offset and to the artefact it will
be merged into. An upload that is interrupted during a part resumes where that part began.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from service.vault.errors import UploadDamaged, UploadIncomplete, WrongOffset
from service.vault.files import PARTIAL, fsync_folder, locked, write_atomically
from service.vault.objects import object_name
from service.vault.store import Artefact, Store
from service.vault.streaming import (
    SEGMENT_SIZE,
    EncryptingWriter,
    Key,
    open_encrypted,
    plain_size,
)


def received(store: Store, artefact_id: UUID) -> int:
    """Number of bytes received, which is the offset of the next part."""
    parts = _parts(_folder(store, artefact_id))
    return int(parts[-1].name) + plain_size(parts[-1].stat().st_size) if parts else 0


@contextmanager
def write_part(
    store: Store, artefact: Artefact, key: Key, *, offset: int
) -> Iterator[EncryptingWriter]:
    """Write one part, which is synced to disk when the block ends and deleted if the block raises.

    To keep the bytes of a request that was cut off, end the block without raising.

    Raises:
        UploadBusy: another part is being written.
        WrongOffset: `offset` is not `received()`.
        DiskFull: there was not enough space.
    """
    folder = _folder(store, artefact.id)
    with locked(folder, wait=False):
        for leftover in folder.glob(f".*{PARTIAL}"):
            leftover.unlink()
        if offset != (expected := received(store, artefact.id)):
            raise WrongOffset(f"The next part begins at {expected}, not at {offset}")
        with write_atomically(folder / f"{offset:020}") as file:
            writer = EncryptingWriter(file, key, _binding(store, artefact, offset))
            yield writer
            writer.finish()


def merge(store: Store, artefact: Artefact, key: Key, *, length: int, sha256: bytes | None) -> None:
    """Merge the parts into one artefact, then delete them. Safe to repeat.

    Needs the same amount of disk space again while it runs.

    Args:
        length: number of bytes the client announced.
        sha256: digest of the whole recording, if the client announced one.

    Raises:
        UploadBusy: a part is being written.
        UploadIncomplete: fewer or more than `length` bytes were received.
        UploadDamaged: the recording's digest is not `sha256`.
        ArtefactDamaged: a part was changed after it was received.
        DiskFull: there was not enough space. After any error the parts are kept.
    """
    folder = _folder(store, artefact.id)
    with locked(folder, wait=False):
        if artefact.id not in store:  # otherwise a merge was killed while deleting the parts
            _merge(store, artefact, key, length, sha256)
        shutil.rmtree(folder)
    fsync_folder(folder.parent)


def ids(store: Store, before: float) -> Iterator[UUID]:
    """Ids of uploads that were last written before this POSIX time."""
    for folder in (store.folder / "uploads").glob("??/??/*"):
        with suppress(
            FileNotFoundError, NotADirectoryError, ValueError
        ):  # just merged; not an upload
            if max(path.stat().st_mtime for path in (folder, *folder.iterdir())) < before:
                yield UUID(folder.name)


def discard(store: Store, artefact_id: UUID) -> None:
    """Delete an unfinished upload.

    Raises:
        UploadBusy: a part is being written.
    """
    folder = _folder(store, artefact_id)
    with locked(folder, wait=False):
        shutil.rmtree(folder)
    fsync_folder(folder.parent)


def _merge(store: Store, artefact: Artefact, key: Key, length: int, sha256: bytes | None) -> None:
    if (n_received := received(store, artefact.id)) != length:
        raise UploadIncomplete(f"{n_received} of {length} bytes were received")
    store.require_space(length)
    digest = hashlib.sha256()
    position = 0
    with store.write(artefact, key) as writer:
        for path in _parts(_folder(store, artefact.id)):
            if int(path.name) != position:
                raise UploadIncomplete(f"The part at {position} is missing")
            with open_encrypted(path, key, _binding(store, artefact, position)) as part:
                while data := part.read(SEGMENT_SIZE):
                    writer.write(data)
                    digest.update(data)
                    position += len(data)
        if sha256 is not None and digest.digest() != sha256:
            raise UploadDamaged("The recording does not have the announced checksum: send it again")


def _binding(store: Store, artefact: Artefact, offset: int) -> bytes:
    return store.binding(artefact) + f"|part {offset}".encode()


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix != PARTIAL)


def _folder(store: Store, artefact_id: UUID) -> Path:
    return store.folder / "uploads" / object_name(artefact_id)
