"""Recordings in, samples out: probe and decode to 16 kHz float32 with ffprobe and ffmpeg.

A media file is a program for a parser, so both run in a sandbox (sandbox.py), get an open
descriptor and never a path, and may use only the formats and codecs listed here. What they print
about a file (its path and tags) goes nowhere.

The children of `AudioError`: EmptyFile, UnreadableAudio, EncryptedAudio, NoAudioStream,
TruncatedAudio, SilentAudio, TooLong, TooManyChannels, SampleRateTooLow, AudioTooShort,
DecodeFailed, DecoderKilled, FfmpegMissing, SandboxUnavailable.
"""

import fcntl
import json
import math
import mmap
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, BinaryIO, Literal

import ffmpeg
import numpy as np

from models.audio import sandbox
from models.errors import AudioError

SAMPLE_RATE = 16_000  # Hz, what Whisper was trained on

MAX_SECONDS = 24 * 3600
MAX_CHANNEL_SECONDS = 2 * MAX_SECONDS  # channels are decoded apart: eight of six hours, 11 GB
MAX_CHANNELS = 8
MIN_SAMPLE_RATE = 8_000  # Hz, the telephone's
MIN_SECONDS = 0.1
SILENCE_DBFS = -60.0
LOUDEST_DBFS = 40.0  # speech lies within the 80 dB below it that Whisper hears

MEMORY_BYTES = 2 << 30  # address space of the child
PROBE_SECONDS = 30  # processor time
SLOWEST_RTFX = 20  # decoding runs at some hundreds
MAX_DAMAGE = 0.05  # share of the packets that may fail to decode
BLOCK_FRAMES = 1 << 16
MAP_NORESERVE = 0x4000  # mmap(2); Python 3.11 does not name it
TOO_MUCH_DAMAGE = 69  # ffmpeg's exit status above max_error_rate
INTERRUPTED = 255  # ffmpeg's exit status after a signal that it heeds
KILLED = (-signal.SIGKILL, -signal.SIGXCPU, -signal.SIGTERM)

# What recorders, telephones, video calls and office programs write. Playlists, pictures, subtitles
# and whatever else names other files stay out. Source: `ffmpeg -demuxers`, `ffmpeg -decoders`.
FORMATS = "aac,aiff,amr,asf,au,avi,caf,dss,flac,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav"
CODECS = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,alac,amrnb,amrwb,dss_sp,eac3,flac,g723_1,gsm,gsm_ms,"
    "libopencore_amrnb,libopencore_amrwb,libopus,libspeex,libvorbis,mp1,mp1float,mp2,mp2float,mp3,"
    "mp3float,opus,speex,vorbis,wmalossless,wmapro,wmav1,wmav2,wmavoice,adpcm_g726,adpcm_g726le,"
    "adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_yamaha,pcm_alaw,pcm_f32be,pcm_f32le,pcm_f64be,"
    "pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,pcm_s8,pcm_u8"
)
# ffprobe reckons their durations from the bit rate or the last time stamp: none was declared.
ESTIMATED = ("aac", "amr", "dss", "mpeg", "mpegts", "ogg")
ONE_DURATION_FOR_ALL = ("asf", "matroska,webm")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
LOCKED_TAGS = ("aavd", "drms", "enca")  # Audible, iTunes, MPEG common encryption
PLAYLISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"<?xml", b"<asx", b"<smil", b"v=0")
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
HEAD_BYTES = 8192
INPUT = "file:/proc/self/fd/0"  # the descriptor, opened again: a pipe cannot be read backwards
INPUT_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
# Time stamps are followed where they leave a gap of 0.1 s to 1 h, never backwards: nothing is cut.
# Register 0 has the time stamp that the next samples should have, 1 the one they get.
FILL_GAPS = (
    "asetpts='st(1,if(between(PTS-ld(0),0.1*SR,3600*SR),PTS,ld(0)))+0*st(0,ld(1)+NB_SAMPLES)',"
    "aresample=async=1"
)

NO_SOUND = "The file has a picture and no sound in it: take the recording of the voices."
NO_FFMPEG = "ffmpeg is not installed here: whoever runs this service installs ffmpeg, 5.1 or later."
NO_SANDBOX = (
    "This machine cannot cut ffmpeg off from the network, which needs Linux on x86-64 or arm64 with"
    " seccomp, or with user namespaces: whoever runs this service allows one of them."
)


