"""Recordings, from the first byte of an upload to their erasure.

    receiving   parts arrive; each is encrypted and on disk before it is acknowledged
    checking    the upload is complete and is being examined: checking.py
    ready       jobs can use it
    refused     it cannot be used, the reason is stored; it can be checked again until `expires_at`,
                then its key is destroyed (`erased_at`)
    erased      its key was destroyed

A row becomes `erased` before its key is destroyed and gets `erased_at` afterwards, so
that `tidy_uploads` can complete what a crash interrupted.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DbSession

from service.database.queries import read_clock
from service.database.tables import Recording
from service.domain import audit
from service.domain.callers import Caller
from service.domain.consent import require_approval
from service.domain.locks import refuse_while_checked
from service.domain.pages import Page, page_of
from service.domain.sessions import find_session, lock_positions, next_position
from service.domain.studies import find_study, refuse_erased
from service.errors import (
    RecordingDuplicate,
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
    ServiceError,
    UploadTooLarge,
    WrongLength,
)
from service.services import Services
from service.settings import Settings
from service.vault import ArtefactClass, uploads
from service.vault.errors import (
    Erased,
    UploadBusy,
    UploadDamaged,
    WrongOffset,
)
from service.vault.keys import KeyRing
from service.vault.store import Artefact, Store
from service.vault.streaming import KEY_SIZE

METADATA = "upload_metadata"
PART_BYTES = 64 * 2**20  # of a longer request: the most that is lost if the service is killed
BLOCK_BYTES = 2**20
OPERATIONAL_ERRORS = (SQLAlchemyError, ServiceError, OSError)
"""What the database, the vault and the disk may raise while recordings are processed."""

log = logging.getLogger(__name__)


def identified(services: Services) -> tuple[Store, KeyRing]:
    vault = services.vault
    return vault.stores[ArtefactClass.IDENTIFIED], vault.keyrings[ArtefactClass.IDENTIFIED]


def sound_artefact(recording: Recording) -> Artefact:
    return Artefact(recording.study_id, recording.id, "recording", recording.id)


def study_secret(services: Services, study_id: UUID, purpose: bytes) -> bytes:
    """A secret for hashing: plain hashes of content and of file names could be guessed.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged
    """
    _, keyring = identified(services)
    secret = keyring.data_key(study_id, study_id).secret
    return HKDF(SHA256(), KEY_SIZE, salt=None, info=purpose).derive(secret)


def keyed_digest(services: Services, study_id: UUID, sha256: bytes) -> bytes:
    """The checksum of a recording as the database holds it."""
    secret = study_secret(services, study_id, b"recording")
    return hmac.new(secret, sha256, hashlib.sha256).digest()


def announced_sha256(metadata: str | None) -> bytes | None:
    value = parse_metadata(metadata).get("sha256")
    return bytes.fromhex(value) if value else None


# --- finding --------------------------------------------------------------------------------------


def find_recording(session: DbSession, caller: Caller, recording_id: UUID) -> Recording:
    """
    Raises:
        RecordingNotFound: it does not exist, or is not the caller's.
        Erased
    """
    recording = session.get(Recording, recording_id)
    if recording is None or not caller.may_see(recording.study_id):
        raise RecordingNotFound("There is no such recording, or it is not yours")
    if recording.state == "erased":
        raise Erased("The recording was erased")
    return recording


def list_recordings(
    session: DbSession,
    caller: Caller,
    *,
    study: str | None = None,
    limit: int,
    cursor: str | None = None,
) -> Page[Recording]:
    """The caller's recordings without erased ones, newest first.

    Raises:
        StudyNotFound, Erased, BadCursor
    """
    query = caller.restrict(select(Recording), Recording.study_id).where(
        Recording.state != "erased"
    )
    if study is not None:
        query = query.where(Recording.study_id == find_study(session, caller, study).id)
    return page_of(session, Recording, query, limit=limit, cursor=cursor)


def find_by_content(
    services: Services, caller: Caller, study: str, sha256: Collection[bytes]
) -> dict[bytes, list[Recording]]:
    """The ready recordings of one study that have this content, oldest first.

    Args:
        study: id or code.
        sha256: of whole files. They are compared as keyed digests and are not stored.

    Raises:
        StudyNotFound, Erased, Sealed, KeyMissing, KeyDamaged
    """
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
        by_digest = {keyed_digest(services, found.id, each): each for each in sha256}
        rows = session.scalars(
            select(Recording)
            .where(Recording.study_id == found.id, Recording.state == "ready")
            .where(Recording.digest.in_(by_digest))
            .order_by(Recording.created_at, Recording.id)
        )
        matches: dict[bytes, list[Recording]] = {}
        for row in rows:
            if row.digest is not None:
                matches.setdefault(by_digest[row.digest], []).append(row)
        return matches


def find_ready_recording(session: DbSession, caller: Caller, recording_id: UUID) -> Recording:
    """
    Raises:
        RecordingNotFound, Erased, RecordingNotReady, RecordingRefused
    """
    recording = find_recording(session, caller, recording_id)
    if recording.state == "refused":
        raise RecordingRefused(recording.refusal_detail or "The recording was refused")
    if recording.state != "ready":
        raise RecordingNotReady(f"The recording is not ready yet: it is {recording.state}")
    return recording


# --- receiving ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checksum:
    """The checksum of one request's bytes, as tus 1.0 announces it."""

    algorithm: str
    digest: bytes


