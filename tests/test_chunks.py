"""WAV, Wave64, AIFF and CAF: which of their bytes are sound, whatever the header says."""

import random
import subprocess

import pytest

from models.audio.chunks import byte_rate, find_sound, repaired
from models.audio.headers import read_head
from models.audio.memory_file import memory_file
from models.audio.recording import SAMPLE_RATE
from tests.audio_files import MakeRecording, decoded_bytes, refusal, slow, tones, wav

SECOND = SAMPLE_RATE * 4  # bytes
JPEG = random.Random(1).randbytes(800_000)


def chunk(name: bytes, body: bytes) -> bytes:
    return name + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)


def whole(content: bytes) -> bytes:
    """A WAV whose first size is right."""
    return content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:]


def with_sizes(content: bytes, size: int) -> bytes:
    at = content.index(b"data") + 4
    field = size.to_bytes(4, "little")
    return content[:4] + field + content[8:at] + field + content[at + 4 :]


@pytest.mark.parametrize(
    "tail",
    [
        chunk(b"levl", JPEG),
        chunk(b"_PMX", b"<x:xmpmeta>" * 60_000),
        chunk(b"id3 ", JPEG) + chunk(b"LIST", b"INFO" + bytes(2001)),
        chunk(b"ZyX9", JPEG),  # of a program that nobody here knows
        slow(chunk(b"cue ", bytes(28)) + bytes(500_000)),  # and then padding
        slow(chunk(b"LIST", JPEG)[:-300_000]),  # cut off
        slow(b"ID3\x04" + JPEG),
        slow(bytes(900_000)),
    ],
)
def test_metadata_after_the_sound_is_not_heard(tail: bytes) -> None:
    """Levels and XMP became up to 12 s of noise, in which words were found."""
    recording = decoded_bytes(whole(wav(tones(300)) + tail))
    assert recording.duration == 2 and not recording.warnings


@pytest.mark.parametrize("seconds", [1, 9, slow(60)])
def test_sound_after_the_end_in_the_header_is_read_and_told_of(seconds: int) -> None:
    """The battery died seconds after the header was last written."""
    content = wav(tones(300, seconds=3 + seconds), declared_bytes=3 * SECOND)
    recording = decoded_bytes(content)
    assert recording.duration == 3 + seconds
    assert "less audio than the file holds" in recording.warnings[0]


@pytest.mark.parametrize("between", [b"", chunk(b"LIST", bytes(100_000))])
def test_a_second_chunk_of_sound_is_read(between: bytes) -> None:
    second = tones(700, seconds=3).tobytes()
    recording = decoded_bytes(whole(wav(tones(300)) + between + chunk(b"data", second)))
    assert recording.duration == 5
    assert abs(recording.samples[0, 2 * SAMPLE_RATE : 2 * SAMPLE_RATE + 100]).max() <= 0.5


def test_bytes_that_are_neither_sound_nor_metadata_are_told_of() -> None:
    content = whole(wav(tones(300)) + chunk(b"LIST", bytes(100)) + random.Random(2).randbytes(5000))
    recording = decoded_bytes(content)
    assert recording.duration == 2 and "5,000 bytes" in recording.warnings[0]


UNFILLED = [0, 0x7FFFF000, 0xFFFFFFFF, slow(0x80000000), slow(0x7FFFFFFF), slow(0xFFFFFFDB)]


@pytest.mark.parametrize("size", UNFILLED)
def test_a_wav_whose_sizes_were_never_filled_in_is_read_whole(size: int) -> None:
    """SoX and arecord cannot go back to the header of a stream: it was refused as cut off."""
    recording = decoded_bytes(with_sizes(wav(tones(300)), size))
    assert recording.duration == 2 and recording.info.duration in (None, 2)


@pytest.mark.parametrize("size", [slow(0), 2**64 - 1])
def test_an_rf64_whose_sizes_were_never_filled_in_is_read_whole(
    make_recording: MakeRecording, size: int
) -> None:
    content = bytearray(make_recording("wav", "-rf64", "always").read_bytes())
    content[20:36] = size.to_bytes(8, "little") * 2
    assert decoded_bytes(bytes(content)).duration == 5


