"""What a worker and its engine child say to each other: one JSON document on each line.

To the child: a job (`EngineJob`), or `{"stop": true}`. From the child: `{"event": ...}`, which is
`loaded`, `progress`, `saved`, `discarded`, and at the end `done`, `stopped` or `failed`.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol
from uuid import UUID

from models.transcript import Transcript
from service.vault.store import Artefact
from service.vault.streaming import Key

VOCABULARY = "vocabulary"
TRANSCRIPT = "transcript"
EMBEDDINGS = "embeddings"  # the result of a diarisation with other options


@dataclass(frozen=True)
class EngineJob:
    """
    Args:
        recordings: in order.
        kept: artefacts by the stage whose result they are.
        keys: of the recordings, and one for what is made of them, by the id of the job.
    """

    id: UUID
    study_id: UUID
    recordings: tuple[UUID, ...]
    options: Mapping[str, Any]
    vocabulary_artefact_id: UUID | None
    whisper_model: str
    whisper_sha256: str
    diarisation_pipeline: str
    diarisation_sha256: str
    kept: Mapping[str, UUID]
    keys: Mapping[UUID, Key] = field(default_factory=dict)

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
            "vocabulary_artefact_id": self.vocabulary_artefact_id
            and str(self.vocabulary_artefact_id),
            "kept": {stage: str(id) for stage, id in self.kept.items()},
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
                "vocabulary_artefact_id": None if vocabulary is None else UUID(vocabulary),
                "kept": {stage: UUID(id) for stage, id in message["kept"].items()},
                "keys": keys_from_json(message["keys"]),
            }
        )


def stage_kind(stage: str) -> str:
    return f"stage_{stage}"


def keys_from_json(plain: Mapping[str, str]) -> dict[UUID, Key]:
    return {UUID(id): Key(base64.b64decode(secret)) for id, secret in plain.items()}


class Kept(Protocol):
    def load(self, stage: str) -> bytes | None: ...

    def save(self, stage: str, data: bytes) -> None: ...

    def discard(self) -> None:
        """What was kept is of no use: from now on there is none, and all stages are done again."""


class Engine(Protocol):
    """What the child runs: `service.pipeline_engine`, in tests one that loads no torch.

    Its module has `open_engine(weights_folder, precision) -> Engine`; precision None: the default.
    """

    device: str

    def load(self, job: EngineJob) -> dict[str, float] | None:
        """Get the job's models ready.

        Returns:
            Seconds per second of audio of the costly stages, from a trial, if they were loaded now.

        Raises:
            SpeechError: they cannot be.
        """

    def transcribe(
        self,
        job: EngineJob,
        recordings: Sequence[BinaryIO],
        vocabulary: Sequence[str],
        on_progress: Callable[[str, float], None],
        kept: Kept,
    ) -> Transcript:
        """
        Args:
            on_progress: stage and its fraction; raises `Stopped` when the job is to stop.

        Raises:
            SpeechError
        """

    def unload(self) -> None:
        """Let go of the models, and of the memory of the card."""
