"""The messages between a worker and its engine child, and the interface of an engine.

Messages are JSON documents, one a line. To the child: a job (`EngineJob`), `{"stop": true}`, or
between jobs `{"check": true}`, which it answers with `checked` or dies of. From the child about a
job: `{"event": ...}`, which is `loaded`, `progress`, `saved` or `discarded`, and last `done`,
`stopped` or `failed`.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from models.stage_results import StageResults
from models.transcript import Transcript
from service.domain.engine_job import EngineJob

# Modules that the worker starts in another process. It must not import them: they load torch.
ENGINE_CHILD = "service.worker.engine_child"
PIPELINE_ENGINE = "service.worker.pipeline_engine"


class Engine(Protocol):
    """What the child runs jobs with: `PIPELINE_ENGINE`, or in tests one that loads no torch.

    Its module has `open_engine(weights_folder, precision) -> Engine`; a precision of None means the
    default.
    """

    device: str

    def check(self) -> None:
        """Compute something with a known result on the device.

        Raises:
            Exception: the device cannot be used, or the result is wrong.
        """

    def load(self, job: EngineJob) -> dict[str, float] | None:
        """Load the job's models, unless they are loaded already.

        Returns:
            Seconds per second of audio for each slow stage, from a trial run, or None if the models
            were loaded already.

        Raises:
            SpeechError: the models cannot be loaded.
        """

    def transcribe(
        self,
        job: EngineJob,
        recordings: Iterator[BinaryIO],
        on_progress: Callable[[str, float], None],
        results: StageResults,
    ) -> Transcript:
        """
        Args:
            recordings: the job's, in order. Taking the next closes the one before, which frees its
                memory.
            on_progress: called with a stage and the finished fraction of it; raises `Stopped` when
                the job is to stop.

        Raises:
            SpeechError
        """

    def unload(self) -> None:
        """Unload the models and free their device memory."""