@pytest.mark.parametrize("ending", ["w64", "aiff", "caf"])
def test_other_files_in_chunks_are_read_past_a_stale_header(
    make_recording: MakeRecording, ending: str
) -> None:
    content = bytearray(make_recording(ending).read_bytes())
    n_bytes = 2 * SAMPLE_RATE * 2
    if ending == "w64":
        at = content.index(b"data") + 16
        content[at : at + 8] = (n_bytes + 24).to_bytes(8, "little")
    elif ending == "aiff":
        at, frames = content.index(b"SSND") + 4, content.index(b"COMM") + 10
        content[at : at + 4] = (n_bytes + 8).to_bytes(4, "big")
        content[frames : frames + 4] = (2 * SAMPLE_RATE).to_bytes(4, "big")
    else:
        at = content.index(b"data") + 4
        content[at : at + 8] = (n_bytes + 4).to_bytes(8, "big")
    recording = decoded_bytes(bytes(content))
    assert recording.duration == pytest.approx(5, abs=0.001)
    assert "less audio than the file holds" in recording.warnings[0]


@pytest.mark.parametrize("ending", ["w64", "aiff", "caf"])
def test_metadata_after_the_sound_of_other_files_is_not_heard(
    make_recording: MakeRecording, ending: str
) -> None:
    n_bytes = 300_000
    tail = {
        "w64": b"levl"
        + bytes.fromhex("f3acd3118cd100c04f8edb8a")
        + (n_bytes + 24).to_bytes(8, "little"),
        "aiff": b"ID3 " + n_bytes.to_bytes(4, "big"),
        "caf": b"info" + n_bytes.to_bytes(8, "big"),
    }[ending]
    content = make_recording(ending).read_bytes() + tail + JPEG[:n_bytes]
    recording = decoded_bytes(content)
    assert recording.duration == pytest.approx(5, abs=0.001) and not recording.warnings


@pytest.mark.parametrize("ending", ["w64", "aiff", slow("caf"), slow("au"), slow("avi")])
def test_what_ffmpeg_wrote_to_a_pipe_is_read_whole(ending: str) -> None:
    """It cannot go back to fill in the sizes."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "sine=300:duration=5"]
    written = subprocess.run([*command, "-f", ending, "pipe:1"], capture_output=True)
    recording = decoded_bytes(written.stdout)
    assert recording.duration == pytest.approx(5, abs=0.05) and not recording.warnings


def test_an_aiff_from_a_stream_is_read_whole(make_recording: MakeRecording) -> None:
    """As SoX writes it."""
    content = bytearray(make_recording("aiff").read_bytes())
    at, frames = content.index(b"SSND") + 4, content.index(b"COMM") + 10
    content[at : at + 4] = (0x7F000008).to_bytes(4, "big")
    content[frames : frames + 4] = (0x7F000000 // 2).to_bytes(4, "big")
    content[4:8] = (0x7F00002E).to_bytes(4, "big")
    assert decoded_bytes(bytes(content)).duration == pytest.approx(5, abs=0.001)


def test_a_header_with_two_lengths_is_told_of() -> None:
    """One of them is that of the file: nothing can be said to be missing."""
    content = whole(wav(tones(300)))
    at = content.index(b"data") + 4
    recording = decoded_bytes(
        content[:at] + (30 * SECOND).to_bytes(4, "little") + content[at + 4 :]
    )
    assert recording.duration == 2 and "two lengths" in recording.warnings[0]


def test_half_of_a_wav_above_two_gigabytes_is_refused() -> None:
    """Sizes up to 4 GiB are real ones."""
    error = refusal(with_sizes(wav(tones(300)), 3 << 30))
    assert error.code == "truncated_audio"


@pytest.mark.parametrize("ending", ["wav", "w64", "aiff", "caf"])
def test_a_damaged_header_never_leads_outside_the_file(
    make_recording: MakeRecording, ending: str
) -> None:
    content, rng = make_recording(ending).read_bytes()[:3000], random.Random(1)
    for i in range(400):
        damaged = bytearray(content[: i if i < 200 else 3000])
        for _ in range(rng.randrange(4) if damaged else 0):
            damaged[rng.randrange(min(len(damaged), 120))] = rng.choice([0, 0x7F, 0x80, 0xFF])
        with memory_file([bytes(damaged)]) as file:
            sound = find_sound(file, read_head(file))
            if sound is not None:
                assert all(0 <= a <= b <= len(damaged) for a, b in sound.extents)
                assert byte_rate(file, sound.form, sound.heads) >= 0
                repaired(file, sound).close()
