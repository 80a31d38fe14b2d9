"""Takes one person's voice out of a group's recordings and transcripts.

Identified data is replaced, never edited. New recordings, in which the person is silent, and new
transcripts without the person's words are written first, under keys of their own. Then one
transaction puts them in place of the old ones, whose keys are destroyed after it: a power cut
before it changes nothing, and one after it is followed by the rest of the erasure.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import select, update
from sqlalchemy.orm import Session as DbSession

from models.audio.masked_recording import HEADER_BYTES, write_masked
from models.audio.masking import MaskedSpan, Passage, plan_masks
from models.audio.memory_file import memory_file
from models.audio.recording import SAMPLE_RATE
from models.transcript import Source, Transcript
from models.transcript_json import to_json
from models.withdrawn_voice import heard_at, says_something, without_voice
from service.database.queries import lock_job, read_clock, touch_job
from service.database.tables import (
    STAGES,
    BlindSample,
    Decision,
    Handoff,
    Job,
    JobRecording,
    JobStage,
    Mention,
    Recording,
    Release,
    Review,
    StoredTranscript,
)
from service.domain import results
from service.domain.callers import Caller
from service.domain.corrections import list_versions
from service.domain.engine_job import TRANSCRIPT
from service.domain.erasure import erase_job
from service.domain.jobs import job_recordings
from service.domain.locks import refuse_while_checked
from service.domain.masked_audio import lock_masked_audio
from service.domain.playback import decrypted_blocks
from service.domain.recordings import destroy, identified, keyed_digest, sound_artefact
from service.domain.review import ReviewEditor
from service.domain.transcripts import read_transcript
from service.services import Services
from service.vault.store import Artefact

Spans = Mapping[UUID, tuple[tuple[float, float], ...]]
"""Where each recording is silent, in seconds."""


class TranscriptsChanged(Exception):
    """Somebody changed who spoke while the recordings were being written: write them again."""


@dataclass(frozen=True)
class Voice:
    """One transcript in which the person speaks. `labels`: all of the person's."""

    job_id: UUID
    transcript_id: UUID
    labels: frozenset[str]


@dataclass(frozen=True)
class Replaced:
    """The outcome for one group. Ids of what was replaced, and of what replaces it.

    `transcripts`, `recordings`: old and new. `reissue`: new transcript, and readers of its earlier
    releases. `files`: of what is to be erased. `silent`: seconds that were silenced.
    """

    recordings: tuple[tuple[UUID, UUID], ...]
    transcripts: tuple[tuple[UUID, UUID], ...]
    jobs: tuple[UUID, ...]
    releases: tuple[UUID, ...]
    reissue: tuple[tuple[UUID, str], ...]
    files: tuple[UUID, ...]
    n_spans: int
    silent: float


def find_voices(session: DbSession, jobs: Iterable[Job], code: str) -> list[Voice]:
    """The transcripts of these jobs in which a speaker has the code."""
    ids = [job.id for job in jobs]
    rows = session.scalars(select(StoredTranscript).where(StoredTranscript.job_id.in_(ids)))
    found = []
    for row in rows:
        labels = frozenset(
            label for label, name in row.speakers.items() if name.get("code") == code
        )
        if labels:
            found.append(Voice(row.job_id, row.id, labels))
    return found


def still_heard(services: Services, session: DbSession, voice: Voice) -> bool:
    row = session.get_one(StoredTranscript, voice.transcript_id)
    return says_something(read_transcript(session, services, row), voice.labels)


# --- recordings -----------------------------------------------------------------------------------


def plan_silence(session: DbSession, services: Services, voices: Sequence[Voice]) -> Spans:
    """Where the person must not be heard, by what all transcripts say."""
    spans: dict[UUID, set[tuple[float, float]]] = {}
    for voice in voices:
        row = session.get_one(StoredTranscript, voice.transcript_id)
        transcript = read_transcript(session, services, row)
        passages = [
            Passage(start, end, "segment") for start, end in heard_at(transcript, voice.labels)
        ]
        for source in transcript.sources:
            if source.speaker in voice.labels:  # the person's own recorder
                end = source.start + source.duration
                passages.append(Passage(source.start, end, "segment"))
        masks = plan_masks(passages, transcript.sources)
        for id, each in zip(job_recordings(session, voice.job_id), masks, strict=True):
            spans.setdefault(id, set()).update((span.start, span.end) for span in each)
    return {id: tuple(sorted(each)) for id, each in spans.items()}