class EmptyFile(AudioError):
    """The file has no bytes."""

    code = "empty_file"


class UnreadableAudio(AudioError):
    """The file is no recording, or none in a format that can be read."""

    code = "unreadable_audio"


class EncryptedAudio(AudioError):
    """The recording is locked with a password or by a shop, or is in the closed DS2 format."""

    code = "encrypted_audio"


class NoAudioStream(AudioError):
    """The file has pictures and no sound."""

    code = "no_audio_stream"


class TruncatedAudio(AudioError):
    """The file holds clearly less sound than it declares."""

    code = "truncated_audio"


class SilentAudio(AudioError):
    """No channel is ever louder than -60 dBFS."""

    code = "silent_audio"


class TooLong(AudioError):
    """The recording is longer than 24 hours, or 48 hours of channels decoded apart."""

    code = "too_long"


class TooManyChannels(AudioError):
    """The recording has more than eight channels."""

    code = "too_many_channels"


class SampleRateTooLow(AudioError):
    """The recording holds less of a voice than a telephone carries."""

    code = "sample_rate_too_low"


class AudioTooShort(AudioError):
    """The recording is shorter than a tenth of a second."""

    code = "audio_too_short"


class DecodeFailed(AudioError):
    """Decoding broke off, or too much of the recording is damaged."""

    code = "decode_failed"


class DecoderKilled(AudioError):
    """ffmpeg was killed or took too long, which may be the machine's fault or the recording's."""

    code = "decoder_killed"
    retryable = True


class FfmpegMissing(AudioError):
    """ffmpeg and ffprobe are not installed."""

    code = "ffmpeg_missing"


class SandboxUnavailable(AudioError):
    """This machine cannot run ffmpeg cut off from the network."""

    code = "sandbox_unavailable"


@dataclass(frozen=True)
class RecordingInfo:
    """What ffprobe says of a recording's first sound stream; its tags are never read.

    `duration` is what the file declares and None where it declares none, as AMR, DSS, Ogg, raw AAC,
    live WebM and many MP3 do. An estimate from the bit rate would be wrong by minutes.
    """

    container: str  # in ffmpeg's words, "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str
    sample_rate: int  # Hz
    channels: int
    duration: float | None
    n_bytes: int


@dataclass(frozen=True)
class Levels:
    """What was heard of a recording, of which nothing was kept; dBFS for each of its channels."""

    duration: float
    peak_dbfs: tuple[float, ...]
    mean_dbfs: tuple[float, ...]  # RMS


@dataclass(frozen=True, eq=False)
class Recording:
    """Decoded sound: `samples` is float32, (n_channels, n_samples), 16 kHz."""

    samples: np.ndarray
    info: RecordingInfo

    @property
    def duration(self) -> float:
        """Seconds of decoded samples."""
        return float(self.samples.shape[1] / SAMPLE_RATE)

    @cached_property
    def peak_dbfs(self) -> tuple[float, ...]:
        """Loudest sample of each channel, 0 for full scale, -inf for digital silence."""
        return tuple(dbfs(float(max(channel.max(), -channel.min()))) for channel in self.samples)

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """RMS of each channel in dBFS."""
        return tuple(dbfs(rms(channel)) for channel in self.samples)


def dbfs(amplitude: float) -> float:
    return 20.0 * math.log10(amplitude) if amplitude != 0 else -math.inf


def rms(channel: np.ndarray) -> float:
    """In blocks of a minute: one float32 sum over hours would lose digits."""
    blocks = (channel[i : i + 60 * SAMPLE_RATE] for i in range(0, len(channel), 60 * SAMPLE_RATE))
    return math.sqrt(sum(float(np.dot(block, block)) for block in blocks) / len(channel))


