"""Playback copies, made of ready recordings when nothing more urgent needs the memory.

A recording is ready, and its jobs start, before its copy is made. Copies are artefacts of the
identified class under the recording's key: erasing the recording erases them.

ServiceError
├── PlaybackNotReady
└── NoPlayback
"""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from models.audio.errors import DecoderKilled, EncoderMissing, FfmpegMissing, SandboxUnavailable
from models.audio.memory_file import memory_file
from models.audio.playback import BYTES_PER_SECOND, make_playback
from models.errors import AudioError, Stopped
from service.database.queries import read_clock
from service.database.tables import Recording, StoredTranscript
from service.domain.background import BackgroundWork
from service.domain.callers import Caller
from service.domain.job_errors import InternalError
from service.domain.jobs import job_recordings
from service.domain.recordings import (
    BLOCK_BYTES,
    OPERATIONAL_ERRORS,
    error_name,
    find_ready_recording,
    identified,
    max_upload_bytes,
    sound_artefact,
)
from service.domain.transcripts import read_transcript
from service.errors import ServiceError, locate
from service.services import Services
from service.vault.errors import PERMANENT_ERRORS
from service.vault.store import Artefact

PLAYBACK, PEAKS = "playback", "peaks"  # kinds of artefacts
MEDIA_TYPE = "audio/mpeg"
QUIET = timedelta(seconds=20)  # after its check, so that a batch of uploads is checked first
CHECK_EVERY = 2.0  # s, whether a check needs the memory
RETRY_AFTER = 600.0  # s, after a failure that may not be the recording's fault
SPARE_BYTES = 2**20
TEMPORARY_ERRORS = (DecoderKilled, EncoderMissing, FfmpegMissing, SandboxUnavailable)

log = logging.getLogger(__name__)


class PlaybackNotReady(ServiceError):
    """The playback copy of the recording is still being made."""

    code: ClassVar[str] = "playback_not_ready"
    status: ClassVar[int] = 409


class NoPlayback(ServiceError):
    """No playback copy can be made of the recording."""

    code: ClassVar[str] = "no_playback"
    status: ClassVar[int] = 422


@dataclass(frozen=True)
class PlaybackFile:
    """A playback copy or its peaks, opened for reading."""

    artefact: Artefact
    recording: Recording
    size: int  # bytes
    open: Callable[[], io.BufferedReader]


@dataclass(frozen=True)
class Part:
    """One recording on the timeline of a transcript."""

    recording_id: UUID
    start: float
    duration: float
    state: Literal["ready", "preparing", "failed"]
    error: str | None  # a code


def find_playback(
    services: Services, caller: Caller, recording_id: UUID, kind: str
) -> PlaybackFile:
    """
    Raises:
        RecordingNotFound, Erased, RecordingNotReady, RecordingRefused
        PlaybackNotReady, NoPlayback
        KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    with services.sessionmaker() as session:
        row = find_ready_recording(session, caller, recording_id)
    id = row.playback_artefact_id if kind == PLAYBACK else row.peaks_artefact_id
    if id is None:
        if row.playback_error is not None:
            raise NoPlayback(
                f"No playback copy can be made of the recording ({row.playback_error}): "
                "download the recording and listen to it in another program"
            )
        raise PlaybackNotReady("The playback copy is being made: ask again in a few seconds")
    store, keyring = identified(services)
    artefact = Artefact(row.study_id, row.id, kind, id)
    key = keyring.data_key(row.study_id, row.id)
    with store.open(artefact, key) as file:
        size = file.seek(0, os.SEEK_END)
    return PlaybackFile(artefact, row, size, lambda: store.open(artefact, key))


def read_timeline(session: DbSession, services: Services, row: StoredTranscript) -> list[Part]:
    """The recordings of a transcript with their times.

    Raises:
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    sources = read_transcript(session, services, row).sources
    parts = []
    for id, source in zip(job_recordings(session, row.job_id), sources, strict=False):
        recording = session.get_one(Recording, id)
        state: Literal["ready", "preparing", "failed"] = "preparing"
        if recording.playback_artefact_id is not None:
            state = "ready"
        elif recording.playback_error is not None or recording.state != "ready":
            state = "failed"
        error = recording.playback_error
        parts.append(Part(id, source.start, source.duration, state, error))
    return parts


def has_memory_for(services: Services, recording: Recording) -> bool:
    """Whether its sound fits into memory beside the recordings waiting for a check."""
    with services.sessionmaker() as session:
        checking = session.scalar(
            select(func.sum(Recording.n_bytes)).where(
                Recording.state == "checking",
                Recording.refusal_code.is_(None),  # set while its check is only retried
            )
        )
    return int(checking or 0) + recording.n_bytes <= max_upload_bytes(services.settings)