@dataclass(frozen=True)
class Written:
    """A silenced copy of a recording: WAV, 16 kHz, mono."""

    id: UUID
    n_samples: int
    sha256: bytes

    @property
    def n_bytes(self) -> int:
        return HEADER_BYTES + 2 * self.n_samples


def write_silenced(
    services: Services,
    recording: Recording,
    new_id: UUID,
    spans: Sequence[tuple[float, float]],
    on_progress: Callable[[float], None] | None = None,
) -> Written:
    """Write the copy under a new key. A copy that an earlier attempt left is written again.

    Raises:
        AudioError
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    store, keyring = identified(services)
    try:
        key = keyring.create_data_key(recording.study_id, new_id)
    except FileExistsError:
        key = keyring.data_key(recording.study_id, new_id)
    artefact = Artefact(recording.study_id, new_id, "recording", new_id)
    store.require_space(HEADER_BYTES + 2 * round((recording.duration or 0) * SAMPLE_RATE))
    masks = [MaskedSpan(start, end, ("segment",), (), (), 0) for start, end in spans]
    digest = hashlib.sha256()
    with (
        memory_file(decrypted_blocks(services, recording)) as file,
        store.write(artefact, key) as output,
    ):

        def write(block: bytes) -> None:
            digest.update(block)
            output.write(block)

        n_samples = write_masked(file, masks, "silence", write, on_progress=on_progress)
    return Written(new_id, n_samples, digest.digest())


def discard_written(services: Services, study_id: UUID, id: UUID) -> None:
    """Delete a copy that no row names."""
    store, keyring = identified(services)
    store.delete(id)
    keyring.discard(study_id, id)


def is_silent(
    services: Services, recording: Recording, spans: Sequence[tuple[float, float]]
) -> bool:
    """Whether a silenced copy has only zeros in these spans."""
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    with store.open(sound_artefact(recording), key) as file:
        for start, end in spans:
            file.seek(HEADER_BYTES + 2 * round(start * SAMPLE_RATE))
            if any(file.read(2 * (round(end * SAMPLE_RATE) - round(start * SAMPLE_RATE)))):
                return False
    return True


# --- the switch -----------------------------------------------------------------------------------


def switch(
    services: Services,
    caller: Caller,
    code: str,
    old_jobs: Sequence[UUID],
    voices: Sequence[Voice],
    spans: Spans,
    written: Mapping[UUID, Written],
    record: Callable[[DbSession, Replaced], None],
) -> Replaced:
    """Put new recordings, jobs and transcripts in place of the old ones, in one transaction.

    Corrections and decisions of the old transcripts wait, and are then refused: they are erased.

    Args:
        old_jobs: all jobs of the old recordings.
        written: by old recording.
        record: called in the transaction, to store what was done.

    Raises:
        TranscriptsChanged
        UploadBusy
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    with refuse_while_checked(), services.sessionmaker.begin() as session:
        jobs = {id: lock_job(session, id) for id in sorted(old_jobs)}
        query = select(Recording).where(Recording.id.in_(written)).with_for_update(nowait=True)
        old = session.scalars(query.execution_options(populate_existing=True)).all()
        for voice in voices:
            row = session.get_one(StoredTranscript, voice.transcript_id, with_for_update=True)
            session.refresh(row)
            if session.get(Review, row.id) is not None:  # brings it up to date
                ReviewEditor.open(session, services, caller, row.id, scan=False)
        now_voices = find_voices(session, filter(None, jobs.values()), code)
        if set(now_voices) != set(voices) or plan_silence(session, services, voices) != spans:
            raise TranscriptsChanged
        new_recordings = {
            each.id: _add_recording(session, services, each, written[each.id]) for each in old
        }
        transcripts, reissue = [], []
        files = _files(session, [job for job in jobs.values() if job], old)
        releases: list[UUID] = []
        for voice in voices:
            job = jobs[voice.job_id]
            assert job is not None
            made = _replace_transcript(session, services, caller, job, voice, new_recordings)
            transcripts.append((voice.transcript_id, made))
            earlier = _releases(session, voice.transcript_id)
            releases += [each.id for each in earlier]
            reissue += [(made, context) for context in dict.fromkeys(e.context for e in earlier)]
        for job in filter(None, jobs.values()):
            # Refuses corrections at once; `erase_job` does the rest after the commit.
            job.status, job.erased_at = "erased", read_clock(session)
            touch_job(session, job)
        for each in old:
            each.state = "erased"
        done = Replaced(
            tuple((each.id, new_recordings[each.id].id) for each in old),
            tuple(transcripts),
            tuple(jobs),
            tuple(releases),
            tuple(reissue),
            tuple(files),
            sum(len(spans[each.id]) for each in old),
            sum(end - start for each in old for start, end in spans[each.id]),
        )
        record(session, done)
    return done


