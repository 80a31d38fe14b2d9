"""Decodes recordings to 16 kHz float32 with ffmpeg, or measures them without keeping samples."""

import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, BinaryIO

import ffmpeg
import numpy as np

from models.audio.damage import (
    AMR_SILENCE,
    damage_warnings,
    find_damage,
    has_packets,
    read_frames,
    read_packets,
)
from models.audio.errors import DecodeFailed, DecoderKilled, TruncatedAudio, UnreadableAudio
from models.audio.ffmpeg_child import (
    CODECS,
    output_of,
    run_sandboxed,
    words,
)
from models.audio.ffmpeg_input import FfmpegInput, open_source
from models.audio.headers import MAX_LEAD
from models.audio.limits import (
    MAX_SECONDS,
    is_silent,
    max_seconds,
    refuse_bad_levels,
    refuse_too_long,
    refuse_too_short,
)
from models.audio.probe import PROBE_SECONDS, probe
from models.audio.recording import (
    SAMPLE_RATE,
    DecodedRecording,
    Levels,
    RecordingInfo,
    Track,
    dbfs,
    duration_in_words,
    peak_dbfs,
)

SLOWEST_RTFX = 20  # decoding usually runs at several hundred
MIN_LEAD = 0.1  # s; what encoders add before the sound is shorter
BLOCK_FRAMES = 1 << 16
MAP_NORESERVE = 0x4000  # mmap(2); Python 3.11 has no name for it
HAD_ERRORS = 69  # ffmpeg's exit status above max_error_rate, which is 0
INTERRUPTED = 255  # ffmpeg's exit status after a signal it handles
# Timestamps are followed where they leave a gap of 0.1 s to 1 h, never backwards: nothing is cut.
# After a jump of more than 1 s back or 1 h ahead, as where files were joined or the counter began
# again, they are followed from there. Registers: 0 the timestamp that the next samples should
# have, 1 the one they get, 2 the correction after jumps, 3 the size of the gap.
FILL_GAPS = (
    "asetpts='st(3,PTS+ld(2)-ld(0));"
    "if(lt(ld(3),-SR)+gt(ld(3),3600*SR),st(2,ld(2)-ld(3));st(3,0));"
    "st(1,ld(0)+if(gte(ld(3),0.1*SR),ld(3),0));"
    "st(0,ld(1)+NB_SAMPLES);ld(1)',"
    "aresample=async=1"
)


Hole = tuple[float, float]  # its start and length, s


@dataclass
class Findings:
    """What was noticed while the tracks of a recording were decoded."""

    warnings: list[str] = field(default_factory=list)
    hole: Hole | None = None  # of the last track: see Damage


