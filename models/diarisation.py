"""Segmentation to turns: who spoke when, with the stock pyannote.audio pipeline.

Two outputs: the full turns, which may overlap, say when several people spoke at once; the exclusive
turns, with at most one speaker at a time, are the ones that words are attributed with.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from models.audio import SAMPLE_RATE
from models.errors import OptionError, OutOfMemory
from models.progress import Progress, ignore, seconds_of
from models.segmentation import Segmentation
from models.transcript import Turn

MAX_SPEAKERS = 20
MAX_CLUSTERED = 8_000
"""Embeddings that are clustered; of more, from about two hours on, an even sample is. Clustering
takes the square of their number in memory: 0.5 GB at this one, 3 GB at twenty thousand."""


class BadSpeakerCount(OptionError):
    """A number of speakers below 1 or above 20, or a minimum above the maximum."""

    code = "bad_speaker_count"


@dataclass(frozen=True)
class SpeakerCount:
    """How many people speak: an exact number, bounds, or (None, None) where nobody knows."""

    minimum: int | None = None
    maximum: int | None = None

    def __post_init__(self) -> None:
        for bound in (self.minimum, self.maximum):
            if bound is not None and not 1 <= bound <= MAX_SPEAKERS:
                raise BadSpeakerCount(f"There can be 1 to {MAX_SPEAKERS} speakers, not {bound}.")
        if self.minimum and self.maximum and self.minimum > self.maximum:
            raise BadSpeakerCount(
                f"At least {self.minimum} and at most {self.maximum} speakers cannot both be true."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """`6` or `2-4`."""
        low, dash, high = text.partition("-")
        try:
            return cls(int(low), int(high if dash else low))
        except ValueError:
            raise BadSpeakerCount("A number of speakers is written 6, a range 2-4.") from None

    def __str__(self) -> str:
        if self.minimum == self.maximum:
            return "unknown" if self.minimum is None else str(self.minimum)
        return f"{self.minimum or 1}-{self.maximum or MAX_SPEAKERS}"


@dataclass(frozen=True)
class Diarisation:
    """Turns in order, speakers `SPEAKER_00`, `SPEAKER_01`, ... in the order of pyannote's clusters.

    `embeddings`: float32, (n_chunks, n_local_speakers, n_dimensions), NaN or meaningless where a
    local speaker is silent. With them `diarise` can be repeated in a fraction of the time.
    """

    turns: tuple[Turn, ...]
    exclusive_turns: tuple[Turn, ...]
    embeddings: np.ndarray
    sampled: bool  # the clustering saw MAX_CLUSTERED embeddings of more


def diarise(
    pipeline: Any,
    samples: np.ndarray,
    segmentation: Segmentation,
    speakers: SpeakerCount,
    progress: Progress = ignore,
    *,
    embeddings: np.ndarray | None = None,
) -> Diarisation:
    """Embed the local speakers, cluster them, and put the chunks together to turns.

    Args:
        pipeline: pyannote's `SpeakerDiarization`, whose segmentation model made `segmentation`.
        samples: float32, (n_samples,), 16 kHz.
        embeddings: of an earlier run on the same segmentation; None to compute them.

    Raises:
        OutOfMemory: a batch does not fit on the device.
    """
    found = embeddings

    def hook(step: str, artefact: Any, *, total: int = 0, completed: int = 0, **_: Any) -> None:
        nonlocal found
        if step == "embeddings" and total:
            progress(0.99 * completed / total)  # clustering takes the rest
        elif step == "embeddings":
            found = artefact

    file = {"waveform": torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE, "uri": "audio"}
    try:
        with _given(pipeline, segmentation, embeddings) as sampled, _tf32_as_found():
            output = pipeline.apply(
                file,
                num_speakers=speakers.minimum if speakers.minimum == speakers.maximum else None,
                min_speakers=speakers.minimum,
                max_speakers=speakers.maximum,
                hook=hook,
            )
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"Diarisation does not fit into the memory of {pipeline.device}.") from (
            error
        )
    progress(1.0)
    if found is None:  # nobody spoke
        found = np.zeros((*segmentation.activity.shape[::2], 0), dtype=np.float32)
    return Diarisation(
        turns=_turns(output.speaker_diarization),
        exclusive_turns=_turns(output.exclusive_speaker_diarization),
        embeddings=found.astype(np.float32, copy=False),
        sampled=bool(sampled),
    )


def _turns(annotation: Any) -> tuple[Turn, ...]:
    return tuple(
        Turn(round(float(turn.start), 3), round(float(turn.end), 3), speaker)
        for turn, _, speaker in annotation.itertracks(yield_label=True)
    )


def try_diarisation(pipeline: Any) -> tuple[float, float]:
    """Seconds of segmentation and of embedding per second of audio, from one chunk of noise."""
    inference, embedding = pipeline._segmentation, pipeline._embedding
    n_samples = round(inference.duration * SAMPLE_RATE)
    chunk = 0.01 * torch.randn(1, 1, n_samples, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, inference.model.num_frames(n_samples))
    n_local_speakers = len(inference.model.specifications.classes)
    per_chunk = seconds_of(lambda: inference.infer(chunk))
    per_speaker = seconds_of(lambda: embedding(chunk, masks=mask))
    return per_chunk / inference.step, n_local_speakers * per_speaker / inference.step


@contextmanager
def _given(
    pipeline: Any, segmentation: Segmentation, embeddings: np.ndarray | None
) -> Iterator[list[int]]:
    """Lets the pipeline use what there is already, and bounds what it clusters.

    Yields a list that is no longer empty afterwards if a sample was clustered.
    """
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    chunks = SlidingWindow(duration=segmentation.chunk_duration, step=segmentation.chunk_step)
    activity = SlidingWindowFeature(segmentation.activity, chunks)
    sampled: list[int] = []
    all_embeddings = pipeline.clustering.filter_embeddings

    def bounded(*args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found, chunk, speaker = all_embeddings(*args, **kwargs)
        if len(found) <= MAX_CLUSTERED:
            return found, chunk, speaker
        sampled.append(len(found))
        kept = np.linspace(0, len(found) - 1, MAX_CLUSTERED).astype(int)
        return found[kept], chunk[kept], speaker[kept]

    pipeline.get_segmentations = lambda file, hook=None: activity
    pipeline.clustering.filter_embeddings = bounded
    if embeddings is not None:
        pipeline.get_embeddings = lambda *args, **kwargs: embeddings
    try:
        yield sampled
    finally:
        pipeline.__dict__.pop("get_segmentations", None)
        pipeline.__dict__.pop("get_embeddings", None)
        pipeline.clustering.__dict__.pop("filter_embeddings", None)


@contextmanager
def _tf32_as_found() -> Iterator[None]:
    """pyannote.audio switches TF32 off for the whole process, Whisper included."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
