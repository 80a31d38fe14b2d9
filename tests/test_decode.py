"""Decoding: every format that researchers use, resampling, channels, gaps, damage."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.audio.decode import decode
from models.audio.memory_file import memory_file
from models.audio.recording import SAMPLE_RATE
from tests.audio_files import (
    WRITTEN_BY_HAND,
    MakeRecording,
    decoded,
    decoded_bytes,
    dss,
    loudest_tone,
    noise,
    refusal,
    slow,
    tones,
    wav,
)

ROOT = Path(__file__).parent.parent


PICTURE = ("-f", "lavfi", "-i", "testsrc=duration=5:size=64x48:rate=5", "-c:v")
WRITTEN_BY_FFMPEG = {
    "wav": (),
    "w64": (),
    "mp3": (),
    "m4a": (),
    "aac": (),
    "3gp": ("-c:a", "aac"),
    "wma": (),
    "ogg": (),
    "opus": (),
    "flac": (),
    "aiff": (),
    "caf": (),
    "au": (),
    "mp4": (*PICTURE, "libx264"),
    "mov": (*PICTURE, "mpeg4"),
    "webm": (*PICTURE, "libvpx", "-c:a", "libopus"),
    "mkv": (*PICTURE, "mpeg4"),
    "wmv": (*PICTURE, "wmv2"),
    "avi": (*PICTURE, "mpeg4"),
    "flv": (*PICTURE, "flv", "-c:a", "aac"),
    "mpg": (*PICTURE, "mpeg1video", "-r", "25"),
    "mts": (*PICTURE, "mpeg2video", "-f", "mpegts", "-r", "25"),
}


RARE = ("w64", "3gp", "aiff", "caf", "au", "mov", "mkv", "wmv", "avi", "flv", "mpg", "mts")


@pytest.mark.parametrize("ending", [slow(e) if e in RARE else e for e in WRITTEN_BY_FFMPEG])
def test_every_format_keeps_its_pitch_and_length(
    make_recording: MakeRecording, ending: str
) -> None:
    recording = decoded(make_recording(ending, *WRITTEN_BY_FFMPEG[ending]))

    assert recording.samples.shape[0] == 1 and recording.samples.dtype == np.float32
    assert recording.duration == pytest.approx(5, abs=0.15)
    assert loudest_tone(recording.samples[0]) == pytest.approx(300, abs=1)
    assert not recording.warnings


@pytest.mark.parametrize("ending", ["amr", "dss", slow("awb")])
def test_formats_without_an_encoder_are_decoded(ending: str) -> None:
    recording = decoded_bytes(WRITTEN_BY_HAND[ending])

    assert recording.duration == pytest.approx(5.9 if ending == "dss" else 5, abs=0.05)
    assert recording.info.duration is None and recording.levels[0] > -30
    assert not recording.warnings


@pytest.mark.slow
def test_long_play_dss_is_decoded() -> None:
    assert decoded_bytes(dss(2)).info.codec == "g723_1"


def test_every_extension_in_the_formats_table_is_tested() -> None:
    table = (ROOT / "docs/reference/formats.md").read_text().split("## Not read")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    endings = {ending for row in rows for ending in re.findall(r"`\.(\w+)`", row)}
    assert endings == {*WRITTEN_BY_FFMPEG, *WRITTEN_BY_HAND}


def test_a_phone_recording_with_its_index_at_the_end_is_read_completely(
    make_recording: MakeRecording,
) -> None:
    """Through a pipe, ten minutes of it cannot be decoded, though five seconds can."""
    path = make_recording("m4a", "-c:a", "alac", of="sine=300:duration=600:sample_rate=8000")
    content = path.read_bytes()
    assert content.index(b"moov") > content.index(b"mdat") > 0 and len(content) > 1_000_000

    with memory_file(content[i : i + 65536] for i in range(0, len(content), 65536)) as file:
        recording = decode(file)

    assert recording.duration == pytest.approx(600, abs=0.01)
    assert recording.info.duration == pytest.approx(600, abs=0.01)


def test_channels_are_mixed_with_equal_weights_or_kept_apart() -> None:
    content = wav(tones(300, 700, peak=[0.5, 0.1], rate=44_100), rate=44_100)
    mixed, split = decoded_bytes(content), decoded_bytes(content, split_channels=True)

    assert [loudest_tone(channel) for channel in split.samples] == [300, 700]
    assert split.peak_dbfs == pytest.approx((-6.02, -20), abs=0.1)
    assert split.levels == pytest.approx((-9.03, -23.01), abs=0.1)
    np.testing.assert_allclose(mixed.samples[0], split.samples.mean(axis=0), atol=1e-4)


def test_none_of_six_microphones_is_lost() -> None:
    """In a 5.1 layout the fourth channel is the bass, which the usual mono mix leaves out."""
    content = wav(tones(300, 400, 500, 600, 700, 800))
    mixed, split = decoded_bytes(content), decoded_bytes(content, split_channels=True)

    assert [round(loudest_tone(channel)) for channel in split.samples] == list(range(300, 900, 100))
    np.testing.assert_allclose(mixed.samples[0], split.samples.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize(
    "rate", [8000, slow(44100), slow(11025), slow(22050), slow(48000), slow(96000)]
)
def test_resampling_keeps_the_length_to_a_sample(rate: int) -> None:
    recording = decoded_bytes(wav(tones(300, seconds=5, rate=rate), rate=rate))

    assert abs(recording.samples.shape[1] - 5 * SAMPLE_RATE) <= 1
    assert loudest_tone(recording.samples[0]) == pytest.approx(300, abs=0.3)


def test_24_bit_samples_at_16_khz_come_out_unchanged(make_recording: MakeRecording) -> None:
    path = make_recording("wav", "-c:a", "pcm_s24le")
    content = path.read_bytes()
    raw = np.frombuffer(content[content.index(b"data") + 8 :], dtype=np.uint8).reshape(-1, 3)
    values = (raw.astype(np.int32) << [8, 16, 24]).sum(axis=1, dtype=np.int32) / 2**31
    np.testing.assert_array_equal(decoded(path).samples[0], values.astype(np.float32))


def test_a_gap_in_the_time_stamps_becomes_silence(make_recording: MakeRecording) -> None:
    """Calls send nothing during silence; otherwise all later times would be too early."""
    whole = make_recording("webm", "-c:a", "libopus", of="sine=300:duration=20:sample_rate=48000")
    with_gap = whole.with_suffix(".gap.webm")
    drop = ("-c", "copy", "-bsf:a", "noise=drop='gt(n,200)*lt(n,400)'")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(whole), *drop, str(with_gap)]
    subprocess.run(command, check=True)
    recording = decoded(with_gap)

    assert recording.duration == pytest.approx(20, abs=0.05)
    assert np.abs(recording.samples[0, 5 * SAMPLE_RATE : 7 * SAMPLE_RATE]).max() == 0
    assert loudest_tone(recording.samples[0, 9 * SAMPLE_RATE :]) == pytest.approx(300, abs=1)


@pytest.mark.parametrize("ending", ["webm", slow("mp3"), slow("ogg")])
def test_concatenated_recordings_are_all_decoded(
    make_recording: MakeRecording, ending: str
) -> None:
    """The second one's timestamps restart at zero; following them would drop it."""
    content = make_recording(ending).read_bytes()
    assert decoded_bytes(content + content).duration == pytest.approx(10, abs=0.2)


