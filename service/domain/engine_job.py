"""A claimed job as it is sent to the engine child, with only the keys it needs."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from models.options import JobOptions
from service.vault.store import Artefact
from service.vault.streaming import Key

VOCABULARY = "vocabulary"
TRANSCRIPT = "transcript"
VOCABULARY_MISSING = (
    "The vocabulary was missing from the vault, so the job ran without it. Upload the vocabulary "
    "again, then transcribe again."
)
EMBEDDINGS = "embeddings"  # the result of diarisation with another number of speakers


@dataclass(frozen=True)
class EngineJob:
    """
    Args:
        recordings: in order.
        options: without the vocabulary, which the engine child reads from its artefact.
        stored: artefact ids of stored results, by stage.
        keys: data keys by id, of the recordings and of the job itself.
    """

    id: UUID
    study_id: UUID
    recordings: tuple[UUID, ...]
    options: JobOptions
    vocabulary_artefact_id: UUID | None
    whisper_model: str
    whisper_sha256: str
    diarisation_pipeline: str
    diarisation_sha256: str
    stored: Mapping[str, UUID]
    keys: Mapping[UUID, Key] = field(default_factory=dict)
    audio_seconds: float = 0.0

    def artefact(self, kind: str, id: UUID) -> Artefact:
        return Artefact(self.study_id, self.id, kind, id)

    def stage_artefact(self, stage: str, id: UUID) -> Artefact:
        return self.artefact(stage_kind("diarise" if stage == EMBEDDINGS else stage), id)

    def to_message(self) -> dict[str, Any]:
        return {
            **vars(self),
            "id": str(self.id),
            "study_id": str(self.study_id),
            "recordings": [str(id) for id in self.recordings],
            "options": self.options.to_row(),
            "vocabulary_artefact_id": self.vocabulary_artefact_id
            and str(self.vocabulary_artefact_id),
            "stored": {stage: str(id) for stage, id in self.stored.items()},
            "keys": {
                str(id): base64.b64encode(key.secret).decode() for id, key in self.keys.items()
            },
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "EngineJob":
        vocabulary = message["vocabulary_artefact_id"]
        return cls(
            **{
                **message,
                "id": UUID(message["id"]),
                "study_id": UUID(message["study_id"]),
                "recordings": tuple(UUID(id) for id in message["recordings"]),
                "options": JobOptions.from_row(message["options"]),
                "vocabulary_artefact_id": None if vocabulary is None else UUID(vocabulary),
                "stored": {stage: UUID(id) for stage, id in message["stored"].items()},
                "keys": keys_from_json(message["keys"]),
            }
        )


def stage_kind(stage: str) -> str:
    return f"stage_{stage}"


def keys_from_json(plain: Mapping[str, str]) -> dict[UUID, Key]:
    return {UUID(id): Key(base64.b64decode(secret)) for id, secret in plain.items()}
