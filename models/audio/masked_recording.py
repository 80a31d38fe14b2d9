"""Writes a masked copy of a recording as WAV, without keeping its samples in memory.

The recording is decoded twice: the first time to find its length, its level and the tracks that
have sound, the second time to write.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from models.audio.decode import Findings, Hole, read_tracks, track_blocks, with_hole
from models.audio.errors import DecodeFailed
from models.audio.ffmpeg_input import FfmpegInput, open_source
from models.audio.limits import is_silent, refuse_bad_levels, refuse_too_short
from models.audio.masking import MaskedSpan, Style, mask_samples, tone_level
from models.audio.playback import mix
from models.audio.probe import probe
from models.audio.recording import SAMPLE_RATE, RecordingInfo, Track, dbfs, peak_dbfs

HEADER_BYTES = 44
Progress = Callable[[float], None]


@dataclass
class _Survey:
    """What the first decoding finds in a track."""

    track: Track
    n_samples: int = 0
    energy: float = 0.0
    peak: float = -math.inf  # dBFS
    hole: Hole | None = None  # see Damage


def write_masked(
    file: BinaryIO,
    spans: Sequence[MaskedSpan],
    style: Style,
    write: Callable[[bytes], object],
    *,
    on_progress: Progress | None = None,
) -> int:
    """Write a masked copy of a recording: WAV, 16 kHz, mono, 16 bits, without tags.

    Its timeline is that of `decode`. The samples outside the spans are the decoded ones, rounded to
    16 bits.

    Args:
        file: as for `probe`.
        write: gets the bytes, in order.
        on_progress: called with the share that is done; an exception it raises stops the work.

    Returns:
        The number of samples.

    Raises:
        AudioError: one of its leaves.
    """
    info = probe(file)
    with open_source(file) as source:
        surveys = _survey(source, info, _half(on_progress, info, 0.0))
        audible = [each for each in surveys if len(surveys) == 1 or not is_silent([each.peak])]
        n_samples = max((each.n_samples for each in audible), default=0)
        refuse_too_short(n_samples / SAMPLE_RATE)
        refuse_bad_levels(info, tuple(each.peak for each in surveys))
        mean = sum(each.energy for each in audible) / n_samples / len(audible)
        level = tone_level(dbfs(math.sqrt(mean))) if style == "tone" else None
        write(wav_header(n_samples))
        done, report = 0, _half(on_progress, info, 0.5)
        for block in mix([_samples(source, info, each) for each in audible]):
            samples = block.copy()
            mask_samples(samples, done, spans, level)
            done += len(samples)
            write(to_16_bits(samples))
            report(done / SAMPLE_RATE)
    if done != n_samples:
        raise DecodeFailed("Decoding the recording twice gave two lengths: try again.")
    return n_samples


def _half(on_progress: Progress | None, info: RecordingInfo, begun: float) -> Progress:
    """Convert seconds of a recording that have been decoded to a share of all work."""

    def report(seconds: float) -> None:
        if on_progress is not None:
            on_progress(begun + min(0.5, 0.5 * seconds / (info.duration or math.inf)))

    return report


def _survey(source: FfmpegInput, info: RecordingInfo, report: Progress) -> list[_Survey]:
    surveys: list[_Survey] = []
    found = Findings()

    def read(track: Track) -> Sequence[float]:
        survey = _Survey(track)
        for block in track_blocks(source, info, track, 1, 1, found):
            survey.n_samples += block.shape[1]
            survey.energy += float(np.dot(block[0], block[0]))
            survey.peak = max(survey.peak, peak_dbfs(block[0]))
            report(survey.n_samples / SAMPLE_RATE)
        if found.hole is not None:
            survey.hole = found.hole
            survey.n_samples += round(found.hole[1] * SAMPLE_RATE)
        surveys.append(survey)
        return [survey.peak]

    read_tracks(info, read)
    return surveys


def _samples(source: FfmpegInput, info: RecordingInfo, survey: _Survey) -> Iterator[np.ndarray]:
    """Yield a track's samples, each (n_samples,), with silence in place of lost sound."""
    blocks = track_blocks(source, info, survey.track, 1, 1, Findings())
    return with_hole((block[0] for block in blocks), survey.hole, SAMPLE_RATE)


def to_16_bits(samples: np.ndarray) -> bytes:
    rounded: np.ndarray = np.rint(samples * 32768).clip(-32768, 32767)
    return rounded.astype("<i2").tobytes()


def wav_header(n_samples: int) -> bytes:
    """The header of a WAV with 16 kHz, one channel and 16 bits; 24 hours fit."""
    n_bytes = 2 * n_samples
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", HEADER_BYTES - 8 + n_bytes, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", n_bytes)
    )
