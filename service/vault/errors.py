"""Errors of the vault. Their messages contain ids and numbers at most.

ServiceError
├── RootKeyExposed, RootKeyUnusable         the service does not start
├── Sealed, WrongPassphrase
├── KeyMissing, KeyDamaged, Erased
├── ArtefactMissing, ArtefactDamaged
├── UploadBusy, WrongOffset, UploadIncomplete, UploadDamaged
└── DiskFull, StorageUnreachable
"""

from typing import ClassVar

from service.errors import ServiceError


class RootKeyExposed(ServiceError):
    """A root key is inside the data folder, or other users can read its file."""

    code = "root_key_exposed"
    status: ClassVar[int] = 500


class RootKeyUnusable(ServiceError):
    """A root key is missing, is not a key, exists already, or is used by two classes."""

    code = "root_key_unusable"
    status: ClassVar[int] = 500


class Sealed(ServiceError):
    """The vault has not been unsealed since the service started."""

    code = "sealed"
    status: ClassVar[int] = 503
    user_action: ClassVar[str] = "Ask someone with the passphrase to run `fieldscribe unseal`."


class WrongPassphrase(ServiceError):
    """The passphrase does not open this root key."""

    code = "wrong_passphrase"
    status: ClassVar[int] = 403


class KeyMissing(ServiceError):
    """A wrapped key's file is missing, although the key was not erased."""

    code = "key_missing"
    status: ClassVar[int] = 500


class KeyDamaged(ServiceError):
    """A wrapped key was changed, was moved from another place, or belongs to another root key."""

    code = "key_damaged"
    status: ClassVar[int] = 500


class Erased(ServiceError):
    """It was erased: its key was destroyed, so it can never be read again."""

    code = "erased"
    status: ClassVar[int] = 410
    user_action: ClassVar[str] = "Nothing: erased recordings cannot be restored."


class ArtefactMissing(ServiceError):
    """An artefact's file is missing from the vault."""

    code = "artefact_missing"
    status: ClassVar[int] = 500


class ArtefactDamaged(ServiceError):
    """An artefact was cut short, changed or moved, or was encrypted with another key."""

    code = "artefact_damaged"
    status: ClassVar[int] = 500


class UploadBusy(ServiceError):
    """Another request is writing to this upload."""

    code = "upload_busy"
    status: ClassVar[int] = 423  # Locked


class WrongOffset(ServiceError):
    """A part does not begin where the part before it ended."""

    code = "wrong_offset"
    status: ClassVar[int] = 409  # tus 1.0, "PATCH"


class UploadIncomplete(ServiceError):
    """The parts of an upload do not have the announced length."""

    code = "upload_incomplete"
    status: ClassVar[int] = 409


class UploadDamaged(ServiceError):
    """The upload does not have the announced checksum."""

    code = "upload_damaged"
    status: ClassVar[int] = 460  # tus 1.0, "Checksum"


class DiskFull(ServiceError):
    """There is not enough space on the disk."""

    code = "disk_full"
    status: ClassVar[int] = 507  # Insufficient Storage


class StorageUnreachable(ServiceError):
    """The storage that holds the vault does not answer, or refuses its key."""

    code = "storage_unreachable"
    status: ClassVar[int] = 503


KEY_ERRORS = (Erased, KeyMissing, KeyDamaged)
"""Raised when a key is opened."""

READ_ERRORS = (*KEY_ERRORS, ArtefactMissing, ArtefactDamaged)
"""Raised when an artefact is read."""

WRITE_ERRORS = (*KEY_ERRORS, DiskFull)
"""Raised when an artefact is written."""

PERMANENT_ERRORS = (Erased, KeyDamaged, ArtefactDamaged)
"""The artefact can never be read again."""

MISSING_ERRORS = (KeyMissing, ArtefactMissing)
"""The artefact may become readable again: perhaps a folder is not mounted."""
