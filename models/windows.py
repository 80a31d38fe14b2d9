"""Cuts speech regions into windows of at most 30 s, each of which Whisper sees in one pass.

A window is a contiguous span of the session and includes the pauses in it. It starts and ends in
pauses if possible, because cutting a word in two spoils both windows. Each window costs the same
however little it holds, so there are as few as the pauses allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import SpeechRegion

MAX_WINDOW = 30.0  # s, what Whisper was trained on
PADDING = 0.2  # s kept before and after speech: a detected edge may lie inside a word
LAST_PART = 10.0  # s at the end of a window, in which speech without a pause is cut
SHORT_PAUSE = 0.3  # s; a cut in a shorter pause may damage a word or split a sentence
SHORT_PAUSE_COST = 0.5  # windows, of a cut in a short pause
SECOND_COST = 1e-3  # windows per second, to prefer windows with less silence inside
FRAME = 320  # samples (20 ms), for finding the quietest place in speech without a pause


@dataclass(frozen=True)
class Window:
    """[start, end) in seconds, both multiples of 10 ms (one frame of a spectrogram)."""

    start: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start

    def cut(self, samples: np.ndarray) -> np.ndarray:
        """Return this window's part of (n_samples,)."""
        return samples[round(self.start * SAMPLE_RATE) : round(self.end * SAMPLE_RATE)]


@dataclass(frozen=True)
class _Piece:
    """Padded speech that is not cut further; `pause` is the silence before it, without padding."""

    start: float
    end: float
    pause: float


def cut_windows(
    regions: Sequence[SpeechRegion], samples: np.ndarray, joints: Sequence[float] = ()
) -> tuple[Window, ...]:
    """Return windows that hold all speech, in order, without overlap.

    Args:
        regions: in order, without overlap.
        samples: float32, (n_samples,), 16 kHz, to find where to cut speech that has no pause.
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
        pieces = _cut_long(_pad(inside, begin, end), samples)
        windows += [Window(pieces[first].start, pieces[last].end) for first, last in _group(pieces)]
    return tuple(windows)


def _pad(regions: Sequence[SpeechRegion], begin: float, end: float) -> list[_Piece]:
    """Pad regions with PADDING on both sides, or half of a shorter pause; round to 10 ms."""
    padded = []
    for i, region in enumerate(regions):
        before = regions[i - 1].end if i > 0 else begin - 2 * PADDING
        after = regions[i + 1].start if i + 1 < len(regions) else end + 2 * PADDING
        start = max(begin, region.start - min(PADDING, (region.start - before) / 2))
        stop = min(end, region.end + min(PADDING, (after - region.end) / 2))
        start, stop = round(start, 2), min(round(stop, 2), np.floor(end * 100) / 100)
        if stop > start:
            pause = region.start - regions[i - 1].end if i > 0 else np.inf
            padded.append(_Piece(start, float(stop), pause))
    return padded


def _cut_long(padded: Sequence[_Piece], samples: np.ndarray) -> list[_Piece]:
    """Cut pieces that do not fit into a window where they are quietest."""
    pieces = []
    for piece in padded:
        while piece.end - piece.start > MAX_WINDOW:
            full = piece.start + MAX_WINDOW
            cut = _find_quietest(samples, full - LAST_PART, full)
            pieces.append(replace(piece, end=cut))
            piece = _Piece(cut, piece.end, pause=0.0)
        pieces.append(piece)
    return pieces


def _group(pieces: Sequence[_Piece]) -> list[tuple[int, int]]:
    """Return the first and last piece of each window, grouped at the lowest possible cost."""
    costs = [0.0]  # lowest cost of windows for the first n pieces
    begins: list[int] = []  # first piece of the last of these windows
    for last in range(len(pieces)):
        least, begin = np.inf, last
        for first in range(last, -1, -1):
            duration = pieces[last].end - pieces[first].start
            if duration > MAX_WINDOW:
                break
            cost = costs[first] + 1 + SECOND_COST * duration
            if pieces[first].pause < SHORT_PAUSE:
                cost += SHORT_PAUSE_COST
            if cost < least:
                least, begin = cost, first
        costs.append(least)
        begins.append(begin)
    grouped = []
    last = len(pieces) - 1
    while last >= 0:
        grouped.append((begins[last], last))
        last = begins[last] - 1
    return grouped[::-1]


def _find_quietest(samples: np.ndarray, start: float, end: float) -> float:
    """Return the middle of the quietest 20 ms between two times, rounded to 10 ms."""
    part = samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    frames = part[: len(part) // FRAME * FRAME].reshape(-1, FRAME)
    quietest = int(np.square(frames).mean(axis=1).argmin())
    return round(start + (quietest + 0.5) * FRAME / SAMPLE_RATE, 2)
