"""Where a job's stage results are stored, so that an interrupted job resumes where it stopped.

Imports nothing, so that the worker can use it without loading torch.
"""

from typing import Protocol


class StageResults(Protocol):
    """The stored stage results of one job, as bytes.

    The name is a stage's, or "embeddings" in `load`: those of an earlier diarisation with other
    options.
    """

    def load(self, stage: str) -> bytes | None:
        """Return the stored result of a stage, None if there is none."""

    def save(self, stage: str, data: bytes) -> None: ...

    def discard(self) -> None:
        """Forget all stored results: every stage is computed again."""


class NoStageResults:
    """Stores nothing, for a run that is never resumed."""

    def load(self, stage: str) -> bytes | None:
        return None

    def save(self, stage: str, data: bytes) -> None:
        pass

    def discard(self) -> None:
        pass
