"""Clips of a speaker's turns, so that a person can hear who it is.

ServiceError
├── NoSuchTurn
└── TooLargeForClip
"""

import math
from collections.abc import Iterator
from typing import ClassVar
from uuid import UUID

from models.audio.clip import cut_clip
from models.audio.memory_file import memory_file
from service.database.tables import Recording
from service.domain import audit
from service.domain.callers import Caller
from service.domain.jobs import job_recordings
from service.domain.recordings import find_ready_recording, identified, place_of, sound_artefact
from service.domain.transcripts import find_transcript, longest_turns, read_transcript
from service.errors import ServiceError
from service.services import Services

MAX_SECONDS = 15.0
MAX_BYTES = 512 * 2**20  # ffmpeg needs the whole recording in memory
BLOCK_BYTES = 2**20


class NoSuchTurn(ServiceError):
    """The transcript has no such turn of this speaker."""

    code: ClassVar[str] = "turn_not_found"
    status: ClassVar[int] = 404


class TooLargeForClip(ServiceError):
    """The recording is too large to cut a clip from."""

    code: ClassVar[str] = "too_large_for_clip"
    status: ClassVar[int] = 422


def make_clip(
    services: Services, caller: Caller, transcript_id: UUID, label: str, number: int
) -> bytes:
    """The beginning of one of a speaker's longest turns, as WAV.

    Args:
        number: of the turn, from 0, as `longest_turns` lists them.

    Raises:
        TranscriptNotFound, NoSuchTurn, TooLargeForClip
        RecordingNotFound, RecordingNotReady, RecordingRefused, AudioError
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    with services.sessionmaker() as session:
        row = find_transcript(session, caller, transcript_id)
        transcript = read_transcript(session, services, row)
        turns = longest_turns(transcript, job_recordings(session, row.job_id)).get(label, [])
        if number >= len(turns):
            raise NoSuchTurn(f"{len(turns)} turns of this speaker can be listened to")
        turn = turns[number]
        recording = find_ready_recording(session, caller, turn.recording_id)
    if recording.n_bytes > MAX_BYTES:
        raise TooLargeForClip(
            f"Clips are cut from recordings of at most {MAX_BYTES >> 20} MiB: listen to the "
            "recording itself"
        )
    end = turn.recording_start + min(turn.end - turn.start, MAX_SECONDS)
    with memory_file(_decrypt(services, recording)) as file:
        clip = cut_clip(file, turn.recording_start, end)
    audit.record_now(
        services,
        caller,
        "recording.played",
        recording.study_id,
        {**place_of(recording), "transcript": transcript_id},
        detail={"seconds": [[math.floor(turn.recording_start), math.ceil(end)]]},
    )
    return clip


def _decrypt(services: Services, recording: Recording) -> Iterator[bytes]:
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    with store.open(sound_artefact(recording), key) as file:
        while block := file.read(BLOCK_BYTES):
            yield block
