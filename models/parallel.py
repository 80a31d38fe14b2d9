"""Recordings of one conversation that were made at the same time, one for each speaker.

Zoom and Craig write a file for each person; two people may each wear a recorder. Recorders that
pick up each other's speaker are aligned by sound: the rise and fall of their levels is compared, a
minute at a time, which also shows whether one clock runs faster. Files that share no sound are
assumed to start together, because the programs that write them begin all files at the same moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.audio.recording import SAMPLE_RATE, DecodedRecording

FRAME = 160  # samples, 10 ms
TREND = (
    51  # frames; slower changes of the level are left out: they are who speaks, not what is said
)
BLOCK = 60.0  # s that are compared at once
MIN_BLOCK = 5.0  # s; less cannot be aligned
MIN_PEAK = 7.0  # standard deviations; recordings without common sound reach 5
AGREE = 0.05  # s by which blocks may differ: sound takes 3 ms for a metre, and levels are smoothed
MIN_DRIFT = (
    0.03  # s in the whole recording; less cannot be distinguished from noise, and does no harm
)
FOR_DRIFT = 3  # blocks; fewer do not show a drift
TOLD = 0.1  # s; a smaller difference between the starts is not reported


@dataclass(frozen=True)
class Alignment:
    """When a recording started and how its clock runs, on the clock of the first recording.

    `start`: seconds. `drift`: seconds that its clock gains in a second. `is_measured`: by sound.
    """

    start: float = 0.0
    drift: float = 0.0
    is_measured: bool = False


@dataclass(frozen=True, eq=False)
class ParallelRecordings:
    """Aligned recordings, on the clock of the first.

    `channels`: float32, (n_recordings, n_samples); zero where a recording had not started or had
    ended. `spans`: start and end of each, in seconds from the earliest start.
    """

    channels: np.ndarray
    spans: tuple[tuple[float, float], ...]
    warnings: tuple[str, ...]


def lay_parallel(recordings: Sequence[DecodedRecording]) -> ParallelRecordings:
    """Align recordings that were made at the same time.

    Args:
        recordings: mono.
    """
    voices = [recording.samples[0] for recording in recordings]
    alignments = [Alignment(is_measured=True), *(align(voices[0], v) for v in voices[1:])]
    earliest = min(each.start for each in alignments)
    starts = [each.start - earliest for each in alignments]
    ends = [
        start + len(voice) / SAMPLE_RATE / (1 + each.drift)
        for start, voice, each in zip(starts, voices, alignments, strict=True)
    ]
    channels = np.zeros((len(voices), round(max(ends) * SAMPLE_RATE)), dtype=np.float32)
    for channel, voice, each in zip(channels, voices, alignments, strict=True):
        _place(voice, each, earliest, channel)
    return ParallelRecordings(
        channels,
        tuple(zip(starts, ends, strict=True)),
        tuple(_describe(alignments, recordings)),
    )


def align(first: np.ndarray, other: np.ndarray) -> Alignment:
    """Find when `other` started, from the sound that both recorded.

    Args:
        first, other: float32, (n_samples,), 16 kHz.
    """
    one, two = _level_changes(first), _level_changes(other)
    n_blocks = max(1, round(len(one) * FRAME / SAMPLE_RATE / BLOCK))
    size = len(one) // n_blocks
    if min(size, len(two)) * FRAME < MIN_BLOCK * SAMPLE_RATE:
        return Alignment()
    middles, lags = [], []
    for block in range(n_blocks):
        lag, peak = _find_lag(one[block * size : (block + 1) * size], two)
        if peak >= MIN_PEAK:
            middles.append((block + 0.5) * size * FRAME / SAMPLE_RATE)
            lags.append((lag + block * size) * FRAME / SAMPLE_RATE)
    if not lags:
        return Alignment()
    return _fit(np.array(middles), np.array(lags), len(first) / SAMPLE_RATE)


def _fit(middles: np.ndarray, lags: np.ndarray, duration: float) -> Alignment:
    """Fit a line through the blocks' lags, leaving out those that do not agree.

    Args:
        middles: of the blocks, seconds on the first recording's clock.
        lags: by how many seconds the other clock is behind, at these times.
        duration: of the first recording.
    """
    slope = 0.0
    if len(lags) >= FOR_DRIFT:  # the median of the slopes between all pairs, by Theil and Sen
        i, j = np.triu_indices(len(lags), 1)
        slope = float(np.median((lags[j] - lags[i]) / (middles[j] - middles[i])))
        if abs(slope) * duration < MIN_DRIFT:
            slope = 0.0
    start = float(np.median(lags - slope * middles))
    agree = np.abs(lags - slope * middles - start) < AGREE
    if 2 * agree.sum() <= len(lags):
        return Alignment()
    if slope and agree.sum() >= FOR_DRIFT:
        slope, start = (float(part) for part in np.polyfit(middles[agree], lags[agree], 1))
    # The other clock shows t - start - slope * t at the time t; it is at 0 when it starts.
    return Alignment(start / (1 - slope), -slope, is_measured=True)


def _level_changes(samples: np.ndarray) -> np.ndarray:
    """How much louder each frame is than those around it, in dB, clipped; float64, (n_frames,)."""
    from scipy.ndimage import uniform_filter1d

    n_frames = len(samples) // FRAME
    frames = samples[: n_frames * FRAME].reshape(n_frames, FRAME)
    power = np.einsum("fs,fs->f", frames, frames).astype(np.float64) / FRAME
    levels = 10 * np.log10(power + 1e-9)
    changes = levels - uniform_filter1d(levels, TREND, mode="nearest")
    return np.asarray(np.clip(changes, -10.0, 10.0))


def _find_lag(block: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return by how many frames `other` lags the block, and how clear the result is.

    Returns:
        The lag, and the height of its peak in standard deviations of the correlation.
    """
    from scipy.signal import correlate

    products = correlate(block - block.mean(), other - other.mean(), method="fft")
    at = int(products.argmax())
    peak = float(products[at] / max(products.std(), 1e-9))
    lag = float(at - (len(other) - 1))
    if 0 < at < len(products) - 1:  # the top of a parabola through the three highest points
        before, top, after = products[at - 1 : at + 2]
        lag += float((before - after) / (2 * (before - 2 * top + after)))
    return lag, peak


