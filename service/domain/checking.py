"""Checks of finished uploads: merged, decoded in the sandbox, measured; then ready or refused."""

import asyncio
import hashlib
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
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
from service.domain import audit
from service.domain.job_errors import InternalError
from service.domain.recordings import (
    BLOCK_BYTES,
    OPERATIONAL_ERRORS,
    announced_sha256,
    error_name,
    identified,
    isolate_errors,
    keyed_digest,
    max_upload_bytes,
    place_of,
    read_metadata,
    refuse_duplicate_content,
    sound_artefact,
    tidy_uploads,
)
from service.errors import RecordingDuplicate, ServiceError, locate
from service.services import Services
from service.vault import uploads
from service.vault.errors import (
    DiskFull,
    KeyMissing,
    Sealed,
    StorageUnreachable,
    UploadBusy,
    UploadDamaged,
)
from service.vault.store import Store
from service.vault.streaming import Key

CHECK_EVERY = 5.0  # s; a finished upload is checked at once
RETRY_AFTER = 30.0  # s, after one of TEMPORARY_ERRORS
TIDY_EVERY = 60.0  # s
NICENESS = 10  # of checks; on Linux each thread has its own
MAX_DECODER_KILLS = 3
MAX_CHECKS = 8  # at once; each holds a database connection
TEMPORARY_ERRORS = (
    DiskFull,
    StorageUnreachable,
    Sealed,
    KeyMissing,  # perhaps the keys folder is not mounted
    UploadBusy,
    FfmpegMissing,
    SandboxUnavailable,
    DecoderKilled,
)
"""Failures that may not be the recording's fault; its check is retried."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unchecked:
    """A recording that waits for its check, or is being checked."""

    id: UUID
    study_id: UUID
    n_bytes: int  # of memory that its check takes


def count_slots() -> int:
    """How many checks run at once. Each takes two processors; two are left for everything else."""
    return max(1, min(MAX_CHECKS, (len(os.sched_getaffinity(0)) - 2) // 2))


def choose_next(
    waiting: Sequence[Unchecked],
    running: Collection[Unchecked],
    served_at: Mapping[UUID, int],
    *,
    slots: int,
    memory: int,
) -> Unchecked | None:
    """The recording to check next: the oldest of the study whose turn it is.

    That is the study with the fewest running checks, among these the one that was served longest
    ago. If its recording does not fit into memory beside the running checks, everybody waits.

    Args:
        waiting: oldest first.
        served_at: by study; higher is later.
        memory: bytes for all checks together. One check may take more.
    """
    oldest = {each.study_id: each for each in reversed(waiting)}
    if not oldest or len(running) >= slots:
        return None
    n_running = Counter(each.study_id for each in running)
    study = min(oldest, key=lambda study: (n_running[study], served_at.get(study, -1)))
    chosen = oldest[study]
    if running and sum(each.n_bytes for each in running) + chosen.n_bytes > memory:
        return None
    return chosen


class Checker:
    """Checks finished uploads: fairly between studies, several at once if there are processors.

    Its threads and the ffmpeg processes they start have a low priority: a check may occupy two
    processors for minutes, while API requests should be answered in milliseconds.
    """

    def __init__(self, services: Services, slots: int | None = None) -> None:
        self._services = services
        self._slots = slots or count_slots()
        self._memory = max_upload_bytes(services.settings)
        self._wake = asyncio.Event()
        # One more thread finds what is to be done.
        self._threads = ThreadPoolExecutor(
            self._slots + 1, initializer=os.nice, initargs=(NICENESS,)
        )
        self._stop = threading.Event()
        self._running: dict[asyncio.Future[None], Unchecked] = {}
        self._served_at: dict[UUID, int] = {}
        self._tried_at: dict[UUID, float] = {}  # of recordings to retry
        self._decoder_kills: Counter[UUID] = Counter()

    def wake(self) -> None:
        """Check now. Call it from the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Check until cancelled."""
        tidied_at = -math.inf
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        try:
            while True:
                self._wake.clear()
                self._forget_finished()
                try:
                    if time.monotonic() > tidied_at + TIDY_EVERY:
                        await in_thread(tidy_uploads, self._services)
                        tidied_at = time.monotonic()
                    self._start_checks(await in_thread(self._find_waiting))
                except OPERATIONAL_ERRORS as error:
                    log.warning("recordings cannot be checked: %s", error_name(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), CHECK_EVERY)
        finally:
            self._stop.set()

    def close(self) -> None:
        """After `run`, wait until the threads no longer use the database."""
        self._threads.shutdown()

    def _find_waiting(self) -> list[Unchecked]:
        """The recordings to check, oldest first, without those to be retried later."""
        if self._services.vault.sealed:
            return []
        with self._services.sessionmaker() as session:
            rows = session.execute(
                select(Recording.id, Recording.study_id, Recording.n_bytes)
                .where(Recording.state == "checking")
                .order_by(Recording.created_at)
            ).all()
        due = time.monotonic() - RETRY_AFTER
        return [
            # After its decoder was killed, perhaps for lack of memory, a recording has all of it.
            Unchecked(
                row.id, row.study_id, self._memory if self._decoder_kills[row.id] else row.n_bytes
            )
            for row in rows
            if self._tried_at.get(row.id, -math.inf) <= due
        ]

    def _start_checks(self, waiting: list[Unchecked]) -> None:
        loop = asyncio.get_running_loop()
        ids = {each.id for each in self._running.values()}
        waiting = [each for each in waiting if each.id not in ids]
        while True:
            chosen = choose_next(
                waiting,
                self._running.values(),
                self._served_at,
                slots=self._slots,
                memory=self._memory,
            )
            if chosen is None:
                return
            waiting.remove(chosen)
            self._served_at[chosen.study_id] = max(self._served_at.values(), default=0) + 1
            check = loop.run_in_executor(self._threads, self._check, chosen.id)
            self._running[check] = chosen
            check.add_done_callback(lambda _: self._wake.set())

    def _forget_finished(self) -> None:
        for check in [check for check in self._running if check.done()]:
            del self._running[check]
            check.result()  # an unexpected error ends the process

    def _check(self, recording_id: UUID) -> None:
        if self._stop.is_set():
            return
        self._tried_at[recording_id] = time.monotonic()
        with isolate_errors(recording_id):
            self._check_one(recording_id)

    def _check_one(self, recording_id: UUID) -> None:
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

    Raises:
        OSError: the disk or the system failed. The recording stays as it is.
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
            refuse_duplicate_content(session, row)
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
            if not isinstance(error, AudioError | UploadDamaged | RecordingDuplicate):
                row.expires_at = None
        except OSError:
            raise  # of the disk or the system, not of the recording: it is checked again
        except Exception as error:  # noqa: BLE001  # the top level of the checker
            log.error("recording %s: %s at %s", row.id, type(error).__name__, locate(error))
            refuse(session, services, row, InternalError.code, "Fieldscribe has a bug")
            row.expires_at = None
        row.completed_at = datetime.now(UTC)
        if row.state != "checking":
            audit.record(
                session,
                None,
                "recording.checked",
                row.study_id,
                place_of(row),
                detail={
                    "state": row.state,
                    "code": row.refusal_code,
                    # Keyed with the study's key: content cannot be guessed from it.
                    "digest": None if row.digest is None else row.digest.hex(),
                },
            )
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
