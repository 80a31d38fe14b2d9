"""A recording that arrives in parts: each one encrypted and on disk before it is acknowledged.

A part is a file of its own, named after its offset and bound to it and to the artefact it will be
merged into. An upload dropped in the middle of a part goes on where that part began.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from service.vault.errors import UploadDamaged, UploadIncomplete, WrongOffset
from service.vault.files import PARTIAL, fsync_folder, locked, whole_file
from service.vault.store import Artefact, Store, fan_out
from service.vault.streaming import (
    SEGMENT_SIZE,
    EncryptingWriter,
    Key,
    open_encrypted,
    plain_size,
)


def received(store: Store, artefact_id: UUID) -> int:
    """Bytes on disk, which is where the next part begins."""
    parts = _parts(_folder(store, artefact_id))
    return int(parts[-1].name) + plain_size(parts[-1].stat().st_size) if parts else 0


@contextmanager
def write_part(
    store: Store, artefact: Artefact, key: Key, *, offset: int
) -> Iterator[EncryptingWriter]:
    """What is written is one part, on disk when the block ends; nothing is if it raises.

    To keep what arrived of a request that was cut off, end the block without raising.

    Raises:
        UploadBusy: another part is being written.
        WrongOffset: `offset` is not `received()`.
        DiskFull: there was no room.
    """
    folder = _folder(store, artefact.id)
    with locked(folder, wait=False):
        for leftover in folder.glob(f".*{PARTIAL}"):
            leftover.unlink()
        if offset != (expected := received(store, artefact.id)):
            raise WrongOffset(f"The next part begins at {expected}, not at {offset}")
        with whole_file(folder / f"{offset:020}") as file:
            writer = EncryptingWriter(file, key, _binding(store, artefact, offset))
            yield writer
            writer.finish()


def merge(store: Store, artefact: Artefact, key: Key, *, length: int, sha256: bytes | None) -> None:
    """Make the parts one artefact, then delete them. Safe to run twice.

    Needs as much room again while it runs.

    Args:
        length: bytes the client announced.
        sha256: digest of the whole recording, if the client announced one.

    Raises:
        UploadBusy: a part is being written.
        UploadIncomplete: there are not `length` bytes.
        UploadDamaged: `sha256` is another.
        ArtefactDamaged: a part is not what was received.
        DiskFull: there was no room. The parts stay after every error.
    """
    folder = _folder(store, artefact.id)
    with locked(folder, wait=False):
        if artefact.id not in store:  # else a merge was killed while it deleted the parts
            _merge(store, artefact, key, length, sha256)
        shutil.rmtree(folder)
    fsync_folder(folder.parent)


def ids(store: Store, before: float) -> Iterator[UUID]:
    """Of uploads to which nothing was written since that time."""
    for folder in (store.folder / "uploads").glob("??/??/*"):
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):  # merged; no upload
            if max(path.stat().st_mtime for path in (folder, *folder.iterdir())) < before:
                yield UUID(folder.name)


def discard(store: Store, artefact_id: UUID) -> None:
    """
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
                raise UploadIncomplete(f"The part at {position} is gone")
            with open_encrypted(path, key, _binding(store, artefact, position)) as part:
                while data := part.read(SEGMENT_SIZE):
                    writer.write(data)
                    digest.update(data)
                    position += len(data)
        if sha256 is not None and digest.digest() != sha256:
            raise UploadDamaged("The recording is not what was sent: send it again")


def _binding(store: Store, artefact: Artefact, offset: int) -> bytes:
    return store.binding(artefact) + f"|part {offset}".encode()


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix != PARTIAL)


def _folder(store: Store, artefact_id: UUID) -> Path:
    return fan_out(store.folder / "uploads", artefact_id)
