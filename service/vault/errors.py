"""What can go wrong in the vault. Messages hold ids and numbers at most.

ServiceError
├── RootKeyExposed, RootKeyUnusable         the service does not start
├── Sealed, WrongPassphrase
├── KeyMissing, KeyDamaged, Erased
├── ArtefactMissing, ArtefactDamaged
├── UploadBusy, WrongOffset, UploadIncomplete, UploadDamaged
└── DiskFull
"""

from typing import ClassVar

from service.errors import ServiceError


class RootKeyExposed(ServiceError):
    """A root key lies under the data folder, or others may read its file."""

    code = "root_key_exposed"
    status: ClassVar[int] = 500


class RootKeyUnusable(ServiceError):
    """A root key is not there, is not a key, is there already, or is that of another class too."""

    code = "root_key_unusable"
    status: ClassVar[int] = 500


class Sealed(ServiceError):
    """Nobody has unsealed the vault since the service was started."""

    code = "sealed"
    status: ClassVar[int] = 503
    user_action: ClassVar[str] = "Ask someone with the passphrase to run `fieldscribe unseal`."


class WrongPassphrase(ServiceError):
    """The passphrase does not open this root key."""

    code = "wrong_passphrase"
    status: ClassVar[int] = 403


class KeyMissing(ServiceError):
    """The file of a wrapped key is gone, but nobody erased it."""

    code = "key_missing"
    status: ClassVar[int] = 500


class KeyDamaged(ServiceError):
    """A wrapped key was changed, was moved from elsewhere, or belongs to another root key."""

    code = "key_damaged"
    status: ClassVar[int] = 500


class Erased(ServiceError):
    """The key was destroyed on purpose: what it encrypted cannot be read again."""

    code = "erased"
    status: ClassVar[int] = 410
    user_action: ClassVar[str] = "Nothing: erased recordings cannot be restored."


class ArtefactMissing(ServiceError):
    """The file of an artefact is not in the vault."""

    code = "artefact_missing"
    status: ClassVar[int] = 500


class ArtefactDamaged(ServiceError):
    """An artefact was cut short, changed, put in another's place, or its key is another."""

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
    """The parts of an upload are not as long as was announced."""

    code = "upload_incomplete"
    status: ClassVar[int] = 409


class UploadDamaged(ServiceError):
    """What arrived does not have the checksum that was announced."""

    code = "upload_damaged"
    status: ClassVar[int] = 460  # tus 1.0, "Checksum"


class DiskFull(ServiceError):
    """There is not enough room on the disk."""

    code = "disk_full"
    status: ClassVar[int] = 507  # Insufficient Storage


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
