"""Backup and restore: the database and the vault in one archive, the keys in another.

The archives are the same wherever the artefacts are kept, in the data folder or in a bucket.

    fieldscribe-<time>.tar        database.dump, vault/..., manifest.json
    fieldscribe-keys-<time>.tar   root/..., wrapped/..., ledger/..., owner.token, sign-on.key,
                                   certificate.key, manifest.json

Either archive alone is useless to a thief. Restore with the newest key archive: its ledger, and
the one on this machine, name what was erased after the data archive was made, and the restore
erases it again.

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
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, cast
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import delete, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from models.environment import child_environment
from service.database import DatabaseInUse, DatabaseNotStarted, SchemaTooNew, embedded
from service.database.embedded import EmbeddedPostgres, installed_programs
from service.database.engine import (
    conninfo,
    known_revisions,
    migrate,
    newest_revision,
    open_engine,
    open_sessions,
)
from service.database.tables import (
    Consent,
    Correction,
    Entity,
    Handoff,
    Job,
    JobRecording,
    JobStage,
    MaskedAudio,
    MemberPacket,
    Participant,
    Recording,
    Release,
    ReleaseFile,
    Session,
    StoredTranscript,
    Study,
    WebhookEndpoint,
)
from service.domain import audit, audit_heads, withdrawal_ledger
from service.domain.entity_changes import erase_entity
from service.domain.erasure import erase_job, erase_rest
from service.domain.recordings import destroy, finish_erasures, identified
from service.domain.releases import erase_release
from service.domain.strays import keep_strays
from service.errors import Misused, OutputNotWritable, ServiceError
from service.services import Services, database_url, is_used, open_services, open_store
from service.settings import Settings
from service.vault import ArtefactClass, uploads
from service.vault.errors import ArtefactMissing
from service.vault.files import (
    delete_abandoned,
    files_below,
    make_folder,
    report_full_disk,
    write_atomically,
)
from service.vault.objects import Objects, object_name

MANIFEST = "manifest.json"
DUMP = "database.dump"
TOKEN = "owner.token"
SIGN_ON_KEY = "sign-on.key"
CERTIFICATE_KEY = "certificate.key"
AUDIT_HEADS = "audit-heads.jsonl"
ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CLASS = f"(?:{'|'.join(ArtefactClass)})"
DATA_NAMES = re.compile(rf"{DUMP}|vault/{CLASS}/(?:artefacts|uploads)(?:/[0-9a-z-]+)+")
ARTEFACT_NAME = re.compile(rf"vault/({CLASS})/artefacts/[0-9a-f]{{2}}/[0-9a-f]{{2}}/({ID})")
KEY_NAMES = re.compile(
    rf"{TOKEN}|{SIGN_ON_KEY}|{CERTIFICATE_KEY}|{AUDIT_HEADS}|root/{CLASS}\.key"
    rf"|wrapped/{CLASS}/{ID}/(?:study|{ID})\.key|ledger/{CLASS}/{ID}/(?:study|{ID})"
    rf"|ledger/{withdrawal_ledger.FOLDER}/{ID}/{ID}"
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

# What to say of a file that is missing, by the column that names it.
MISSING = {
    Study.vocabulary_artefact_id: "the vocabulary of study {row.code}: set it again with PUT "
    "/v1/studies/{row.code}/vocabulary; until then its jobs run without one",
    Job.vocabulary_artefact_id: "the vocabulary of job {row.id}: it runs without one",
    JobStage.artefact_id: "the result of {row.name} of job {row.job_id}: if it has not ended, it "
    "computes it again; otherwise rerun it from this stage or an earlier one",
    StoredTranscript.artefact_id: "transcript {row.id}: make it again with `fieldscribe rerun "
    "{row.job_id} --from ingest`",
    Correction.artefact_id: "version {row.version} of transcript {row.transcript_id}: neither it "
    "nor a later one can be read",
    Correction.snapshot_artefact_id: "a copy of version {row.version} of transcript "
    "{row.transcript_id}: it cannot be read",
    Handoff.occurrences_artefact_id: "the occurrences of hand-off {row.id}: transcribe again for a "
    "new hand-off",
    Entity.record_artefact_id: "the names behind entity {row.id}: import the roster again",
    Participant.record_artefact_id: "the contacts and attributes of participant {row.code}: import "
    "them again",
    Release.report_artefact_id: "the report of release {row.id}: release the transcript again",
    ReleaseFile.artefact_id: "{row.format} of release {row.release_id}: release the transcript "
    "again",
    MemberPacket.artefact_id: "the text of packet {row.id}: make it again",
    MemberPacket.answer_artefact_id: "the answer to packet {row.id}: ask the participant again",
    MaskedAudio.artefact_id: "masked audio {row.id}: make it again",
    WebhookEndpoint.endpoint_artefact_id: "the address of webhook endpoint {row.id}: delete it and "
    "create it again",
    Recording.playback_artefact_id: "the playback copy of recording {row.id}: browsers cannot play "
    "it; its audio is not affected",
    Recording.peaks_artefact_id: "the waveform of recording {row.id}: its audio is not affected",
    Recording.metadata_artefact_id: "the file name of recording {row.id}: its audio is not "
    "affected",
}

log = logging.getLogger(__name__)

Source = Callable[[], BinaryIO]
"""Opens a file. Raises FileNotFoundError if it has just been erased."""


class KeysNotApart(Misused):
    """The keys would be stored next to the data that they decrypt."""

    code: ClassVar[str] = "keys_not_apart"


class NotEmpty(Misused):
    """A restore needs empty folders and an empty database, and these are not."""

    code: ClassVar[str] = "not_empty"


class BackupNotReadable(Misused):
    """A file of the backup is missing, cannot be read or is not an archive."""

    code: ClassVar[str] = "backup_not_readable"


class BackupDamaged(ServiceError):
    """A part of the backup is missing or damaged."""

    code: ClassVar[str] = "backup_damaged"


class UnsafeBackup(ServiceError):
    """The backup holds links, paths that lead outside, or files that no backup contains."""

    code: ClassVar[str] = "unsafe_backup"


class BackupMismatch(ServiceError):
    """The keys do not belong to this backup."""

    code: ClassVar[str] = "backup_mismatch"


class DatabaseToolFailed(ServiceError):
    """pg_dump or pg_restore failed."""

    code: ClassVar[str] = "database_tool_failed"


# --- backup ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backup:
    data: Path | None  # None if only the keys were backed up
    keys: Path


def back_up(settings: Settings, out: Path | None, keys_out: Path) -> Backup:
    """Make a backup, whether the service is running or not.

    Args:
        out: folder for the archive of database and vault; None to back up only the keys.
        keys_out: folder for the key archive, on another disk if possible.

    Raises:
        KeysNotApart, OutputNotWritable
        DatabaseNotStarted, DataNotReachable, DatabaseToolFailed, DiskFull
    """
    if out is not None and out.resolve() == keys_out.resolve():
        raise KeysNotApart(
            "Choose another folder for the keys: anyone who has both archives can read everything."
        )
    if out is not None:
        require_writable(out, "database and vault")
    require_writable(keys_out, "keys")
    now = datetime.now(UTC)
    data = None
    with ExitStack() as opened:
        url = opened.enter_context(database_of_backup(settings, required=out is not None))
        record_backup(url, "backup.begun", data=out is not None)
        if out is not None:
            assert url is not None
            data = out / f"fieldscribe-{now:%Y%m%dT%H%M%SZ}.tar"
            with write_atomically(data) as file, no_strays_deleted(url):
                # The database first: then every file that it names is in the vault, and files added
                # meanwhile do no harm.
                with tempfile.TemporaryFile(dir=out) as dump:
                    options = ["--format=custom", "--no-owner"]
                    run_tool(settings, "pg_dump", url, options, output=dump)
                    write_archive(file, "data", settings, now, data_files(settings, out), dump)
        keys = keys_out / f"fieldscribe-keys-{now:%Y%m%dT%H%M%SZ}.tar"
        with write_atomically(keys) as file:
            write_archive(file, "keys", settings, now, key_files(settings))
        record_backup(url, "backup.finished", data=out is not None)
    if data is not None:
        with write_atomically(settings.data / "backup.json") as file:
            file.write(json.dumps({"at": now.isoformat()}).encode())
    log.info("backup finished")
    return Backup(data, keys)


@contextmanager
def database_of_backup(settings: Settings, *, required: bool) -> Iterator[URL | None]:
    """The running database; None if there is none yet and none is required."""
    with ExitStack() as opened:
        url = None
        with suppress(*(() if required else (DatabaseNotStarted,))):
            url = opened.enter_context(running_database(settings))
        yield url


def record_backup(
    url: URL | None, action: Literal["backup.begun", "backup.finished"], *, data: bool
) -> None:
    """Record a backup in the audit trail. The dump holds the first of the two entries.

    A backup is more important than its entry: it is made even if there is no entry.
    """
    if url is None:
        return
    engine = open_engine(url)
    try:
        with open_sessions(engine).begin() as session:
            audit.record(session, None, action, None, {}, detail={"data": data})
    except SQLAlchemyError as error:
        log.warning("the audit trail has no entry of this backup: %s", type(error).__name__)
    finally:
        engine.dispose()


@contextmanager
def no_strays_deleted(url: URL) -> Iterator[None]:
    """Keep files that the dump may name, such as a vocabulary that is replaced meanwhile.

    Raises:
        DatabaseToolFailed: the connection to the database was lost.
    """
    try:
        with keep_strays(conninfo(url)):
            yield
    except psycopg.Error:
        raise DatabaseToolFailed(
            "The connection to the database was lost during the backup: back up again"
        ) from None


def require_writable(folder: Path, what: str) -> None:
    """Check that a backup can be written, before hours are spent on it.

    Raises:
        OutputNotWritable
    """
    try:
        make_folder(folder)
        delete_abandoned(folder.iterdir())  # of backups that were killed
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputNotWritable(
            f"The backup of the {what} cannot be written to its folder ({error.strerror})."
        ) from None


def data_files(settings: Settings, spool: Path) -> Iterator[tuple[str, Source]]:
    """The vault's files by name in the archive.

    The folders are listed twice: an upload that is merged during the first pass may have left the
    folder of parts without having been seen in that of recordings.

    Args:
        spool: folder for a temporary file.
    """
    seen = set()
    for _ in range(2):
        for name, source in [
            *files_named(settings.vault, "vault", DATA_NAMES),
            *bucket_files(settings, spool),
        ]:
            if name not in seen:
                seen.add(name)
                yield name, source


def bucket_files(settings: Settings, spool: Path) -> Iterator[tuple[str, Source]]:
    """The artefacts that are in a bucket, as if they were files of the data folder."""
    if settings.storage == "folder":
        return
    for artefact_class in ArtefactClass:
        objects = open_store(settings, artefact_class).objects
        for id in sorted(objects.ids()):
            name = f"vault/{artefact_class}/artefacts/{object_name(id)}"
            yield name, partial(copy_object, objects, id, spool)


def copy_object(objects: Objects, id: UUID, spool: Path) -> BinaryIO:
    """Copy an object to a temporary file: it might be erased while it is in half an archive."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(dir=spool))
        try:
            with objects.open(id) as source:
                shutil.copyfileobj(source, file, 2**20)
        except ArtefactMissing as error:
            raise FileNotFoundError from error
        stack.pop_all()
        return cast(BinaryIO, file)


