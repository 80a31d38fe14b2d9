"""Files with several audio tracks."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from models.audio.decode import measure
from models.audio.probe import probe
from tests.audio_files import decoded, decoded_bytes, loudest_tone, probed, refusal, slow

TONE = "sine=frequency={}:duration={}:sample_rate=48000"


def video(path: Path, *sounds: str, options: tuple[str, ...] = ()) -> Path:
    """A video with one audio track for each of the sources."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y"]
    for source in ("testsrc=duration=3:size=64x48:rate=5", *sounds):
        command += ["-f", "lavfi", "-i", source]
    for i in range(len(sounds) + 1):
        command += ["-map", str(i)]
    command += ["-c:v", "mpeg4", "-c:a", "aac", *options, "-threads", "1", str(path)]
    subprocess.run(command, check=True)
    return path


SILENCE = "anullsrc=sample_rate=48000:duration=3"


@pytest.mark.parametrize("ending", ["mp4", "mkv", slow("mov")])
def test_two_tracks_are_two_channels(tmp_path: Path, ending: str) -> None:
    """One person on each: half of the conversation was missing, without a word."""
    path = video(tmp_path / f"x.{ending}", TONE.format(300, 3), TONE.format(700, 2))
    split, mixed = decoded(path, split_channels=True), decoded(path)

    assert [loudest_tone(channel[:32_000]) for channel in split.samples] == [300, 700]
    assert split.duration == pytest.approx(3, abs=0.05) and split.info.channels == 2
    assert mixed.samples.shape[0] == 1 and not mixed.warnings
    np.testing.assert_allclose(mixed.samples[0], split.samples.mean(axis=0), atol=1e-4)


def test_the_channels_of_all_tracks_are_read(tmp_path: Path) -> None:
    stereo = "aevalsrc=0.3*sin(2*PI*400*t)|0.3*sin(2*PI*500*t):d=3:s=48000"
    path = video(tmp_path / "x.mkv", TONE.format(300, 3), stereo)
    split = decoded(path, split_channels=True)
    assert [round(loudest_tone(channel), -1) for channel in split.samples] == [300, 400, 500]


@pytest.mark.parametrize("sounds", [(SILENCE, TONE.format(300, 3)), (TONE.format(300, 3), SILENCE)])
def test_a_silent_track_is_left_out_and_named(tmp_path: Path, sounds: tuple[str, str]) -> None:
    path = video(tmp_path / "x.mkv", *sounds)
    for split in (True, False):
        recording = decoded(path, split_channels=split)
        assert recording.samples.shape[0] == 1
        assert loudest_tone(recording.samples[0]) == pytest.approx(300, abs=1)
        assert recording.peak_dbfs[0] == pytest.approx(-18, abs=1)  # not halved by the silence
        (warning,) = recording.warnings
        assert f"track {1 + sounds.index(SILENCE)} is silent" in warning


def test_a_recording_whose_tracks_are_all_silent_is_refused(tmp_path: Path) -> None:
    assert refusal(video(tmp_path / "x.mkv", SILENCE, SILENCE).read_bytes()).code == "silent_audio"


@pytest.mark.parametrize("order", ["aac dca", slow("dca aac")])
def test_an_unreadable_track_is_left_out_and_named(tmp_path: Path, order: str) -> None:
    codecs = order.split()
    options = tuple(word for i, codec in enumerate(codecs) for word in (f"-c:a:{i}", codec))
    path = video(
        tmp_path / "x.mkv",
        TONE.format(300, 3),
        TONE.format(300, 3),
        options=(*options, "-strict", "-2"),
    )
    recording = decoded(path, split_channels=True)
    assert recording.samples.shape[0] == 1 and recording.info.codec == "aac"
    assert f"track {1 + codecs.index('dca')} (dts) cannot be read" in recording.warnings[0]


def test_a_track_that_cannot_be_decoded_is_left_out_and_named(tmp_path: Path) -> None:
    """Its header names a codec that can be read, but its content is something else."""
    path = video(
        tmp_path / "x.mkv",
        TONE.format(300, 3),
        TONE.format(700, 3),
        options=("-c:a:1", "pcm_s16le", "-ar:a:1", "16000"),
    )
    content = path.read_bytes().replace(b"A_PCM/INT/LIT", b"A_FLAC\0\0\0\0\0\0\0")
    recording = decoded_bytes(content)
    assert loudest_tone(recording.samples[0]) == pytest.approx(300, abs=1)
    assert "track 2" in recording.warnings[0]


MARKED_SECOND = ("-disposition:a:0", "0", "-disposition:a:1", "default")


def test_a_track_that_the_file_marks_as_the_one_to_play_is_read_alone(tmp_path: Path) -> None:
    sounds = (TONE.format(300, 3), TONE.format(700, 3))
    recording = decoded(
        video(tmp_path / "x.mkv", *sounds, options=MARKED_SECOND), split_channels=True
    )
    assert loudest_tone(recording.samples[0]) == pytest.approx(700, abs=1)
    assert recording.samples.shape[0] == 1
    assert "track 1 was left out" in recording.warnings[0]


def test_a_silent_track_is_not_played_even_if_it_is_marked(tmp_path: Path) -> None:
    path = video(tmp_path / "x.mkv", TONE.format(300, 3), SILENCE, options=MARKED_SECOND)
    recording = decoded(path)
    assert loudest_tone(recording.samples[0]) == pytest.approx(300, abs=1)
    assert "track 2 is silent" in recording.warnings[0]


def test_the_upload_check_measures_all_tracks(tmp_path: Path) -> None:
    """It refused videos whose first track is silent."""
    path = video(tmp_path / "x.mkv", SILENCE, TONE.format(300, 2))
    with path.open("rb") as file:
        levels = measure(file, probe(file))
    assert levels.duration == pytest.approx(3, abs=0.05)
    assert max(levels.peak_dbfs) == pytest.approx(-18, abs=1)


def test_the_channels_of_all_tracks_count_towards_the_limit(tmp_path: Path) -> None:
    sounds = [f"anoisesrc=duration=3:seed={i},aformat=channel_layouts=5.1" for i in (1, 2)]
    path = video(tmp_path / "x.mkv", *sounds)
    error = refusal(path.read_bytes())
    assert error.code == "too_many_channels" and "12 channels" in str(error)


def test_probe_lists_the_tracks(tmp_path: Path) -> None:
    path = video(tmp_path / "x.mkv", TONE.format(300, 3), TONE.format(700, 3))
    tracks = probed(path).tracks
    assert [(t.index, t.number, t.codec, t.channels) for t in tracks] == [
        (1, 1, "aac", 1),
        (2, 2, "aac", 1),
    ]
