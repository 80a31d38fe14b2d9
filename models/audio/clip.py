"""Cuts a short passage out of a recording, to listen to."""

import io
import wave
from typing import BinaryIO

import numpy as np

from models.audio.decode import Findings, track_blocks
from models.audio.ffmpeg_input import FfmpegInput, open_source
from models.audio.probe import probe
from models.audio.recording import SAMPLE_RATE, RecordingInfo, Track


def cut_clip(file: BinaryIO, start: float, end: float) -> bytes:
    """Return a passage as WAV: mono, 16 bits, 16 kHz.

    Decodes from the start of the recording: seeking is off by seconds in some formats, and the
    passage could then hold somebody else's voice.

    Args:
        file: as for `probe`.
        start, end: seconds, on the recording's own timeline.

    Raises:
        AudioError: one of its leaves.
    """
    info = probe(file)
    first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    mixed = np.zeros(max(0, last - first), dtype=np.float32)
    tracks = [track for track in info.tracks if not track.is_reserve] or list(info.tracks)
    with open_source(file) as source:
        for track in tracks:
            mixed += _cut_track(source, info, track, first, last) / len(tracks)
    return _wav(mixed)


def _cut_track(
    source: FfmpegInput, info: RecordingInfo, track: Track, first: int, last: int
) -> np.ndarray:
    """Return samples `first` to `last`, with silence after the end of the track."""
    cut, n = np.zeros(max(0, last - first), dtype=np.float32), 0
    blocks = track_blocks(source, info, track, 1, 1, Findings())
    try:
        for block in blocks:
            samples = block[0, max(0, first - n) : max(0, last - n)]
            begin = max(0, n - first)
            cut[begin : begin + len(samples)] = samples
            n += block.shape[1]
            if n >= last:
                break
    finally:
        blocks.close()  # type: ignore[attr-defined]  # a generator; ends ffmpeg
    return cut


def _wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()