def key_files(settings: Settings) -> Iterator[tuple[str, Source]]:
    for folder in (settings.root_keys, settings.wrapped_keys, settings.ledger):
        yield from files_named(folder, folder.name, KEY_NAMES)
    yield TOKEN, partial(open_file, settings.owner_token)
    yield SIGN_ON_KEY, partial(open_file, settings.sign_on_key)
    yield CERTIFICATE_KEY, partial(open_file, settings.certificate_key)
    yield AUDIT_HEADS, partial(open_file, settings.audit_heads)


def files_named(folder: Path, prefix: str, names: re.Pattern[str]) -> Iterator[tuple[str, Source]]:
    """Files whose names match, without links and other files, which a restore would refuse."""
    for path in sorted(files_below(folder)):
        name = f"{prefix}/{path.relative_to(folder)}"
        if names.fullmatch(name) and path.is_file() and not path.is_symlink():
            yield name, partial(open_file, path)


def open_file(path: Path) -> BinaryIO:
    return path.open("rb")


def write_archive(
    file: Any,
    kind: str,
    settings: Settings,
    now: datetime,
    files: Iterable[tuple[str, Source]],
    dump: BinaryIO | None = None,
) -> None:
    n_files = 0
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if dump is not None:
            dump.seek(0)
            add_member(archive, DUMP, dump)
            n_files += 1
        for name, open_source in files:
            try:
                with open_source() as source:
                    add_member(archive, name, source)
                    n_files += 1
            except FileNotFoundError:  # just erased
                continue
        manifest = {
            "kind": kind,
            "fieldscribe": version("fieldscribe"),
            "schema": newest_revision(),
            "created_at": now.isoformat(),
            "root_keys": fingerprint(settings),
            "n_files": n_files,
        }
        add_member(archive, MANIFEST, io.BytesIO(json.dumps(manifest).encode()))


