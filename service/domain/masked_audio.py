"""Masked audio: a copy of each recording of a transcript without the accepted mentions.

    pending   waiting, or being made; `failure_code` says what it waits for
    ready     it can be downloaded
    failed    it cannot be made; `failure_code` says why

It still carries the voices, so it is an artefact of the identified class, under the job's key:
erasing the job, or a recording, erases it. A new copy of a recording replaces the earlier one.

ServiceError
├── MaskedAudioNotFound
├── MaskedAudioNotReady
└── WordTimesUnsure
"""

import io
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session as DbSession

from models.audio.errors import DecoderKilled, FfmpegMissing, SandboxUnavailable
from models.audio.masked_recording import HEADER_BYTES, write_masked
from models.audio.masking import (
    MaskedSpan,
    Style,
    TextSpan,
    Unplaceable,
    find_passages,
    find_untranscribed,
    plan_masks,
)
from models.audio.memory_file import memory_file
from models.audio.recording import SAMPLE_RATE
from models.errors import SpeechError, Stopped
from service.database.queries import lock_job, read_clock
from service.database.tables import (
    JobRecording,
    MaskedAudio,
    Recording,
    Review,
    Session,
    StoredTranscript,
    Study,
)
from service.domain import audit
from service.domain.background import BackgroundWork
from service.domain.callers import Caller
from service.domain.job_errors import InternalError
from service.domain.jobs import job_recordings, refuse_erased
from service.domain.pages import Page, page_of
from service.domain.playback import decrypted_blocks, has_memory_for
from service.domain.recordings import (
    find_ready_recording,
    identified,
)
from service.domain.review import Decided, accepted_spans, require_finished
from service.domain.studies import find_study
from service.domain.transcripts import find_transcript
from service.errors import ServiceError, locate
from service.services import Services
from service.vault.errors import (
    MISSING_ERRORS,
    DiskFull,
    Erased,
    Sealed,
    StorageUnreachable,
)
from service.vault.store import Artefact

MASKED_AUDIO = "masked_audio"  # kind of artefact
MEDIA_TYPE = "audio/wav"
RETRY_AFTER = 30.0  # s, after one of TEMPORARY_ERRORS
CHECK_EVERY = 2.0  # s, whether it was cancelled
MAX_DECODER_KILLS = 3
TEMPORARY_ERRORS = (
    DiskFull,
    StorageUnreachable,
    Sealed,
    *MISSING_ERRORS,  # perhaps a folder is not mounted
    FfmpegMissing,
    SandboxUnavailable,
    DecoderKilled,
)

log = logging.getLogger(__name__)


class MaskedAudioNotFound(ServiceError):
    """There is no such masked audio, or it is not yours."""

    code: ClassVar[str] = "masked_audio_not_found"
    status: ClassVar[int] = 404


class MaskedAudioNotReady(ServiceError):
    """The masked audio has not been made yet, or cannot be made."""

    code: ClassVar[str] = "masked_audio_not_ready"
    status: ClassVar[int] = 409


class WordTimesUnsure(ServiceError):
    """The times of some mentions are uncertain."""

    code: ClassVar[str] = "word_times_unsure"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class Masking:
    """The options of a request for masked audio.

    `unsure`: widen the masks of words whose times are not certain, or refuse to make any.
    `untranscribed`: mask the speech that has no words, too.
    """

    style: Style = "tone"
    unsure: Literal["widen", "refuse"] = "widen"
    untranscribed: bool = False


@dataclass(frozen=True)
class MaskedFile:
    """Masked audio, opened for reading."""

    row: MaskedAudio
    duration: float  # s, of the recording
    size: int  # bytes
    open: Callable[[], io.BufferedReader]


# --- asking for it --------------------------------------------------------------------------------


