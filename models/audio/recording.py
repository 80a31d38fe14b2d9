"""Recordings as data: what their headers declare, decoded samples, levels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SAMPLE_RATE = 16_000  # Hz, what Whisper was trained on


@dataclass(frozen=True)
class Track:
    """One audio track of a file."""

    index: int  # ffmpeg's number, which counts pictures too
    number: int  # among the audio tracks, from 1
    codec: str
    sample_rate: int  # Hz
    channels: int
    start: float = 0.0  # s, first timestamp, on the file's own clock
    is_reserve: bool = False  # read only if all others are silent


@dataclass(frozen=True)
class RecordingInfo:
    """What the headers of a recording declare. Tags are never read.

    `duration` is None where the file declares none, as with AMR, DSS, Ogg, raw AAC, live WebM,
    streamed WAV and many MP3s. An estimate from the bit rate could be wrong by minutes.
    """

    container: str  # ffmpeg's name, "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str  # of the first track that is read
    sample_rate: int  # Hz, of that track
    channels: int  # of all tracks that are read
    duration: float | None
    n_bytes: int
    tracks: tuple[Track, ...] = ()  # to be read
    clock_start: float = 0.0  # s, the timestamp at which the file's clock starts
    is_duration_certain: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Levels:
    """Duration of a recording and levels of each channel in dBFS, without its samples."""

    duration: float
    peak_dbfs: tuple[float, ...]
    mean_dbfs: tuple[float, ...]  # RMS


@dataclass(frozen=True, eq=False)
class DecodedRecording:
    """Decoded audio: `samples` is float32, (n_channels, n_samples), 16 kHz."""

    samples: np.ndarray
    info: RecordingInfo
    warnings: tuple[str, ...] = ()  # for the transcript: what was left out, missing or doubtful

    @property
    def duration(self) -> float:
        """Seconds of decoded samples."""
        return float(self.samples.shape[1] / SAMPLE_RATE)

    @cached_property
    def peak_dbfs(self) -> tuple[float, ...]:
        """Loudest sample of each channel: 0 is full scale, -inf digital silence."""
        return tuple(peak_dbfs(channel) for channel in self.samples)

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """RMS of each channel in dBFS."""
        return tuple(dbfs(rms(channel)) for channel in self.samples)


def dbfs(amplitude: float) -> float:
    return 20.0 * math.log10(amplitude) if amplitude != 0 else -math.inf


def peak_dbfs(channel: np.ndarray) -> float:
    """Loudest sample; -inf for none. NaN where a sample is not a number."""
    return dbfs(float(max(channel.max(), -channel.min()))) if len(channel) else -math.inf


def rms(channel: np.ndarray) -> float:
    """Computed a minute at a time: a single float32 sum over hours would lose precision."""
    blocks = (channel[i : i + 60 * SAMPLE_RATE] for i in range(0, len(channel), 60 * SAMPLE_RATE))
    return math.sqrt(sum(float(np.dot(block, block)) for block in blocks) / len(channel))


def join(recordings: Sequence[DecodedRecording]) -> tuple[np.ndarray, tuple[float, ...]]:
    """Join recordings into one timeline.

    Returns:
        Samples, (n_channels, n_samples), and the second at which each recording starts.
    """
    if len({len(recording.samples) for recording in recordings}) != 1:
        raise ValueError("recordings of one session must have the same number of channels")
    lengths = [recording.samples.shape[1] for recording in recordings]
    starts = np.cumsum([0, *lengths[:-1]]) / SAMPLE_RATE
    if len(recordings) == 1:  # avoid copying hours of audio
        return recordings[0].samples, (0.0,)
    samples = np.concatenate([recording.samples for recording in recordings], axis=1)
    return samples, tuple(starts.tolist())


def duration_in_words(seconds: float) -> str:
    """8.3 s, 4 min 5 s, 2 h 3 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
