"""Local speakers and speech regions, from pyannote's segmentation model.

The model sees overlapping chunks of some seconds. For every frame it tells which of a few speakers,
local to the chunk, are speaking. It runs once per session: its output serves as the voice activity
detection that windows are cut from, and as the first half of diarisation.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.audio.recording import SAMPLE_RATE
from models.device import exact_on, in_batches
from models.diarisation.speaker_models import SpeakerModels
from models.progress import Progress, ignore

BATCH = {"cpu": 8, "cuda": 256}
"""Chunks at once. On a CPU, more would not fit in its cache. On a GPU, the LSTM's 589 steps take
as long for one chunk as for many; each needs 15 MB."""


@dataclass(frozen=True)
class SpeechRegion:
    """An interval, [start, end) in seconds, in which somebody speaks."""

    start: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Segmentation:
    """The segmentation model's output for each chunk.

    `activity`: float32, (n_chunks, n_frames, n_local_speakers), 1 where a speaker is active.
    Chunk i starts at i * chunk_step and lasts chunk_duration; frame j of a chunk covers
    frame_duration from the chunk's start + j * frame_step (pyannote's receptive field). Seconds.
    """

    activity: np.ndarray
    chunk_duration: float
    chunk_step: float
    frame_duration: float
    frame_step: float
    audio_duration: float

    # Matrix products, because numpy's `any` and `sum` over these axes take ten times as long.
    @property
    def is_active(self) -> np.ndarray:
        """Whether each local speaker says anything; bool, (n_chunks, n_local_speakers)."""
        active: np.ndarray = np.ones(self.activity.shape[1], dtype=np.float32) @ self.activity > 0
        return active

    @property
    def n_speaking(self) -> np.ndarray:
        """The number of active local speakers; float32, (n_chunks, n_frames)."""
        return functools.reduce(np.add, np.moveaxis(self.activity, 2, 0))

    @property
    def chunk_starts(self) -> np.ndarray:
        """Start of each chunk in seconds; float64, (n_chunks,)."""
        return np.arange(len(self.activity)) * self.chunk_step

    @property
    def first_frames(self) -> np.ndarray:
        """The session's frame at which each chunk starts; int64, (n_chunks,).

        Source: pyannote.core, `SlidingWindow.closest_frame`, in the same order of operations.
        """
        middle = self.chunk_starts + 0.5 * self.frame_duration
        return np.rint((middle - 0.5 * self.frame_duration) / self.frame_step).astype(np.int64)

    @property
    def n_session_frames(self) -> int:
        """The number of frames that pyannote's `Inference.aggregate` returns for these chunks."""
        half = 0.5 * self.frame_duration
        end = self.chunk_duration + (len(self.activity) - 1) * self.chunk_step + half
        return int(np.rint((end - half) / self.frame_step)) + 1


@torch.inference_mode()
def segment(
    models: SpeakerModels, samples: np.ndarray, progress: Progress = ignore
) -> Segmentation:
    """Run the segmentation model on a session.

    Args:
        samples: float32, (n_samples,), 16 kHz.

    Raises:
        OutOfMemory: not even one chunk fits on the device.

    Source: pyannote/audio/core/inference.py, `Inference.slide`.
    """
    model, device = models.segmentation, models.device
    n_window = round(models.chunk_duration * SAMPLE_RATE)
    n_step = round(models.chunk_step * SAMPLE_RATE)
    n_chunks = 1 + max(0, math.ceil((len(samples) - n_window) / n_step))
    speakers = torch.from_numpy(models.powerset).to(device)  # (n_powerset_classes, n_speakers)
    with exact_on(device):
        shape = n_chunks, model.num_frames(n_window), speakers.shape[1]
        activity = torch.empty(shape, dtype=torch.uint8, device=device)

        def step(first: int, last: int) -> None:
            begin, end = first * n_step, (last - 1) * n_step + n_window
            span = torch.from_numpy(cut_padded(samples, begin, end)).to(device)
            scores = _scores(model, span, n_window, n_step)
            activity[first:last] = speakers[scores.argmax(dim=-1)]
            progress(last / n_chunks)

        in_batches(n_chunks, BATCH[device.type], step, models.halvings)
        found = activity.cpu().numpy().astype(np.float32)
    frames = model.receptive_field
    return Segmentation(
        activity=found,
        chunk_duration=models.chunk_duration,
        chunk_step=models.chunk_step,
        frame_duration=frames.duration,
        frame_step=frames.step,
        audio_duration=len(samples) / SAMPLE_RATE,
    )