def _place(voice: np.ndarray, alignment: Alignment, earliest: float, channel: np.ndarray) -> None:
    """Write a recording into its channel, stretched to the first recording's clock."""
    begin = round((alignment.start - earliest) * SAMPLE_RATE)
    if not alignment.drift:
        channel[begin : begin + len(voice)] = voice[: len(channel) - begin]
        return
    for i in range(begin, len(channel), 60 * SAMPLE_RATE):
        after = min(i + 60 * SAMPLE_RATE, len(channel))
        positions = (np.arange(i, after) - begin) * (1 + alignment.drift)
        low = int(positions[0])
        piece = voice[low : int(positions[-1]) + 2]
        if len(piece):
            channel[i:after] = np.interp(positions - low, np.arange(len(piece)), piece, right=0.0)


def _describe(alignments: Sequence[Alignment], recordings: Sequence[DecodedRecording]) -> list[str]:
    """Return warnings about how recordings were aligned, where that is not obvious."""
    said = []
    first = recordings[0].duration
    for number, (each, recording) in enumerate(zip(alignments, recordings, strict=True), start=1):
        if not each.is_measured:
            differ = abs(recording.duration - first)
            lengths = f", although their lengths differ by {differ:.1f} s" if differ > 1 else ""
            said.append(
                f"Recording {number} and recording 1 share no sound, so both were assumed to start "
                f"at the same moment{lengths}. If answers precede their questions, this was wrong."
            )
            continue
        if abs(each.start) >= TOLD:
            when = "after" if each.start > 0 else "before"
            said.append(
                f"Recording {number} started {abs(each.start):.2f} s {when} recording 1: both "
                "picked up the same sounds and were aligned by them. While only one was running, "
                "its file may hold the words of several people."
            )
        if each.drift:
            speed = "fast" if each.drift > 0 else "slow"
            said.append(
                f"The clock of recording {number} runs {speed} by {abs(each.drift) * 3600:.2f} s "
                "an hour, compared with recording 1; its times were corrected."
            )
    return said