def memory_file(parts: Iterable[bytes]) -> BinaryIO:
    """A sealed file in memory: seekable, as `probe` and `decode` need it, and never on a disk."""
    descriptor = os.memfd_create("recording", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    file = open(descriptor, "w+b")
    for part in parts:
        file.write(part)
    file.seek(0)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return file


def probe(file: BinaryIO) -> RecordingInfo:
    """What the recording says about itself, before anything is decoded.

    Args:
        file: an open regular file or `memory_file`; its position is neither used nor moved.

    Raises:
        AudioError: one of its children, where it is clear already that the recording is of no use.
    """
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a recording must be a regular file or a memory_file")
    if status.st_size == 0:
        raise EmptyFile("The file has 0 bytes: copy the recording from the recorder again.")
    head = read_at(file, 0, HEAD_BYTES)
    refuse_known(head)
    entries = "stream=codec_name,codec_tag_string,sample_rate,channels,duration"
    entries += ":format=format_name,duration,nb_streams"
    command = ["ffprobe", "-v", "quiet", "-select_streams", "a:0", "-show_entries", entries]
    # Sound only: ffprobe opens a decoder for every stream, and gives up where it may not.
    command += ["-of", "json", "-threads", "1", "-codec_whitelist:a", CODECS]
    command += [word for name, value in INPUT_OPTIONS.items() for word in (f"-{name}", value)]
    with sandboxed([*command, INPUT], file, seconds=PROBE_SECONDS) as child:
        report = output_of(child).read(1 << 16)
    if child.returncode != 0:
        raise UnreadableAudio(why_unreadable(head))
    answer = json.loads(report)
    if not answer["streams"]:
        raise NoAudioStream(NO_SOUND)
    stream, container = answer["streams"][0], answer["format"]
    if stream.get("codec_tag_string") in LOCKED_TAGS:
        raise EncryptedAudio(
            "The recording is locked by the shop or the program it comes from:"
            " export it there without copy protection, as WAV or M4A."
        )
    info = RecordingInfo(
        container=container["format_name"],
        codec=stream.get("codec_name", "unknown"),
        sample_rate=int(stream.get("sample_rate", 0)),
        channels=int(stream.get("channels", 0)),
        duration=declared_duration(file, head, stream, container),
        n_bytes=status.st_size,
    )
    refuse_out_of_range(info)
    return info


def read_at(file: BinaryIO, offset: int, n_bytes: int) -> bytes:
    return os.pread(file.fileno(), n_bytes, offset)


def refuse_known(head: bytes) -> None:
    """What its first bytes give away: a picture, or a DSS file of the closed second generation."""
    if head.startswith(PICTURES):
        raise NoAudioStream(NO_SOUND)
    if head[1:4] == b"ds2":
        raise EncryptedAudio(
            "The recording is in the closed DS2 format:"
            " export it as WAV with the recorder's program (Olympus DSS Player, OM System ODMS)."
        )
    if head[1:4] == b"enc":
        raise EncryptedAudio(
            "The recording is locked with a password: unlock it and export it as WAV"
            " with the recorder's program (Olympus DSS Player, OM System ODMS)."
        )


def why_unreadable(head: bytes) -> str:
    """A sentence for a file that no allowed demuxer knows, from its first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(PLAYLISTS):
        return (
            "The file is a playlist, which names recordings and holds no sound:"
            " take the recordings themselves."
        )
    if head[4:8] in (b"ftyp", b"mdat", b"moov"):
        return (
            "The file begins like an M4A or MP4 recording and has no index, which is written last:"
            " copy it from the recorder or telephone again, and if it is the same there,"
            " the recording was never finished and needs a repair program."
        )
    if not head.strip(b"\0"):
        return (
            "The file begins with nothing but zeros, as after a failed copy or on a failing card:"
            " copy the recording from the recorder again."
        )
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "The file is a text and no recording, whatever its name says: take the recording."
    return (
        "The file is not in a format that can be read (docs/reference/formats.md lists them):"
        " export the recording as WAV, FLAC, MP3 or M4A and take that."
    )


def declared_duration(
    file: BinaryIO, head: bytes, stream: dict[str, str], container: dict[str, str]
) -> float | None:
    """Seconds of sound the file says it has; None where ffprobe could only estimate them."""
    name = container["format_name"]
    if name in ESTIMATED or (name == "mp3" and not counts_frames(file, head)):
        return None
    if name in ONE_DURATION_FOR_ALL and int(container["nb_streams"]) > 1:
        return None  # that of the longest stream, perhaps of the picture
    duration = float(stream.get("duration") or container.get("duration") or 0)
    if name == "asf":
        duration = asf_duration(head)
    elif name == "wav" and not stream.get("codec_name", "").startswith("pcm_"):
        pass  # a chunk of its own has the number of samples
    elif (declared_bytes := file_size_in_header(head)) is not None:
        # ffprobe reckons with the bytes that are there
        duration *= max(1.0, declared_bytes / os.fstat(file.fileno()).st_size)
    return duration if duration > 0 else None


def counts_frames(file: BinaryIO, head: bytes) -> bool:
    """Whether an MP3 begins with a frame that tells how many follow: Xing, Info or VBRI."""
    offset = 0
    if head[:3] == b"ID3":  # a tag, whose size is in seven bits of each byte
        size = head[6:10]
        offset = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    frame = read_at(file, offset, 64)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))


def asf_duration(head: bytes) -> float:
    """Seconds in the file properties of a WMA: play duration less preroll, 0 if not filled in.

    Source: Advanced Systems Format (ASF) Specification, 3.2.
    """
    at = head.find(ASF_FILE_PROPERTIES)
    if at < 0:
        return 0.0
    play_duration, _, preroll = struct.unpack_from("<QQQ", head.ljust(at + 88, b"\0"), at + 64)
    return float(play_duration / 10_000_000 - preroll / 1000)


def file_size_in_header(head: bytes) -> int | None:
    """Bytes that the header of a WAV, W64, AVI or CAF says the file has.

    None where there is no such header, or where it was never filled in: a recorder that lost power
    leaves zero, a program that could not go back to the start the largest number there is.
    """
    size = 0
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little") + 8
        size = 0 if size == 8 or size >= 1 << 31 else size
        if head[8:12] == b"WAVE" and (end := end_of_data(head, 12, 4, "little")) is not None:
            size = min(size, end)  # what follows is no sound
    elif head[:4] == b"riff":
        size = int.from_bytes(head[16:24], "little")
    elif head[:4] == b"caff":
        size = end_of_data(head, 8, 8, "big") or 0
    return size if 8 < size < 1 << 50 else None


def end_of_data(
    head: bytes, at: int, size_bytes: int, byteorder: Literal["little", "big"]
) -> int | None:
    """Where the chunk with the sound ends by its own account; the first chunk begins at `at`."""
    while at + 4 + size_bytes <= len(head):
        name, body = head[at : at + 4], at + 4 + size_bytes
        size = int.from_bytes(head[at + 4 : body], byteorder)
        if name == b"data":
            return body + size
        at = body + size + (size % 2 if byteorder == "little" else 0)  # a WAV pads to even bytes
    return None


def refuse_out_of_range(info: RecordingInfo) -> None:
    if not info.channels or not info.sample_rate:
        raise UnreadableAudio(
            f"The sound in the file ({info.codec}) is in no format that can be read:"
            " export the recording as WAV, FLAC, MP3 or M4A and take that."
        )
    if info.channels > MAX_CHANNELS:
        raise TooManyChannels(
            f"The recording has {info.channels} channels and at most {MAX_CHANNELS} can be read:"
            " export those with voices on them."
        )
    if info.sample_rate < MIN_SAMPLE_RATE:
        raise SampleRateTooLow(
            f"The recording has {info.sample_rate} samples a second and speech needs at least"
            f" {MIN_SAMPLE_RATE}: look for the original, which may have been made smaller since."
        )
    if info.duration is not None and info.duration > MAX_SECONDS:
        raise TooLong(too_long(info.duration))


def too_long(seconds: float, n_channels: int = 1) -> str:
    limit = clock(max_seconds(n_channels))
    apart = f" with {n_channels} channels apart" if n_channels > 1 else ""
    return (
        f"The recording lasts {clock(seconds)} or more and the limit is {limit}{apart}:"
        " cut it into parts and put them into one session, in order."
    )


def max_seconds(n_channels: int) -> int:
    return min(MAX_SECONDS, MAX_CHANNEL_SECONDS // n_channels)


def clock(seconds: float) -> str:
    """Seconds in words: 8.3 s, 4 min 5 s, 2 h 3 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def decode(
    file: BinaryIO,
    *,
    info: RecordingInfo | None = None,
    split_channels: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Recording:
    """Decode a recording to 16 kHz.

    A gap in its time stamps, as a call leaves where nothing was heard, becomes silence.

    Args:
        file: as for `probe`.
        info: what `probe` said of it; None to ask it.
        split_channels: keep the channels apart instead of mixing them, with equal weights, to one.
        on_progress: called with the seconds decoded so far; what it raises stops the decoding.

    Raises:
        AudioError: one of its children.
    """
    info = info or probe(file)
    n_channels = info.channels if split_channels else 1
    max_samples = max_seconds(n_channels) * SAMPLE_RATE
    samples = lazy_samples(n_channels, max_samples)
    n = 0
    for block in decoded_blocks(file, info, n_channels, max_samples, on_progress):
        start, n = n, n + block.shape[1]
        samples[:, start:n] = block
    recording = Recording(samples[:, :n], info)
    refuse_too_short(recording.duration)
    refuse_useless(info, recording.peak_dbfs)
    return recording


def measure(
    file: BinaryIO, info: RecordingInfo, *, on_progress: Callable[[float], None] | None = None
) -> Levels:
    """Decode a recording to know its length and its levels; memory does not grow with it.

    Channels are measured apart. `refuse_too_short` and `refuse_useless` judge what was found.

    Args:
        file, on_progress: as for `decode`.
        info: what `probe` said of it.

    Raises:
        AudioError: one of its children.
    """
    n, peaks, energy = 0, np.zeros(info.channels), np.zeros(info.channels)
    max_samples = MAX_SECONDS * SAMPLE_RATE
    for block in decoded_blocks(file, info, info.channels, max_samples, on_progress):
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
    max_samples: int,
    on_progress: Callable[[float], None] | None,
) -> Iterator[np.ndarray]:
    """(n_channels, n) at 16 kHz, in memory that the next one reuses; at the end raises."""
    n = 0
    command = decode_command(info, n_channels, past_header=goes_on_past_header(file, info))
    seconds = 60 + (info.duration or MAX_SECONDS) / SLOWEST_RTFX
    with sandboxed(command, file, seconds=seconds) as child:
        for block in blocks(output_of(child), n_channels):
            n += block.shape[1]
            if n > max_samples:
                raise TooLong(too_long(n / SAMPLE_RATE, n_channels))
            yield block
            if on_progress is not None:
                on_progress(n / SAMPLE_RATE)
    refuse_failed(child.returncode, info, n / SAMPLE_RATE)


def goes_on_past_header(file: BinaryIO, info: RecordingInfo) -> bool:
    """Whether a WAV has much more sound than its header says: the recorder lost power.

    Ten seconds more, because a few bytes of tags may also stand there.
    """
    declared_bytes = file_size_in_header(read_at(file, 0, HEAD_BYTES))
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
    """By number and not by place: as a "5.1" recording, six microphones would lose the fourth."""
    if n_in == 1:
        return []
    if n_out == 1:
        return ["pan=mono|c0=" + "+".join(f"{1 / n_in:.6f}*c{i}" for i in range(n_in))]
    return [f"pan={n_in}c|" + "|".join(f"c{i}=c{i}" for i in range(n_in))]


def lazy_samples(n_channels: int, n_samples: int) -> np.ndarray:
    """Zeros, (n_channels, n_samples), that take memory only where something is written.

    So nobody needs to know the length first, and nothing is copied to make room.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, n_channels * n_samples * 4, flags=flags)
    return np.frombuffer(memory, dtype="<f4").reshape(n_channels, n_samples)


def blocks(stream: IO[bytes], n_channels: int) -> Iterator[np.ndarray]:
    """Samples as they arrive, each (n_channels, n_samples), in memory that the next one reuses."""
    frame_bytes = 4 * n_channels
    while block := stream.read(BLOCK_FRAMES * frame_bytes):
        n_frames = len(block) // frame_bytes
        yield (
            np.frombuffer(block, dtype="<f4", count=n_frames * n_channels)
            .reshape(n_frames, n_channels)
            .T
        )


def refuse_failed(status: int, info: RecordingInfo, decoded: float) -> None:
    declared = info.duration
    if status == INTERRUPTED:  # the whole service is being stopped, perhaps
        raise DecoderKilled(f"Decoding was interrupted after {clock(decoded)}: try again.")
    if status == TOO_MUCH_DAMAGE:
        raise DecodeFailed(
            f"More than {MAX_DAMAGE:.0%} of the recording is damaged and cannot be decoded:"
            " copy it from the recorder again."
        )
    if status != 0 and decoded == 0:
        raise UnreadableAudio(
            f"The sound in the file ({info.codec}) cannot be decoded:"
            " copy the recording again, or export it as WAV, FLAC, MP3 or M4A and take that."
        )
    if status != 0:
        raise DecodeFailed(
            f"Decoding broke off after {clock(decoded)} (ffmpeg ended with {status}):"
            " copy the recording again, or export it as WAV and take that."
        )
    if declared is not None and decoded < declared * 0.999 - 1:  # headers round, encoders pad
        raise TruncatedAudio(
            f"The file says that it lasts {clock(declared)} and holds {clock(decoded)} of sound:"
            " copy it from the recorder again, and if that is all there is, open it in Audacity,"
            " export it as WAV and take that (or run: ffmpeg -i OLD -c copy NEW)."
        )


def refuse_too_short(duration: float) -> None:
    """Raises AudioTooShort; first, because nothing has no levels."""
    if duration < MIN_SECONDS:
        raise AudioTooShort(
            f"The recording lasts {duration:.2f} s and the least is {MIN_SECONDS} s:"
            " check that it is the right file."
        )


def refuse_useless(info: RecordingInfo, peaks: tuple[float, ...]) -> None:
    """Raises UnreadableAudio or SilentAudio; `peaks` of each channel in dBFS."""
    if not all(peak < LOUDEST_DBFS for peak in peaks):  # NaN is not
        raise UnreadableAudio(
            "The recording holds samples that no sound has, far beyond the loudest or no numbers at"
            " all: export it again as 16-bit WAV."
        )
    if max(peaks) < SILENCE_DBFS:
        cancelled = " and that its channels do not cancel each other out"
        raise SilentAudio(
            f"The loudest sound in the recording is at {max(peaks):.1f} dBFS and speech lies above"
            f" {SILENCE_DBFS:.0f}: check in a player that the right microphone was recorded"
            f"{cancelled if len(peaks) < info.channels else ''}."
        )


@contextmanager
def sandboxed(
    command: Sequence[str], file: BinaryIO, *, seconds: float
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ffprobe or ffmpeg in the sandbox, with `file` as its standard input.

    On leaving, the child has ended: by itself, or because the caller broke off. Its limit is
    `seconds` of processor time and, for the sake of busy machines, four times that by the clock.
    """
    program = shutil.which(command[0])
    if program is None:
        raise FfmpegMissing(NO_FFMPEG)
    limits = [str(MEMORY_BYTES), str(math.ceil(seconds)), str(os.getpid())]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", sandbox.__file__, *limits, program, *command[1:]],
        stdin=file.fileno(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # ffmpeg would quote tags
        env={**kept, "LANG": "C"},
        start_new_session=True,
    )
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        kill_group(child)

    timer = threading.Timer(4 * seconds, expire)
    timer.start()
    try:
        with child:
            try:
                yield child
                child.wait()
            finally:
                kill_group(child)
    finally:
        timer.cancel()
    if child.returncode == sandbox.UNAVAILABLE:
        raise SandboxUnavailable(NO_SANDBOX)
    if child.returncode == sandbox.PROGRAM_MISSING:
        raise FfmpegMissing(NO_FFMPEG)
    if expired.is_set() or child.returncode in KILLED:
        raise DecoderKilled(
            f"Decoding was killed, for want of memory or at its limit ({clock(seconds)} of"
            " processor time): try again, or export the recording as WAV and take that."
        )


def kill_group(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


def output_of(child: "subprocess.Popen[bytes]") -> IO[bytes]:
    assert child.stdout is not None
    return child.stdout


def join(recordings: Sequence[Recording]) -> tuple[np.ndarray, tuple[float, ...]]:
    """One timeline: samples, (n_channels, n_samples), and the second each recording starts at."""
    if len({len(recording.samples) for recording in recordings}) != 1:
        raise ValueError("recordings of one session must have the same number of channels")
    lengths = [recording.samples.shape[1] for recording in recordings]
    starts = np.cumsum([0, *lengths[:-1]]) / SAMPLE_RATE
    if len(recordings) == 1:  # hours of sound need not be copied
        return recordings[0].samples, (0.0,)
    samples = np.concatenate([recording.samples for recording in recordings], axis=1)
    return samples, tuple(starts.tolist())
