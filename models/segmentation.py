"""Local speakers and speech regions, from pyannote's segmentation model.

The model looks at chunks of some seconds that overlap, and says for every frame which of a few
speakers, local to the chunk, are speaking. It is run once per session: its output is the voice
activity detection that the windows are cut from, and the first half of the diarisation.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.audio import SAMPLE_RATE
from models.progress import Progress, ignore


@dataclass(frozen=True)
class SpeechRegion:
    """Somebody speaks, [start, end) in seconds."""

    start: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Segmentation:
    """What the model found in each chunk.

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


def segment(pipeline: Any, samples: np.ndarray, progress: Progress = ignore) -> Segmentation:
    """Run the segmentation model of a pyannote `SpeakerDiarization` pipeline once.

    Args:
        samples: float32, (n_samples,), 16 kHz.
    """
    inference = pipeline._segmentation

    def hook(completed: int, total: int) -> None:
        progress(min(1.0, completed / total))

    waveform = torch.from_numpy(samples)[None]  # (1, n_samples)
    found = inference.slide(waveform, SAMPLE_RATE, hook)
    frames = inference.model.receptive_field
    return Segmentation(
        activity=found.data.astype(np.float32, copy=False),
        chunk_duration=found.sliding_window.duration,
        chunk_step=found.sliding_window.step,
        frame_duration=frames.duration,
        frame_step=frames.step,
        audio_duration=len(samples) / SAMPLE_RATE,
    )


def speech_regions(segmentation: Segmentation) -> tuple[SpeechRegion, ...]:
    """Stretches in which at least one speaker is active, as most chunks see it.

    A frame of the session is speech when at least half of the chunks that cover it say so, which is
    how pyannote counts speakers (`SpeakerDiarizationMixin.speaker_count`).
    """
    speech = segmentation.activity.max(axis=2) > 0.5  # (n_chunks, n_frames)
    n_chunks, n_frames = speech.shape
    first = np.rint(np.arange(n_chunks) * segmentation.chunk_step / segmentation.frame_step)
    first = first.astype(int)
    votes = np.zeros(first[-1] + n_frames)
    voters = np.zeros_like(votes)
    for chunk, start in zip(speech, first, strict=True):
        votes[start : start + n_frames] += chunk
        voters[start : start + n_frames] += 1
    active = np.concatenate([[False], votes >= 0.5 * np.maximum(voters, 1), [False]])
    edges = np.flatnonzero(active[1:] != active[:-1])
    # The centre of frame j is half a frame's duration after its start: that is where it changed.
    times = edges * segmentation.frame_step + segmentation.frame_duration / 2
    times = np.clip(times, 0.0, segmentation.audio_duration)
    times[edges == 0] = 0.0
    return tuple(
        SpeechRegion(float(start), float(end))
        for start, end in zip(times[::2], times[1::2], strict=True)
        if end > start
    )
