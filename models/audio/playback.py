"""Makes the playback copy of a recording, for a browser, and the peaks of its waveform.

The copy is MP3 at a constant bit rate: a browser finds any second in it by arithmetic, which fails
by seconds in files of a variable bit rate. Both are made from the samples as `decode` places them,
so that their times are those of the transcript.
"""

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Protocol

import numpy as np

from models.audio.decode import SLOWEST_RTFX, Findings, Hole, track_blocks, with_hole
from models.audio.errors import DecoderKilled, EncoderMissing, UnreadableAudio
from models.audio.ffmpeg_child import KILLED, output_of, run_sandboxed
from models.audio.ffmpeg_input import FfmpegInput, open_source
from models.audio.limits import MAX_SECONDS
from models.audio.probe import probe
from models.audio.recording import RecordingInfo, Track

PLAYBACK_RATE = 24_000  # Hz
BYTES_PER_SECOND = 8_000  # 64 kbit/s
# LAME puts this many samples before the sound, and nothing in the file says so: the sound starts as
# many samples later, so that every word is heard at its time.
ENCODER_DELAY = 1105
SAMPLES_PER_PEAK = 2_400  # ten peaks a second
READ_BYTES = 1 << 16
ENCODE = (
    *("ffmpeg", "-nostdin", "-v", "quiet", "-protocol_whitelist", "pipe"),
    *("-f", "s16le", "-ar", str(PLAYBACK_RATE), "-ac", "1", "-i", "pipe:0"),
    *("-c:a", "libmp3lame", "-b:a", str(8 * BYTES_PER_SECOND), "-threads", "1"),
    *("-f", "mp3", "-write_xing", "0", "-id3v2_version", "0", "pipe:1"),
)


class Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...


def make_playback(
    file: BinaryIO,
    open_output: Callable[[], AbstractContextManager[Writer]],
    *,
    on_progress: Callable[[float], None] | None = None,
) -> bytes:
    """Write the playback copy and return the peaks, see `Peaks`.

    Args:
        file: as for `probe`.
        open_output: opens the file that the copy is written to. It is called a second time, and the
            file written again, if sound turns out to be missing from the middle of a track.
        on_progress: called with the seconds done so far; an exception it raises stops the work.

    Raises:
        AudioError: one of its leaves.
    """
    info = probe(file)
    tracks = [track for track in info.tracks if not track.is_reserve] or list(info.tracks)
    seconds = 60 + (info.duration or MAX_SECONDS) / SLOWEST_RTFX
    holes: list[Hole | None] = [None] * len(tracks)
    with open_source(file) as source:
        while True:
            found, peaks = [Findings() for _ in tracks], Peaks()
            blocks = [
                with_hole(_audible(source, info, track, each), hole, PLAYBACK_RATE)
                for track, each, hole in zip(tracks, found, holes, strict=True)
            ]
            with open_output() as output, _encoder(output, seconds) as encode:
                for block in mix(blocks):
                    peaks.add(block)
                    encode(block)
                    if on_progress is not None:
                        on_progress(peaks.n_samples / PLAYBACK_RATE)
            if peaks.n_samples == 0:
                raise UnreadableAudio("The audio in the file cannot be decoded")
            if [each.hole for each in found] == holes:
                return peaks.to_bytes()
            holes = [each.hole for each in found]


class Peaks:
    """The lowest and the highest sample of each tenth of a second, as int8.

    Written as audiowaveform's binary format, version 2: a header of 24 bytes (version, flags, Hz,
    samples per peak, number of peaks, channels), then the pairs.
    Source: https://github.com/bbc/audiowaveform/blob/master/doc/DataFormat.md
    """

    def __init__(self) -> None:
        self.n_samples = 0
        self._rest = np.zeros(0, dtype=np.float32)
        self._pairs: list[np.ndarray] = []

    def add(self, samples: np.ndarray) -> None:
        self.n_samples += len(samples)
        samples = np.concatenate([self._rest, samples])
        n = len(samples) // SAMPLES_PER_PEAK * SAMPLES_PER_PEAK
        self._pairs.append(_pairs(samples[:n].reshape(-1, SAMPLES_PER_PEAK)))
        self._rest = samples[n:].copy()

    def to_bytes(self) -> bytes:
        last = [_pairs(self._rest.reshape(1, -1))] if len(self._rest) else []
        pairs = np.concatenate([*self._pairs, *last])
        eight_bits, channels = 1, 1
        header = struct.pack(
            "<iIiiIi", 2, eight_bits, PLAYBACK_RATE, SAMPLES_PER_PEAK, len(pairs), channels
        )
        return header + pairs.tobytes()


