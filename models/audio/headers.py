"""What the first bytes of a file reveal that ffprobe does not: its kind, its declared length."""

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from models.audio.chunks import Sound, byte_rate
from models.audio.errors import EncryptedAudio, NoAudioStream

HEAD_BYTES = 8192
PLAYLISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"<?xml", b"<asx", b"<smil", b"v=0")
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
# ffprobe estimates their durations from the bit rate or the last timestamp: none was declared.
ESTIMATED = ("aac", "amr", "dss", "mpeg", "mpegts", "ogg")
ONE_DURATION_FOR_ALL_STREAMS = ("asf", "matroska,webm")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")

MAX_LEAD = 3600.0  # s; a track that starts later than that has another clock

NO_SOUND = "The file contains pictures but no sound: use the recording of the voices."


def read_at(file: BinaryIO, offset: int, n_bytes: int) -> bytes:
    return os.pread(file.fileno(), n_bytes, offset)


def read_head(file: BinaryIO) -> bytes:
    return read_at(file, 0, HEAD_BYTES)


def file_size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def is_mp3(head: bytes) -> bool:
    """Whether a file begins like an MP3: with a tag or with a frame of layer 1 to 3."""
    return head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] > b"\xe0" and bool(head[1] & 6))


def refuse_by_signature(head: bytes) -> None:
    """Refuse pictures and locked dictation files.

    Raises:
        NoAudioStream, EncryptedAudio.
    """
    if head.startswith(PICTURES):
        raise NoAudioStream(NO_SOUND)
    if head[1:4] == b"ds2":
        raise EncryptedAudio(
            "The recording is in the closed DS2 format:"
            " export it as WAV with the recorder's program (Olympus DSS Player, OM System ODMS)."
        )
    if head[1:4] == b"enc":
        raise EncryptedAudio(
            "The recording is protected by a password: unlock it and export it as WAV"
            " with the recorder's program (Olympus DSS Player, OM System ODMS)."
        )


def why_unreadable(head: bytes) -> str:
    """The message for a file that none of the allowed demuxers recognises."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(PLAYLISTS):
        return (
            "The file is a playlist, which names recordings but contains no sound:"
            " use the recordings themselves."
        )
    if head[4:8] in (b"ftyp", b"mdat", b"moov"):
        return (
            "The file begins like an M4A or MP4 recording but lacks the index, which is written"
            " last: copy it from the recorder or telephone again. If that copy fails too, the"
            " recording was never finished and needs a repair program."
        )
    if not head.strip(b"\0"):
        return (
            "The file begins with zeros only, as after a failed copy or on a failing memory card:"
            " copy the recording from the recorder again."
        )
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "The file contains text, not audio: use the recording itself."
    return (
        "The file is not in a format that can be read (docs/reference/formats.md lists them):"
        " export the recording as WAV, FLAC, MP3 or M4A and use that file."
    )


def declared_duration(
    file: BinaryIO,
    head: bytes,
    sound: Sound | None,
    streams: Sequence[Mapping[str, Any]],
    container: Mapping[str, Any],
) -> tuple[float | None, bool]:
    """Return the seconds of audio that the file declares and whether they are certain.

    None where nothing proves a length: ffprobe could only estimate it, or the size was never filled
    in because the file was streamed. Where the declaration may be wrong it is not certain.

    Args:
        sound: the chunks of a WAV, Wave64, AIFF or CAF.
        streams, container: ffprobe's report on the audio tracks.
    """
    name, n_streams = container["format_name"], int(container["nb_streams"])
    if name in ESTIMATED:
        return None, False
    if name == "mp3":
        return mp3_duration(file, head), True
    if name in ONE_DURATION_FOR_ALL_STREAMS and n_streams > 1:
        return None, False  # it is the longest stream's, which may be the picture
    zero = clock_start(file, container)
    if name == "asf":
        end = asf_duration(head)
        return (None, False) if end is None else (max(0.0, end - zero), zero < 1)
    ends = (
        max(0.0, seconds(stream.get("start_time")) - zero) + seconds(stream.get("duration"))
        for stream in streams
        if seconds(stream.get("duration"))
    )
    duration = max(ends, default=0.0)
    if not duration:
        # Its end on the clock of the timestamps, which may start anywhere.
        start = seconds(container.get("start_time"))
        duration = seconds(container.get("duration")) - max(0.0, start)
        is_certain = start < 1 and not (name == "avi" and n_streams > 1)  # it is the picture's
        return (duration, is_certain) if duration > 0 else (None, False)
    if sound is not None:
        return chunks_duration(file, sound, streams[0], duration)
    if name == "avi":
        if (declared_bytes := avi_size(head)) is None:
            return None, False
        # ffprobe computes the duration from the bytes present
        duration *= max(1.0, declared_bytes / file_size(file))
    # An AVI cannot say that sound starts after the picture: some programs make it longer instead.
    return duration, name != "avi" or n_streams == 1


def clock_start(file: BinaryIO, container: Mapping[str, Any]) -> float:
    """Return the timestamp, in seconds, at which the clock of the file starts.

    Camcorders count from any time, live recordings from the start of the stream that they were cut
    from. A whole MP4 counts from zero, unless it starts with more than an hour of nothing.
    """
    start = max(0.0, seconds(container.get("start_time")))
    is_mp4 = str(container["format_name"]).startswith("mov,")
    return 0.0 if is_mp4 and start <= MAX_LEAD and not is_fragmented(file) else start


def seconds(value: object) -> float:
    """A number of ffprobe's report; 0 if it is missing."""
    return float(str(value)) if value not in (None, "N/A") else 0.0