def decode(
    file: BinaryIO,
    *,
    info: RecordingInfo | None = None,
    split_channels: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> DecodedRecording:
    """Decode a recording to 16 kHz.

    All audio tracks with sound are read: their channels are mixed, or kept as if they were those of
    one track. A gap in the timestamps, as calls leave where nothing was heard, becomes silence.

    Args:
        file: as for `probe`.
        info: the result of `probe`; None to probe here.
        split_channels: keep the channels separate instead of mixing them with equal weights.
        on_progress: called with the seconds decoded so far; an exception it raises stops decoding.

    Raises:
        AudioError: one of its leaves.
    """
    info = info or probe(file)
    n_rows = info.channels if split_channels else len(info.tracks)
    samples = lazy_samples(n_rows, max_seconds(n_rows) * SAMPLE_RATE)
    row = n = 0  # rows and samples in use
    found, peaks = Findings(), list[float]()
    with open_source(file) as source:

        def read(track: Track) -> Sequence[float]:
            nonlocal row, n
            n_channels = track.channels if split_channels else 1
            part, n_part = samples[row : row + n_channels], 0
            for block in track_blocks(source, info, track, n_channels, n_rows, found):
                start, n_part = n_part, n_part + block.shape[1]
                part[:, start:n_part] = block
                if on_progress is not None:
                    on_progress(max(n, n_part) / SAMPLE_RATE)
            if found.hole is not None:
                n_part = fill_hole(part, n_part, found.hole)
            highest = [peak_dbfs(channel[:n_part]) for channel in part]
            peaks.extend(highest)
            n = max(n, n_part)
            if is_silent(highest) and len(info.tracks) > 1:
                part[:, :n_part] = 0  # the next track takes these rows
            else:
                row += n_channels
            return highest

        warnings = read_tracks(info, read)
    warnings += found.warnings + warn_of_length(info, n / SAMPLE_RATE)
    refuse_too_short(n / SAMPLE_RATE)
    refuse_bad_levels(info, tuple(peaks))
    if not split_channels and row > 1:
        for start in range(0, n, BLOCK_FRAMES):
            block = samples[:row, start : start + BLOCK_FRAMES]
            samples[0, start : start + BLOCK_FRAMES] = block.mean(axis=0)
        row = 1
    return DecodedRecording(samples[:row, :n], info, (*info.warnings, *warnings))


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
    n = 0
    found, peaks, means = Findings(), list[float](), list[float]()
    with open_source(file) as source:

        def read(track: Track) -> Sequence[float]:
            nonlocal n
            n_track, highest, energy = 0, np.zeros(track.channels), np.zeros(track.channels)
            for block in track_blocks(source, info, track, track.channels, 1, found):
                n_track += block.shape[1]
                highest = np.maximum(highest, np.abs(block).max(axis=1))
                energy += np.einsum("ij,ij->i", block, block, dtype=np.float64)
                if on_progress is not None:
                    on_progress(max(n, n_track) / SAMPLE_RATE)
            n_track += round((found.hole or (0, 0))[1] * SAMPLE_RATE)
            n = max(n, n_track)
            levels = [dbfs(peak) for peak in highest.tolist()]
            peaks.extend(levels)
            means.extend(dbfs(mean) for mean in np.sqrt(energy / max(n_track, 1)).tolist())
            return levels

        read_tracks(info, read)
    warn_of_length(info, n / SAMPLE_RATE)
    return Levels(n / SAMPLE_RATE, tuple(peaks), tuple(means))


def read_tracks(info: RecordingInfo, read: Callable[[Track], Sequence[float]]) -> list[str]:
    """Read the audio tracks of a recording one after another.

    Args:
        read: decodes a track and returns the peak of each of its channels in dBFS.

    Returns:
        Warnings that name the tracks that are left out.

    Raises:
        AudioError: one of its leaves; UnreadableAudio if no track can be decoded.
    """
    warnings: list[str] = []
    n_decoded = n_audible = 0
    for track in sorted(info.tracks, key=lambda track: track.is_reserve):
        if track.is_reserve and n_audible:
            warnings.append(
                f"Audio track {track.number} was left out, because the file marks another one as"
                " the one to play. If it is needed, export it as WAV and transcribe it too."
            )
            continue
        try:
            peaks = read(track)
        except UnreadableAudio:
            if len(info.tracks) == 1 or (track == info.tracks[-1] and not n_decoded):
                raise
            warnings.append(
                f"Audio track {track.number} ({track.codec}) cannot be decoded and was left out."
                " If somebody can be heard only there, export it as WAV and transcribe it too."
            )
            continue
        n_decoded += 1
        n_audible += not is_silent(peaks)
        if is_silent(peaks) and len(info.tracks) > 1:
            warnings.append(f"Audio track {track.number} is silent and was left out.")
    return warnings


def track_blocks(
    source: FfmpegInput,
    info: RecordingInfo,
    track: Track,
    n_channels: int,
    n_kept: int,
    found: Findings,
    sample_rate: int = SAMPLE_RATE,
) -> Iterator[np.ndarray]:
    """Yield a track's samples, each (n_channels, n), from the start of the file's clock.

    The buffer of a block is overwritten by the next.

    Args:
        n_kept: number of channels the caller keeps in memory, which limits the length.
        found: what is missing in the track is added to it.
        sample_rate: of the samples, Hz.

    Raises:
        AudioError: one of its leaves, if decoding fails or the recording is too long.
    """
    n, found.hole = 0, None
    for block in lead(source, info, track, n_channels, sample_rate):
        n += block.shape[1]
        yield block
    n_lead = n
    command = decode_command(source, track, n_channels, sample_rate)
    seconds = 60 + (info.duration or MAX_SECONDS) / SLOWEST_RTFX
    with run_sandboxed(command, source.file, seconds=seconds) as child:
        for block in sample_blocks(output_of(child), n_channels):
            n += block.shape[1]
            refuse_too_long(n / sample_rate, n_kept)
            yield block
    refuse_failed(child.returncode, track, (n - n_lead) / sample_rate)
    has_errors = child.returncode == HAD_ERRORS
    if not has_packets(info) and not has_errors:
        return
    packets = read_packets(source, info, track)
    if track.codec in AMR_SILENCE:  # its decoder gives nothing for frames of silence
        for block in silence(n_channels, round(packets.end * sample_rate) - n):
            n += block.shape[1]
            yield block
    frames = read_frames(source, info, track) if has_errors else None
    damage = find_damage(packets, frames, source, info, track, n / sample_rate)
    found.warnings += damage_warnings(damage, info, track, n / sample_rate)
    found.hole = damage.hole


def fill_hole(samples: np.ndarray, n: int, hole: Hole) -> int:
    """Put silence where a track without timestamps has lost sound, so that later times are right.

    Args:
        samples: (n_channels, n_samples), the first `n` in use.
        hole: its start and length, s.

    Returns:
        The number of samples now in use.
    """
    start = min(n, round(hole[0] * SAMPLE_RATE))
    length: int = min(round(hole[1] * SAMPLE_RATE), samples.shape[1] - n)
    for begin in range(
        (n - start) // BLOCK_FRAMES * BLOCK_FRAMES + start, start - 1, -BLOCK_FRAMES
    ):
        block = samples[:, begin : min(begin + BLOCK_FRAMES, n)].copy()  # from the end: no overlap
        samples[:, begin + length : begin + length + block.shape[1]] = block
    samples[:, start : start + length] = 0
    return n + length


def with_hole(
    blocks: Iterator[np.ndarray], hole: Hole | None, sample_rate: int
) -> Iterator[np.ndarray]:
    """Put silence where a track has lost sound, as `fill_hole` does, while it is decoded.

    Args:
        blocks: of samples, (n,).
    """
    if hole is None:
        yield from blocks
        return
    start, n, filled = round(hole[0] * sample_rate), 0, False
    length = round(hole[1] * sample_rate)
    for block in blocks:
        before = block[: max(0, start - n)]
        n += len(block)
        if not filled and n >= start:
            yield before
            yield from _silent_blocks(length)
            block, filled = block[len(before) :], True
        yield block
    if not filled:
        yield from _silent_blocks(length)


def _silent_blocks(n_samples: int) -> Iterator[np.ndarray]:
    return (block[0] for block in silence(1, n_samples))


def lead(
    source: FfmpegInput, info: RecordingInfo, track: Track, n_channels: int, sample_rate: int
) -> Iterator[np.ndarray]:
    """Yield the silence before a track that starts after the file's clock does.

    Sound may start later than the picture. ffmpeg does not fill this gap, because its filters begin
    anew, at any timestamp, where the format of the sound changes.
    """
    if not MIN_LEAD <= track.start - info.clock_start <= MAX_LEAD:
        return
    start = first_time_stamp(source, track)
    n_samples = round(
        max(0.0, (track.start if start is None else start) - info.clock_start) * sample_rate
    )
    yield from silence(n_channels, n_samples)


def silence(n_channels: int, n_samples: int) -> Iterator[np.ndarray]:
    for begin in range(0, n_samples, BLOCK_FRAMES):
        yield np.zeros((n_channels, min(BLOCK_FRAMES, n_samples - begin)), dtype=np.float32)


def first_time_stamp(source: FfmpegInput, track: Track) -> float | None:
    """The timestamp of a track's first sample, without the encoder's padding."""
    entries = ["-show_entries", "frame=pts_time", "-read_intervals", f"{track.start}%+#4"]
    command = ["ffprobe", "-v", "quiet", "-select_streams", str(track.index), *entries]
    command += ["-of", "csv=p=0", "-threads", "1", *words(source.options), source.url]
    with run_sandboxed(command, source.file, seconds=PROBE_SECONDS) as child:
        found = re.match(rb"-?[\d.]+", output_of(child).read(1 << 16))
    return float(found[0]) if found else None


def decode_command(
    source: FfmpegInput, track: Track, n_channels: int, sample_rate: int
) -> list[str]:
    options = {**source.options, "codec_whitelist": CODECS, "threads": 1}
    sound = ffmpeg.output(
        ffmpeg.input(source.url, vn=None, sn=None, dn=None, **options)[str(track.index)],
        "pipe:1",
        format="f32le",
        af=",".join([*channel_filters(track.channels, n_channels), FILL_GAPS]),
        ac=n_channels,
        ar=sample_rate,
        threads=1,
        max_error_rate=0,
    )
    # Without -copyts ffmpeg cuts gaps of more than 10 s out of Ogg and MPEG, and moves the track to
    # the start of the clock.
    quiet = sound.global_args("-nostdin", "-v", "quiet", "-filter_threads", "1", "-copyts")
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


def refuse_failed(status: int, track: Track, decoded: float) -> None:
    """
    Args:
        status: ffmpeg's exit status.
        decoded: seconds.

    Raises:
        DecoderKilled, DecodeFailed, UnreadableAudio.
    """
    if status == INTERRUPTED:  # perhaps the whole service is being stopped
        raise DecoderKilled(
            f"Decoding was interrupted after {duration_in_words(decoded)}: try again."
        )
    if status != 0 and decoded == 0:
        raise UnreadableAudio(
            f"The audio in the file ({track.codec}) cannot be decoded:"
            " copy the recording again, or export it as WAV, FLAC, MP3 or M4A and use that file."
        )
    if status not in (0, HAD_ERRORS):
        raise DecodeFailed(
            f"Decoding stopped after {duration_in_words(decoded)} (ffmpeg exited with {status}):"
            " copy the recording again, or export it as WAV and use that file."
        )


def warn_of_length(info: RecordingInfo, decoded: float) -> list[str]:
    """Return a warning if the file may be incomplete, by a length that may be wrong.

    Args:
        decoded: seconds.

    Raises:
        TruncatedAudio: it is incomplete, by a length that is certain.
    """
    declared = info.duration
    if declared is None or decoded >= declared * 0.999 - 1:  # headers round, encoders pad
        return []
    lengths = (
        f"The file says that it lasts {duration_in_words(declared)} but holds only"
        f" {duration_in_words(decoded)} of sound"
    )
    if not info.is_duration_certain:
        return [f"{lengths}. Its header may be wrong: compare the length with your notes."]
    raise TruncatedAudio(
        f"{lengths}: copy it from the recorder again. If that is"
        " all there is, open it in Audacity, export it as WAV and use that file (or run:"
        " ffmpeg -i OLD -c copy NEW)."
    )