def max_upload_bytes(settings: Settings) -> int:
    """The most bytes that a recording may have: it is checked and transcribed in memory only."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(settings.max_upload_bytes, memory // 2)


def create_upload(
    services: Services,
    caller: Caller,
    *,
    study: str,
    session: str | None,
    n_bytes: int,
    metadata: str | None,
    copy: bool = False,
) -> Recording:
    """
    Args:
        study, session: id or code.
        copy: keep it even if the session already has a recording with the same content.
        metadata: the header `Upload-Metadata` as received. It may hold file names, so it is stored
            as an artefact.

    Raises:
        StudyNotFound, SessionNotFound, Erased, UploadTooLarge, DiskFull
        ApprovalMissing
    """
    if n_bytes > (most := max_upload_bytes(services.settings)):
        raise UploadTooLarge(f"The recording has {n_bytes} bytes; the limit here is {most}")
    store, keyring = identified(services)
    store.require_space(2 * n_bytes)  # for the parts and the merged file
    with services.sessionmaker.begin() as database:
        found = find_study(database, caller, study)
        interview = find_session(database, caller, session, found) if session is not None else None
        # Locked so that nothing is added to what is being erased.
        database.refresh(found, with_for_update={"read": True})
        refuse_erased(found)
        require_approval(database, caller, found)
        if interview is not None:
            lock_positions(database, interview)
        recording = Recording(
            id=uuid4(),
            study_id=found.id,
            session_id=interview.id if interview else None,
            position=next_position(database, interview.id) if interview else None,
            is_copy=copy,
            token_id=caller.token_id,
            n_bytes=n_bytes,
            expires_at=_new_expiry(database, services.settings),
        )
        key = keyring.create_data_key(found.id, recording.id)
        if metadata:
            artefact = Artefact(found.id, recording.id, METADATA)
            with store.write(artefact, key) as file:
                file.write(json.dumps(metadata).encode())
            recording.metadata_artefact_id = artefact.id
            if sha256 := announced_sha256(metadata):  # compared with the bytes when all are there
                recording.digest = keyed_digest(services, found.id, sha256)
        database.add(recording)
        audit.record(
            database,
            caller,
            "recording.announced",
            found.id,
            place_of(recording),
            detail={"bytes": n_bytes},
        )
    log.info("recording %s: %d bytes announced", recording.id, n_bytes)
    return recording


def find_uploaded(
    services: Services,
    caller: Caller,
    *,
    study: str,
    session: str | None,
    n_bytes: int,
    sha256: bytes,
    other_than: Collection[UUID] = (),
) -> Recording | None:
    """The recording with this content that is already in this place.

    The place is the session, or the recordings of the study that have none.

    Args:
        other_than: ids of recordings that do not count.

    Raises:
        StudyNotFound, SessionNotFound, Erased
    """
    with services.sessionmaker() as database:
        found = find_study(database, caller, study)
        interview = find_session(database, caller, session, found) if session is not None else None
        query = select(Recording).where(
            Recording.study_id == found.id,
            Recording.session_id == (interview.id if interview else None),
            Recording.digest == keyed_digest(services, found.id, sha256),
            Recording.n_bytes == n_bytes,
            Recording.state.in_(("checking", "ready")),
            Recording.id.not_in(other_than),
        )
        return database.scalar(query.order_by(Recording.position, Recording.created_at).limit(1))


def finish_upload(
    services: Services, caller: Caller, recording: Recording, n_bytes: int, sha256: bytes
) -> UUID | None:
    """End an upload whose length was not known before: it can be checked now.

    Returns:
        The id of an earlier recording with the same content in the same place, if there is one
        and no copy was asked for; the new one is then left as it is.

    Raises:
        Erased
    """
    digest = keyed_digest(services, recording.study_id, sha256)
    with services.sessionmaker.begin() as session:
        same = select(Recording.id).where(
            Recording.study_id == recording.study_id,
            Recording.session_id == recording.session_id,
            Recording.digest == digest,
            Recording.n_bytes == n_bytes,
            Recording.state.in_(("checking", "ready")),
        )
        earlier = session.scalar(same.order_by(Recording.created_at).limit(1))
        if earlier is not None and not recording.is_copy:
            return earlier
        row = session.get_one(Recording, recording.id, with_for_update=True)
        row.n_bytes, row.digest = n_bytes, digest
    recording.n_bytes = n_bytes
    recording.state = acknowledge(services, recording, n_bytes, caller=caller)
    return None


def refuse_duplicate_content(session: DbSession, recording: Recording) -> None:
    """Refuse a recording whose content its session already has, unless a copy was asked for.

    Of two that are checked at the same time, the second waits for the first to commit.

    Raises:
        RecordingDuplicate
    """
    if recording.session_id is None or recording.is_copy:
        return
    place = f"fieldscribe:content:{recording.session_id}"
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(place, 0))))
    first = session.scalar(
        select(Recording.id)
        .where(
            Recording.session_id == recording.session_id,
            Recording.id != recording.id,
            Recording.digest == recording.digest,
            Recording.n_bytes == recording.n_bytes,
            Recording.state == "ready",
        )
        .order_by(Recording.position, Recording.created_at)
        .limit(1)
    )
    if first is not None:
        raise RecordingDuplicate(
            f"The session already has this recording: it is {first}. To have it twice, upload it "
            "with copy=true"
        )


def place_of(recording: Recording) -> dict[str, UUID | str]:
    """The recording and its session, for the audit trail."""
    place: dict[str, UUID | str] = {"recording": recording.id}
    return place | ({} if recording.session_id is None else {"session": recording.session_id})


def _new_expiry(session: DbSession, settings: Settings) -> datetime:
    return read_clock(session) + timedelta(hours=settings.upload_expiry_hours)


def read_metadata(services: Services, recording: Recording) -> str | None:
    if recording.metadata_artefact_id is None:
        return None
    store, keyring = identified(services)
    artefact = Artefact(recording.study_id, recording.id, METADATA, recording.metadata_artefact_id)
    with store.open(artefact, keyring.data_key(recording.study_id, recording.id)) as file:
        metadata: str = json.loads(file.read())
    return metadata


def upload_offset(services: Services, recording: Recording) -> int:
    """The number of bytes received."""
    if recording.state == "receiving":
        return uploads.received(identified(services)[0], recording.id)
    return recording.n_bytes


def receive(
    services: Services,
    recording: Recording,
    read_block: Callable[[], bytes],
    *,
    offset: int,
    checksum: Checksum | None,
) -> int:
    """Store the blocks of one request until `read_block` returns none.

    With a checksum the request is one part, which is kept if the checksum is right. Without one, a
    part ends every PART_BYTES, so that the parts of an interrupted request are kept.

    Returns:
        The offset after the last byte.

    Raises:
        WrongOffset, WrongLength, UploadBusy, UploadDamaged, DiskFull
    """
    if recording.state != "receiving":
        raise WrongOffset("The upload is complete")
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    digest = hashlib.new(checksum.algorithm) if checksum else None
    block = read_block()
    if not block and offset != upload_offset(services, recording):
        raise WrongOffset(f"The next part starts at {upload_offset(services, recording)}")
    while block:
        store.require_space(min(PART_BYTES, recording.n_bytes - offset))
        with uploads.write_part(store, sound_artefact(recording), key, offset=offset) as part:
            began = offset
            while block and (checksum or offset - began < PART_BYTES):
                if (offset := offset + len(block)) > recording.n_bytes:
                    raise WrongLength(f"More bytes arrived than the {recording.n_bytes} announced")
                part.write(block)
                if digest:
                    digest.update(block)
                block = read_block()
            if checksum and digest and digest.digest() != checksum.digest:
                raise UploadDamaged("The part does not match its checksum: send it again")
    return offset


def acknowledge(
    services: Services,
    recording: Recording,
    offset: int,
    sha256: bytes | None = None,
    *,
    caller: Caller | None = None,
) -> str:
    """Record a part: the upload expires later, and after the last part it can be checked.

    Args:
        sha256: of the whole recording, if it arrived in one request.
        caller: None for the service itself, after it was killed.

    Returns:
        The recording's state.

    Raises:
        Erased
    """
    with services.sessionmaker.begin() as session:
        row = session.get(Recording, recording.id, with_for_update=True)
        if row is None or row.state == "erased":
            raise Erased("The recording was erased")
        if row.state == "receiving":
            row.expires_at = _new_expiry(session, services.settings)
            if offset == row.n_bytes:
                row.state, row.expires_at = "checking", None
                if sha256 is not None:
                    row.digest = keyed_digest(services, row.study_id, sha256)
                detail: dict[str, audit.Value] = {"bytes": row.n_bytes}
                audit.record(
                    session,
                    caller,
                    "recording.uploaded",
                    row.study_id,
                    place_of(row),
                    detail=detail,
                )
        return row.state


def parse_metadata(metadata: str | None) -> dict[str, str]:
    """Parse `Upload-Metadata` of tus 1.0: "key base64,key base64,key".

    Raises:
        ValueError: it is malformed. The message may quote it.
    """
    pairs: dict[str, str] = {}
    for pair in (metadata or "").split(","):
        if pair.strip():
            key, _, value = pair.strip().partition(" ")
            pairs[key] = base64.b64decode(value, validate=True).decode("utf-8")
    sha256 = pairs.get("sha256")
    if sha256 is not None and len(bytes.fromhex(sha256)) != 32:
        raise ValueError("a SHA-256 has 64 hex digits")
    return pairs


def format_metadata(**values: str | None) -> str | None:
    """`Upload-Metadata` of tus 1.0 with these values; None if there are none."""
    pairs = (
        f"{name} {base64.b64encode(value.encode('utf-8', 'replace')).decode()}"
        for name, value in values.items()
        if value
    )
    return ",".join(pairs) or None


def retry_check(services: Services, caller: Caller, recording_id: UUID) -> Recording:
    """Check a refused recording again; one that is being checked, or ready, stays as it is.

    Raises:
        RecordingNotFound, Erased: its key was destroyed.
        RecordingNotReady: the upload is not complete.
        UploadBusy: it is being checked.
        Sealed, KeyMissing, KeyDamaged
    """
    with refuse_while_checked(), services.sessionmaker.begin() as session:
        recording = find_recording(session, caller, recording_id)
        session.refresh(recording, with_for_update={"nowait": True})
        if recording.state == "receiving":
            raise RecordingNotReady("The upload is not complete: resume it first")
        if recording.state == "refused":
            if recording.expires_at is not None and recording.expires_at < read_clock(session):
                raise Erased("The audio of the recording was deleted some time after its refusal")
            identified(services)[1].data_key(recording.study_id, recording.id)  # it still exists
            recording.state, recording.expires_at, recording.erased_at = "checking", None, None
            recording.refusal_code = recording.refusal_detail = recording.completed_at = None
            audit.record(
                session,
                caller,
                "recording.check_repeated",
                recording.study_id,
                place_of(recording),
            )
            log.info("recording %s: to be checked again", recording.id)
        return recording


# --- erasing --------------------------------------------------------------------------------------


def destroy(services: Services, recording: Recording) -> None:
    """Destroy the key, then the files. Safe to run twice, and while the vault is sealed.

    Raises:
        UploadBusy: a part is being written. The key is destroyed nevertheless.
    """
    store, keyring = identified(services)
    keyring.erase(recording.study_id, recording.id)
    store.delete(recording.id)
    made = (
        recording.metadata_artefact_id,
        recording.playback_artefact_id,
        recording.peaks_artefact_id,
    )
    for artefact_id in made:
        if artefact_id is not None:
            store.delete(artefact_id)
    uploads.discard(store, recording.id)
    with services.sessionmaker.begin() as session:
        row = session.get_one(Recording, recording.id, with_for_update=True)
        if row.erased_at is None:
            audit.record(session, None, "recording.destroyed", row.study_id, place_of(row))
        row.erased_at, row.metadata_artefact_id, row.digest = datetime.now(UTC), None, None
        row.playback_artefact_id = row.peaks_artefact_id = row.playback_error = None
    log.info("recording %s: destroyed", recording.id)


def tidy_uploads(services: Services) -> None:
    """Expire abandoned uploads, acknowledge complete ones, and finish interrupted erasures."""
    store, _ = identified(services)
    with services.sessionmaker() as session:
        now = read_clock(session)
        receiving = session.scalars(select(Recording).where(Recording.state == "receiving")).all()
    for recording in receiving:
        with isolate_errors(recording.id):
            if uploads.received(store, recording.id) == recording.n_bytes:
                acknowledge(services, recording, recording.n_bytes)
            elif recording.expires_at is not None and recording.expires_at < now:
                _expire(services, recording.id)
    finish_erasures(services)


def finish_erasures(services: Services) -> None:
    """Destroy recordings whose erasure was interrupted after it had been recorded."""
    with services.sessionmaker() as session:
        expired = (Recording.state == "refused") & (Recording.expires_at < func.now())
        doomed = session.scalars(
            select(Recording).where(
                (Recording.state == "erased") | expired, Recording.erased_at.is_(None)
            )
        ).all()
    for recording in doomed:
        with isolate_errors(recording.id):
            destroy(services, recording)


def _expire(services: Services, recording_id: UUID) -> None:
    with services.sessionmaker.begin() as session:
        row = session.get_one(Recording, recording_id, with_for_update=True)
        expired = row.expires_at is not None and row.expires_at < read_clock(session)
        if row.state == "receiving" and expired:
            row.state = "erased"
            detail: dict[str, audit.Value] = {"code": "upload_expired"}
            audit.record(
                session, None, "recording.erased", row.study_id, place_of(row), detail=detail
            )
            log.info("recording %s: the upload expired", row.id)


@contextmanager
def isolate_errors(recording_id: UUID) -> Iterator[None]:
    """Log an error of one recording so that the others are still processed; it is retried later."""
    try:
        yield
    except UploadBusy:  # a part is being written at this moment
        pass
    except OPERATIONAL_ERRORS as error:
        log.warning("recording %s: will be retried: %s", recording_id, error_name(error))


def error_name(error: Exception) -> str:
    """The code or the class of an error; not its message, which may quote values of a row."""
    if isinstance(error, ServiceError):
        return error.code
    return type(getattr(error, "orig", None) or error).__name__