def chunks_duration(
    file: BinaryIO, sound: Sound, stream: Mapping[str, Any], reported: float
) -> tuple[float | None, bool]:
    """As `declared_duration`, for files in chunks.

    Args:
        reported: seconds according to ffprobe.
    """
    rate = byte_rate(file, sound.form, sound.heads)
    if not rate or not str(stream.get("codec_name")).startswith("pcm_"):
        return (None, False) if sound.declared_bytes is None else (reported, True)
    present = sound.n_bytes / rate
    if sound.declared_bytes is None:
        return None, False
    return max(present, sound.declared_bytes / rate), not sound.contradiction


def mp3_duration(file: BinaryIO, head: bytes) -> float | None:
    """Seconds by the number of frames that the first frame of an MP3 declares: Xing, Info, VBRI.

    Source: http://gabriel.mp3-tech.org/mp3infotag.html, ISO/IEC 11172-3 2.4.2.3.
    """
    offset = 0
    while (tag := read_at(file, offset, 10))[:3] == b"ID3" and len(tag) == 10:
        size = tag[6:10]  # seven bits of each byte
        offset += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    frame = read_at(file, offset, 64)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] < 0xE0:
        return None
    if (at := max(frame.find(b"Xing"), frame.find(b"Info"))) >= 0:
        flags, n_frames = struct.unpack_from(">II", frame, at + 4)
        n_frames *= flags & 1
    elif (at := frame.find(b"VBRI")) >= 0:
        (n_frames,) = struct.unpack_from(">I", frame, at + 14)
    else:
        return None
    version, rate = frame[1] >> 3 & 3, frame[2] >> 2 & 3
    if rate == 3 or not n_frames:
        return None
    sample_rate = (44_100, 48_000, 32_000)[rate] / {3: 1, 2: 2}.get(version, 4)
    return float(n_frames * (1152 if version == 3 else 576) / sample_rate)


def end_of_mp3(file: BinaryIO) -> int:
    """Where the tags at the end of an MP3 begin: a cover among them may look like sound."""
    end = file_size(file)
    for _ in range(4):
        if end > 128 and read_at(file, end - 128, 3) == b"TAG":
            end -= 128
        elif (footer := read_at(file, max(0, end - 32), 32))[:8] == b"APETAGEX":
            size, flags = struct.unpack_from("<I4xI", footer, 12)
            end = max(0, end - size - (32 if flags & 1 << 31 else 0))
        elif (footer := read_at(file, max(0, end - 15), 15))[6:] == b"LYRICS200":
            end = max(0, end - 15 - (int(footer[:6]) if footer[:6].isdigit() else 0))
        else:
            break
    return end


def asf_duration(head: bytes) -> float | None:
    """Seconds in the file properties of a WMA: play duration minus preroll, None if not filled in.

    Source: Advanced Systems Format (ASF) Specification, 3.2.
    """
    at = head.find(ASF_FILE_PROPERTIES)
    if at < 0:
        return None
    play_duration, _, preroll, flags = struct.unpack_from(
        "<QQQI", head.ljust(at + 92, b"\0"), at + 64
    )
    is_broadcast = flags & 1  # then the other fields are not valid
    duration = play_duration / 10_000_000 - preroll / 1000
    return float(duration) if duration > 0 and not is_broadcast else None


def avi_size(head: bytes) -> int | None:
    """File size in bytes as the header of an AVI declares it; None if it was not filled in."""
    size = int.from_bytes(head[4:8], "little") + 8
    return size if 8 < size < 1 << 31 else None


def is_fragmented(file: BinaryIO) -> bool:
    """Whether an MP4 has fragments, whose timestamps may start anywhere.

    Those of other MP4 files start at zero, and a sound that begins later has an empty edit.
    """
    at, n_bytes = 0, file_size(file)
    for _ in range(64):
        head = read_at(file, at, 16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if head[4:8] == b"moof":
            return True
        if size < 8 or (at := at + size) >= n_bytes:
            return False
    return False