def _pairs(rows: np.ndarray) -> np.ndarray:
    """The lowest and the highest sample of each row, (n_rows, 2), int8."""
    lowest, highest = rows.min(axis=1, initial=0), rows.max(axis=1, initial=0)
    pairs = np.stack([np.floor(lowest * 127), np.ceil(highest * 127)], axis=1)
    return pairs.clip(-128, 127).astype(np.int8)


def mix(tracks: Sequence[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Mix tracks with equal weights while they are decoded side by side.

    Args:
        tracks: blocks of samples, (n,). A track that ends early is silent from then on.
    """
    if len(tracks) == 1:
        yield from tracks[0]
        return
    waiting: list[np.ndarray | None] = [np.zeros(0, dtype=np.float32) for _ in tracks]
    while True:
        for i, track in enumerate(tracks):
            while (block := waiting[i]) is not None and not len(block):
                following = next(track, None)  # its buffer is used again for the next block
                waiting[i] = None if following is None else following.copy()
        blocks = [block for block in waiting if block is not None]
        if not blocks:
            return
        n = min(map(len, blocks))
        mixed = np.zeros(n, dtype=np.float32)
        for block in blocks:
            mixed += block[:n] / len(tracks)
        yield mixed
        waiting = [None if block is None else block[n:] for block in waiting]


def _audible(
    source: FfmpegInput, info: RecordingInfo, track: Track, found: Findings
) -> Iterator[np.ndarray]:
    """A track's samples, (n,); none if it cannot be decoded but others perhaps can."""
    try:
        for block in track_blocks(source, info, track, 1, 1, found, PLAYBACK_RATE):
            yield block[0]
    except UnreadableAudio:
        if len(info.tracks) == 1:
            raise


@contextmanager
def _encoder(output: Writer, seconds: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Run ffmpeg as an encoder, in the sandbox.

    Yields:
        A function that takes samples, float32, (n,).

    Raises:
        EncoderMissing, DecoderKilled, FfmpegMissing, SandboxUnavailable
        Exception: what `output.write` raised.
    """
    reading, writing = os.pipe()
    n_to_drop, n_written, failures = ENCODER_DELAY, 0, list[BaseException]()

    def drain() -> None:
        nonlocal n_written
        stream = output_of(child)
        try:
            while block := stream.read(READ_BYTES):
                output.write(block)
                n_written += len(block)
        except BaseException as error:  # noqa: BLE001  # raised in the thread that feeds
            failures.append(error)
            stream.close()  # the encoder ends, and feeding it fails

    def encode(samples: np.ndarray) -> None:
        nonlocal n_to_drop
        kept = samples[n_to_drop:]
        n_to_drop -= min(n_to_drop, len(samples))
        pcm.write((kept.clip(-1, 1) * 32767).astype("<i2").tobytes())

    with open(reading, "rb", buffering=0) as standard_input, open(writing, "wb") as pcm:
        try:
            with run_sandboxed(ENCODE, standard_input, seconds=seconds) as child:
                standard_input.close()  # or the end of the encoder would not be noticed
                thread = threading.Thread(target=drain, name="encoder")
                thread.start()
                try:
                    yield encode
                finally:
                    try:
                        pcm.close()
                    finally:
                        thread.join()
        except BrokenPipeError:
            if child.returncode in KILLED:
                raise DecoderKilled("Encoding the playback copy was stopped: try again.") from None
            if not failures:
                raise EncoderMissing(EncoderMissing.MESSAGE) from None
    if failures:
        raise failures[0]
    if child.returncode != 0 or n_written == 0:
        raise EncoderMissing(EncoderMissing.MESSAGE)
