"""Recordings, from the first byte of an upload to their erasure.

    receiving   parts arrive, each encrypted and on disk before it is acknowledged
    checking    all of it is here; it is merged, decoded in the sandbox and measured
    ready       jobs may use it
    refused     it is of no use; its key was destroyed, the reason is kept
    erased      its key was destroyed

A row says `refused` or `erased` before its key is destroyed and has `erased_at` afterwards, so that
what a crash has left in between is made up for at the next start.
"""

import asyncio
import base64
import hashlib
import json
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DbSession

from models.audio.decode import measure
from models.audio.errors import DecoderKilled, FfmpegMissing, SandboxUnavailable
from models.audio.limits import refuse_bad_levels, refuse_too_short
from models.audio.memory_file import memory_file
from models.audio.probe import probe
from models.errors import AudioError, SpeechError, Stopped
from service.database.tables import Recording
from service.domain.callers import Caller
from service.domain.job_errors import InternalError
from service.domain.pages import Page, page_of
from service.domain.sessions import find_session, next_position
from service.domain.studies import find_study, refuse_erased
from service.errors import (
    RecordingNotFound,
    RecordingNotReady,
    RecordingRefused,
    ServiceError,
    UploadTooLarge,
    WrongLength,
    locate,
)
from service.services import Services
from service.settings import Settings
from service.vault import ArtefactClass, uploads
from service.vault.errors import (
    DiskFull,
    Erased,
    KeyMissing,
    Sealed,
    UploadBusy,
    UploadDamaged,
    WrongOffset,
)
from service.vault.keys import KeyRing
from service.vault.store import Artefact, Store
from service.vault.streaming import Key

METADATA = "upload_metadata"
PART_BYTES = 64 * 2**20  # of a request that brings more; a killed service loses no more than this
BLOCK_BYTES = 2**20
CHECK_EVERY = 5.0  # s; a finished upload is checked at once
AGAIN_AFTER = 30.0  # s, where something is in the way
TIDY_EVERY = 60.0  # s
NICENESS = 10  # of checks; on Linux a thread has its own
TRIES = 3  # of a recording whose decoder is killed
IN_THE_WAY = (
    DiskFull,
    Sealed,
    KeyMissing,  # the folder of keys is not mounted, perhaps
    UploadBusy,
    FfmpegMissing,
    SandboxUnavailable,
    DecoderKilled,
)
"""What is no fault of the recording, or may be none: it waits, and is tried again."""
TROUBLE = (SQLAlchemyError, ServiceError, OSError)
"""What may come of database, vault and disk while recordings are looked after."""

log = logging.getLogger(__name__)


def identified(services: Services) -> tuple[Store, KeyRing]:
    vault = services.vault
    return vault.stores[ArtefactClass.IDENTIFIED], vault.keyrings[ArtefactClass.IDENTIFIED]


def sound_of(recording: Recording) -> Artefact:
    return Artefact(recording.study_id, recording.id, "recording", recording.id)


# --- looking them up ------------------------------------------------------------------------------


def find_recording(session: DbSession, caller: Caller, recording_id: UUID) -> Recording:
    """
    Raises:
        RecordingNotFound: there is none, or it is not the caller's.
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
    """The newest first, without erased ones.

    Raises:
        StudyNotFound, Erased, BadCursor
    """
    query = caller.restrict(select(Recording), Recording.study_id).where(
        Recording.state != "erased"
    )
    if study is not None:
        query = query.where(Recording.study_id == find_study(session, caller, study).id)
    return page_of(session, Recording, query, limit=limit, cursor=cursor)


def ready_recording(session: DbSession, caller: Caller, recording_id: UUID) -> Recording:
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
    """Of one request's bytes, as tus 1.0 announces it."""

    algorithm: str
    digest: bytes


