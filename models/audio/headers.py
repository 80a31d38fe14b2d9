"""What the first bytes of a file reveal that ffprobe does not: its kind, its declared length."""

import os
import struct
from typing import BinaryIO, Literal

from models.audio.errors import EncryptedAudio, NoAudioStream

HEAD_BYTES = 8192
PLAYLISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"<?xml", b"<asx", b"<smil", b"v=0")
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
# ffprobe estimates their durations from the bit rate or the last time stamp: none was declared.
ESTIMATED = ("aac", "amr", "dss", "mpeg", "mpegts", "ogg")
ONE_DURATION_FOR_ALL_STREAMS = ("asf", "matroska,webm")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")

NO_SOUND = "The file contains pictures but no sound: use the recording of the voices."


def read_at(file: BinaryIO, offset: int, n_bytes: int) -> bytes:
    return os.pread(file.fileno(), n_bytes, offset)


def read_head(file: BinaryIO) -> bytes:
    return read_at(file, 0, HEAD_BYTES)


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
        return "The file contains text, whatever its name says: use the recording."
    return (
        "The file is not in a format that can be read (docs/reference/formats.md lists them):"
        " export the recording as WAV, FLAC, MP3 or M4A and use that file."
    )


def declared_duration(
    file: BinaryIO, head: bytes, stream: dict[str, str], container: dict[str, str]
) -> float | None:
    """Seconds of audio that the file declares; None where ffprobe could only estimate them.

    Args:
        stream, container: ffprobe's report.
    """
    name = container["format_name"]
    if name in ESTIMATED or (name == "mp3" and not has_frame_count(file, head)):
        return None
    if name in ONE_DURATION_FOR_ALL_STREAMS and int(container["nb_streams"]) > 1:
        return None  # it is the longest stream's, which may be the picture
    duration = float(stream.get("duration") or container.get("duration") or 0)
    if name == "asf":
        duration = asf_duration(head)
    elif name == "wav" and not stream.get("codec_name", "").startswith("pcm_"):
        pass  # a separate chunk holds the number of samples
    elif (declared_bytes := file_size_in_header(head)) is not None:
        # ffprobe computes the duration from the bytes present
        duration *= max(1.0, declared_bytes / os.fstat(file.fileno()).st_size)
    return duration if duration > 0 else None


def has_frame_count(file: BinaryIO, head: bytes) -> bool:
    """Whether an MP3 begins with a frame that gives the number of frames: Xing, Info or VBRI."""
    offset = 0
    if head[:3] == b"ID3":  # a tag; its size uses seven bits of each byte
        size = head[6:10]
        offset = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    frame = read_at(file, offset, 64)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))


def asf_duration(head: bytes) -> float:
    """Seconds in the file properties of a WMA: play duration minus preroll, 0 if not filled in.

    Source: Advanced Systems Format (ASF) Specification, 3.2.
    """
    at = head.find(ASF_FILE_PROPERTIES)
    if at < 0:
        return 0.0
    play_duration, _, preroll = struct.unpack_from("<QQQ", head.ljust(at + 88, b"\0"), at + 64)
    return float(play_duration / 10_000_000 - preroll / 1000)


def file_size_in_header(head: bytes) -> int | None:
    """File size in bytes as the header of a WAV, W64, AVI or CAF declares it.

    None without such a header, or if it was never filled in: a recorder that lost power leaves
    zero, a program that could not seek back to the start writes the largest number possible.
    """
    size = 0
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little") + 8
        size = 0 if size == 8 or size >= 1 << 31 else size
        if head[8:12] == b"WAVE" and (end := end_of_data(head, 12, 4, "little")) is not None:
            size = min(size, end)  # anything after that is not sound
    elif head[:4] == b"riff":
        size = int.from_bytes(head[16:24], "little")
    elif head[:4] == b"caff":
        size = end_of_data(head, 8, 8, "big") or 0
    return size if 8 < size < 1 << 50 else None


def end_of_data(
    head: bytes, at: int, size_bytes: int, byteorder: Literal["little", "big"]
) -> int | None:
    """Declared end of the chunk that holds the sound; the first chunk begins at `at`."""
    while at + 4 + size_bytes <= len(head):
        name, body = head[at : at + 4], at + 4 + size_bytes
        size = int.from_bytes(head[at + 4 : body], byteorder)
        if name == b"data":
            return body + size
        at = body + size + (size % 2 if byteorder == "little" else 0)  # WAV pads to even bytes
    return None
