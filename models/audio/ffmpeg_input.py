"""A recording as ffmpeg is given it: all of its audio, and nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from models.audio.amr import AmrDamage, is_amr, repaired_amr
from models.audio.chunks import WAV, Sound, find_sound, repaired
from models.audio.ffmpeg_child import INPUT, INPUT_OPTIONS
from models.audio.headers import end_of_mp3, file_size, is_mp3, read_head

PART_OPTIONS = {**INPUT_OPTIONS, "protocol_whitelist": "file,subfile"}


@dataclass(frozen=True)
class FfmpegInput:
    """A recording as ffprobe and ffmpeg read it."""

    file: BinaryIO  # their standard input
    url: str
    options: Mapping[str, object]
    end: int  # of the sound, in bytes
    sound: Sound | None = None  # of a file in chunks
    amr: AmrDamage = AmrDamage()  # what is missing in an AMR file, replaced by silence


@contextmanager
def open_source(file: BinaryIO) -> Iterator[FfmpegInput]:
    """Choose the input and the options with which ffmpeg reads the whole recording."""
    head, n_bytes = read_head(file), file_size(file)
    sound = find_sound(file, head)
    if sound is not None and not sound.is_plain:
        if sound.form is WAV and sound.runs_to_end(n_bytes):
            yield FfmpegInput(file, INPUT, {**INPUT_OPTIONS, "ignore_length": 1}, n_bytes, sound)
            return
        with repaired(file, sound) as copy:
            yield FfmpegInput(copy, INPUT, INPUT_OPTIONS, n_bytes, sound)
    elif is_amr(head):
        with repaired_amr(file, head) as (copy, damage):
            yield FfmpegInput(copy, INPUT, INPUT_OPTIONS, n_bytes, amr=damage)
    elif is_mp3(head) and (end := end_of_mp3(file)) < n_bytes:
        part = f"subfile,,start,0,end,{end},,:{INPUT}"
        yield FfmpegInput(file, part, PART_OPTIONS, end)
    else:
        yield FfmpegInput(file, INPUT, INPUT_OPTIONS, n_bytes, sound)