def add_member(archive: tarfile.TarFile, name: str, source: BinaryIO) -> None:
    info = tarfile.TarInfo(name)
    info.size = source.seek(0, io.SEEK_END)
    info.mode = 0o600
    source.seek(0)
    archive.addfile(info, source)


def fingerprint(settings: Settings) -> str:
    """Digest of the root keys' files, which tells whether a key archive fits a backup."""
    files = [settings.root_keys / f"{name}.key" for name in ArtefactClass]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files if path.exists()))
    return digest.hexdigest()


# --- restore --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restored:
    artefacts: int
    keys: int
    erased_again: int  # recordings, jobs, sessions, studies, entities, releases, withdrawals
    missing: tuple[str, ...]
    """Files that the database names and the archive lacks, each with what to do about it."""
    lost_audit_entries: int
    """Entries of the audit trail that were written after the backup."""


def restore(settings: Settings, data: Path, keys: Path) -> Restored:
    """Restore onto an empty machine. An erasure ledger may be there and is kept.

    Raises:
        NotEmpty, BackupNotReadable, BackupDamaged, UnsafeBackup, BackupMismatch
        SchemaTooNew, DatabaseToolFailed, DiskFull
    """
    require_empty(settings)
    with open_archive(data) as data_archive, open_archive(keys) as keys_archive:
        about = check_archive(data_archive, "data", DATA_NAMES)
        if check_archive(keys_archive, "keys", KEY_NAMES)["root_keys"] != about["root_keys"]:
            raise BackupMismatch(
                "These keys belong to another installation: give an archive of this one's keys."
            )
        if about["schema"] not in known_revisions():
            raise SchemaTooNew(
                "A newer version of Fieldscribe made this backup: install that version."
            )
        with running_database(settings, new=True) as url:
            require_empty_database(url)
            artefacts = extract_vault(data_archive, settings)
            n_keys = extract_keys(keys_archive, settings)
            with tempfile.TemporaryFile() as dump:
                member = data_archive.extractfile(DUMP)
                assert member is not None
                with report_full_disk():
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
                lost = record_restore(services, about["created_at"])
                erased_again = erase_again(services)
                finish_erasures(services)  # those that the backup caught half-way
                with services.sessionmaker.begin() as session:
                    erased_again += withdrawal_ledger.apply_again(session, services)
                missing = find_missing(services)
            finally:
                services.close()
    return Restored(artefacts, n_keys, erased_again, missing, lost)