class PlaybackMaker(BackgroundWork):
    """Makes copies one at a time, at a low priority, beginning with those asked for."""

    what = "playback copies"

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self._asked: dict[UUID, None] = {}  # in order
        self._tried_at: dict[UUID, float] = {}

    def ask(self, recording_id: UUID) -> None:
        """Make this copy next. Call it from the event loop."""
        self._asked.setdefault(recording_id)
        self._wake.set()

    def _make_next(self) -> bool:
        """Try to make a copy; return False if there is none to make now."""
        if self._stop.is_set() or self._services.vault.sealed:
            return False
        recording = self._choose()
        if recording is None or not has_memory_for(self._services, recording):
            return False
        self._asked.pop(recording.id, None)
        self._tried_at[recording.id] = time.monotonic()
        try:
            make_copy(self._services, recording, self._raise_if_needed_elsewhere(recording))
        except Stopped:
            del self._tried_at[recording.id]
            return False
        return True

    def _choose(self) -> Recording | None:
        """The recording that was asked for first, else the newest without a copy."""
        due = time.monotonic() - RETRY_AFTER
        self._tried_at = {id: at for id, at in self._tried_at.items() if at > due}
        asked = list(self._asked)
        with self._services.sessionmaker() as session:
            lacking = select(Recording).where(
                Recording.state == "ready",
                Recording.playback_artefact_id.is_(None),
                Recording.playback_error.is_(None),
                Recording.id.not_in(self._tried_at),
            )
            wanted = {
                row.id: row for row in session.scalars(lacking.where(Recording.id.in_(asked)))
            }
            for id in asked:
                if id in wanted:
                    return wanted[id]
                self._asked.pop(id, None)
            quiet = Recording.completed_at < read_clock(session) - QUIET
            return session.scalar(
                lacking.where(quiet).order_by(Recording.completed_at.desc()).limit(1)
            )

    def _raise_if_needed_elsewhere(self, recording: Recording) -> Callable[[float], None]:
        looked_at = time.monotonic()

        def look(seconds: float) -> None:
            nonlocal looked_at
            if self._stop.is_set():
                raise Stopped("The service is stopping")
            if time.monotonic() > looked_at + CHECK_EVERY:
                looked_at = time.monotonic()
                if not has_memory_for(self._services, recording):
                    raise Stopped("A recording waiting for a check needs the memory")

        return look


def make_copy(
    services: Services,
    recording: Recording,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Make the playback copy of a ready recording, or record why it cannot be made.

    A failure that may not be the recording's fault is only logged, and retried.

    Raises:
        Stopped: by `on_progress`.
    """
    store, _ = identified(services)
    copy = Artefact(recording.study_id, recording.id, PLAYBACK)
    peaks = Artefact(recording.study_id, recording.id, PEAKS)
    is_recorded = False
    try:
        code = None
        try:
            _write_copy(services, recording, copy, peaks, on_progress)
        except TEMPORARY_ERRORS as error:
            log.warning("recording %s: no playback copy yet: %s", recording.id, error.code)
            return
        except (AudioError, *PERMANENT_ERRORS) as error:
            code = error.code
        except OPERATIONAL_ERRORS as error:
            log.warning("recording %s: no playback copy yet: %s", recording.id, error_name(error))
            return
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001  # the top level of this thread
            log.error("recording %s: %s at %s", recording.id, type(error).__name__, locate(error))
            code = InternalError.code
        is_recorded = True  # perhaps, if the database's answer is lost
        is_recorded = _record(services, recording.id, copy, peaks, code)
        log.info("recording %s: playback copy: %s", recording.id, code or "made")
    finally:
        if not is_recorded:
            store.delete(copy.id)
            store.delete(peaks.id)


def _write_copy(
    services: Services,
    recording: Recording,
    copy: Artefact,
    peaks: Artefact,
    on_progress: Callable[[float], None] | None,
) -> None:
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    store.require_space(SPARE_BYTES + round((recording.duration or 0) * BYTES_PER_SECOND))
    with memory_file(decrypted_blocks(services, recording)) as file:
        content = make_playback(file, lambda: store.write(copy, key), on_progress=on_progress)
    with store.write(peaks, key) as writer:
        writer.write(content)


def _record(
    services: Services, recording_id: UUID, copy: Artefact, peaks: Artefact, failure: str | None
) -> bool:
    """
    Returns:
        Whether the row now names the files: not if the recording was erased meanwhile.
    """
    with services.sessionmaker.begin() as session:
        row = session.get(Recording, recording_id, with_for_update=True)
        if row is None or row.state != "ready" or row.playback_artefact_id is not None:
            return False
        row.playback_error = failure
        if failure is None:
            row.playback_artefact_id, row.peaks_artefact_id = copy.id, peaks.id
        return failure is None


def decrypted_blocks(services: Services, recording: Recording) -> Iterator[bytes]:
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    with store.open(sound_artefact(recording), key) as file:
        while block := file.read(BLOCK_BYTES):
            yield block
