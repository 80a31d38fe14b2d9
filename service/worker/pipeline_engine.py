"""The service's engine: it runs models/pipeline.py. Only the engine child imports it."""

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from models.audio.decode import decode
from models.device import check_device
from models.gates import check_gates
from models.options import Channels
from models.pipeline import Pipeline, SegmentedSession, StageProgress, TranscribedSession
from models.precision import Precision
from models.stage_results import StageResults
from models.transcript import Transcript
from models.weights.catalogue import find_pipeline, find_whisper
from service.domain.engine_job import EngineJob
from service.domain.job_errors import WeightsChanged
from service.worker.protocol import OnProgress


def open_engine(weights: Path, precision: Precision | None) -> "PipelineEngine":
    return PipelineEngine(weights, precision)


class PipelineEngine:
    """Keeps the last job's models loaded until a job needs different ones, or until `unload`."""

    def __init__(self, weights: Path, precision: Precision | None) -> None:
        self._weights, self._precision = weights, precision
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device = str(self._device)
        self._pipeline: Pipeline | None = None

    def check(self) -> None:
        check_device(self._device)

    def load(self, job: EngineJob) -> dict[str, float] | None:
        whisper = find_whisper(job.whisper_model, self._weights)
        diarisation = find_pipeline(job.diarisation_pipeline, self._weights)
        if (whisper.sha256, diarisation.sha256) != (job.whisper_sha256, job.diarisation_sha256):
            raise WeightsChanged(
                "The weights have changed since the job was submitted: rerun the job"
            )
        check_gates(self._precision, self._device, whisper, diarisation, self._weights)
        loaded = self._pipeline
        if loaded and (loaded.whisper_weights, loaded.diarisation_weights) == (
            whisper,
            diarisation,
        ):
            return None
        self.unload()  # the old and new models may not fit on the GPU together
        self._pipeline = Pipeline(whisper, diarisation, self._device, self._precision)
        return self._pipeline.measure_speed()

    def segment(
        self,
        job: EngineJob,
        recordings: Iterator[BinaryIO],
        on_progress: OnProgress,
        results: StageResults,
    ) -> SegmentedSession:
        assert self._pipeline is not None
        split = job.options.channels != Channels.MIX
        decoded = []
        for i, file in enumerate(recordings):
            share = i / len(job.recordings)

            def report_ingest(_: object, share: float = share) -> None:
                on_progress("ingest", share)

            decoded.append(decode(file, split_channels=split, on_progress=report_ingest))
        on_progress("ingest", 1.0)
        return self._pipeline.segment(decoded, job.options, _reporter(on_progress), results)

    def find_words(
        self, sessions: Sequence[SegmentedSession], on_progress: OnProgress
    ) -> Sequence[TranscribedSession]:
        assert self._pipeline is not None
        return self._pipeline.find_words(sessions, _reporter(on_progress))

    def finish(self, session: TranscribedSession, on_progress: OnProgress) -> Transcript:
        assert self._pipeline is not None
        report = _reporter(on_progress)
        return self._pipeline.finish(self._pipeline.diarise(session, report), report)

    def unload(self) -> None:
        self._pipeline = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _reporter(on_progress: OnProgress) -> Callable[[StageProgress], None]:
    return lambda progress: on_progress(progress.stage, progress.fraction)
