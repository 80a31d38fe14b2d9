"""Reads what a recording declares about itself, with ffprobe, before anything is decoded."""

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from models.audio.avi import AviStart, read_avi_starts
from models.audio.chunks import Sound
from models.audio.errors import EmptyFile, EncryptedAudio, NoAudioStream, UnreadableAudio
from models.audio.ffmpeg_child import (
    READABLE_CODECS,
    output_of,
    run_sandboxed,
    words,
)
from models.audio.ffmpeg_input import open_source
from models.audio.headers import (
    NO_SOUND,
    clock_start,
    declared_duration,
    read_head,
    refuse_by_signature,
    seconds,
    why_unreadable,
)
from models.audio.limits import refuse_out_of_range, unreadable_codec
from models.audio.recording import RecordingInfo, Track

PROBE_SECONDS = 30  # processor time
MIN_AVI_LEAD = 1.0  # s; programs store a little of the picture first
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
    entries = "stream=index,codec_name,codec_tag_string,sample_rate,channels,duration,start_time"
    entries += ":stream_disposition=default:format=format_name,duration,start_time,nb_streams"
    command = ["ffprobe", "-v", "quiet", "-select_streams", "a", "-show_entries", entries]
    # No codec whitelist here, because ffprobe opens a decoder for every track and fails if one is
    # not allowed: a DTS track would make the AAC track beside it unreadable. The sandbox holds
    # whatever they do, and only decoders on the whitelist get to decode the recording.
    with open_source(file) as source:
        command += ["-of", "json", "-threads", "1", *words(source.options), source.url]
        with run_sandboxed(command, source.file, seconds=PROBE_SECONDS) as child:
            report = output_of(child).read(1 << 20)
    if child.returncode != 0:
        raise UnreadableAudio(why_unreadable(head))
    answer = json.loads(report)
    streams, container = answer["streams"], answer["format"]
    if not streams:
        raise NoAudioStream(NO_SOUND)
    tracks = [track_of(number, stream) for number, stream in enumerate(streams, 1)]
    late: list[str] = []
    if container["format_name"] == "avi":
        tracks, late = place_avi_tracks(tracks, read_avi_starts(file))
    chosen, warnings = choose_tracks(tracks, streams)
    warnings += late
    reported = [streams[track.number - 1] for track in chosen]
    duration, is_certain = declared_duration(file, head, source.sound, reported, container)
    if source.sound is not None:
        warnings += warn_of_odd_chunks(source.sound)
    info = RecordingInfo(
        container=container["format_name"],
        codec=chosen[0].codec,
        sample_rate=chosen[0].sample_rate,
        channels=sum(track.channels for track in chosen),
        duration=duration,
        n_bytes=status.st_size,
        tracks=tuple(chosen),
        clock_start=clock_start(file, container),
        is_duration_certain=is_certain,
        warnings=tuple(warnings),
    )
    refuse_out_of_range(info)
    return info


def track_of(number: int, stream: Mapping[str, Any]) -> Track:
    """
    Args:
        number: among the audio tracks, from 1.
        stream: ffprobe's report.
    """
    return Track(
        index=int(stream["index"]),
        number=number,
        codec=stream.get("codec_name", "unknown"),
        sample_rate=int(stream.get("sample_rate", 0)),
        channels=int(stream.get("channels", 0)),
        start=seconds(stream.get("start_time")),
    )


def place_avi_tracks(
    tracks: Sequence[Track], starts: Mapping[int, AviStart]
) -> tuple[list[Track], list[str]]:
    """Give tracks the start that an AVI declares; warn where the pictures contradict it."""
    placed = [
        replace(track, start=starts[track.index].declared) if track.index in starts else track
        for track in tracks
    ]
    beside = max(
        (start.beside for start in starts.values() if start.beside and not start.declared),
        default=0.0,
    )
    if beside < MIN_AVI_LEAD:
        return placed, []
    warning = (
        f"In this AVI the first sound is stored beside the picture at {beside:.1f} s, but the file"
        " says that both start together. If the sound starts later, all times are too early by that"
        " much: compare them with the picture."
    )
    return placed, [warning]


def choose_tracks(
    tracks: Sequence[Track], streams: Sequence[Mapping[str, Any]]
) -> tuple[list[Track], list[str]]:
    """Choose the tracks to read.

    Programs mark the first track as the default unasked, so only a mark on another is a choice.
    Tracks without it are then read only if the marked ones turn out to be silent.

    Args:
        streams: ffprobe's reports on the tracks.

    Returns:
        The tracks, and warnings that name the others.

    Raises:
        EncryptedAudio, UnreadableAudio
    """
    locked = [track for track in tracks if is_locked(streams[track.number - 1])]
    readable = [track for track in tracks if track not in locked and is_readable(track)]
    if not readable and locked:
        raise EncryptedAudio(
            "The recording is copy-protected by the shop or program it comes from:"
            " export it there without copy protection, as WAV or M4A."
        )
    if not readable:
        raise UnreadableAudio(unreadable_codec(tracks[0].codec))
    warnings = [
        f"Audio track {track.number} ({track.codec}) cannot be read and was left out. If somebody"
        " can be heard only there, export that track as WAV and transcribe it too."
        for track in tracks
        if track not in readable
    ]
    marked = [t for t in readable if streams[t.number - 1].get("disposition", {}).get("default")]
    if marked and tracks[0] not in marked:
        readable = [replace(track, is_reserve=track not in marked) for track in readable]
    return readable, warnings


def is_locked(stream: Mapping[str, Any]) -> bool:
    return stream.get("codec_tag_string") in LOCKED_TAGS


def is_readable(track: Track) -> bool:
    return track.codec in READABLE_CODECS and bool(track.channels and track.sample_rate)


def warn_of_odd_chunks(sound: Sound) -> list[str]:
    """Warn of a WAV, Wave64, AIFF or CAF whose header does not agree with its bytes."""
    warnings = []
    if sound.is_stale:
        warnings.append(
            "The header of the recording declares less audio than the file holds, as after a loss"
            " of power. All of it was read: listen to the end."
        )
    if sound.contradiction:
        warnings.append(
            "The header of the recording declares two lengths. The file ends where the shorter one"
            " does: compare the length with your notes."
        )
    if sound.unknown_bytes:
        warnings.append(
            f"The last {sound.unknown_bytes:,} bytes of the file are neither sound nor a known kind"
            " of metadata, and were left out: compare the length with your notes."
        )
    return warnings