def longest(settings: Settings) -> int:
    """Bytes. A recording is checked, and later transcribed, in memory: never on the disk."""
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
) -> Recording:
    """
    Args:
        study, session: id or code.
        metadata: the header `Upload-Metadata` as it came; it names files, so it is an artefact.

    Raises:
        StudyNotFound, SessionNotFound, Erased, UploadTooLarge, DiskFull
    """
    if n_bytes > (most := longest(services.settings)):
        raise UploadTooLarge(f"The recording has {n_bytes} bytes and at most {most} are taken here")
    store, keyring = identified(services)
    store.require_space(2 * n_bytes)  # the parts are merged
    with services.sessionmaker.begin() as database:
        found = find_study(database, caller, study)
        of = find_session(database, caller, session, found) if session is not None else None
        for owner in (found, of):
            if owner is not None:  # nothing may come into what is being erased
                database.refresh(owner, with_for_update={"read": True})
                refuse_erased(owner)
        recording = Recording(
            id=uuid4(),
            study_id=found.id,
            session_id=of.id if of else None,
            position=next_position(database, of.id) if of else None,
            token_id=caller.token_id,
            n_bytes=n_bytes,
            expires_at=expiry(services.settings),
        )
        key = keyring.create_data_key(found.id, recording.id)
        if metadata:
            artefact = Artefact(found.id, recording.id, METADATA)
            with store.write(artefact, key) as file:
                file.write(json.dumps(metadata).encode())
            recording.metadata_artefact_id = artefact.id
        database.add(recording)
    log.info("recording %s: %d bytes announced", recording.id, n_bytes)
    return recording


def expiry(settings: Settings) -> datetime:
    return datetime.now(UTC) + timedelta(hours=settings.upload_expiry_hours)


def read_metadata(services: Services, recording: Recording) -> str | None:
    if recording.metadata_artefact_id is None:
        return None
    store, keyring = identified(services)
    artefact = Artefact(recording.study_id, recording.id, METADATA, recording.metadata_artefact_id)
    with store.open(artefact, keyring.data_key(recording.study_id, recording.id)) as file:
        metadata: str = json.loads(file.read())
    return metadata


def offset_of(services: Services, recording: Recording) -> int:
    """Bytes received."""
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
    """Store what `read_block` gives until it gives nothing.

    With a checksum it is one part, kept if the checksum is right. Without, a part is ended every
    now and then, and what arrived of a request that is cut off stays.

    Returns:
        The offset after it.

    Raises:
        WrongOffset, WrongLength, UploadBusy, UploadDamaged, DiskFull
    """
    if recording.state != "receiving":
        raise WrongOffset("The upload is complete")
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    digest = hashlib.new(checksum.algorithm) if checksum else None
    block = read_block()
    if not block and offset != offset_of(services, recording):
        raise WrongOffset(f"The next part begins at {offset_of(services, recording)}")
    while block:
        store.require_space(min(PART_BYTES, recording.n_bytes - offset))
        with uploads.write_part(store, sound_of(recording), key, offset=offset) as part:
            began = offset
            while block and (checksum or offset - began < PART_BYTES):
                if (offset := offset + len(block)) > recording.n_bytes:
                    raise WrongLength(f"More than the {recording.n_bytes} bytes announced arrived")
                part.write(block)
                if digest:
                    digest.update(block)
                block = read_block()
            if checksum and digest and digest.digest() != checksum.digest:
                raise UploadDamaged("The part does not have its checksum: send it again")
    return offset


def acknowledge(services: Services, recording: Recording, offset: int) -> str:
    """After a part: the upload expires later; with the last one it is to be checked.

    Returns:
        The state it is in now.
    """
    with services.sessionmaker.begin() as session:
        row = session.get(Recording, recording.id, with_for_update=True)
        if row is None or row.state == "erased":
            raise Erased("The recording was erased")
        if row.state == "receiving":
            row.expires_at = expiry(services.settings)
            if offset == row.n_bytes:
                row.state, row.expires_at = "checking", None
        return row.state


# --- checking -------------------------------------------------------------------------------------