def cut_padded(samples: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Copy samples begin to end, with zeros after the recording's end; (end - begin,)."""
    cut = np.zeros(end - begin, dtype=np.float32)
    known = samples[begin:end]
    cut[: len(known)] = known
    return cut


def _scores(model: Any, span: Tensor, n_window: int, n_step: int) -> Tensor:
    """Run PyanNet on all chunks of a span; (n_chunks, n_frames, n_powerset_classes).

    Source: pyannote/audio/models/segmentation/PyanNet.py, `PyanNet.forward`.
    """
    outputs = _sincnet(model.sincnet, span, n_window, n_step).transpose(1, 2)
    for lstm in [model.lstm] if model.hparams.lstm["monolithic"] else model.lstm:
        outputs, _ = lstm(outputs)
    if model.hparams.linear["num_layers"] > 0:
        for linear in model.linear:
            outputs = F.leaky_relu(linear(outputs))
    scores: Tensor = model.activation(model.classifier(outputs))
    return scores


def _sincnet(sincnet: Any, span: Tensor, n_window: int, n_step: int) -> Tensor:
    """Run SincNet on all chunks of a span; (n_chunks, n_features, n_frames).

    Its first convolution, half of its work, is computed once for the whole span. The normalisation
    of each chunk before it is affine: with a and b from the chunk's mean and variance,
    convolve(a x + b) = a convolve(x) + b sum(filter).

    Source: pyannote/audio/models/blocks/sincnet.py, `SincNet.forward`.
    """
    chunks = span.unfold(0, n_window, n_step)  # (n_chunks, n_window), a view
    if n_step % sincnet.stride:
        outputs: Tensor = sincnet(chunks[:, None])
        return outputs
    norm, convolution = sincnet.wav_norm1d, sincnet.conv1d[0]
    variance, mean = torch.var_mean(chunks, dim=1, correction=0)
    scale = norm.weight / torch.sqrt(variance + norm.eps)  # (n_chunks,)
    shift = norm.bias - mean * scale
    sums = convolution.filterbank.filters().sum(dim=(1, 2))  # (n_filters,)
    whole = convolution(span[None, None])[0]  # (n_filters, n_span)
    n_out = (n_window - convolution.filterbank.kernel_size) // sincnet.stride + 1
    pooled = []
    for i in range(len(chunks)):
        begin = i * n_step // sincnet.stride
        normed = torch.addcmul(shift[i] * sums[:, None], whole[:, begin : begin + n_out], scale[i])
        pooled.append(sincnet.pool1d[0](normed.abs_()))
    outputs = F.leaky_relu(sincnet.norm1d[0](torch.stack(pooled)))
    later = zip(sincnet.conv1d[1:], sincnet.pool1d[1:], sincnet.norm1d[1:], strict=True)
    for convolve, pool, normalise in later:
        outputs = F.leaky_relu(normalise(pool(convolve(outputs))))
    return outputs


def find_speech_regions(segmentation: Segmentation) -> tuple[SpeechRegion, ...]:
    """Find the intervals in which at least one speaker is active.

    A frame of the session is speech if at least half of the chunks that cover it say so, which is
    how pyannote counts speakers (`SpeakerDiarizationMixin.speaker_count`).
    """
    speech = segmentation.n_speaking > 0.5  # (n_chunks, n_frames)
    n_frames = speech.shape[1]
    first = segmentation.first_frames
    votes = np.zeros(first[-1] + n_frames)
    voters = np.zeros_like(votes)
    for chunk, start in zip(speech, first, strict=True):
        votes[start : start + n_frames] += chunk
        voters[start : start + n_frames] += 1
    active = np.concatenate([[False], votes >= 0.5 * np.maximum(voters, 1), [False]])
    edges = np.flatnonzero(active[1:] != active[:-1])
    # The speech starts or stops in the middle of a frame.
    times = edges * segmentation.frame_step + segmentation.frame_duration / 2
    times = np.clip(times, 0.0, segmentation.audio_duration)
    times[edges == 0] = 0.0
    return tuple(
        SpeechRegion(float(start), float(end))
        for start, end in zip(times[::2], times[1::2], strict=True)
        if end > start
    )
