"""Writes a masked copy of a recording as WAV, without keeping its samples in memory.

The recording is decoded twice: the first time to find its length, its level and the tracks that
have sound, the second time to write.
"""

import math
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from models.audio.decode import BLOCK_FRAMES, Findings, read_tracks, track_blocks
from models.audio.errors import DecodeFailed
from models.audio.ffmpeg_input import FfmpegInput, open_source
from models.audio.limits import is_silent, refuse_bad_levels, refuse_too_short
from models.audio.masking import MaskedSpan, Style, mask_samples, tone_level
from models.audio.probe import probe
from models.audio.recording import SAMPLE_RATE, RecordingInfo, Track, dbfs, peak_dbfs

HEADER_BYTES = 44
Progress = Callable[[float], None]
Samples = Generator[np.ndarray, None, None]


@dataclass
class _Survey:
    """What the first decoding finds in a track."""

    track: Track
    n_samples: int = 0
    energy: float = 0.0
    peak: float = -math.inf  # dBFS
    hole: tuple[float, float] | None = None  # start and length in s: see Damage


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
        for block in _mix(source, info, audible, n_samples):
            mask_samples(block, done, spans, level)
            done += len(block)
            write(to_16_bits(block))
            report(done / SAMPLE_RATE)
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


def _mix(
    source: FfmpegInput, info: RecordingInfo, surveys: Sequence[_Survey], n_samples: int
) -> Iterator[np.ndarray]:
    """Yield the mean of the tracks, each block (n_samples,), as `decode` mixes them.

    Raises:
        DecodeFailed: a track had another length when it was surveyed.
    """
    with ExitStack() as stack:
        tracks = [
            stack.enter_context(closing(_even_blocks(_samples(source, info, survey))))
            for survey in surveys
        ]
        left = n_samples
        while left > 0:
            blocks = [next(track, np.zeros(0, dtype=np.float32)) for track in tracks]
            mixed = np.zeros(min(BLOCK_FRAMES, left), dtype=np.float32)
            if max(map(len, blocks)) != len(mixed):
                break
            for block in blocks:
                mixed[: len(block)] += block / np.float32(len(tracks))
            left -= len(mixed)
            yield mixed
        if left or any(next(track, None) is not None for track in tracks):
            raise DecodeFailed("Decoding the recording twice gave two lengths: try again.")


def _samples(source: FfmpegInput, info: RecordingInfo, survey: _Survey) -> Samples:
    """Yield a track's samples, with silence in place of lost sound that left no gap."""
    hole_at, hole_length = (round(value * SAMPLE_RATE) for value in survey.hole or (-1, 0))
    silence = np.zeros(hole_length, dtype=np.float32)
    n = 0
    with closing(track_blocks(source, info, survey.track, 1, 1, Findings())) as blocks:  # type: ignore[type-var]  # a generator
        for block in blocks:
            at = hole_at - n
            n += block.shape[1]
            if 0 <= at < block.shape[1]:
                yield block[0, :at]
                yield silence
                yield block[0, at:]
            else:
                yield block[0]
    if hole_at >= n:
        yield silence


def _even_blocks(parts: Samples) -> Samples:
    """Divide the samples anew into blocks of BLOCK_FRAMES; the last may be shorter."""
    pending: list[np.ndarray] = []
    n = 0
    with closing(parts):
        for part in parts:
            pending.append(part)
            n += len(part)
            if n >= BLOCK_FRAMES:
                samples = np.concatenate(pending)
                while n >= BLOCK_FRAMES:
                    yield samples[:BLOCK_FRAMES]
                    samples, n = samples[BLOCK_FRAMES:], n - BLOCK_FRAMES
                pending = [samples]
    if n:
        yield np.concatenate(pending)


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
