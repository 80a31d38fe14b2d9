"""Measure where a known sound comes out of every container and codec: time, length, loudness.

Prints the table of docs/reference/formats.md. The sound is a tone of half a second, eight seconds
after the start of twelve seconds of near silence.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.audio.decode import decode
from models.audio.recording import SAMPLE_RATE, dbfs, rms

DURATION, START, LENGTH, PEAK = 12.0, 8.0, 0.5, 0.25
LATE = 3.0  # s; by how much the sound starts after the picture
SOUND = (
    f"aevalsrc='if(between(t,{START},{START + LENGTH}),{PEAK},0.0005)*sin(2*PI*440*t)'"
    f":duration={DURATION}:sample_rate="
)
PICTURE = ("-f", "lavfi", "-i", f"testsrc=duration={DURATION}:size=176x144:rate=25")


@dataclass(frozen=True)
class Case:
    """A file that ffmpeg writes."""

    ending: str
    codec: str
    rate: int = 44_100  # Hz
    options: tuple[str, ...] = ()
    picture: str | None = None  # its codec


CASES = (
    Case("wav", "pcm_s16le"),
    Case("wav", "pcm_s24le", 48_000),
    Case("wav", "pcm_f32le", 48_000),
    Case("wav", "pcm_alaw", 8_000),
    Case("wav", "adpcm_ima_wav"),
    Case("wav", "pcm_s16le", options=("-rf64", "always")),
    Case("w64", "pcm_s16le"),
    Case("aiff", "pcm_s16be"),
    Case("caf", "pcm_s16le"),
    Case("caf", "alac"),
    Case("au", "pcm_s16be"),
    Case("flac", "flac", 96_000),
    Case("mp3", "libmp3lame"),
    Case("mp3", "libmp3lame", 16_000, ("-b:a", "32k", "-write_xing", "0")),
    Case("aac", "aac"),
    Case("m4a", "aac"),
    Case("m4a", "alac"),
    Case("ogg", "libvorbis"),
    Case("ogg", "libspeex", 16_000),
    Case("ogg", "flac"),
    Case("opus", "libopus", 48_000),
    Case("wma", "wmav2"),
    Case("wma", "wmav1"),
    Case("3gp", "aac", picture="h263"),
    Case("mp4", "aac", 48_000, picture="libx264"),
    Case("mov", "pcm_s16le", 48_000, picture="mpeg4"),
    Case("mkv", "aac", 48_000, picture="mpeg4"),
    Case("mkv", "libmp3lame", picture="mpeg4"),
    Case("webm", "libopus", 48_000, picture="libvpx"),
    Case("webm", "libvorbis", 48_000, picture="libvpx"),
    Case("wmv", "wmav2", picture="wmv2"),
    Case("avi", "libmp3lame", picture="mpeg4"),
    Case("avi", "pcm_s16le", picture="mpeg4"),
    Case("flv", "aac", picture="flv"),
    Case("flv", "libmp3lame", picture="flv"),
    Case("mpg", "mp2", picture="mpeg1video"),
    Case("mts", "ac3", 48_000, ("-f", "mpegts"), "mpeg2video"),
    Case("mts", "aac", 48_000, ("-f", "mpegts"), "mpeg2video"),
)


@dataclass(frozen=True)
class Measured:
    """The tone as it came out."""

    duration: float  # s, of the whole recording
    start: float  # s
    length: float  # s
    gain: float  # dB, its level minus the one it was written with


def write(case: Case, path: Path, *, late: float = 0.0) -> None:
    """
    Args:
        late: seconds from the first picture to the start of the sound.
    """
    sound = ("-itsoffset", str(late), "-f", "lavfi", "-i", f"{SOUND}{case.rate}")
    picture = (*PICTURE, "-c:v", case.picture) if case.picture else ()
    inputs, outputs = (*picture[:4], *sound), picture[4:]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *inputs, *outputs]
    command += ["-c:a", case.codec, *case.options, "-threads", "1", str(path)]
    subprocess.run(command, check=True)


def measure(path: Path) -> Measured:
    """Find the tone in a recording."""
    with path.open("rb") as file:
        recording = decode(file)
    (samples,) = recording.samples
    width = SAMPLE_RATE // 440
    level = np.sqrt(np.convolve(np.square(samples), np.full(width, 1 / width), mode="same"))
    loud = np.flatnonzero(level > PEAK / 2**0.5 / 2)
    if not len(loud):
        raise ValueError("the tone is not there")
    start, end = loud[0], loud[-1] + 1
    middle = samples[start + width * 4 : end - width * 4]
    return Measured(
        recording.duration,
        float(start / SAMPLE_RATE),
        float((end - start) / SAMPLE_RATE),
        dbfs(rms(middle)) - dbfs(PEAK / 2**0.5),
    )


def rows(cases: Sequence[Case], folder: Path) -> list[str]:
    """The rows of the table, in Markdown."""
    made = []
    for case in cases:
        path = folder / f"x.{case.ending}"
        write(case, path)
        found = measure(path)
        late = "–"
        if case.picture:
            write(case, path, late=LATE)
            late = f"{measure(path).start:.2f}"
        codec = case.codec.removeprefix("lib") + (" (RF64)" if "-rf64" in case.options else "")
        made.append(
            f"| `.{case.ending}` | {codec}, {case.rate / 1000:g} kHz | {found.start:.3f} |"
            f" {found.length:.3f} | {found.gain:+.1f} | {found.duration:.2f} | {late} |"
        )
    return made


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write("\n".join(rows(CASES, Path(folder))) + "\n")


if __name__ == "__main__":
    main()
