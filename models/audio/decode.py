"""Decodes recordings to 16 kHz float32 with ffmpeg, or measures them without keeping samples."""

import mmap
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO

import ffmpeg
import numpy as np

from models.audio.errors import DecodeFailed, DecoderKilled, TruncatedAudio, UnreadableAudio
from models.audio.ffmpeg_child import CODECS, INPUT, INPUT_OPTIONS, output_of, run_sandboxed
from models.audio.headers import file_size_in_header, read_head
from models.audio.limits import (
    MAX_SECONDS,
    max_seconds,
    refuse_bad_levels,
    refuse_too_long,
    refuse_too_short,
)
from models.audio.probe import probe
from models.audio.recording import (
    SAMPLE_RATE,
    Levels,
    Recording,
    RecordingInfo,
    dbfs,
    duration_in_words,
)

SLOWEST_RTFX = 20  # decoding usually runs at several hundred
MAX_DAMAGE = 0.05  # share of packets that may fail to decode
BLOCK_FRAMES = 1 << 16
MAP_NORESERVE = 0x4000  # mmap(2); Python 3.11 has no name for it
TOO_MUCH_DAMAGE = 69  # ffmpeg's exit status above max_error_rate
INTERRUPTED = 255  # ffmpeg's exit status after a signal it handles
# Time stamps are followed where they leave a gap of 0.1 s to 1 h, never backwards: nothing is cut.
# Register 0 holds the time stamp that the next samples should have, 1 the one they get.
FILL_GAPS = (
    "asetpts='st(1,if(between(PTS-ld(0),0.1*SR,3600*SR),PTS,ld(0)))+0*st(0,ld(1)+NB_SAMPLES)',"
    "aresample=async=1"
)


