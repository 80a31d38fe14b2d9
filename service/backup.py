"""Backups and restores: the database and the vault in one archive, the keys in another.

    fieldscribe-<time>.tar        database.dump, vault/..., manifest.json
    fieldscribe-keys-<time>.tar   root/..., wrapped/..., ledger/..., owner.token, manifest.json

Either one alone is of no use to a thief. A restore takes the newest keys there are: what was erased
since the other archive was made is in their ledger, or in the one that lies here, and goes again.

ServiceError
├── Misused
│   └── KeysNotApart, NotEmpty, BackupNotReadable, OutputNotWritable
├── BackupDamaged, UnsafeBackup, BackupMismatch
└── DatabaseToolFailed
"""

import hashlib
import io
import json
import logging
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import select
from sqlalchemy.engine import URL

from models.environment import child_environment
from service.database import DatabaseInUse, SchemaTooNew, embedded
from service.database.embedded import EmbeddedPostgres, installed_programs
from service.database.engine import conninfo, known_revisions, migrate, newest, open_engine
from service.database.tables import Job, JobRecording, Recording, Session, Study
from service.domain.erasure import erase_job, erase_rest
from service.domain.recordings import destroy
from service.errors import Misused, OutputNotWritable, ServiceError
from service.services import Services, database_url, open_services
from service.settings import Settings
from service.vault import ArtefactClass
from service.vault.files import make_folder, whole_file

MANIFEST = "manifest.json"
DUMP = "database.dump"
TOKEN = "owner.token"
ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CLASS = f"(?:{'|'.join(ArtefactClass)})"
DATA_NAMES = re.compile(rf"{DUMP}|vault/{CLASS}/(?:artefacts|uploads)(?:/[0-9a-z-]+)+")
KEY_NAMES = re.compile(
    rf"{TOKEN}|root/{CLASS}\.key"
    rf"|wrapped/{CLASS}/{ID}/(?:study|{ID})\.key|ledger/{CLASS}/{ID}/(?:study|{ID})"
)
VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}

log = logging.getLogger(__name__)


class KeysNotApart(Misused):
    """The keys would lie beside what they open."""

    code: ClassVar[str] = "keys_not_apart"


class NotEmpty(Misused):
    """A restore needs empty folders and an empty database."""

    code: ClassVar[str] = "not_empty"


class BackupNotReadable(Misused):
    """A file of the backup is not there, may not be read, or is no archive."""

    code: ClassVar[str] = "backup_not_readable"


class BackupDamaged(ServiceError):
    """A part of the backup is missing."""

    code: ClassVar[str] = "backup_damaged"


class UnsafeBackup(ServiceError):
    """The backup holds links, paths that lead outside, or what no backup holds."""

    code: ClassVar[str] = "unsafe_backup"


class BackupMismatch(ServiceError):
    """The keys are not those of this backup."""

    code: ClassVar[str] = "backup_mismatch"


class DatabaseToolFailed(ServiceError):
    """pg_dump or pg_restore failed."""

    code: ClassVar[str] = "database_tool_failed"


# --- making one -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backup:
    data: Path | None  # None: only the keys
    keys: Path