def request_masked_audio(
    services: Services, caller: Caller, transcript_id: UUID, masking: Masking
) -> list[MaskedAudio]:
    """Ask for the masked audio of a transcript's recordings, in order.

    What exists already for the same decisions is returned as it is.

    Raises:
        TranscriptNotFound, ReviewNotReady, ReviewOpen
        WordTimesUnsure
        RecordingNotFound, RecordingNotReady, RecordingRefused
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    with services.sessionmaker.begin() as session:
        found = find_transcript(session, caller, transcript_id)
        job = lock_job(session, found.job_id)  # an erasure locks it first, too
        assert job is not None
        refuse_erased(job)
        decided = accepted_spans(session, services, caller, transcript_id)
        require_finished(decided)
        masks, n_unreviewed = plan(decided, masking)
        ids = job_recordings(session, job.id)
        recordings = [find_ready_recording(session, caller, id) for id in ids]
        rows = []
        for recording, spans, n in zip(recordings, masks, n_unreviewed, strict=True):
            wanted = MaskedAudio(
                study_id=found.study_id,
                session_id=job.session_id,
                transcript_id=found.id,
                recording_id=recording.id,
                transcript_version=decided.transcript.version,
                review_version=decided.version,
                style=masking.style,
                untranscribed=masking.untranscribed,
                n_unreviewed=n,
                spans=[asdict(span) for span in spans],
                token_id=caller.token_id,
            )
            rows.append(_find_same(session, wanted) or _add(session, services, wanted))
        n_new = sum(row.state == "pending" for row in rows)
        session.flush()
        audit.record(
            session,
            caller,
            "masked_audio.requested",
            found.study_id,
            {"transcript": found.id},
            detail={"masked_audio": [str(row.id) for row in rows]},
        )
    log.info("transcript %s: masked audio of %d recordings asked for", transcript_id, n_new)
    return rows


def plan(
    decided: Decided, masking: Masking
) -> tuple[tuple[tuple[MaskedSpan, ...], ...], tuple[int, ...]]:
    """
    Returns:
        For each recording, the spans to mask, and the number of stretches of speech without words
        that are not masked.

    Raises:
        WordTimesUnsure
    """
    transcript = decided.transcript
    spans = [TextSpan(each.segment, each.start, each.stop, each.label) for each in decided.spans]
    try:
        passages = find_passages(transcript, spans)
    except Unplaceable as error:
        raise WordTimesUnsure(
            f"The times of {len(error.segments)} mentions are unknown, in the segments "
            f"{_listed(error.segments)}: correct the times of these segments first"
        ) from None
    unsure = [each for each in passages if each.reason != "words"]
    if unsure and masking.unsure == "refuse":
        segments = list(dict.fromkeys(each.segment for each in unsure if each.segment))
        raise WordTimesUnsure(
            f"The times of {len(unsure)} mentions are uncertain, in the segments "
            f"{_listed(segments)}: ask for wider masks there, or correct these times"
        )
    untranscribed = find_untranscribed(transcript)
    left = () if masking.untranscribed else untranscribed
    if masking.untranscribed:
        passages += untranscribed
    counts = (len(spans) for spans in plan_masks(left, transcript.sources))
    return plan_masks(passages, transcript.sources), tuple(counts)


def _listed(segments: Sequence[str]) -> str:
    most = 10
    more = f" and {len(segments) - most} more" if len(segments) > most else ""
    return ", ".join(segments[:most]) + more


def _find_same(session: DbSession, wanted: MaskedAudio) -> MaskedAudio | None:
    return session.scalar(
        _of_recording(wanted).where(
            MaskedAudio.transcript_version == wanted.transcript_version,
            MaskedAudio.review_version == wanted.review_version,
            MaskedAudio.style == wanted.style,
            MaskedAudio.untranscribed == wanted.untranscribed,
            MaskedAudio.state.in_(("pending", "ready")),
        )
    )


def _of_recording(row: MaskedAudio) -> Select[MaskedAudio]:
    return select(MaskedAudio).where(
        MaskedAudio.transcript_id == row.transcript_id,
        MaskedAudio.recording_id == row.recording_id,
        MaskedAudio.erased_at.is_(None),
    )


def _add(session: DbSession, services: Services, wanted: MaskedAudio) -> MaskedAudio:
    """Add a row, replacing those that are not ready. A ready one stays until this is ready."""
    recording = session.get_one(Recording, wanted.recording_id)
    identified(services)[0].require_space(_n_bytes(recording))
    others = _of_recording(wanted).where(MaskedAudio.state != "ready").with_for_update()
    erase_masked_audio(session, services, session.scalars(others).all())
    session.add(wanted)
    session.flush()
    session.refresh(wanted)
    return wanted


def _n_bytes(recording: Recording) -> int:
    return HEADER_BYTES + 2 * round((recording.duration or 0) * SAMPLE_RATE)


# --- finding it -----------------------------------------------------------------------------------


def find_masked_audio(session: DbSession, caller: Caller, id: UUID) -> MaskedAudio:
    """
    Raises:
        MaskedAudioNotFound: it does not exist, or is not the caller's.
        Erased
    """
    row = session.get(MaskedAudio, id)
    if row is None or not caller.may_see(row.study_id):
        raise MaskedAudioNotFound("There is no such masked audio, or it is not yours")
    if row.erased_at is not None:
        raise Erased("The masked audio was deleted, or replaced by a newer one")
    return row


def list_masked_audio(
    session: DbSession,
    caller: Caller,
    *,
    study: str | None = None,
    transcript_id: UUID | None = None,
    limit: int,
    cursor: str | None = None,
) -> Page[MaskedAudio]:
    """The caller's masked audio, newest first.

    Raises:
        StudyNotFound, Erased, BadCursor
    """
    query = caller.restrict(select(MaskedAudio), MaskedAudio.study_id).where(
        MaskedAudio.erased_at.is_(None)
    )
    if study is not None:
        query = query.where(MaskedAudio.study_id == find_study(session, caller, study).id)
    if transcript_id is not None:
        query = query.where(MaskedAudio.transcript_id == transcript_id)
    return page_of(session, MaskedAudio, query, limit=limit, cursor=cursor)


def is_outdated(session: DbSession, row: MaskedAudio) -> bool:
    """Whether the transcript or the decisions have changed since it was asked for."""
    transcript = session.get_one(StoredTranscript, row.transcript_id)
    review = session.get(Review, row.transcript_id)
    return transcript.version != row.transcript_version or (
        review is None or review.version != row.review_version
    )


def codes_of(session: DbSession, row: MaskedAudio) -> tuple[str, str | None]:
    """The codes of its study and of its session, if it has one."""
    interview = session.get_one(Session, row.session_id) if row.session_id else None
    return session.get_one(Study, row.study_id).code, interview.code if interview else None


def position_of(session: DbSession, row: MaskedAudio) -> int:
    """The place of its recording in the transcript, from 0."""
    job_id = session.get_one(StoredTranscript, row.transcript_id).job_id
    return session.get_one(JobRecording, (job_id, row.recording_id)).position


def open_masked_audio(services: Services, caller: Caller, id: UUID) -> MaskedFile:
    """
    Raises:
        MaskedAudioNotFound, MaskedAudioNotReady
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    with services.sessionmaker() as session:
        row = find_masked_audio(session, caller, id)
        job_id = session.get_one(StoredTranscript, row.transcript_id).job_id
    if row.state == "failed":
        raise MaskedAudioNotReady(f"The masked audio could not be made: {row.failure_code}")
    if row.artefact_id is None or row.n_bytes is None:
        raise MaskedAudioNotReady("The masked audio is being made: ask again in a moment")
    store, keyring = identified(services)
    artefact = Artefact(row.study_id, job_id, MASKED_AUDIO, row.artefact_id)
    key = keyring.data_key(row.study_id, job_id)
    store.open(artefact, key).close()  # fail before the response has started
    with services.sessionmaker() as session:
        duration = session.get_one(Recording, row.recording_id).duration or 0.0
    return MaskedFile(row, duration, row.n_bytes, lambda: store.open(artefact, key))