def decode(
    file: BinaryIO,
    *,
    info: RecordingInfo | None = None,
    split_channels: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Recording:
    """Decode a recording to 16 kHz.

    A gap in its time stamps, as calls leave where nothing was heard, becomes silence.

    Args:
        file: as for `probe`.
        info: the result of `probe`; None to probe here.
        split_channels: keep the channels separate instead of mixing them with equal weights.
        on_progress: called with the seconds decoded so far; an exception it raises stops decoding.

    Raises:
        AudioError: one of its leaves.
    """
    info = info or probe(file)
    n_channels = info.channels if split_channels else 1
    samples = lazy_samples(n_channels, max_seconds(n_channels) * SAMPLE_RATE)
    n = 0
    for block in decoded_blocks(file, info, n_channels, n_channels, on_progress):
        start, n = n, n + block.shape[1]
        samples[:, start:n] = block
    recording = Recording(samples[:, :n], info)
    refuse_too_short(recording.duration)
    refuse_bad_levels(info, recording.peak_dbfs)
    return recording


def measure(
    file: BinaryIO, info: RecordingInfo, *, on_progress: Callable[[float], None] | None = None
) -> Levels:
    """Decode a recording to find its length and the levels of each channel, in constant memory.

    Pass the result to `refuse_too_short` and `refuse_bad_levels`.

    Args:
        file, on_progress: as for `decode`.
        info: the result of `probe`.

    Raises:
        AudioError: one of its leaves.
    """
    n, peaks, energy = 0, np.zeros(info.channels), np.zeros(info.channels)
    for block in decoded_blocks(file, info, info.channels, 1, on_progress):
        n += block.shape[1]
        peaks = np.maximum(peaks, np.abs(block).max(axis=1))
        energy += np.einsum("ij,ij->i", block, block, dtype=np.float64)
    means = np.sqrt(energy / max(n, 1))
    return Levels(
        n / SAMPLE_RATE, tuple(map(dbfs, peaks.tolist())), tuple(map(dbfs, means.tolist()))
    )


def decoded_blocks(
    file: BinaryIO,
    info: RecordingInfo,
    n_channels: int,
    n_kept: int,
    on_progress: Callable[[float], None] | None,
) -> Iterator[np.ndarray]:
    """Yield samples, each (n_channels, n), 16 kHz, in a buffer that the next block overwrites.

    Args:
        n_kept: number of channels the caller keeps in memory, which limits the length.

    Raises:
        AudioError: one of its leaves, if decoding fails or the recording is too long.
    """
    n = 0
    command = decode_command(info, n_channels, past_header=has_sound_past_header(file, info))
    seconds = 60 + (info.duration or MAX_SECONDS) / SLOWEST_RTFX
    with run_sandboxed(command, file, seconds=seconds) as child:
        for block in sample_blocks(output_of(child), n_channels):
            n += block.shape[1]
            refuse_too_long(n / SAMPLE_RATE, n_kept)
            yield block
            if on_progress is not None:
                on_progress(n / SAMPLE_RATE)
    refuse_failed(child.returncode, info, n / SAMPLE_RATE)


def has_sound_past_header(file: BinaryIO, info: RecordingInfo) -> bool:
    """Whether a WAV has far more sound than its header declares, because the recorder lost power.

    At least ten seconds more: a few bytes of tags may also follow.
    """
    declared_bytes = file_size_in_header(read_head(file))
    if info.container != "wav" or info.duration is None or declared_bytes is None:
        return False
    return info.duration * (info.n_bytes / declared_bytes - 1) > 10


def decode_command(info: RecordingInfo, n_channels: int, *, past_header: bool) -> list[str]:
    options = {**INPUT_OPTIONS, "codec_whitelist": CODECS, "threads": 1}
    if past_header:
        options["ignore_length"] = 1
    source = ffmpeg.input(INPUT, vn=None, sn=None, dn=None, **options)
    sound = ffmpeg.output(
        source["a:0"],
        "pipe:1",
        format="f32le",
        af=",".join([*channel_filters(info.channels, n_channels), FILL_GAPS]),
        ac=n_channels,
        ar=SAMPLE_RATE,
        threads=1,
        max_error_rate=MAX_DAMAGE,
    )
    quiet = sound.global_args("-nostdin", "-v", "quiet", "-filter_threads", "1")
    command: list[str] = quiet.compile()
    return command


def channel_filters(n_in: int, n_out: int) -> list[str]:
    """Map channels by number, not layout: mixing six microphones as "5.1" would drop the fourth."""
    if n_in == 1:
        return []
    if n_out == 1:
        return ["pan=mono|c0=" + "+".join(f"{1 / n_in:.6f}*c{i}" for i in range(n_in))]
    return [f"pan={n_in}c|" + "|".join(f"c{i}=c{i}" for i in range(n_in))]


def lazy_samples(n_channels: int, n_samples: int) -> np.ndarray:
    """Zeros, (n_channels, n_samples), that take up memory only where they are written to.

    The length need not be known in advance, and nothing is copied to make room.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, n_channels * n_samples * 4, flags=flags)
    return np.frombuffer(memory, dtype="<f4").reshape(n_channels, n_samples)


def sample_blocks(stream: IO[bytes], n_channels: int) -> Iterator[np.ndarray]:
    """Yield samples as they arrive, each (n_channels, n_samples)."""
    frame_bytes = 4 * n_channels
    while block := stream.read(BLOCK_FRAMES * frame_bytes):
        n_frames = len(block) // frame_bytes
        yield (
            np.frombuffer(block, dtype="<f4", count=n_frames * n_channels)
            .reshape(n_frames, n_channels)
            .T
        )


def refuse_failed(status: int, info: RecordingInfo, decoded: float) -> None:
    """
    Args:
        status: ffmpeg's exit status.
        decoded: seconds.

    Raises:
        DecoderKilled, DecodeFailed, UnreadableAudio, TruncatedAudio.
    """
    declared = info.duration
    if status == INTERRUPTED:  # perhaps the whole service is being stopped
        raise DecoderKilled(
            f"Decoding was interrupted after {duration_in_words(decoded)}: try again."
        )
    if status == TOO_MUCH_DAMAGE:
        raise DecodeFailed(
            f"More than {MAX_DAMAGE:.0%} of the recording is damaged and cannot be decoded:"
            " copy it from the recorder again."
        )
    if status != 0 and decoded == 0:
        raise UnreadableAudio(
            f"The audio in the file ({info.codec}) cannot be decoded:"
            " copy the recording again, or export it as WAV, FLAC, MP3 or M4A and use that file."
        )
    if status != 0:
        raise DecodeFailed(
            f"Decoding stopped after {duration_in_words(decoded)} (ffmpeg exited with {status}):"
            " copy the recording again, or export it as WAV and use that file."
        )
    if declared is not None and decoded < declared * 0.999 - 1:  # headers round, encoders pad
        raise TruncatedAudio(
            f"The file says that it lasts {duration_in_words(declared)} but holds only"
            f" {duration_in_words(decoded)} of sound: copy it from the recorder again. If that is"
            " all there is, open it in Audacity, export it as WAV and use that file (or run:"
            " ffmpeg -i OLD -c copy NEW)."
        )
