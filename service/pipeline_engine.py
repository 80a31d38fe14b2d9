"""The engine of the service: models/pipeline.py. Only the engine child imports it, and torch."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar

import torch

from models.audio import SAMPLE_RATE, Recording, decode
from models.channels import Channels, timeline_of
from models.diarisation import SpeakerCount
from models.errors import WeightsError
from models.pipeline import Pipeline, TranscribeOptions
from models.results import unpack_segmentation
from models.roster import RosterEntry
from models.transcript import Transcript
from models.weights import find_pipeline, find_whisper
from service.engine import EngineJob, Kept


class WeightsChanged(WeightsError):
    """The installed weights are not those that the job was submitted with."""

    code: ClassVar[str] = "weights_changed"


def open_engine(weights: Path) -> "PipelineEngine":
    return PipelineEngine(weights)


class PipelineEngine:
    """Holds the models of the last job until another one needs others, or `unload`."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device = str(self._device)
        self._pipeline: Pipeline | None = None

    def load(self, job: EngineJob) -> dict[str, float] | None:
        whisper = find_whisper(job.whisper_model, self._weights)
        diarisation = find_pipeline(job.diarisation_pipeline, self._weights)
        if (whisper.sha256, diarisation.sha256) != (job.whisper_sha256, job.diarisation_sha256):
            raise WeightsChanged("The weights have changed since the job was submitted: rerun it")
        loaded = self._pipeline
        if loaded and (loaded.whisper_weights, loaded.diarisation_weights) == (
            whisper,
            diarisation,
        ):
            return None
        self.unload()  # both at once may not fit on the card
        self._pipeline = Pipeline(whisper, diarisation, self._device)
        return self._pipeline.seconds_per_second()

    def transcribe(
        self,
        job: EngineJob,
        recordings: Sequence[BinaryIO],
        vocabulary: Sequence[str],
        on_progress: Callable[[str, float], None],
        kept: Kept,
    ) -> Transcript:
        assert self._pipeline is not None
        options = TranscribeOptions(
            language=job.options.get("language"),
            speakers=SpeakerCount(job.options.get("speakers_min"), job.options.get("speakers_max")),
            vocabulary=tuple(vocabulary),
            channels=Channels(job.options.get("channels", Channels.AUTO)),
            roster=tuple(RosterEntry(**entry) for entry in job.options.get("roster", ())),
        )
        split = options.channels != Channels.MIX
        decoded = []
        for i, file in enumerate(recordings):
            share = i / len(recordings)

            def alive(_: object, share: float = share) -> None:
                on_progress("ingest", share)

            decoded.append(decode(file, split_channels=split, on_progress=alive))
        on_progress("ingest", 1.0)
        if job.kept and not fits(kept, decoded, options):
            kept.discard()
        return self._pipeline.transcribe(
            decoded,
            options,
            lambda progress: on_progress(progress.stage, progress.fraction),
            kept,
        )

    def unload(self) -> None:
        self._pipeline = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def fits(kept: Kept, recordings: Sequence[Recording], options: TranscribeOptions) -> bool:
    """Whether what was kept is of the timeline that the models are to hear now.

    Where each channel is a speaker they hear the channels one after the other, else a mix of them.
    Which it is may hang on the number of speakers, and another one may be asked for in a rerun.
    """
    if all(len(recording.samples) == 1 for recording in recordings):
        return True  # there is one timeline only
    if (data := kept.load("segment")) is None:
        return False
    speakers = options.expected.minimum, options.expected.maximum
    timeline = timeline_of(recordings, options.channels, speakers)
    return unpack_segmentation(data).audio_duration == len(timeline.samples) / SAMPLE_RATE
