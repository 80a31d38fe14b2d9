"""The messages between a worker and its engine child, and the interface of an engine.

Messages are JSON documents, one a line. To the child: `{"jobs": [...]}`, a group to transcribe
together (`EngineJob`); about a job of the group `{"stop": ID}`; `{"yield": true}`, to hand back the
jobs that can wait; and between groups `{"check": true}`, which it answers with `checked` or dies
of. From the child about a job: `{"event": ..., "job": ID}`, which is `loaded`, `progress`, `saved`
or `discarded`, and last `done`, `stopped`, `failed` or `handed_back`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol

from models.stage_results import StageResults
from models.transcript import Transcript
from service.domain.engine_job import EngineJob

# Modules that the worker starts in another process. It must not import them: they load torch.
ENGINE_CHILD = "service.worker.engine_child"
PIPELINE_ENGINE = "service.worker.pipeline_engine"

LAST_EVENTS = ("done", "stopped", "failed", "handed_back")  # about a job

OnProgress = Callable[[str, float], None]


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

    def segment(
        self,
        job: EngineJob,
        recordings: Iterator[BinaryIO],
        on_progress: OnProgress,
        results: StageResults,
    ) -> Any:
        """Read the recordings of a job and find their speech.

        Args:
            recordings: the job's, in order. Taking the next closes the one before, which frees its
                memory.
            on_progress: called with a stage and the finished fraction of it; raises `Stopped` when
                the job is to stop.

        Returns:
            The job's session, for `find_words`.

        Raises:
            SpeechError
        """

    def find_words(self, sessions: Sequence[Any], on_progress: OnProgress) -> Sequence[Any]:
        """Find the words of several sessions together.

        Returns:
            The sessions, for `finish`.

        Raises:
            SpeechError
        """

    def finish(self, session: Any, on_progress: OnProgress) -> Transcript:
        """Find out who spoke when, and write the transcript.

        Raises:
            SpeechError
        """

    def unload(self) -> None:
        """Unload the models and free their device memory."""
