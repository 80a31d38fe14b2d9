"""Root keys: one per class, each in its own file outside the data folder.

The file holds the key as 64 hex digits, or encrypted under a passphrase.
"""

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from service.vault import ArtefactClass
from service.vault.errors import KeyDamaged, RootKeyExposed, RootKeyUnusable, WrongPassphrase
from service.vault.files import fsync_folder
from service.vault.streaming import KEY_SIZE, Key
from service.vault.wrapping import WRAPPED_SIZE, unwrap, wrap

# Source: RFC 9106, section 4, second recommended option (3 passes, 4 lanes, 64 MiB, 16 bytes of
# salt), with four times the memory, as it runs only once per start and takes about a second.
ARGON2_ITERATIONS = 3
ARGON2_LANES = 4
ARGON2_MEMORY = 256 * 1024  # KiB
SALT_SIZE = 16


def create_root_key(path: Path) -> None:
    _create(path, os.urandom(KEY_SIZE).hex().encode() + b"\n")


def read_root_keys(
    paths: Mapping[ArtefactClass, Path], *, data_folder: Path
) -> dict[ArtefactClass, Key]:
    """
    Raises:
        RootKeyExposed: a file is inside `data_folder`, or other users can read it.
        RootKeyUnusable: a file is missing or is not a key, or two classes have the same key.
    """
    keys = {name: _read_root_key(name, path, data_folder) for name, path in paths.items()}
    if len({key.secret for key in keys.values()}) < len(keys):
        raise RootKeyUnusable(
            "Two classes have the same root key, but each needs its own: restore a backup"
        )
    return keys


def check_sealed_root_key(path: Path, name: ArtefactClass, *, data_folder: Path) -> None:
    """Check what can be checked without the passphrase.

    Raises:
        RootKeyExposed, RootKeyUnusable: as in `read_root_keys`.
    """
    _read_private(name, path, data_folder)


def create_sealed_root_key(path: Path, name: ArtefactClass, passphrase: str) -> None:
    salt = os.urandom(SALT_SIZE)
    under = _passphrase_key(passphrase, salt)
    _create(path, salt + wrap(Key(os.urandom(KEY_SIZE)), under, _binding(name)))


def unseal_root_key(path: Path, name: ArtefactClass, passphrase: str, *, data_folder: Path) -> Key:
    """
    Raises:
        WrongPassphrase: the passphrase is wrong, or the file was changed or is another class's.
        RootKeyExposed, RootKeyUnusable: as in `read_root_keys`.
    """
    content = _read_private(name, path, data_folder)
    if len(content) != SALT_SIZE + WRAPPED_SIZE:
        raise RootKeyUnusable(f"The root key of {name} was created without a passphrase")
    salt, wrapped = content[:SALT_SIZE], content[SALT_SIZE:]
    try:
        return unwrap(wrapped, _passphrase_key(passphrase, salt), _binding(name))
    except KeyDamaged as error:
        raise WrongPassphrase(f"The passphrase does not open the root key of {name}") from error


def _read_root_key(name: ArtefactClass, path: Path, data_folder: Path) -> Key:
    try:
        return Key(bytes.fromhex(_read_private(name, path, data_folder).decode("ascii")))
    except ValueError:
        # Not chained: the cause may quote the file's content.
        raise RootKeyUnusable(f"The root key of {name} is not {2 * KEY_SIZE} hex digits") from None


def _read_private(name: ArtefactClass, path: Path, data_folder: Path) -> bytes:
    if path.resolve().is_relative_to(data_folder.resolve()):
        raise RootKeyExposed(f"The root key of {name} is inside the data folder: move it")
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise RootKeyExposed(
                    f"Other users can read the root key of {name}: chmod 600 its file"
                )
            return file.read()
    except OSError as error:
        raise RootKeyUnusable(f"The root key of {name} cannot be read") from error


def _passphrase_key(passphrase: str, salt: bytes) -> Key:
    argon2 = Argon2id(
        salt=salt,
        length=KEY_SIZE,
        iterations=ARGON2_ITERATIONS,
        lanes=ARGON2_LANES,
        memory_cost=ARGON2_MEMORY,
    )
    # Keyboards disagree on whether an umlaut is one character or two.
    return Key(argon2.derive(unicodedata.normalize("NFC", passphrase).encode()))


def _create(path: Path, content: bytes) -> None:
    """Never overwrites a key: everything encrypted under it would be lost."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise RootKeyUnusable("A root key exists already and is never overwritten") from error
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fsync_folder(path.parent)


def _binding(name: ArtefactClass) -> str:
    return f"root key|{name}"
