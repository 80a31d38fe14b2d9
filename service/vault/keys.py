"""The keys of one class: root key -> study keys -> data keys, and their destruction.

Every wrapped key has its own file, `<study>/study.key` or `<study>/<subject>.key`, and is bound to
that place. An erasure first adds an entry to the ledger, then destroys the key. If a restore brings
the key back, the entry is still there, and the key is destroyed again.
"""

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from service.vault import ArtefactClass
from service.vault.errors import Erased, KeyMissing, Sealed
from service.vault.files import locked, shred, write_atomically
from service.vault.streaming import KEY_SIZE, Key
from service.vault.wrapping import unwrap, wrap

STUDY = "study"
UUID_PATTERN = "-".join("[0-9a-f]" * n for n in (8, 4, 4, 4, 12))


class KeyRing:
    """
    Args:
        folder: of wrapped keys; not part of the artefacts' backups.
        ledger: folder with one small file per erasure. Never restore an older one over it.
        root: None means sealed.
    """

    def __init__(
        self, artefact_class: ArtefactClass, folder: Path, ledger: Path, root: Key | None
    ) -> None:
        self._class = artefact_class
        self._folder = folder / artefact_class
        self._ledger = ledger / artefact_class
        self._root = root

    @property
    def sealed(self) -> bool:
        return self._root is None

    def unseal(self, root: Key) -> None:
        self._root = root

    def create_study_key(self, study_id: UUID) -> None:
        self._create(study_id, STUDY, self._unsealed_root())

    def create_data_key(self, study_id: UUID, subject_id: UUID) -> Key:
        """
        Args:
            subject_id: the recording, the job, or in the linkage class the entity.

        Raises:
            Sealed
            KeyMissing, KeyDamaged: the study key is.
            Erased: the study was, or this data key.
        """
        return self._create(study_id, str(subject_id), self._study_key(study_id))

    def data_key(self, study_id: UUID, subject_id: UUID) -> Key:
        """
        Raises:
            Sealed
            Erased, KeyMissing, KeyDamaged: the study key or this data key is.
        """
        return self._read(study_id, str(subject_id), self._study_key(study_id))

    def data_keys(self, study_id: UUID, subject_ids: Iterable[UUID]) -> dict[UUID, Key]:
        """Several data keys of a study, without those that were erased.

        Raises:
            Sealed
            Erased: the study was.
            KeyMissing, KeyDamaged: the study key or a data key is.
        """
        under = self._study_key(study_id)
        keys = {}
        for id in subject_ids:
            with suppress(Erased):
                keys[id] = self._read(study_id, str(id), under)
        return keys

    def erase(self, study_id: UUID, subject_id: UUID) -> None:
        """Destroy a data key for ever. Safe to repeat, and possible while sealed."""
        self._erase(study_id, str(subject_id))

    def erase_study(self, study_id: UUID) -> None:
        """Destroy the study key and every data key under it."""
        self._erase(study_id, STUDY)

    def subjects(self) -> set[UUID]:
        """Ids of everything that has a data key, in all studies."""
        return {id for subjects in self.keys().values() for id in subjects}

    def keys(self, before: float = math.inf) -> dict[UUID, set[UUID]]:
        """Data keys by study, created before this POSIX time. A study's own key is not listed."""
        found: dict[UUID, set[UUID]] = {}
        for path in self._folder.glob("*/*.key"):
            with suppress(FileNotFoundError, ValueError):  # just erased; not a key
                study_id = UUID(path.parent.name)
                if path.stat().st_mtime < before:
                    subjects = found.setdefault(study_id, set())
                    if path.stem != STUDY:
                        subjects.add(UUID(path.stem))
        return found

    def discard(self, study_id: UUID, subject_id: UUID) -> None:
        """Delete a data key that was created but never used. Unlike an erasure it leaves no entry
        in the ledger."""
        with locked(self._folder, wait=True):
            self._destroy(study_id, str(subject_id))

    def discard_study(self, study_id: UUID) -> bool:
        """Delete a study key that was created but never used.

        Returns:
            False, having deleted nothing, if there are data keys under it.
        """
        folder = self._folder / str(study_id)
        with locked(self._folder, wait=True):
            if any(path.stem != STUDY for path in folder.glob("*.key")):
                return False
            self._destroy(study_id, STUDY)
            with suppress(OSError):  # a key is being written
                folder.rmdir()
        return True

    def apply_ledger(self) -> int:
        """Destroy erased keys that a restore brought back or a crash in `erase` left.

        Run this at every start.

        Returns:
            Number of keys destroyed.
        """
        with locked(self._folder, wait=True):
            return sum(
                self._destroy(UUID(entry.parent.name), entry.name)
                # A half-written entry has no key's name. Foreign files are none of ours.
                for entry in self._ledger.glob(f"{UUID_PATTERN}/*")
            )

    def _study_key(self, study_id: UUID) -> Key:
        return self._read(study_id, STUDY, self._unsealed_root())

    def _unsealed_root(self) -> Key:
        if self._root is None:
            raise Sealed("The vault is sealed: run `fieldscribe unseal`")
        return self._root

    def _create(self, study_id: UUID, name: str, under: Key) -> Key:
        key = Key(os.urandom(KEY_SIZE))
        path = self._path(study_id, name)
        with locked(self._folder, wait=True):
            self._refuse_erased(study_id, name)
            if path.exists():
                raise FileExistsError(
                    f"key {study_id}/{name}"
                )  # overwriting it would lose what it encrypted
            with write_atomically(path) as file:
                file.write(wrap(key, under, self._binding(study_id, name)))
        return key

    def _read(self, study_id: UUID, name: str, under: Key) -> Key:
        self._refuse_erased(study_id, name)
        try:
            wrapped = self._path(study_id, name).read_bytes()
        except FileNotFoundError as error:
            raise KeyMissing(f"Key {study_id}/{name} is missing") from error
        return unwrap(wrapped, under, self._binding(study_id, name))

    def _refuse_erased(self, study_id: UUID, name: str) -> None:
        if self._entry(study_id, name).exists():
            raise Erased(f"Key {study_id}/{name} was destroyed")

    def _erase(self, study_id: UUID, name: str) -> None:
        with locked(self._folder, wait=True):
            entry = self._entry(study_id, name)
            if not entry.exists():
                with write_atomically(entry) as file:
                    file.write(f"{datetime.now(UTC).isoformat()}\n".encode())
            self._destroy(study_id, name)

    def _destroy(self, study_id: UUID, name: str) -> int:
        path = self._path(study_id, name)
        paths = list(path.parent.glob("*")) if name == STUDY else [path]
        found = [path for path in paths if path.exists()]
        for path in found:
            shred(path)
        return len(found)

    def _path(self, study_id: UUID, name: str) -> Path:
        return self._folder / str(study_id) / f"{name}.key"

    def _entry(self, study_id: UUID, name: str) -> Path:
        return self._ledger / str(study_id) / name

    def _binding(self, study_id: UUID, name: str) -> str:
        return f"key|{self._class}|{study_id}|{name}"