class Checker:
    """Checks what has arrived, one recording at a time: it takes as much memory as it is long.

    Its thread, and ffmpeg which it starts, let everything else go first: a check may take minutes
    of two processors, and people who ask how far their jobs are wait for milliseconds.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, initializer=os.nice, initargs=(NICENESS,))
        self._stop = threading.Event()
        self._tried: dict[UUID, float] = {}  # when something was in the way
        self._killed: Counter[UUID] = Counter()  # how often its decoder was

    def wake(self) -> None:
        """From the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        tidied = -math.inf
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        try:
            while True:
                self._wake.clear()
                try:
                    if time.monotonic() > tidied + TIDY_EVERY:
                        await in_thread(tidy, self._services)
                        tidied = time.monotonic()
                    await in_thread(self._check_all)
                except TROUBLE as error:
                    log.warning("recordings are not checked: %s", name_of(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), CHECK_EVERY)
        finally:
            self._stop.set()

    def close(self) -> None:
        """After `run`: waits until its thread has let go of the database."""
        self._thread.shutdown()

    def _check_all(self) -> None:
        if self._services.vault.sealed:
            return
        with self._services.sessionmaker() as session:
            waiting = session.scalars(
                select(Recording.id)
                .where(Recording.state == "checking")
                .order_by(Recording.created_at)
            ).all()
        for recording_id in waiting:
            if time.monotonic() < self._tried.get(recording_id, -math.inf) + AGAIN_AFTER:
                continue
            if self._stop.is_set():
                return
            self._tried[recording_id] = time.monotonic()
            with apart(recording_id):
                self._check(recording_id)

    def _check(self, recording_id: UUID) -> None:
        last_try = self._killed[recording_id] + 1 >= TRIES
        row = check(self._services, recording_id, self._refuse_stopped, last_try=last_try)
        if row is not None and row.state == "checking":
            self._tried[recording_id] = time.monotonic()
            self._killed[recording_id] += row.refusal_code == DecoderKilled.code
        else:
            self._tried.pop(recording_id, None)
            self._killed.pop(recording_id, None)

    def _refuse_stopped(self, seconds: float) -> None:
        if self._stop.is_set():
            raise Stopped("The service stops")


@contextmanager
def apart(recording_id: UUID) -> Iterator[None]:
    """What goes wrong with one recording keeps no other from its turn; it has its own again."""
    try:
        yield
    except UploadBusy:  # a part is being written at this moment
        pass
    except TROUBLE as error:
        log.warning("recording %s: is not looked after: %s", recording_id, name_of(error))


def name_of(error: Exception) -> str:
    """Never its message: that of a database quotes values."""
    if isinstance(error, ServiceError):
        return error.code
    return type(getattr(error, "orig", None) or error).__name__


def check(
    services: Services,
    recording_id: UUID,
    on_progress: Callable[[float], None] | None = None,
    *,
    last_try: bool = False,
) -> Recording | None:
    """Merge the parts, decode, measure; then the recording is ready, or refused with the reason.

    Args:
        last_try: it is refused, and kept, if its decoder is killed once more.

    Returns:
        It, as it is then; None if somebody else has it.
    """
    with services.sessionmaker.begin() as session:
        row = session.scalar(
            select(Recording)
            .where(Recording.id == recording_id, Recording.state == "checking")
            .with_for_update(skip_locked=True, key_share=True)
        )
        if row is None:
            return None
        row.refusal_code = row.refusal_detail = None
        try:
            examine(services, row, on_progress)
            row.state = "ready"
        except Stopped:
            return row
        except IN_THE_WAY as error:
            row.refusal_code, row.refusal_detail = error.code, str(error)
            if last_try and isinstance(error, DecoderKilled):
                row.state, row.erased_at = "refused", datetime.now(UTC)  # nothing is destroyed
        except (SpeechError, ServiceError) as error:
            row.state, row.refusal_code, row.refusal_detail = "refused", error.code, str(error)
            # Whatever is wrong with our own files, the sound is not destroyed for it.
            if not isinstance(error, AudioError | UploadDamaged):
                row.erased_at = datetime.now(UTC)
        except Exception as error:  # noqa: BLE001  # the top of the checker
            log.error("recording %s: %s at %s", row.id, type(error).__name__, locate(error))
            row.state, row.refusal_code = "refused", InternalError.code
            row.refusal_detail, row.erased_at = "A mistake in Fieldscribe", datetime.now(UTC)
        row.completed_at = datetime.now(UTC)
    log.info("recording %s: %s %s", row.id, row.state, row.refusal_code or "")
    if row.state == "refused" and row.erased_at is None:
        destroy(services, row)
    return row


