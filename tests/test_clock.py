"""Times: where a tone that is known to sound at a certain second is found after decoding."""

import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from models.audio.recording import SAMPLE_RATE
from tests.audio_files import decoded, decoded_bytes, slow

BURST = (
    "aevalsrc='if(between(t,{0},{0}+0.5),0.5*sin(2*PI*300*t),0.001*sin(2*PI*300*t))':d={1}:s=48000"
)
PICTURE = "testsrc=duration={}:size=64x48:rate=25"


def burst_at(samples: np.ndarray) -> float:
    """Second at which the tone begins."""
    loud = np.abs(samples[0]) > 0.1
    return float(np.argmax(loud) / SAMPLE_RATE)


def run(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *arguments], check=True)


WITH_PICTURE = {
    "mp4": (),
    "mkv": (),
    "mts": ("-f", "mpegts", "-c:v", "mpeg2video"),
    "mov": (),
    "webm": ("-c:v", "libvpx", "-c:a", "libopus"),
    "mpg": ("-c:v", "mpeg1video"),
    "flv": ("-c:v", "flv", "-ar", "44100"),
}


@pytest.mark.parametrize(
    "ending", [slow(e) if e in ("mov", "webm", "flv") else e for e in WITH_PICTURE]
)
def test_sound_that_starts_after_the_picture_keeps_its_place(tmp_path: Path, ending: str) -> None:
    """It moved to the start: all times were too early."""
    path = tmp_path / f"x.{ending}"
    inputs = ["-f", "lavfi", "-i", PICTURE.format(8), "-itsoffset", "3", "-f", "lavfi", "-i"]
    run(*inputs, BURST.format(1, 4), "-c:v", "mpeg4", *WITH_PICTURE[ending], str(path))
    assert burst_at(decoded(path).samples) == pytest.approx(4, abs=0.06)


def late_avi(path: Path, codec: str) -> bytearray:
    """Eight seconds of picture, and sound from the third on, which ffmpeg does not write down."""
    inputs = ["-f", "lavfi", "-i", PICTURE.format(8), "-itsoffset", "3", "-f", "lavfi", "-i"]
    sound = [BURST.format(1, 4).replace("48000", "44100"), "-c:a", codec]
    run(*inputs, *sound, "-c:v", "mpeg4", str(path))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("codec", ["libmp3lame", "pcm_s16le"])
def test_the_start_that_an_avi_declares_for_its_sound_is_kept(tmp_path: Path, codec: str) -> None:
    """ffprobe does not report it, so the sound moved to the start."""
    content = late_avi(tmp_path / "x.avi", codec)
    stream = content.index(b"auds")
    scale, rate = struct.unpack_from("<II", content, stream + 20)
    struct.pack_into("<I", content, stream + 28, round(3 * rate / scale))
    recording = decoded_bytes(bytes(content))
    assert burst_at(recording.samples) == pytest.approx(4, abs=0.06)
    assert not recording.warnings


@pytest.mark.parametrize("codec", ["libmp3lame", "pcm_s16le"])
def test_sound_beside_a_later_picture_of_an_avi_is_warned_of(tmp_path: Path, codec: str) -> None:
    """It moved to the start without a word; with PCM the file was refused as cut off."""
    recording = decoded_bytes(bytes(late_avi(tmp_path / "x.avi", codec)))
    assert "beside the picture at 3.0 s" in recording.warnings[0]


@pytest.mark.parametrize(
    "ending", ["webm", "mts", "m4a", "wma", slow("mkv"), slow("ogg"), slow("mpg"), slow("flv")]
)
def test_time_stamps_that_do_not_start_at_zero_are_counted_from_their_start(
    tmp_path: Path, ending: str
) -> None:
    """Cut out of a stream that had run for hours: the file was refused as cut off."""
    path = tmp_path / f"x.{ending}"
    codec = {"webm": "libopus", "wma": "wmav2", "ogg": "libvorbis", "mpg": "mp2"}.get(ending, "aac")
    options = ("-c:a", codec, "-ar", "44100" if ending in ("mpg", "flv") else "48000")
    source = ("-f", "lavfi", "-i", BURST.format(2, 5))
    run(*source, *options, "-output_ts_offset", "18000", str(path))
    recording = decoded(path)
    assert recording.duration == pytest.approx(5, abs=0.1)
    assert burst_at(recording.samples) == pytest.approx(2, abs=0.06)


def with_gap(path: Path, codec: str, *options: str) -> Path:
    """Thirty seconds, those from 4 to 24 missing, with a tone at 26."""
    whole, gap = path.with_name("whole.mkv"), path.with_name("gap.mkv")
    source = BURST.format(26, 30).replace("s=48000", "s=44100" if codec == "mp2" else "s=48000")
    run("-f", "lavfi", "-i", source, "-c:a", codec, str(whole))
    drop = "noise=drop='gt(pts*tb,4)*lt(pts*tb,24)'"
    run("-i", str(whole), "-c", "copy", "-bsf:a", drop, str(gap))
    run("-i", str(gap), "-c", "copy", *options, str(path))
    return path


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("ogg", "libvorbis"),
        ("opus", "libopus"),
        ("mts", "aac"),
        ("mpg", "mp2"),
        slow("webm", "libopus"),
        slow("mp4", "aac"),
        slow("mkv", "aac"),
    ],
)
def test_a_gap_of_twenty_seconds_keeps_its_length(tmp_path: Path, ending: str, codec: str) -> None:
    """ffmpeg cuts it out of Ogg and MPEG unless told not to."""
    options = ("-f", "mpegts") if ending == "mts" else ()
    recording = decoded(with_gap(tmp_path / f"x.{ending}", codec, *options))
    assert burst_at(recording.samples) == pytest.approx(26, abs=0.06)
    assert np.abs(recording.samples[0, 6 * SAMPLE_RATE : 22 * SAMPLE_RATE]).max() == 0
    (warning,) = recording.warnings
    assert re.search(r"no sound at 0:0[34] \((20.0|19.[6-9])", warning)


def test_a_gap_after_a_joint_keeps_its_length(tmp_path: Path) -> None:
    """The timestamps of the second file begin again at zero, and jump later on."""
    content = with_gap(tmp_path / "x.mts", "aac", "-f", "mpegts").read_bytes()
    recording = decoded_bytes(content + content)
    assert recording.duration == pytest.approx(60, abs=0.3)
    assert burst_at(recording.samples[:, 30 * SAMPLE_RATE :]) == pytest.approx(26, abs=0.3)