# --- deleting it ----------------------------------------------------------------------------------


def delete_masked_audio(services: Services, caller: Caller, id: UUID) -> None:
    """Delete masked audio; stop making it if it is not ready.

    Raises:
        MaskedAudioNotFound, Erased
    """
    with services.sessionmaker.begin() as session:
        row = find_masked_audio(session, caller, id)
        audit.act_for(session, caller)
        session.refresh(row, with_for_update=True)
        if row.erased_at is None:
            erase_masked_audio(session, services, [row])
    log.info("masked audio %s: deleted", id)


def erase_masked_audio(session: DbSession, services: Services, rows: Sequence[MaskedAudio]) -> None:
    """
    Args:
        rows: locked.
    """
    for row in rows:
        if row.artefact_id is not None:
            identified(services)[0].delete(row.artefact_id)
        row.artefact_id, row.spans, row.erased_at = None, [], read_clock(session)
        place = {"masked_audio": row.id, "transcript": row.transcript_id}
        audit.record(session, None, "masked_audio.erased", row.study_id, place)


def lock_masked_audio(session: DbSession, transcript_id: UUID) -> Sequence[MaskedAudio]:
    """All masked audio of a transcript that is not erased, locked."""
    return session.scalars(
        select(MaskedAudio)
        .where(MaskedAudio.transcript_id == transcript_id, MaskedAudio.erased_at.is_(None))
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()


# --- making it ------------------------------------------------------------------------------------


class Masker(BackgroundWork):
    """Makes masked audio in the background: one at a time, oldest first, at a low priority.

    What is pending when the service stops is made after it has started again.
    """

    what = "masked audio"

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self._tried_at: dict[UUID, float] = {}  # of those to retry
        self._decoder_kills: Counter[UUID] = Counter()

    def _make_next(self) -> bool:
        """Try to make one; return False if none is due."""
        if self._stop.is_set() or self._services.vault.sealed:
            return False
        due = time.monotonic() - RETRY_AFTER
        self._tried_at = {id: at for id, at in self._tried_at.items() if at > due}
        with self._services.sessionmaker() as session:
            row = session.scalar(
                select(MaskedAudio)
                .where(
                    MaskedAudio.state == "pending",
                    MaskedAudio.erased_at.is_(None),
                    MaskedAudio.id.not_in(self._tried_at),
                )
                .order_by(MaskedAudio.created_at)
                .limit(1)
            )
            if row is None:
                return False
            recording = session.get_one(Recording, row.recording_id)
        if not has_memory_for(self._services, recording):
            return False
        self._tried_at[row.id] = time.monotonic()
        last_try = self._decoder_kills[row.id] + 1 >= MAX_DECODER_KILLS
        with suppress(Stopped):
            code = make_masked_audio(self._services, row, self._watch(row.id), last_try=last_try)
            self._decoder_kills[row.id] += code == DecoderKilled.code
        return True

    def _watch(self, id: UUID) -> Callable[[float], None]:
        """A function that raises Stopped once the row is no longer pending, or at a shutdown."""
        looked_at = time.monotonic()

        def look(share: float) -> None:
            nonlocal looked_at
            if self._stop.is_set():
                raise Stopped("The service is stopping")
            if time.monotonic() > looked_at + CHECK_EVERY:
                looked_at = time.monotonic()
                with self._services.sessionmaker() as session:
                    if not _is_pending(session.get(MaskedAudio, id)):
                        raise Stopped("The masked audio was deleted")

        return look


def _is_pending(row: MaskedAudio | None) -> bool:
    return row is not None and row.state == "pending" and row.erased_at is None


def make_masked_audio(
    services: Services,
    row: MaskedAudio,
    on_progress: Callable[[float], None] | None = None,
    *,
    last_try: bool = False,
) -> str | None:
    """Make pending masked audio, or record the reason for the failure.

    Args:
        last_try: if its decoder is killed again, it fails for good.

    Returns:
        The code of the error that prevented it.

    Raises:
        Stopped: by `on_progress`.
        OSError, SQLAlchemyError: the disk or the database failed. The row stays pending.
    """
    store, _ = identified(services)
    with services.sessionmaker() as session:
        job_id = session.get_one(StoredTranscript, row.transcript_id).job_id
        recording = session.get_one(Recording, row.recording_id)
    artefact = Artefact(row.study_id, job_id, MASKED_AUDIO)
    is_kept = False
    try:
        n_bytes, code, is_final = None, None, True
        try:
            n_bytes = _write(services, row, recording, artefact, on_progress)
        except Stopped:
            raise
        except TEMPORARY_ERRORS as error:
            code, is_final = error.code, last_try and isinstance(error, DecoderKilled)
        except (SpeechError, ServiceError) as error:
            code = error.code
        except OSError:
            raise  # a fault of the disk or the system, not of the recording: it is retried
        except Exception as error:  # noqa: BLE001  # the top level of this thread
            log.error("masked audio %s: %s at %s", row.id, type(error).__name__, locate(error))
            code = InternalError.code
        is_kept = True  # perhaps, if the database's answer is lost
        is_kept = _record(services, row.id, artefact.id, n_bytes, code, is_final=is_final)
    finally:
        if not is_kept:
            store.delete(artefact.id)
    log.info("masked audio %s: %s", row.id, code or "made")
    return code


def _write(
    services: Services,
    row: MaskedAudio,
    recording: Recording,
    artefact: Artefact,
    on_progress: Callable[[float], None] | None,
) -> int:
    """
    Returns:
        The number of bytes.
    """
    store, keyring = identified(services)
    key = keyring.data_key(artefact.study_id, artefact.subject_id)
    store.require_space(_n_bytes(recording))
    spans = [span_from_json(span) for span in row.spans]
    style: Style = "silence" if row.style == "silence" else "tone"
    with (
        memory_file(decrypted_blocks(services, recording)) as file,
        store.write(artefact, key) as output,
    ):
        n_samples = write_masked(file, spans, style, output.write, on_progress=on_progress)
    return HEADER_BYTES + 2 * n_samples


def _record(
    services: Services,
    id: UUID,
    artefact_id: UUID,
    n_bytes: int | None,
    code: str | None,
    *,
    is_final: bool,
) -> bool:
    """
    Returns:
        Whether the row now names the file: not if it was deleted or erased meanwhile.
    """
    with services.sessionmaker.begin() as session:
        row = session.get(MaskedAudio, id, with_for_update=True)
        if row is None or not _is_pending(row):
            return False
        row.failure_code = code
        if is_final:
            row.state, row.finished_at = "failed" if code else "ready", read_clock(session)
            detail: dict[str, audit.Value] = {"code": code}
            place = {"masked_audio": row.id, "transcript": row.transcript_id}
            audit.record(session, None, "masked_audio.finished", row.study_id, place, detail=detail)
        if code is None:
            row.artefact_id, row.n_bytes = artefact_id, n_bytes
            earlier = _of_recording(row).where(MaskedAudio.id != row.id).with_for_update()
            erase_masked_audio(session, services, session.scalars(earlier).all())
        return code is None


def span_from_json(span: dict[str, Any]) -> MaskedSpan:
    return MaskedSpan(
        span["start"],
        span["end"],
        tuple(span["reasons"]),
        tuple(span["labels"]),
        tuple(span["segments"]),
        span["n_mentions"],
    )
