"""What a worker and its engine child say to each other: one JSON document on each line.

To the child: a job (`EngineJob`), or `{"stop": true}`. From the child: `{"event": ...}`, which is
`loaded`, `progress`, `saved`, `discarded`, and at the end `done`, `stopped` or `failed`.
"""

from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from models.stage_results import StageResults
from models.transcript import Transcript
from service.domain.engine_job import EngineJob


class Engine(Protocol):
    """What the child runs: `service.worker.pipeline_engine`, in tests one that loads no torch.

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
        results: StageResults,
    ) -> Transcript:
        """
        Args:
            on_progress: stage and its fraction; raises `Stopped` when the job is to stop.

        Raises:
            SpeechError
        """

    def unload(self) -> None:
        """Let go of the models, and of the memory of the card."""