def back_up(settings: Settings, out: Path | None, keys_out: Path) -> Backup:
    """While the service runs, or while it does not.

    Args:
        out: folder for the archive of database and vault; None: only keys.
        keys_out: folder for the archive of keys, on another disk if possible.

    Raises:
        KeysNotApart, OutputNotWritable
        DatabaseNotStarted, DataNotReachable, DatabaseToolFailed, DiskFull
    """
    if out is not None and out.resolve() == keys_out.resolve():
        raise KeysNotApart("Give the keys a folder of their own: who has both can read everything.")
    if out is not None:
        require_writable(out, "database and vault")
    require_writable(keys_out, "keys")
    now = datetime.now(UTC)
    data = None
    if out is not None:
        data = out / f"fieldscribe-{now:%Y%m%dT%H%M%SZ}.tar"
        with running_database(settings) as url, whole_file(data) as file:
            # The rows first: what they name is there, and what is added meanwhile does no harm.
            with tempfile.TemporaryFile(dir=out) as dump:
                run_tool(settings, "pg_dump", url, ["--format=custom", "--no-owner"], output=dump)
                write_archive(file, "data", settings, now, data_files(settings), dump)
    keys = keys_out / f"fieldscribe-keys-{now:%Y%m%dT%H%M%SZ}.tar"
    with whole_file(keys) as file:
        write_archive(file, "keys", settings, now, key_files(settings))
    if data is not None:
        with whole_file(settings.data / "backup.json") as file:
            file.write(json.dumps({"at": now.isoformat()}).encode())
    log.info("backed up")
    return Backup(data, keys)