def erase_replaced(services: Services, done: Replaced, *, keep_releases: bool) -> None:
    """Destroy the keys and files of what was replaced. Safe to repeat."""
    for job_id in done.jobs:
        with services.sessionmaker.begin() as session:
            job = lock_job(session, job_id)
            assert job is not None
            erase_job(session, services, job, keep_releases=keep_releases)
            if not keep_releases:
                now = datetime.now(UTC)
                for release in session.scalars(
                    select(Release).where(Release.id.in_(done.releases))
                ):
                    release.revoked_at = release.revoked_at or now
    for id, _ in done.recordings:
        with services.sessionmaker() as session:
            recording = session.get_one(Recording, id)
        destroy(services, recording)


def _add_recording(
    session: DbSession, services: Services, old: Recording, written: Written
) -> Recording:
    """The row of a silenced copy, in the place of the old recording.

    Its file name is not carried over: it may be a name.
    """
    made = Recording(
        id=written.id,
        study_id=old.study_id,
        session_id=old.session_id,
        position=old.position,
        is_copy=old.is_copy,
        token_id=old.token_id,
        state="ready",
        n_bytes=written.n_bytes,
        digest=keyed_digest(services, old.study_id, written.sha256),
        container="wav",
        codec="pcm_s16le",
        sample_rate=SAMPLE_RATE,
        channels=1,
        duration=written.n_samples / SAMPLE_RATE,
        completed_at=read_clock(session),
    )
    session.add(made)
    session.flush()
    return made


def _replace_transcript(
    session: DbSession,
    services: Services,
    caller: Caller,
    old_job: Job,
    voice: Voice,
    recordings: Mapping[UUID, Recording],
) -> UUID:
    """
    Returns:
        Id of the new transcript.
    """
    old = session.get_one(StoredTranscript, voice.transcript_id)
    sources = [recordings[id] for id in job_recordings(session, old_job.id)]
    transcript = _with_sources(
        without_voice(read_transcript(session, services, old), voice.labels), sources
    )
    now = read_clock(session)
    job = Job(
        id=uuid4(),
        study_id=old_job.study_id,
        session_id=old_job.session_id,
        token_id=old_job.token_id,
        status="succeeded",
        attempt=1,
        options=old_job.options,
        whisper_model=old_job.whisper_model,
        whisper_sha256=old_job.whisper_sha256,
        diarisation_pipeline=old_job.diarisation_pipeline,
        diarisation_sha256=old_job.diarisation_sha256,
        stage="handoff",
        fraction=1.0,
        audio_seconds=old_job.audio_seconds,
        warnings=old_job.warnings,
        started_at=old_job.started_at,
        finished_at=now,
    )
    results.create_key(services, job.study_id, job.id)
    session.add(job)
    session.flush()
    session.add_all(
        JobRecording(job_id=job.id, recording_id=each.id, position=position)
        for position, each in enumerate(sources)
    )
    session.add_all(
        JobStage(job_id=job.id, name=name, state="succeeded", fraction=1.0, finished_at=now)
        for name in STAGES
    )
    content = to_json(transcript).encode()
    row = StoredTranscript(
        id=uuid4(),
        study_id=old.study_id,
        job_id=job.id,
        artefact_id=results.write(services, job.study_id, job.id, TRANSCRIPT, content),
        # Version numbers go on: ids of segments contain them, and exports name them.
        version=transcript.version,
        first_version=transcript.version,
        speakers=old.speakers,
        first_speakers=old.speakers,
        replaces=old.id,
    )
    session.add(row)
    session.flush()
    job.transcript_id = row.id
    _move_review(session, old, row, transcript, voice.labels)
    _copy_handoffs(session, old, row)
    touch_job(session, job)
    return row.id


