"""How batch mode recognises a recording: by a checksum that is keyed with a key of the folder.

A plain checksum in a transcript would tell anyone who has the recording, or can guess it, that the
transcript is of it, and would be the same in every copy and every project. The key lies in the
output folder, so a transcript that leaves the folder cannot be matched with a recording.

ServiceError
└── Misused
    └── FolderKeyMissing
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from service.errors import Misused

KEY_FILE = ".fieldscribe-key"
KEY_BYTES = 32


class FolderKeyMissing(Misused):
    """The key of an output folder is missing or damaged, so its recordings are not recognised."""

    code: ClassVar[str] = "folder_key_missing"


def identity_of(sha256: str, key: bytes) -> str:
    """The keyed checksum of a recording, in hex.

    Args:
        sha256: of its file, in hex.
    """
    return hmac.new(key, bytes.fromhex(sha256), hashlib.sha256).hexdigest()


def read_key(folder: Path) -> bytes | None:
    """The folder's key; None if it has none.

    Raises:
        FolderKeyMissing: it is damaged.
    """
    try:
        key = bytes.fromhex((folder / KEY_FILE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise FolderKeyMissing(f"The file {KEY_FILE} cannot be read: {REMEDY}")
    return key


def ensure_key(folder: Path, is_needed: Callable[[], bool]) -> bytes:
    """The folder's key, which is created if there is none.

    Args:
        is_needed: whether transcripts in the folder were made with a key.

    Raises:
        FolderKeyMissing: they were, and it is missing or damaged.
        OSError
    """
    if (key := read_key(folder)) is not None:
        return key
    if is_needed():
        raise FolderKeyMissing(f"The file {KEY_FILE} is missing from the folder: {REMEDY}")
    partial = folder / f"{KEY_FILE}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_bytes(KEY_BYTES).hex())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, folder / KEY_FILE)  # unlike a rename, keeps the key of another run
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            partial.replace(folder / KEY_FILE)
    finally:
        with suppress(OSError):
            partial.unlink()
    made = read_key(folder)
    assert made is not None
    return made


REMEDY = (
    "without it, recordings that were transcribed are not recognised. Restore it from the folder "
    "in which the transcripts were made, or choose another folder with --out."
)
