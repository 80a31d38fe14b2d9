"""Checks of finished uploads: merged, decoded in the sandbox, measured; then ready or refused."""

import asyncio
import hashlib
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.audio.decode import measure
from models.audio.errors import DecoderKilled, FfmpegMissing, SandboxUnavailable
from models.audio.limits import refuse_bad_levels, refuse_too_short
from models.audio.memory_file import memory_file
from models.audio.probe import probe
from models.errors import AudioError, SpeechError, Stopped
from service.database.queries import read_clock
from service.database.tables import Recording
from service.domain.job_errors import InternalError
from service.domain.recordings import (
    BLOCK_BYTES,
    OPERATIONAL_ERRORS,
    announced_sha256,
    error_name,
    identified,
    isolate_errors,
    keyed_digest,
    read_metadata,
    sound_artefact,
    tidy_uploads,
)
from service.errors import ServiceError, locate
from service.services import Services
from service.vault import uploads
from service.vault.errors import DiskFull, KeyMissing, Sealed, UploadBusy, UploadDamaged
from service.vault.store import Store
from service.vault.streaming import Key

CHECK_EVERY = 5.0  # s; a finished upload is checked at once
RETRY_AFTER = 30.0  # s, after one of TEMPORARY_ERRORS
TIDY_EVERY = 60.0  # s
NICENESS = 10  # of checks; on Linux each thread has its own
MAX_DECODER_KILLS = 3
TEMPORARY_ERRORS = (
    DiskFull,
    Sealed,
    KeyMissing,  # perhaps the keys folder is not mounted
    UploadBusy,
    FfmpegMissing,
    SandboxUnavailable,
    DecoderKilled,
)
"""Failures that may not be the recording's fault; its check is retried."""

log = logging.getLogger(__name__)


class Checker:
    """Checks finished uploads, one at a time because each takes memory for the whole recording.

    Its thread and the ffmpeg processes it starts have a low priority: a check may occupy two
    processors for minutes, while API requests should be answered in milliseconds.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, initializer=os.nice, initargs=(NICENESS,))
        self._stop = threading.Event()
        self._tried_at: dict[UUID, float] = {}  # of recordings to retry
        self._decoder_kills: Counter[UUID] = Counter()

    def wake(self) -> None:
        """Check now. Call it from the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Check until cancelled."""
        tidied_at = -math.inf
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        try:
            while True:
                self._wake.clear()
                try:
                    if time.monotonic() > tidied_at + TIDY_EVERY:
                        await in_thread(tidy_uploads, self._services)
                        tidied_at = time.monotonic()
                    await in_thread(self._check_all)
                except OPERATIONAL_ERRORS as error:
                    log.warning("recordings cannot be checked: %s", error_name(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), CHECK_EVERY)
        finally:
            self._stop.set()

    def close(self) -> None:
        """After `run`, wait until the thread no longer uses the database."""
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
            if time.monotonic() < self._tried_at.get(recording_id, -math.inf) + RETRY_AFTER:
                continue
            if self._stop.is_set():
                return
            self._tried_at[recording_id] = time.monotonic()
            with isolate_errors(recording_id):
                self._check(recording_id)

    def _check(self, recording_id: UUID) -> None:
        last_try = self._decoder_kills[recording_id] + 1 >= MAX_DECODER_KILLS
        row = check(self._services, recording_id, self._raise_if_stopped, last_try=last_try)
        if row is not None and row.state == "checking":
            self._tried_at[recording_id] = time.monotonic()
            self._decoder_kills[recording_id] += row.refusal_code == DecoderKilled.code
        else:
            self._tried_at.pop(recording_id, None)
            self._decoder_kills.pop(recording_id, None)

    def _raise_if_stopped(self, seconds: float) -> None:
        if self._stop.is_set():
            raise Stopped("The service is stopping")


def check(
    services: Services,
    recording_id: UUID,
    on_progress: Callable[[float], None] | None = None,
    *,
    last_try: bool = False,
) -> Recording | None:
    """Examine a recording; afterwards it is ready, or refused with the reason.

    Args:
        last_try: if its decoder is killed again, the recording is refused.

    Returns:
        The recording in its new state; None if another check holds it.
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
            _examine(services, row, on_progress)
            row.state = "ready"
        except Stopped:
            return row
        except TEMPORARY_ERRORS as error:
            row.refusal_code, row.refusal_detail = error.code, str(error)
            if last_try and isinstance(error, DecoderKilled):
                refuse(session, services, row, error.code, str(error))
                row.expires_at = None  # perhaps this machine is at fault
        except (SpeechError, ServiceError) as error:
            refuse(session, services, row, error.code, str(error))
            # Damage to our own files is no reason ever to destroy the audio.
            if not isinstance(error, AudioError | UploadDamaged):
                row.expires_at = None
        except Exception as error:  # noqa: BLE001  # the top level of the checker
            log.error("recording %s: %s at %s", row.id, type(error).__name__, locate(error))
            refuse(session, services, row, InternalError.code, "Fieldscribe has a bug")
            row.expires_at = None
        row.completed_at = datetime.now(UTC)
    log.info("recording %s: %s %s", row.id, row.state, row.refusal_code or "")
    return row


def refuse(
    session: DbSession, services: Services, recording: Recording, code: str, detail: str
) -> None:
    """Refuse a recording, but keep it for a while: the check may be wrong, this the only copy."""
    recording.state, recording.refusal_code, recording.refusal_detail = "refused", code, detail
    days = services.settings.refused_recording_days
    recording.expires_at = read_clock(session) + timedelta(days=days)


def _examine(
    services: Services, recording: Recording, on_progress: Callable[[float], None] | None
) -> None:
    """Merge the parts, decode and measure. Stores what it finds even if it then raises.

    Raises:
        AudioError, UploadDamaged: the recording cannot be used.
        ServiceError: of the vault.
    """
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    uploads.merge(
        store,
        sound_artefact(recording),
        key,
        length=recording.n_bytes,
        sha256=announced_sha256(read_metadata(services, recording)),
    )
    digest = hashlib.sha256()
    with memory_file(_decrypted_blocks(store, recording, key, digest)) as file:
        recording.digest = keyed_digest(services, recording.study_id, digest.digest())
        info = probe(file)
        recording.container, recording.codec = info.container, info.codec
        recording.sample_rate, recording.channels = info.sample_rate, info.channels
        levels = measure(file, info, on_progress=on_progress)
        recording.duration = levels.duration
        recording.peak_dbfs = _finite(max(levels.peak_dbfs))
        recording.mean_dbfs = _finite(max(levels.mean_dbfs))
        refuse_too_short(levels.duration)
        refuse_bad_levels(info, levels.peak_dbfs)


def _decrypted_blocks(
    store: Store, recording: Recording, key: Key, digest: "hashlib._Hash"
) -> Iterator[bytes]:
    with store.open(sound_artefact(recording), key) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            yield block


def _finite(level: float) -> float | None:
    """None for digital silence, which has no level in dB."""
    return level if math.isfinite(level) else None
