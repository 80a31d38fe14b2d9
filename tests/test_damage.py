"""Sound that is missing inside a recording: told of with its place, refused above five per cent."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.audio.amr import NARROW_BAND, find_breaks
from models.audio.damage import clock
from models.audio.recording import SAMPLE_RATE
from tests.audio_files import MakeRecording, amr, decoded, decoded_bytes, refusal, slow

NOISE = "anoisesrc=amplitude=0.3:duration=40:sample_rate=16000"
SPEECH, SILENCE_FRAME, NO_DATA = amr(b"", 7, 244), b"\x44" + bytes(5), b"\x7c"


def cut(content: bytes, share: float) -> bytes:
    """Without this share of the bytes, from the middle on."""
    middle = len(content) // 2
    return content[:middle] + content[middle + round(share * len(content)) :]


def blank(content: bytes, share: float) -> bytes:
    """With zeros in their place, as a failing memory card returns them."""
    middle, n_bytes = len(content) // 2, round(share * len(content))
    return content[:middle] + bytes(n_bytes) + content[middle + n_bytes :]


KINDS = [
    ("flac", cut),
    ("mp3", cut),
    ("wma", cut),
    slow("flac", blank),
    slow("mp3", blank),
    slow("wma", blank),
    ("aac", blank),
    ("m4a", blank),
]


@pytest.mark.parametrize(("ending", "damage"), KINDS)
def test_a_fifth_of_a_recording_missing_in_the_middle_is_refused(
    make_recording: MakeRecording, ending: str, damage: Callable[[bytes, float], bytes]
) -> None:
    """It became silence, or nothing at all, without a word."""
    options = ("-movflags", "+faststart") if ending == "m4a" else ()
    error = refusal(damage(make_recording(ending, *options, of=NOISE).read_bytes(), 0.2))
    assert error.code == "decode_failed"
    assert "at 0:" in str(error) and "copy it from the recorder again" in str(error)


@pytest.mark.parametrize(("ending", "damage"), KINDS)
def test_a_small_part_missing_in_the_middle_is_told_of_with_its_place(
    make_recording: MakeRecording, ending: str, damage: Callable[[bytes, float], bytes]
) -> None:
    options = ("-movflags", "+faststart") if ending == "m4a" else ()
    recording = decoded_bytes(damage(make_recording(ending, *options, of=NOISE).read_bytes(), 0.03))
    (warning,) = recording.warnings
    assert "sound is missing at 0:" in warning
    place = float(warning.split("at 0:")[1].split(" ")[0])
    assert place == pytest.approx(20, abs=2.5)
    assert recording.duration == pytest.approx(40, abs=0.25)


@pytest.mark.parametrize(("ending", "damage"), [("mp3", cut), ("mp3", blank), ("aac", blank)])
def test_times_after_a_hole_stay_right_without_timestamps(
    make_recording: MakeRecording, ending: str, damage: Callable[[bytes, float], bytes]
) -> None:
    """The length of the hole follows from the number of frames, or from the bytes between two."""
    sound = "aevalsrc='0.1*random(0)+if(between(t,60,60.5),0.7*sin(2*PI*300*t),0)':d=80:s=16000"
    content = make_recording(ending, "-b:a", "48k", of=sound).read_bytes()
    for split in (False, True):
        recording = decoded_bytes(damage(content, 0.03), split_channels=split)
        loud = np.flatnonzero(np.abs(recording.samples[0]) > 0.5)
        assert loud[0] / SAMPLE_RATE == pytest.approx(60, abs=0.25)
        assert recording.duration == pytest.approx(80, abs=0.25)
        assert "too early" not in recording.warnings[0]
        n = len(recording.samples[0])
        assert np.abs(recording.samples[0, n // 2 + 16_000 : n // 2 + 24_000]).max() == 0


def test_a_hole_without_any_record_of_its_length_is_told_of(make_recording: MakeRecording) -> None:
    content = make_recording("mp3", "-write_xing", "0", "-b:a", "64k", of=NOISE).read_bytes()
    n_bytes = len(content) // 2 + 100
    (warning,) = decoded_bytes(content[:n_bytes] + content[n_bytes + 30_001 :]).warnings
    assert "joined or is damaged at 0:" in warning or "missing at 0:" in warning


@pytest.mark.parametrize(
    "tail",
    [
        np.random.default_rng(3).bytes(300_000),
        slow(b"ID3\x04\0\0\x00\x12\x27\x60" + np.random.default_rng(4).bytes(300_000)),
        slow(b"<recorder index>\r\n" * 5000),
        slow(bytes(500_000)),
    ],
)
def test_what_follows_the_last_frame_of_an_mp3_is_not_damage(
    make_recording: MakeRecording, tail: bytes
) -> None:
    recording = decoded_bytes(make_recording("mp3", "-b:a", "64k", of=NOISE).read_bytes() + tail)
    assert recording.duration == pytest.approx(40, abs=0.1) and not recording.warnings


@pytest.mark.parametrize(
    "frames", [[SILENCE_FRAME] + 7 * [NO_DATA], slow([SILENCE_FRAME]), slow([NO_DATA])]
)
def test_frames_without_speech_are_silence_in_amr(frames: list[bytes]) -> None:
    """Old telephones send none while nobody speaks; it was refused as damaged."""
    silence = b"".join(frames) * (400 // len(frames))  # 8 s
    recording = decoded_bytes(b"#!AMR\n" + SPEECH + silence + SPEECH + silence)
    assert recording.duration == pytest.approx(26, abs=0.05) and not recording.warnings
    for start, end in ((5.3, 12.7), (18.3, 26)):
        silent = recording.samples[0, round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        assert np.abs(silent).max() == 0


def test_bytes_lost_in_amr_become_silence_of_their_length() -> None:
    """A failing card returned zeros, which are frames of another size: it was noise, and longer."""
    content = bytearray(b"#!AMR\n" + 8 * SPEECH)  # 40 s
    content[len(content) // 2 : len(content) // 2 + 1600] = bytes(1600)  # 1 s
    recording = decoded_bytes(bytes(content))
    (warning,) = recording.warnings
    assert "sound is missing at 0:20 (1.0 s)" in warning
    assert recording.duration == pytest.approx(40, abs=0.05)
    silent = recording.samples[0, round(20.1 * SAMPLE_RATE) : round(20.9 * SAMPLE_RATE)]
    assert np.abs(silent).max() < 0.01
    content[10_000:20_000] = bytes(10_000)
    assert refusal(bytes(content)).code == "decode_failed"


def test_a_hole_in_amr_is_told_of_and_what_follows_decodes() -> None:
    """The frames after it were read from the wrong places: noise to the end, without a word."""
    whole = b"#!AMR\n" + 8 * SPEECH
    recording = decoded_bytes(whole[:16_000] + whole[16_000 + 3217 :])
    (warning,) = recording.warnings
    assert "joined or is damaged at 0:10:" in warning and "too early" in warning
    assert recording.duration == pytest.approx(40 - 2, abs=0.1)
    intact = decoded_bytes(whole)
    end = round(5 * SAMPLE_RATE)
    np.testing.assert_allclose(recording.samples[0, -end:], intact.samples[0, -end:], atol=1e-3)


def test_frames_without_speech_are_no_break_in_amr() -> None:
    content = b"#!AMR\n" + SPEECH + 40 * (SILENCE_FRAME + 7 * NO_DATA) + SPEECH
    assert find_breaks(content, 6, NARROW_BAND) == ([], 250 + 320 + 250)


@pytest.mark.parametrize(("ending", "codec"), [("ogg", "libvorbis"), ("opus", "libopus")])
def test_pages_missing_in_ogg_are_told_of_by_their_numbers(
    make_recording: MakeRecording, ending: str, codec: str
) -> None:
    """A gap of less than three seconds was taken for a pause, without a word."""
    options = ("-c:a", codec, "-page_duration", "500000")
    content = make_recording(ending, *options, of=NOISE.replace("16000", "48000")).read_bytes()
    pages = [b"OggS" + page for page in content.split(b"OggS")[1:]]
    middle = len(pages) // 2
    recording = decoded_bytes(b"".join(pages[:middle] + pages[middle + 2 :]))
    (warning,) = recording.warnings
    assert warning.startswith("Parts of the file are missing at 0:") and "(1.0 s)" in warning
    assert recording.duration == pytest.approx(40, abs=0.1)
    half = decoded_bytes(b"".join(pages[: middle // 2] + pages[-middle // 2 :]))
    assert half.duration == pytest.approx(40, abs=0.1)  # not refused: what is there has its place


def test_a_gap_of_a_second_in_webm_is_told_of(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.webm", tmp_path / "x.webm"
    command = ["ffmpeg", "-nostdin", "-v", "error"]
    sound = ["-f", "lavfi", "-i", NOISE.replace("16000", "48000"), "-c:a", "libopus"]
    subprocess.run([*command, *sound, str(whole)], check=True)
    drop = "noise=drop='gt(pts*tb,20)*lt(pts*tb,21)'"
    subprocess.run(
        [*command, "-i", str(whole), "-c", "copy", "-bsf:a", drop, str(path)], check=True
    )
    recording = decoded(path)
    (warning,) = recording.warnings
    assert "no sound at 0:19 (1.0 s)" in warning
    assert recording.duration == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize("ending", ["3gp", slow("3ga")])
def test_frames_without_speech_are_silence_in_3gp(tmp_path: Path, ending: str) -> None:
    source, path = tmp_path / "x.amr", tmp_path / f"x.{ending}"
    source.write_bytes(b"#!AMR\n" + SPEECH + 20 * (SILENCE_FRAME + 7 * NO_DATA) + SPEECH)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(source), "-c", "copy"]
    subprocess.run([*command, "-f", "3gp", str(path)], check=True)
    recording = decoded(path)
    assert recording.duration == pytest.approx(13.2, abs=0.05) and not recording.warnings


def test_places_are_written_as_players_show_them() -> None:
    assert [clock(t) for t in (7.9, 723, 3600, 86399)] == ["0:07", "12:03", "1:00:00", "23:59:59"]
