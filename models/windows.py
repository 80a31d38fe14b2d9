"""Speech regions to windows: what Whisper sees in one pass, at most 30 s.

A window is a contiguous span of the session; the pauses inside it stay. It begins and ends in
pauses where the speech allows, because a word that is cut in two is lost twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.audio import SAMPLE_RATE
from models.segmentation import SpeechRegion

MAX_WINDOW = 30.0  # s, what Whisper was trained on
PADDING = 0.2  # s kept before and after speech: a detected edge may lie inside a word
NEAR_THE_END = 10.0  # s; a long pause is worth ending a window that much earlier
FRAME = 320  # samples (20 ms), for finding the quietest place where there is no pause


@dataclass(frozen=True)
class Window:
    """[start, end) in seconds, both multiples of 10 ms (one frame of a spectrogram)."""

    start: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start

    def cut(self, samples: np.ndarray) -> np.ndarray:
        """This window's part of (n_samples,)."""
        return samples[round(self.start * SAMPLE_RATE) : round(self.end * SAMPLE_RATE)]


def cut_windows(
    regions: Sequence[SpeechRegion], samples: np.ndarray, joints: Sequence[float] = ()
) -> tuple[Window, ...]:
    """Windows that hold all speech, in order, without overlap.

    Args:
        regions: in order, without overlap.
        samples: float32, (n_samples,), 16 kHz: decides where to cut speech that has no pause.
        joints: where one recording of a session ends and the next begins; no window crosses one.
    """
    duration = len(samples) / SAMPLE_RATE
    bounds = [0.0, *joints, duration]
    windows: list[Window] = []
    for begin, end in zip(bounds, bounds[1:], strict=False):
        inside = [
            SpeechRegion(max(region.start, begin), min(region.end, end))
            for region in regions
            if region.start < end and region.end > begin
        ]
        windows += _cut_span(_padded(inside, begin, end), samples)
    return tuple(windows)


def _padded(regions: Sequence[SpeechRegion], begin: float, end: float) -> list[SpeechRegion]:
    """Regions with PADDING on both sides, or half the pause where it is shorter, on 10 ms."""
    padded = []
    for i, region in enumerate(regions):
        before = regions[i - 1].end if i > 0 else begin - 2 * PADDING
        after = regions[i + 1].start if i + 1 < len(regions) else end + 2 * PADDING
        start = max(begin, region.start - min(PADDING, (region.start - before) / 2))
        stop = min(end, region.end + min(PADDING, (after - region.end) / 2))
        start, stop = round(start, 2), min(round(stop, 2), np.floor(end * 100) / 100)
        if stop > start:
            padded.append(SpeechRegion(start, float(stop)))
    return padded


def _cut_span(regions: list[SpeechRegion], samples: np.ndarray) -> list[Window]:
    windows = []
    i = 0
    while i < len(regions):
        start = regions[i].start
        if regions[i].duration > MAX_WINDOW:
            cut = _quietest(samples, start + MAX_WINDOW - NEAR_THE_END, start + MAX_WINDOW)
            windows.append(Window(start, cut))
            regions[i] = SpeechRegion(cut, regions[i].end)
            continue
        last = i  # the last region that still fits
        while last + 1 < len(regions) and regions[last + 1].end - start <= MAX_WINDOW:
            last += 1
        if last + 1 < len(regions):
            last = _before_longest_pause(regions, i, last)
        windows.append(Window(start, regions[last].end))
        i = last + 1
    return windows


def _before_longest_pause(regions: list[SpeechRegion], first: int, last: int) -> int:
    """Of the regions that end near the end of a full window, the one before the longest pause."""
    start = regions[first].start
    near = [
        i
        for i in range(first, last + 1)
        if regions[i].end - start >= MAX_WINDOW - NEAR_THE_END or i == last
    ]
    return max(near, key=lambda i: (regions[i + 1].start - regions[i].end, i))


def _quietest(samples: np.ndarray, start: float, end: float) -> float:
    """The middle of the quietest 20 ms between two times, on 10 ms."""
    part = samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    frames = part[: len(part) // FRAME * FRAME].reshape(-1, FRAME)
    quietest = int(np.square(frames).mean(axis=1).argmin())
    return round(start + (quietest + 0.5) * FRAME / SAMPLE_RATE, 2)