def require_writable(folder: Path, what: str) -> None:
    """Before hours are spent.

    Raises:
        OutputNotWritable
    """
    try:
        make_folder(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputNotWritable(
            f"The backup of {what} cannot be written into its folder ({error.strerror})."
        ) from None


def data_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Twice: an upload that is merged meanwhile is in neither the place of its parts nor, the first
    time, in that of recordings."""
    told = set()
    for _ in range(2):
        for name, path in ours(settings.vault, "vault", DATA_NAMES):
            if name not in told:
                told.add(name)
                yield name, path


def key_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for folder in (settings.root_keys, settings.wrapped_keys, settings.ledger):
        yield from ours(folder, folder.name, KEY_NAMES)
    yield TOKEN, settings.owner_token


def ours(folder: Path, prefix: str, names: re.Pattern[str]) -> Iterator[tuple[str, Path]]:
    """No links, and nothing that somebody else has put there: no restore would take it."""
    for path in sorted(folder.rglob("*")):
        name = f"{prefix}/{path.relative_to(folder)}"
        if names.fullmatch(name) and path.is_file() and not path.is_symlink():
            yield name, path


def write_archive(
    file: Any,
    kind: str,
    settings: Settings,
    now: datetime,
    files: Iterable[tuple[str, Path]],
    dump: BinaryIO | None = None,
) -> None:
    n_files = 0
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if dump is not None:
            dump.seek(0)
            add(archive, DUMP, dump)
            n_files += 1
        for name, path in files:
            try:
                with path.open("rb") as source:
                    add(archive, name, source)
                    n_files += 1
            except FileNotFoundError:  # erased just now
                continue
        manifest = {
            "kind": kind,
            "fieldscribe": version("fieldscribe"),
            "schema": newest(),
            "created_at": now.isoformat(),
            "root_keys": fingerprint(settings),
            "n_files": n_files,
        }
        add(archive, MANIFEST, io.BytesIO(json.dumps(manifest).encode()))


def add(archive: tarfile.TarFile, name: str, source: BinaryIO) -> None:
    info = tarfile.TarInfo(name)
    info.size = source.seek(0, io.SEEK_END)
    info.mode = 0o600
    source.seek(0)
    archive.addfile(info, source)


def fingerprint(settings: Settings) -> str:
    """Of the root keys as they lie there, to tell whether an archive of keys is the right one."""
    files = [settings.root_keys / f"{name}.key" for name in ArtefactClass]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files if path.exists()))
    return digest.hexdigest()


# --- restoring one --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restored:
    artefacts: int
    keys: int
    erased_again: int  # recordings, jobs, sessions and studies


def restore(settings: Settings, data: Path, keys: Path) -> Restored:
    """Onto an empty machine, but for a ledger of erasures, which is kept.

    Raises:
        NotEmpty, BackupNotReadable, BackupDamaged, UnsafeBackup, BackupMismatch
        SchemaTooNew, DatabaseToolFailed, DiskFull
    """
    require_empty(settings)
    with opened(data) as data_archive, opened(keys) as keys_archive:
        about = check(data_archive, "data", DATA_NAMES)
        if check(keys_archive, "keys", KEY_NAMES)["root_keys"] != about["root_keys"]:
            raise BackupMismatch("These keys belong to another installation.")
        if about["schema"] not in known_revisions():
            raise SchemaTooNew("A newer Fieldscribe made this backup: install that version")
        with running_database(settings, new=True) as url:
            require_empty_database(url)
            artefacts = extract(data_archive, "vault/", settings.data)
            n_keys = extract_keys(keys_archive, settings)
            with tempfile.TemporaryFile() as dump:
                member = data_archive.extractfile(DUMP)
                assert member is not None
                while block := member.read(2**20):
                    dump.write(block)
                dump.seek(0)
                options = ["--single-transaction", "--exit-on-error", "--no-owner"]
                run_tool(settings, "pg_restore", url, options, input=dump)
            engine = open_engine(url)
            try:
                migrate(engine)
            finally:
                engine.dispose()
            services = open_services(settings)  # destroys the keys that the ledger names
            try:
                erased_again = erase_again(services)
            finally:
                services.close()
    return Restored(artefacts, n_keys, erased_again)


def require_empty(settings: Settings) -> None:
    full = [settings.vault, settings.root_keys, settings.wrapped_keys]
    if settings.database_url is None:
        full.append(settings.database / "data")
    if any(folder.exists() and any(folder.iterdir()) for folder in full):
        raise NotEmpty(
            "There is an installation here already: move its folders of data and keys away first. "
            "Its ledger may stay."
        )


def require_empty_database(url: URL) -> None:
    with psycopg.connect(conninfo(url)) as connection:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        row = connection.execute(query).fetchone()
    if row is None or row[0]:
        raise NotEmpty("The database is not empty: give an empty one in FIELDSCRIBE_DATABASE_URL.")


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        archive = tarfile.open(path, mode="r:")
    except OSError as error:
        raise BackupNotReadable(f"An archive cannot be read ({error.strerror}).") from None
    except tarfile.TarError:
        raise BackupNotReadable("A file of the backup is no archive.") from None
    with archive:
        yield archive


def check(archive: tarfile.TarFile, kind: str, names: re.Pattern[str]) -> dict[str, Any]:
    """Everything in it, before anything of it is written.

    Returns:
        Its manifest.

    Raises:
        BackupDamaged, UnsafeBackup
    """
    try:
        members = archive.getmembers()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BackupDamaged("An archive of the backup is damaged.") from error
    found = [member.name for member in members]
    for member in members:
        known = member.name == MANIFEST or names.fullmatch(member.name)
        if not member.isreg() or not known:
            raise UnsafeBackup(
                "An archive holds what does not belong there: is it the one of the keys?"
                if kind == "data"
                else "An archive of keys holds what does not belong there."
            )
    if len(set(found)) < len(found):
        raise UnsafeBackup("The backup holds the same file twice.")
    if MANIFEST not in found:
        raise BackupDamaged("The end of an archive is missing.")
    file = archive.extractfile(MANIFEST)
    assert file is not None
    try:
        manifest: dict[str, Any] = json.loads(file.read())
        complete = manifest["n_files"] == len(found) - 1 and manifest["kind"] == kind
        manifest["root_keys"], manifest["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise BackupDamaged("The manifest of an archive is damaged.") from error
    if not complete or (kind == "data" and DUMP not in found):
        raise BackupDamaged("A part of an archive is missing.")
    return manifest


def extract(archive: tarfile.TarFile, prefix: str, folder: Path) -> int:
    """The members below the prefix, names as `check` has let them in."""
    n_files = 0
    for member in archive.getmembers():
        if member.name.startswith(prefix):
            write_member(archive, member, folder / member.name)
            n_files += 1
    return n_files


def extract_keys(archive: tarfile.TarFile, settings: Settings) -> int:
    """Keys, and the entries of the ledger that are not here already."""
    make_folder(settings.keys)
    n_keys = extract(archive, "root/", settings.keys) + extract(archive, "wrapped/", settings.keys)
    for member in archive.getmembers():
        if member.name.startswith("ledger/") and not (settings.keys / member.name).exists():
            write_member(archive, member, settings.keys / member.name)
        elif member.name == TOKEN:
            write_member(archive, member, settings.owner_token)
    return n_keys


def write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None
    with whole_file(path) as file:
        while block := source.read(2**20):
            file.write(block)


def erase_again(services: Services) -> int:
    """What the ledger names and the restored rows do not know to be erased.

    Returns:
        How many recordings, jobs, sessions and studies there were.
    """
    ledger = services.settings.ledger / ArtefactClass.IDENTIFIED
    entries = [(UUID(path.parent.name), path.name) for path in sorted(ledger.glob("*/*"))]
    studies = [study for study, name in entries if name == "study"]
    others = [UUID(name) for _, name in entries if re.fullmatch(ID, name)]
    n_erased = 0
    with services.sessionmaker.begin() as session:
        for study in session.scalars(
            select(Study).where(Study.id.in_(studies), Study.erased_at.is_(None))
        ):
            erase_rest(session, services, study)
            n_erased += 1
        sessions = session.scalars(
            select(Session).where(Session.id.in_(others), Session.erased_at.is_(None))
        ).all()
        for of in sessions:
            of.erased_at, of.roster = datetime.now(UTC), []
        recordings = session.scalars(
            select(Recording).where(
                Recording.id.in_(others) | Recording.study_id.in_(studies),
                Recording.state.not_in(("erased", "refused")),
            )
        ).all()
        gone = [recording.id for recording in recordings]
        of_recordings = select(JobRecording.job_id).where(JobRecording.recording_id.in_(gone))
        jobs = session.scalars(
            select(Job).where(
                Job.id.in_(others) | Job.id.in_(of_recordings) | Job.study_id.in_(studies),
                Job.status != "erased",
            )
        ).all()
        for job in jobs:
            erase_job(session, services, job)
        for recording in recordings:
            recording.state = "erased"
        n_erased += len(jobs) + len(recordings) + len(sessions)
    for recording in recordings:
        destroy(services, recording)
    return n_erased


# --- the database's own tools ---------------------------------------------------------------------


@contextmanager
def running_database(settings: Settings, *, new: bool = False) -> Iterator[URL]:
    """The one that is set, the embedded one of a running service, or that one started for this.

    Args:
        new: an embedded one may be made.
    """
    if settings.database_url is not None:
        yield database_url(settings)
        return
    if not new:
        embedded.url(settings.database)  # raises if there is none
    postgres = EmbeddedPostgres(settings.database, settings.postgres_programs)
    try:
        postgres.start()
    except DatabaseInUse:
        if new:
            raise
        yield database_url(settings)
        return
    try:
        yield postgres.url()
    finally:
        postgres.stop()


def run_tool(
    settings: Settings,
    name: str,
    url: URL,
    options: list[str],
    *,
    input: BinaryIO | None = None,
    output: BinaryIO | None = None,
) -> None:
    """Of the same binaries as the embedded Postgres. The password is in no command line.

    Raises:
        DatabaseToolFailed
    """
    folder = settings.postgres_programs or installed_programs()
    parameters = conninfo_to_dict(conninfo(url))
    variables = {
        variable: str(parameters[key]) for key, variable in VARIABLES.items() if key in parameters
    }
    finished = subprocess.run(
        [folder / name, f"--dbname={parameters['dbname']}", *options],
        stdin=input or subprocess.DEVNULL,
        stdout=output or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=child_environment(variables),
        check=False,
    )
    if finished.returncode:
        # Its standard error may quote rows.
        raise DatabaseToolFailed(f"{name} ended with status {finished.returncode}")
