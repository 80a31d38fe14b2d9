"""Probing: the format and channels of a recording, and files that are not recordings."""

import os
import traceback
from pathlib import Path

import pytest

from models.audio.decode import decode
from models.errors import AudioError
from tests.audio_files import NAME, MakeRecording, decoded, probed, refusal, slow


def test_probe_reports_the_header_but_no_tags(make_recording: MakeRecording) -> None:
    tags = ("-metadata", "title=Eva Muster", "-metadata", "comment=Klinik Sonnenhof")
    path = make_recording("m4a", *tags, "-ar", "44100", "-ac", "2")
    info = probed(path)

    assert (info.codec, info.sample_rate, info.channels) == ("aac", 44100, 2)
    assert info.duration == pytest.approx(5, abs=0.05) and info.n_bytes == path.stat().st_size
    assert "Eva" not in repr(info) and "Klinik" not in repr(info)


def test_a_pipe_is_refused() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    with open(read_end, "rb") as file, pytest.raises(ValueError, match="regular file"):
        decode(file)


def test_an_empty_file_is_reported_as_empty() -> None:
    assert refusal(b"").code == "empty_file"


@pytest.mark.parametrize(("ending", "codec"), [("ac3", "ac3"), slow("mka", "wavpack")])
def test_other_formats_and_codecs_are_disabled(
    make_recording: MakeRecording, ending: str, codec: str
) -> None:
    error = refusal(make_recording(ending, "-c:a", codec).read_bytes())
    assert error.code == "unreadable_audio" and "export" in str(error)


@pytest.mark.parametrize("tag", [b"drms", slow(b"enca"), slow(b"aavd")])
def test_a_copy_protected_m4a_is_reported_as_encrypted(
    make_recording: MakeRecording, tag: bytes
) -> None:
    assert (
        refusal(make_recording("m4a").read_bytes().replace(b"mp4a", tag)).code == "encrypted_audio"
    )


def test_a_video_without_sound_is_refused(make_recording: MakeRecording) -> None:
    path = make_recording("mp4", "-c:v", "mpeg4", of="testsrc=duration=1:size=64x48:rate=5")
    assert refusal(path.read_bytes()).code == "no_audio_stream"


@pytest.mark.parametrize("ending", ["jpg", slow("png")])
def test_a_picture_is_refused(make_recording: MakeRecording, ending: str) -> None:
    path = make_recording(ending, "-frames:v", "1", of="testsrc=duration=1:size=64x48:rate=5")
    assert refusal(path.read_bytes()).code == "no_audio_stream"


@pytest.mark.slow
def test_a_large_picture_fits_into_the_memory_limit(make_recording: MakeRecording) -> None:
    """ffprobe opens a decoder for the picture although only the sound is wanted."""
    picture = ("-f", "lavfi", "-i", "testsrc=duration=1:size=3840x2160:rate=5", "-c:v", "libx264")
    path = make_recording("mp4", *picture, "-preset", "ultrafast", of="sine=300:duration=1")
    assert decoded(path).duration == pytest.approx(1, abs=0.1)


def test_no_error_reveals_the_name_tags_or_content(
    make_recording: MakeRecording, tmp_path: Path
) -> None:
    """Not even in the traceback: ffmpeg's own messages begin with the path."""
    folder = tmp_path / NAME
    folder.mkdir()
    tags = ("-metadata", "title=Eva Muster", "-movflags", "+faststart")
    sound = "anoisesrc=amplitude=0.3:duration=20:sample_rate=16000"
    half = make_recording("m4a", *tags, of=sound).read_bytes()[:90_000]
    for content in (b"Eva Muster lives at", half):
        path = folder / f"{NAME}.m4a"
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(AudioError) as caught:
            decode(file)
        shown = "".join(traceback.format_exception(caught.value))
        assert NAME not in shown and "Eva" not in shown and caught.value.__context__ is None