def record_restore(services: Services, made_at: str) -> int:
    """Record the restore in the audit trail, and which entries it has lost.

    The heads among the keys tell how far the trail had gone: those of this machine, or of the key
    archive.

    Returns:
        Number of entries that are lost, as far as the heads know.
    """
    with services.sessionmaker.begin() as session:
        head = audit.read_head(session)
        last = 0 if head is None else head.position
        recorded = audit_heads.read_recorded(services.settings)
        until = max((each.position for each in recorded), default=0)
        detail: dict[str, audit.Value] = {"backup_of": made_at}
        if until > last:
            detail |= {"lost_from": last + 1, "lost_until": until}
        audit.record(session, None, "backup.restored", None, {}, detail=detail)
    audit_heads.record_head(services)
    return max(0, until - last)


def require_empty(settings: Settings) -> None:
    full = [settings.vault, settings.root_keys, settings.wrapped_keys]
    if settings.database_url is None:
        full.append(settings.database / "data")
    stores = [open_store(settings, name) for name in ArtefactClass]
    if any(folder.exists() and any(folder.iterdir()) for folder in full) or any(
        is_used(store) for store in stores
    ):
        raise NotEmpty(
            "There is already an installation here: move its data and keys folders away first, and "
            "choose an empty bucket if the vault is in one. The ledger may stay."
        )


