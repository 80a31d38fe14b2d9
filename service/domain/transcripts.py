"""Transcripts: read from the vault, and the names of their speakers.

ServiceError
├── TranscriptNotFound
└── UnknownSpeaker
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy.orm import Session as DbSession

from models.overlaps import find_overlaps
from models.transcript import Transcript
from models.transcript_json import from_json, to_json
from service.database import tables
from service.database.tables import Job, StoredTranscript
from service.domain import results
from service.domain.callers import Caller
from service.domain.engine_job import TRANSCRIPT
from service.domain.jobs import refuse_erased
from service.errors import ServiceError
from service.services import Services

N_TURNS = 3  # per speaker, to listen to


class TranscriptNotFound(ServiceError):
    """There is no such transcript, or it is not yours."""

    code: ClassVar[str] = "transcript_not_found"
    status: ClassVar[int] = 404


class UnknownSpeaker(ServiceError):
    """The transcript has no speaker with this label."""

    code: ClassVar[str] = "unknown_speaker"
    status: ClassVar[int] = 422


Speakers = Mapping[str, Mapping[str, str | None]]
"""Label: {"role", "code"}"""


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


def read_document(services: Services, transcript: StoredTranscript) -> dict[str, Any]:
    """The transcript's JSON, with speaker labels, and an id for each segment.

    Raises:
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    study_id, job_id = transcript.study_id, transcript.job_id
    data = results.read(services, study_id, job_id, TRANSCRIPT, transcript.artefact_id)
    document: dict[str, Any] = json.loads(to_json(from_json(data.decode())))
    return document


def session_code(session: DbSession, transcript: StoredTranscript) -> str | None:
    job = session.get_one(Job, transcript.job_id)
    interview = session.get(tables.Session, job.session_id) if job.session_id else None
    return interview.code if interview else None


# --- names for speakers ---------------------------------------------------------------------------


def name_speakers(transcript: StoredTranscript, speakers: Speakers) -> None:
    """Set the role and code of each speaker.

    Args:
        speakers: by label. Speakers that are missing lose their role and code.

    Raises:
        UnknownSpeaker
    """
    if set(speakers) - set(transcript.speakers):
        labels = ", ".join(sorted(transcript.speakers))
        raise UnknownSpeaker(f"The transcript's speakers are {labels}")
    unnamed = {"role": None, "code": None}
    transcript.speakers = {
        label: dict(speakers.get(label, unnamed)) for label in transcript.speakers
    }
    transcript.version += 1


def names_of(labels: list[str], speakers: Speakers) -> dict[str, str]:
    """The name that each label is shown with: its code, otherwise its role, otherwise the label.

    Labels with the same code are one person, whom diarisation split. Labels with the
    same role are different people, and are numbered.
    """
    codes = {label: speakers.get(label, {}).get("code") for label in labels}
    roles = {label: speakers.get(label, {}).get("role") for label in labels}
    uncoded = Counter(roles[label] for label in labels if codes[label] is None)
    seen: Counter[str] = Counter()
    names = {}
    for label in labels:
        code, role = codes[label], roles[label]
        if code is not None:
            names[label] = code
        elif role is not None:
            seen[role] += 1
            names[label] = role if uncoded[role] == 1 else f"{role} {seen[role]}"
        else:
            names[label] = label
    return names


def with_names(document: dict[str, Any], speakers: Speakers) -> Transcript:
    """The transcript with names in place of labels.

    Labels with the same code are one person, whose overlaps with themselves are left out.
    """
    names = names_of(document["speakers"], speakers)

    def named(labels: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(names.get(label, label) for label in labels))

    def renamed(thing: dict[str, Any]) -> dict[str, Any]:
        return {**thing, "speaker": names.get(thing["speaker"], thing["speaker"])}

    def renamed_all(thing: dict[str, Any]) -> dict[str, Any]:
        return {
            key: named(value) if isinstance(value, list | tuple) else value
            for key, value in thing.items()
        }

    shown = {
        **document,
        "speakers": named(document["speakers"]),
        "segments": [renamed(segment) for segment in document["segments"]],
        "turns": [renamed(turn) for turn in document["turns"]],
        "overlaps": [renamed_all(overlap) for overlap in document["overlaps"]],
    }
    made = from_json(json.dumps(shown))
    if len(made.speakers) == len(document["speakers"]):
        return made
    return replace(made, overlaps=find_overlaps(made.turns, made.segments))


@dataclass(frozen=True)
class LongTurn:
    """A turn to listen to; `recording_start` is `start` on the recording's own timeline."""

    start: float
    end: float
    recording_id: UUID
    recording_start: float


def longest_turns(document: dict[str, Any], recordings: list[UUID]) -> dict[str, list[LongTurn]]:
    """The longest turns of each speaker, in order of time."""
    starts = [source["start"] for source in document["sources"]]

    def placed(turn: dict[str, Any]) -> LongTurn:
        i = max(i for i, start in enumerate(starts) if start <= turn["start"])
        return LongTurn(
            turn["start"], turn["end"], recordings[i], round(turn["start"] - starts[i], 3)
        )

    return {
        label: [
            placed(turn)
            for turn in sorted(
                heapq.nlargest(
                    N_TURNS,
                    (turn for turn in document["turns"] if turn["speaker"] == label),
                    key=lambda turn: turn["end"] - turn["start"],
                ),
                key=lambda turn: turn["start"],
            )
        ]
        for label in document["speakers"]
    }
