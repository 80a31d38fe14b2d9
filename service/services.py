"""What the API, the worker and the commands share: opened once and passed on."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.database import embedded
from service.database.engine import open_engine, open_sessions
from service.settings import BadSettings, Settings
from service.transcript_cache import TranscriptCache
from service.vault import ArtefactClass
from service.vault.bucket import BucketAddress, BucketObjects
from service.vault.errors import RootKeyUnusable
from service.vault.files import make_folder
from service.vault.keys import KeyRing
from service.vault.roots import (
    SALT_SIZE,
    check_sealed_root_key,
    create_root_key,
    create_sealed_root_key,
    read_root_keys,
    unseal_root_key,
)
from service.vault.store import Store
from service.vault.streaming import Key
from service.vault.wrapping import WRAPPED_SIZE


@dataclass(frozen=True)
class Vault:
    stores: Mapping[ArtefactClass, Store]
    keyrings: Mapping[ArtefactClass, KeyRing]
    unsealing: threading.Lock = field(default_factory=threading.Lock)
    """Held by one attempt to unseal at a time, because each takes 256 MiB."""

    @property
    def sealed(self) -> bool:
        return any(keyring.sealed for keyring in self.keyrings.values())


@dataclass(frozen=True)
class Services:
    settings: Settings
    engine: Engine
    sessionmaker: sessionmaker[DbSession]
    vault: Vault
    transcripts: TranscriptCache = field(default_factory=TranscriptCache)

    def close(self) -> None:
        self.engine.dispose()


def open_services(settings: Settings) -> Services:
    """
    Raises:
        BadSettings, DatabaseNotStarted
        RootKeyExposed, RootKeyUnusable: see `create_root_keys`.
    """
    vault = open_vault(settings)
    engine = open_engine(database_url(settings))
    return Services(settings, engine, open_sessions(engine), vault)


def database_url(settings: Settings) -> URL:
    """The configured URL, else that of the embedded Postgres."""
    if settings.database_url is not None:
        return make_url(settings.database_url.get_secret_value())
    return embedded.url(settings.database)


def open_vault(settings: Settings) -> Vault:
    """Open the vault and destroy any keys that the erasure ledger says must be gone.

    Root keys in plain files are open; those under a passphrase stay sealed.
    """
    keys = _read_plain_root_keys(settings)
    keyrings = {
        name: KeyRing(name, settings.wrapped_keys, settings.ledger, keys.get(name))
        for name in ArtefactClass
    }
    for keyring in keyrings.values():
        keyring.apply_ledger()
    return Vault({name: open_store(settings, name) for name in ArtefactClass}, keyrings)


def check_root_keys(settings: Settings) -> None:
    """Check the root keys before anything is started that would need them.

    Raises:
        RootKeyExposed, RootKeyUnusable: see `create_root_keys` and `read_root_keys`.
    """
    if has_root_keys(settings):
        _read_plain_root_keys(settings)
    else:
        _refuse_lost_root_keys(settings)


def _read_plain_root_keys(settings: Settings) -> dict[ArtefactClass, Key]:
    """The root keys without a passphrase. Those with one are only checked."""
    roots = {name: settings.root_keys / f"{name}.key" for name in ArtefactClass}
    sealed = {name for name, path in roots.items() if path.exists() and is_sealed(path)}
    for name in sealed:
        check_sealed_root_key(roots[name], name, data_folder=settings.data)
    plain = {name: path for name, path in roots.items() if name not in sealed}
    return read_root_keys(plain, data_folder=settings.data)


def _refuse_lost_root_keys(settings: Settings) -> None:
    if not _is_new(settings):
        raise RootKeyUnusable(
            "There are encrypted files, but some of their root keys are missing, and no new keys "
            "were created: check that the folder of FIELDSCRIBE_KEYS is mounted and the right one"
        )


def open_store(settings: Settings, name: ArtefactClass) -> Store:
    """
    Raises:
        BadSettings: the certificate for the storage cannot be used.
    """
    folder = settings.vault / name
    if settings.storage == "folder":
        return Store(name, folder)
    return Store(name, folder, BucketObjects(bucket_address(settings, name), folder / "spool"))


def bucket_address(settings: Settings, name: ArtefactClass) -> BucketAddress:
    """The bucket of a class, and the prefix in it that ends with the class.

    Raises:
        BadSettings: the settings name no bucket, or the certificate cannot be read.
    """
    id, secret = settings.s3_key_id, settings.s3_secret_key
    if settings.s3_bucket is None or id is None or secret is None:
        raise BadSettings(
            "Set FIELDSCRIBE_S3_BUCKET, FIELDSCRIBE_S3_KEY_ID and FIELDSCRIBE_S3_SECRET_KEY"
        )
    bucket, _, prefix = settings.s3_bucket.replace("{class}", name).partition("/")
    region = settings.s3_region
    try:
        path = settings.s3_certificate
        certificate = None if path is None else path.read_text()
    except (OSError, ValueError):
        raise BadSettings("The file of FIELDSCRIBE_S3_CERTIFICATE cannot be read") from None
    return BucketAddress(
        bucket=bucket,
        prefix="/".join(filter(None, (prefix, name, "artefacts"))),
        endpoint=settings.s3_endpoint or f"https://s3.{region}.amazonaws.com",
        region=region,
        key_id=id.get_secret_value(),
        secret_key=secret.get_secret_value(),
        certificate=certificate,
    )


def create_root_keys(settings: Settings, passphrase: str | None = None) -> bool:
    """Create the root keys of a new installation, or the rest if the first start was interrupted.

    Returns:
        False, having changed nothing, if all of them exist already.

    Raises:
        RootKeyUnusable: a root key is missing that files were encrypted with; or the existing keys
            have a passphrase and the others would not, or the other way round.
        WrongPassphrase: the existing keys have another passphrase.
    """
    roots = {name: settings.root_keys / f"{name}.key" for name in ArtefactClass}
    if has_root_keys(settings):
        return False
    _refuse_lost_root_keys(settings)
    make_folder(settings.root_keys)
    for name, path in roots.items():
        if path.exists() and path.stat().st_size == 0:
            path.unlink()  # its creation was interrupted
        if path.exists():
            if is_sealed(path) != (passphrase is not None):
                raise RootKeyUnusable(
                    "The first start was interrupted: run the same command again, with or without "
                    f"--passphrase as before, or delete {name}.key, which nothing uses yet"
                )
            if passphrase is not None:
                unseal_root_key(path, name, passphrase, data_folder=settings.data)
        elif passphrase is None:
            create_root_key(path)
        else:
            create_sealed_root_key(path, name, passphrase)
    return True


def has_root_keys(settings: Settings) -> bool:
    """Whether all root keys exist. An empty file does not count: its creation was interrupted."""
    roots = [settings.root_keys / f"{name}.key" for name in ArtefactClass]
    return all(path.exists() and path.stat().st_size > 0 for path in roots)


def _is_new(settings: Settings) -> bool:
    """Whether nothing has been encrypted yet.

    Raises:
        StorageUnreachable
    """
    folders = (settings.vault, settings.wrapped_keys, settings.ledger)
    if any(path.is_file() for folder in folders for path in folder.rglob("*")):
        return False
    return not any(is_used(open_store(settings, name)) for name in ArtefactClass)


def is_used(store: Store) -> bool:
    return next(iter(store.ids()), None) is not None


def unseal(services: Services, passphrase: str) -> None:
    """Open the sealed root keys.

    Raises:
        WrongPassphrase, RootKeyExposed, RootKeyUnusable
    """
    settings = services.settings
    with services.vault.unsealing:
        for name, keyring in services.vault.keyrings.items():
            if keyring.sealed:
                path = settings.root_keys / f"{name}.key"
                keyring.unseal(unseal_root_key(path, name, passphrase, data_folder=settings.data))


def is_sealed(path: Path) -> bool:
    """Whether a root key has a passphrase: then its file is binary, else it is hex digits."""
    return path.stat().st_size == SALT_SIZE + WRAPPED_SIZE