def require_empty_database(url: URL) -> None:
    with psycopg.connect(conninfo(url)) as connection:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        row = connection.execute(query).fetchone()
    if row is None or row[0]:
        raise NotEmpty("The database is not empty: set FIELDSCRIBE_DATABASE_URL to an empty one.")


@contextmanager
def open_archive(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        archive = tarfile.open(path, mode="r:")
    except OSError as error:
        raise BackupNotReadable(f"An archive cannot be read ({error.strerror}).") from None
    except tarfile.TarError:
        raise BackupNotReadable("A file of the backup is not an archive.") from None
    with archive:
        yield archive


def check_archive(archive: tarfile.TarFile, kind: str, names: re.Pattern[str]) -> dict[str, Any]:
    """Check everything in an archive before any of it is written.

    Returns:
        The archive's manifest.

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
                "An archive holds unexpected files: is it the key archive?"
                if kind == "data"
                else "The key archive holds unexpected files."
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


def extract_vault(archive: tarfile.TarFile, settings: Settings) -> int:
    """Write the artefacts to where the settings keep them, and parts of uploads to the data folder.

    Returns:
        Number of files written.
    """
    stores = {name: open_store(settings, name) for name in ArtefactClass}
    n_files = 0
    for member in archive.getmembers():
        if found := ARTEFACT_NAME.fullmatch(member.name):
            artefact_class, id = found.groups()
            with stores[ArtefactClass(artefact_class)].objects.write(UUID(id)) as file:
                copy_member(archive, member, file)
        elif member.name.startswith("vault/"):
            write_member(archive, member, settings.data / member.name)
        else:
            continue
        n_files += 1
    return n_files


def extract(archive: tarfile.TarFile, prefix: str, folder: Path) -> int:
    """Write the members below a prefix, whose names `check_archive` has accepted.

    Returns:
        Number of files written.
    """
    n_files = 0
    for member in archive.getmembers():
        if member.name.startswith(prefix):
            write_member(archive, member, folder / member.name)
            n_files += 1
    return n_files


def extract_keys(archive: tarfile.TarFile, settings: Settings) -> int:
    """Write the keys, the owner's token and the entries of the ledger that are not here already.

    Returns:
        Number of keys written.
    """
    make_folder(settings.keys)
    n_keys = extract(archive, "root/", settings.keys) + extract(archive, "wrapped/", settings.keys)
    for member in archive.getmembers():
        if member.name.startswith("ledger/") and not (settings.keys / member.name).exists():
            write_member(archive, member, settings.keys / member.name)
        elif member.name == TOKEN:
            write_member(archive, member, settings.owner_token)
        elif member.name == SIGN_ON_KEY:
            write_member(archive, member, settings.sign_on_key)
        elif member.name == CERTIFICATE_KEY:
            write_member(archive, member, settings.certificate_key)
        elif member.name == AUDIT_HEADS and not settings.audit_heads.exists():
            write_member(archive, member, settings.audit_heads)
    return n_keys


def write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    with write_atomically(path) as file:
        copy_member(archive, member, file)


def copy_member(archive: tarfile.TarFile, member: tarfile.TarInfo, file: BinaryIO) -> None:
    source = archive.extractfile(member)
    assert source is not None
    shutil.copyfileobj(source, file, 2**20)


def erase_again(services: Services) -> int:
    """Erase what the ledger names and the restored rows do not show as erased.

    Returns:
        Number of recordings, jobs, sessions, studies, entities and releases erased.
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
        for interview in sessions:
            interview.erased_at, interview.roster = datetime.now(UTC), []
        recordings = session.scalars(
            select(Recording).where(
                Recording.id.in_(others) | Recording.study_id.in_(studies),
                Recording.state != "erased",
                (Recording.state != "refused") | Recording.erased_at.is_(None),
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
            # Releases that were erased too have entries of their own in the ledger.
            erase_job(session, services, job, keep_releases=True)
        for recording in recordings:
            recording.state = "erased"
        entities = session.scalars(
            select(Entity).where(
                Entity.id.in_(ledger_subjects(services, ArtefactClass.LINKAGE)),
                Entity.erased_at.is_(None),
            )
        ).all()
        for entity in entities:
            erase_entity(session, services, entity)
        releases = session.scalars(
            select(Release).where(
                Release.id.in_(ledger_subjects(services, ArtefactClass.DEIDENTIFIED)),
                Release.erased_at.is_(None),
            )
        ).all()
        for release in releases:
            erase_release(session, services, release)
        consents = ledger_subjects(services, ArtefactClass.LINKAGE)
        session.execute(delete(Consent).where(Consent.id.in_(consents)))
        n_erased += len(jobs) + len(recordings) + len(sessions) + len(entities) + len(releases)
    for recording in recordings:
        destroy(services, recording)
    return n_erased


def ledger_subjects(services: Services, artefact_class: ArtefactClass) -> list[UUID]:
    """What was erased one by one in a class, not with its whole study."""
    entries = (services.settings.ledger / artefact_class).glob("*/*")
    return [UUID(path.name) for path in entries if re.fullmatch(ID, path.name)]


def find_missing(services: Services) -> tuple[str, ...]:
    """Say which files of the vault rows name but the vault lacks, and how to mend that."""
    store, _ = identified(services)
    stored = {id for each in services.vault.stores.values() for id in each.ids()}
    found = []
    with services.sessionmaker() as session:
        refused = (Recording.state == "refused") & Recording.erased_at.is_(None)
        rows = select(Recording).where(Recording.state.in_(("checking", "ready")) | refused)
        for recording in session.scalars(rows.order_by(Recording.created_at)):
            if recording.id not in stored and not uploads.received(store, recording.id):
                found.append(f"the audio of recording {recording.id}: upload it again")
        for column, what in MISSING.items():
            owner: Any = column.class_
            query = select(owner).where(column.is_not(None))
            if owner is StoredTranscript:  # the row of an erased one stays, and names its file
                query = query.join(Job, Job.id == owner.job_id).where(Job.status != "erased")
            for row in session.scalars(query):
                id = getattr(row, column.key)
                if id not in stored:
                    found.append(what.format(row=row))
    return tuple(found)


# --- the database's tools -------------------------------------------------------------------------


@contextmanager
def running_database(settings: Settings, *, new: bool = False) -> Iterator[URL]:
    """The configured database, else the embedded one, which is started if it is not running.

    Args:
        new: whether the embedded database may be created.
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
    """Run one of the embedded Postgres's programs, with the password in its environment.

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
        # Without its standard error, which may quote rows.
        raise DatabaseToolFailed(f"{name} ended with status {finished.returncode}")
