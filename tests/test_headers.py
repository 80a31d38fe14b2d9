"""First bytes of a file: its kind, and the duration it declares."""

import random

import pytest

from models.audio.recording import SAMPLE_RATE
from tests.audio_files import MakeRecording, decoded, decoded_bytes, refusal, slow, tones, wav


def test_a_streamed_wav_is_as_long_as_its_bytes() -> None:
    content = bytearray(wav(tones(300)))
    at = content.index(b"data")
    content[4:8] = content[at + 4 : at + 8] = b"\xff" * 4
    assert decoded_bytes(bytes(content)).duration == 2


def test_a_wav_that_lost_only_a_tag_at_its_end_is_complete() -> None:
    """Ten seconds worth of bytes were missing, but all of the sound was there."""
    content = bytearray(wav(tones(300)))
    content[4:8] = (len(content) + 10 * SAMPLE_RATE * 4).to_bytes(4, "little")
    recording = decoded_bytes(bytes(content))
    assert recording.duration == 2 and recording.info.duration == 2


def test_sound_after_the_declared_end_is_not_lost() -> None:
    """The battery of a recorder died, which had updated its header only now and then."""
    content = wav(tones(300, seconds=30), declared_bytes=2 * SAMPLE_RATE * 4)
    assert decoded_bytes(content).duration == 30


@pytest.mark.parametrize("count", ["0", slow("1")])
def test_a_variable_rate_mp3_is_decoded_completely(
    make_recording: MakeRecording, count: str
) -> None:
    """Quiet, then loud: judged by its first frames it would be many times longer."""
    sound = "aevalsrc=if(lt(t\\,2)\\,0\\,0.5*sin(2*PI*300*t)+0.2*random(0)):d=10:s=44100"
    recording = decoded(make_recording("mp3", "-q:a", "2", "-write_xing", count, of=sound))

    assert recording.duration == pytest.approx(10, abs=0.1)
    assert recording.info.duration == (pytest.approx(10, abs=0.1) if count == "1" else None)


def test_an_mp3_with_a_cover_picture_is_decoded(make_recording: MakeRecording) -> None:
    picture = ("-f", "lavfi", "-i", "color=size=64x64:rate=1:duration=1", "-c:v", "mjpeg")
    path = make_recording(
        "mp3", *picture, "-map", "0:a", "-map", "1:v", "-disposition:v", "attached_pic"
    )
    recording = decoded(path)

    assert b"APIC" in path.read_bytes()
    assert recording.duration == pytest.approx(5, abs=0.1)
    assert recording.info.duration == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("ending", ["mkv", slow("mp4"), slow("wmv")])
def test_a_video_longer_than_its_sound_is_not_taken_for_truncated(
    make_recording: MakeRecording, ending: str
) -> None:
    longer = ("-f", "lavfi", "-i", "testsrc=duration=30:size=64x48:rate=5", "-c:v", "mpeg4")
    assert decoded(make_recording(ending, *longer)).duration == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"Dear colleagues,\nplease find the recording attached.\n", "text"),
        (b"\xef\xbb\xbf#EXTM3U\nhttp://example.org/1.mp3\n", "playlist"),
        (bytes(100_000), "zeros"),
        (random.Random(2).randbytes(100_000), "not in a format"),
        slow(b"PK\x03\x04" + random.Random(3).randbytes(5000), "not in a format"),
    ],
)
def test_messages_name_the_kind_of_file_that_is_not_a_recording(content: bytes, word: str) -> None:
    error = refusal(content)
    assert error.code == "unreadable_audio" and word in str(error)


def test_an_m4a_without_its_index_is_explained(make_recording: MakeRecording) -> None:
    content = make_recording("m4a").read_bytes()
    error = refusal(content[: len(content) // 2])
    assert error.code == "unreadable_audio" and "index" in str(error)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"\x03ds2" + bytes(5000), "DS2"), (b"\x03enc" + bytes(5000), "password")],
)
def test_locked_dictation_files_name_the_program_that_opens_them(content: bytes, word: str) -> None:
    error = refusal(content)
    assert error.code == "encrypted_audio"
    assert word in str(error) and "Olympus" in str(error) and "WAV" in str(error)
