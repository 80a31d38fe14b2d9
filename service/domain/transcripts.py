"""Transcripts: every version, read from the vault, and turns to listen to.

The vault holds the transcript as the models wrote it, and a journal of changes, an encrypted
artefact for each.

ServiceError
├── TranscriptNotFound
└── VersionNotFound
"""

import hashlib
import heapq
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import ClassVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.corrections import apply, change_from_json
from models.transcript import Source, SpeakerName, Transcript, Turn
from models.transcript_json import from_json
from service.database import tables
from service.database.tables import (
    Correction,
    Job,
    JobRecording,
    Recording,
    StoredTranscript,
    Study,
)
from service.domain import audit, consent, results
from service.domain.callers import Caller
from service.domain.engine_job import TRANSCRIPT
from service.domain.jobs import refuse_erased
from service.domain.recordings import identified, keyed_digest
from service.errors import ServiceError
from service.services import Services

N_TURNS = 3  # per speaker, to listen to
CORRECTION, SNAPSHOT = "correction", "snapshot"  # kinds of artefacts
SNAPSHOT_EVERY = 50  # versions; reading a version opens at most this many artefacts


class TranscriptNotFound(ServiceError):
    """There is no such transcript, or it is not yours."""

    code: ClassVar[str] = "transcript_not_found"
    status: ClassVar[int] = 404


class VersionNotFound(ServiceError):
    """The transcript has no such version."""

    code: ClassVar[str] = "version_not_found"
    status: ClassVar[int] = 404


def find_transcript(
    session: DbSession, caller: Caller, transcript_id: UUID, *, lock: bool = False
) -> StoredTranscript:
    """
    Raises:
        TranscriptNotFound: it does not exist, or is not the caller's.
        Erased
    """
    transcript = session.get(StoredTranscript, transcript_id, with_for_update=lock or None)
    if transcript is None or not caller.may_see(transcript.study_id):
        raise TranscriptNotFound("There is no such transcript, or it is not yours")
    refuse_erased(session.get_one(Job, transcript.job_id))
    return transcript


def read_transcript(
    session: DbSession, services: Services, row: StoredTranscript, version: int | None = None
) -> Transcript:
    """Read a version of a transcript, with speakers as labels.

    Args:
        version: None for the newest.

    Raises:
        VersionNotFound
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    wanted = row.version if version is None else version
    if not row.first_version <= wanted <= row.version:
        raise VersionNotFound(
            f"The versions of this transcript are {row.first_version} to {row.version}"
        )
    identified(services)[1].data_key(row.study_id, row.job_id)  # without the key, nothing is read
    kept = services.transcripts.find(row.id, wanted)
    entries = session.scalars(
        select(Correction)
        .where(Correction.transcript_id == row.id, Correction.version <= wanted)
        .where(Correction.version > (kept.version if kept else 0))
        .order_by(Correction.version.desc())
        .limit(2 * SNAPSHOT_EVERY)
    ).all()
    later: list[Correction] = []
    for entry in entries:
        if entry.snapshot_artefact_id is not None:
            made = from_json(read_artefact(services, row, SNAPSHOT, entry.snapshot_artefact_id))
            break
        later.append(entry)
    else:
        made = kept or _read_first(services, row)
    for entry in reversed(later):
        change = change_from_json(read_artefact(services, row, CORRECTION, entry.artefact_id))
        made = apply(made, change)
    services.transcripts.keep(row.id, made)
    return replace(made, sources=_identify(session, row, made.sources))


def _identify(
    session: DbSession, row: StoredTranscript, sources: tuple[Source, ...]
) -> tuple[Source, ...]:
    """Add the keyed checksum of each recording, by which its transcripts know it."""
    query = (
        select(Recording.digest)
        .join(JobRecording, JobRecording.recording_id == Recording.id)
        .where(JobRecording.job_id == row.job_id)
        .order_by(JobRecording.position)
    )
    digests = session.scalars(query).all()
    if len(digests) != len(sources):
        return sources
    return tuple(
        replace(source, identity=None if digest is None else digest.hex())
        for source, digest in zip(sources, digests, strict=True)
    )


def _read_first(services: Services, row: StoredTranscript) -> Transcript:
    """The transcript as the models wrote it, with the names of the first readable version."""
    first = from_json(read_artefact(services, row, TRANSCRIPT, row.artefact_id))
    return replace(
        first,
        version=row.first_version,
        # Models name nobody. What a withdrawal has written has names, pseudonyms included.
        names=first.names
        or {
            label: SpeakerName(**name)
            for label, name in row.first_speakers.items()
            if any(name.values())
        },
    )


def read_artefact(services: Services, row: StoredTranscript, kind: str, artefact_id: UUID) -> str:
    """
    Raises:
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    return results.read(services, row.study_id, row.job_id, kind, artefact_id).decode()


def record_reading(
    services: Services,
    caller: Caller,
    row: StoredTranscript,
    version: int,
    format: str,
    content: bytes,
) -> None:
    """Record that somebody is about to get a transcript, before it is sent.

    The checksum is keyed with the study's key, so that content cannot be guessed from it, and so
    that it says nothing when the study is erased.
    """
    digest = keyed_digest(services, row.study_id, hashlib.sha256(content).digest())
    audit.record_now(
        services,
        caller,
        "transcript.read" if format == "json" else "transcript.exported",
        row.study_id,
        {"transcript": row.id},
        detail={"version": version, "format": format, "digest": digest.hex()},
    )


def require_export(session: DbSession, caller: Caller, row: StoredTranscript) -> None:
    """Check that those who took part have consented to an identified transcript.

    Raises:
        ConsentMissing
    """
    study = session.get_one(Study, row.study_id)
    consent.require_export(session, caller, study, find_interview(session, row))


def session_code(session: DbSession, transcript: StoredTranscript) -> str | None:
    interview = find_interview(session, transcript)
    return interview.code if interview else None


def find_interview(session: DbSession, transcript: StoredTranscript) -> tables.Session | None:
    """The session that a transcript is of, if its job had one."""
    job = session.get_one(Job, transcript.job_id)
    return session.get(tables.Session, job.session_id) if job.session_id else None


@dataclass(frozen=True)
class LongTurn:
    """A turn to listen to; `recording_start` is `start` on the recording's own timeline."""

    start: float
    end: float
    recording_id: UUID
    recording_start: float


def longest_turns(transcript: Transcript, recordings: list[UUID]) -> dict[str, list[LongTurn]]:
    """The longest turns of each speaker, in order of time.

    For a speaker whom only a person has heard, the longest segments.
    """
    starts = [source.start for source in transcript.sources]
    speakers = [source.speaker for source in transcript.sources]

    def placed(turn: Turn) -> LongTurn:
        i = (
            speakers.index(turn.speaker)
            if turn.speaker in speakers
            else max(i for i, start in enumerate(starts) if start <= turn.start)
        )
        return LongTurn(turn.start, turn.end, recordings[i], round(turn.start - starts[i], 3))

    turns = defaultdict[str, list[Turn]](list)
    for turn in transcript.turns:
        turns[turn.speaker].append(turn)
    segments = defaultdict[str, list[Turn]](list)
    for segment in transcript.segments:
        if segment.speaker is not None:
            segments[segment.speaker].append(Turn(segment.start, segment.end, segment.speaker))
    return {
        label: [
            placed(turn)
            for turn in sorted(
                heapq.nlargest(
                    N_TURNS,
                    turns.get(label) or segments[label],
                    key=lambda turn: turn.end - turn.start,
                ),
                key=lambda turn: turn.start,
            )
        ]
        for label in transcript.speakers
    }