def examine(
    services: Services, recording: Recording, on_progress: Callable[[float], None] | None
) -> None:
    """Fills in what is found, also of a recording that is then refused.

    Raises:
        AudioError, UploadDamaged: the recording is of no use.
        ServiceError: of the vault.
    """
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    uploads.merge(
        store,
        sound_of(recording),
        key,
        length=recording.n_bytes,
        sha256=announced_sha256(read_metadata(services, recording)),
    )
    with memory_file(plain_blocks(store, recording, key)) as file:
        info = probe(file)
        recording.container, recording.codec = info.container, info.codec
        recording.sample_rate, recording.channels = info.sample_rate, info.channels
        levels = measure(file, info, on_progress=on_progress)
        recording.duration = levels.duration
        recording.peak_dbfs = finite(max(levels.peak_dbfs))
        recording.mean_dbfs = finite(max(levels.mean_dbfs))
        refuse_too_short(levels.duration)
        refuse_bad_levels(info, levels.peak_dbfs)


def plain_blocks(store: Store, recording: Recording, key: Key) -> Iterator[bytes]:
    with store.open(sound_of(recording), key) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def announced_sha256(metadata: str | None) -> bytes | None:
    value = parse_metadata(metadata).get("sha256")
    return bytes.fromhex(value) if value else None


def parse_metadata(metadata: str | None) -> dict[str, str]:
    """`Upload-Metadata` as tus 1.0 has it: "key base64,key base64,key".

    Raises:
        ValueError: it is not; the message may quote it.
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


def finite(level: float) -> float | None:
    """Digital silence has no level in dB."""
    return level if math.isfinite(level) else None


# --- erasing --------------------------------------------------------------------------------------


def destroy(services: Services, recording: Recording) -> None:
    """The key, then the files. Safe to run twice, and while sealed.

    Raises:
        UploadBusy: a part is being written; the key is destroyed all the same.
    """
    store, keyring = identified(services)
    keyring.erase(recording.study_id, recording.id)
    store.delete(recording.id)
    if recording.metadata_artefact_id is not None:
        store.delete(recording.metadata_artefact_id)
    uploads.discard(store, recording.id)
    with services.sessionmaker.begin() as session:
        row = session.get_one(Recording, recording.id, with_for_update=True)
        row.erased_at, row.metadata_artefact_id = datetime.now(UTC), None
    log.info("recording %s: destroyed", recording.id)


def tidy(services: Services) -> None:
    """Uploads that were given up, finished ones that nobody acknowledged, unfinished erasures."""
    store, _ = identified(services)
    now = datetime.now(UTC)
    with services.sessionmaker() as session:
        receiving = session.scalars(select(Recording).where(Recording.state == "receiving")).all()
    for recording in receiving:
        with apart(recording.id):
            if uploads.received(store, recording.id) == recording.n_bytes:
                acknowledge(services, recording, recording.n_bytes)
            elif recording.expires_at is not None and recording.expires_at < now:
                expire(services, recording.id)
    with services.sessionmaker() as session:
        doomed = session.scalars(
            select(Recording).where(
                Recording.state.in_(("refused", "erased")), Recording.erased_at.is_(None)
            )
        ).all()
    for recording in doomed:
        with apart(recording.id):
            destroy(services, recording)


def expire(services: Services, recording_id: UUID) -> None:
    with services.sessionmaker.begin() as session:
        row = session.get_one(Recording, recording_id, with_for_update=True)
        expired = row.expires_at is not None and row.expires_at < datetime.now(UTC)
        if row.state == "receiving" and expired:
            row.state = "erased"
            log.info("recording %s: the upload expired", row.id)