@pytest.mark.parametrize("order", ["12", slow("21")])
def test_a_switch_between_mono_and_stereo_loses_nothing(
    make_recording: MakeRecording, order: str
) -> None:
    parts = [
        make_recording("mp3", "-write_xing", "0", "-ac", n_channels).read_bytes()
        for n_channels in order
    ]
    assert decoded_bytes(b"".join(parts)).duration == pytest.approx(10, abs=0.2)


def test_progress_counts_seconds_and_can_stop_decoding(make_recording: MakeRecording) -> None:
    path = make_recording("m4a", "-c:a", "alac", of="sine=300:duration=600:sample_rate=8000")
    seen: list[float] = []
    with path.open("rb") as file:
        recording = decode(file, on_progress=seen.append)
    assert seen == sorted(seen) and len(seen) > 10 and seen[-1] == recording.duration

    def stop(seconds: float) -> None:
        raise InterruptedError

    with path.open("rb") as file, pytest.raises(InterruptedError):
        decode(file, on_progress=stop)


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("wav", ()),
        slow("wav", ("-c:a", "adpcm_ima_wav")),
        slow("wav", ("-rf64", "always")),
        slow("w64", ()),
        slow("aiff", ()),
        slow("caf", ()),
        slow("flac", ()),
        slow("mp3", ()),
        ("m4a", ("-movflags", "+faststart")),
        slow("wma", ()),
        slow("webm", ()),
        slow("avi", ()),
    ],
)
def test_half_a_file_is_refused_with_a_remedy(
    make_recording: MakeRecording, ending: str, options: tuple[str, ...]
) -> None:
    """ffmpeg itself reports success for each of these."""
    path = make_recording(
        ending, *options, of="anoisesrc=amplitude=0.3:duration=20:sample_rate=16000"
    )
    content = path.read_bytes()
    error = refusal(content[: len(content) // 2])

    assert error.code == "truncated_audio"
    assert re.search(r"lasts (19|20)\.\d s but holds only \d+\.\d s", str(error))
    assert "copy it from the recorder again" in str(error) and "export it as WAV" in str(error)


def test_a_cut_is_told_before_silence() -> None:
    """Half of a silent recording: what is missing may be the voices."""
    content = wav(tones(300, peak=0.0001, seconds=20))
    assert refusal(content[: len(content) // 2]).code == "truncated_audio"


def test_a_recording_damaged_in_the_middle_is_refused(make_recording: MakeRecording) -> None:
    content = bytearray(make_recording("m4a", "-movflags", "+faststart").read_bytes())
    middle = slice(len(content) // 3, len(content) // 2)
    content[middle] = random.Random(4).randbytes(len(content[middle]))
    error = refusal(bytes(content))
    assert error.code == "decode_failed" and "damaged" in str(error)


def test_decoding_takes_little_more_memory_than_the_samples(tmp_path: Path) -> None:
    """Half an hour of two channels; the file is sparse, so it takes up no disk space."""
    n_samples = 30 * 60 * SAMPLE_RATE
    path = tmp_path / "long.wav"
    path.write_bytes(wav((noise(1000, 2) * 32767).astype(np.int16), declared_bytes=n_samples * 4))
    os.truncate(path, n_samples * 4 + 44)
    program = f"""
import re, sys
sys.path.insert(0, {str(ROOT)!r})
from models.audio.decode import decode
def peak():  # getrusage's begins with what the parent had
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
with open({str(path)!r}, "rb") as file:
    before = peak()
    samples = decode(file, split_channels=True).samples
    after = peak()
assert samples.shape == (2, {n_samples})
print((after - before) * 1024 / samples.nbytes)
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert float(shown.stdout) < 1.3