def _with_sources(transcript: Transcript, recordings: Sequence[Recording]) -> Transcript:
    def source(old: Source, recording: Recording) -> Source:
        return replace(
            old,
            container="wav",
            codec="pcm_s16le",
            sample_rate=SAMPLE_RATE,
            channels=1,
            n_bytes=recording.n_bytes,
            sha256=None,
            identity=None,
        )

    pairs = zip(transcript.sources, recordings, strict=True)
    return replace(transcript, sources=tuple(source(old, new) for old, new in pairs))


def _move_review(
    session: DbSession,
    old: StoredTranscript,
    new: StoredTranscript,
    transcript: Transcript,
    labels: frozenset[str],
) -> None:
    """Give the new transcript the review of the old one, without mentions in the person's words."""
    review = session.get(Review, old.id)
    if review is None:
        return
    gone = {segment.id for segment in transcript.segments if segment.speaker in labels}
    session.add(
        Review(
            transcript_id=new.id,
            study_id=review.study_id,
            transcript_version=review.transcript_version,
            version=review.version + 1,
            roster_version=review.roster_version,
        )
    )
    session.flush()
    mentions = session.scalars(select(Mention).where(Mention.transcript_id == old.id)).all()
    for mention in mentions:
        if mention.segment in gone:
            session.delete(mention)
        else:
            mention.transcript_id = new.id
    session.flush()
    for table in (Decision, BlindSample):
        session.execute(
            update(table).where(table.transcript_id == old.id).values(transcript_id=new.id)
        )
    session.delete(review)
    session.flush()


def _copy_handoffs(session: DbSession, old: StoredTranscript, new: StoredTranscript) -> None:
    """Stages that have finished stay so; the others get the new transcript."""
    handoffs = session.scalars(select(Handoff).where(Handoff.transcript_id == old.id)).all()
    for each in handoffs:
        is_done = each.status == "completed"
        session.add(
            Handoff(
                study_id=each.study_id,
                transcript_id=new.id,
                stage=each.stage,
                status="completed" if is_done else "open",
                transcript_version=new.version if is_done else None,
                finished_at=each.finished_at if is_done else None,
            )
        )
    session.flush()


def _releases(session: DbSession, transcript_id: UUID) -> Sequence[Release]:
    """The releases of a transcript that are not erased, newest first."""
    query = select(Release).where(
        Release.transcript_id == transcript_id, Release.erased_at.is_(None)
    )
    return session.scalars(query.order_by(Release.number.desc())).all()


def _files(session: DbSession, jobs: Iterable[Job], recordings: Iterable[Recording]) -> list[UUID]:
    return files_of(session, [job.id for job in jobs], [each.id for each in recordings])


def files_of(session: DbSession, jobs: Sequence[UUID], recordings: Sequence[UUID]) -> list[UUID]:
    """Ids of the files of jobs and recordings in the identified class."""
    files: list[UUID | None] = []
    for recording in session.scalars(select(Recording).where(Recording.id.in_(recordings))):
        files += [
            recording.id,
            recording.metadata_artefact_id,
            recording.playback_artefact_id,
            recording.peaks_artefact_id,
        ]
    for job in session.scalars(select(Job).where(Job.id.in_(jobs))):
        files.append(job.vocabulary_artefact_id)
    stages = select(JobStage.artefact_id).where(JobStage.job_id.in_(jobs))
    files += session.scalars(stages)
    for row in session.scalars(select(StoredTranscript).where(StoredTranscript.job_id.in_(jobs))):
        files.append(row.artefact_id)
        for entry in list_versions(session, row):
            files += [entry.artefact_id, entry.snapshot_artefact_id]
        files += session.scalars(
            select(Handoff.occurrences_artefact_id).where(Handoff.transcript_id == row.id)
        )
        files += [each.artefact_id for each in lock_masked_audio(session, row.id)]
    return [id for id in files if id is not None]
