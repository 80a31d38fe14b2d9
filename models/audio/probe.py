"""Reads what a recording declares about itself, with ffprobe, before anything is decoded."""

import json
import os
import stat
from typing import BinaryIO

from models.audio.errors import EmptyFile, EncryptedAudio, NoAudioStream, UnreadableAudio
from models.audio.ffmpeg_child import CODECS, INPUT, INPUT_OPTIONS, output_of, run_sandboxed
from models.audio.headers import (
    NO_SOUND,
    declared_duration,
    read_head,
    refuse_by_signature,
    why_unreadable,
)
from models.audio.limits import refuse_out_of_range
from models.audio.recording import RecordingInfo

PROBE_SECONDS = 30  # processor time
LOCKED_TAGS = ("aavd", "drms", "enca")  # Audible, iTunes, MPEG common encryption


def probe(file: BinaryIO) -> RecordingInfo:
    """Read the format, channels and declared duration of a recording.

    Args:
        file: an open regular file or `memory_file`; its position is neither used nor moved.

    Raises:
        AudioError: one of its leaves, if the recording is already known to be unusable.
    """
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a recording must be a regular file or a memory_file")
    if status.st_size == 0:
        raise EmptyFile("The file has 0 bytes: copy the recording from the recorder again.")
    head = read_head(file)
    refuse_by_signature(head)
    entries = "stream=codec_name,codec_tag_string,sample_rate,channels,duration"
    entries += ":format=format_name,duration,nb_streams"
    command = ["ffprobe", "-v", "quiet", "-select_streams", "a:0", "-show_entries", entries]
    # Audio only: ffprobe opens a decoder for every stream, and fails if one is not allowed.
    command += ["-of", "json", "-threads", "1", "-codec_whitelist:a", CODECS]
    command += [word for name, value in INPUT_OPTIONS.items() for word in (f"-{name}", value)]
    with run_sandboxed([*command, INPUT], file, seconds=PROBE_SECONDS) as child:
        report = output_of(child).read(1 << 16)
    if child.returncode != 0:
        raise UnreadableAudio(why_unreadable(head))
    answer = json.loads(report)
    if not answer["streams"]:
        raise NoAudioStream(NO_SOUND)
    stream, container = answer["streams"][0], answer["format"]
    if stream.get("codec_tag_string") in LOCKED_TAGS:
        raise EncryptedAudio(
            "The recording is copy-protected by the shop or program it comes from:"
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
