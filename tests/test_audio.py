"""Recordings of every kind that researchers bring, made here by ffmpeg or byte by byte."""

import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from _pytest.mark.structures import ParameterSet

from models.audio import decode as audio
from models.audio import sandbox
from models.audio.decode import SAMPLE_RATE, decode, join, memory_file, probe
from models.errors import AudioError
from tests.processes import kill_decoders

ROOT = Path(__file__).parent.parent
NAME = "eva-muster"  # a file name that says who was interviewed; it must appear nowhere

Make = Callable[..., Path]


def slow(*values: object) -> ParameterSet:
    """One more of a kind that the quick tests have seen."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make(ending, *options, of=sound)`: a file that ffmpeg writes, each made once."""
    folder = tmp_path_factory.mktemp(NAME)
    made: dict[tuple[str, ...], Path] = {}

    def make(ending: str, *options: str, of: str = "sine=300:duration=5:sample_rate=16000") -> Path:
        if (ending, of, *options) not in made:
            path = folder / f"{NAME}-{len(made)}.{ending}"
            command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", of, *options]
            subprocess.run([*command, "-threads", "1", str(path)], check=True)
            made[ending, of, *options] = path
        return made[ending, of, *options]

    return make


def decoded(path: Path, *, split_channels: bool = False) -> audio.Recording:
    with path.open("rb") as file:
        return decode(file, split_channels=split_channels)


def probed(path: Path) -> audio.RecordingInfo:
    with path.open("rb") as file:
        return probe(file)


def decoded_bytes(content: bytes, *, split_channels: bool = False) -> audio.Recording:
    with memory_file([content]) as file:
        return decode(file, split_channels=split_channels)


def loudest_tone(channel: np.ndarray) -> float:
    """Hz"""
    spectrum = np.abs(np.fft.rfft(channel))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(channel))


def tones(
    *hertz: float, peak: float | list[float] = 0.5, seconds: float = 2, rate: int = SAMPLE_RATE
) -> np.ndarray:
    """One channel each, as `wav` takes them."""
    times = np.arange(round(seconds * rate)) / rate
    return (np.asarray(peak) * np.sin(2 * np.pi * np.outer(times, hertz))).astype(np.float32)


def wav(
    samples: np.ndarray, *, rate: int = SAMPLE_RATE, declared_bytes: int | None = None
) -> bytes:
    """`samples`: (n_samples, n_channels), float32 or int16."""
    n_channels, width = samples.shape[1], samples.itemsize
    kind = 3 if samples.dtype == np.float32 else 1
    numbers = [(kind, 2), (n_channels, 2), (rate, 4), (rate * n_channels * width, 4)]
    numbers += [(n_channels * width, 2), (8 * width, 2)]
    form = b"".join(number.to_bytes(size, "little") for number, size in numbers)
    n_bytes = samples.nbytes if declared_bytes is None else declared_bytes
    content = b"WAVEfmt " + len(form).to_bytes(4, "little") + form
    content += b"data" + n_bytes.to_bytes(4, "little") + samples.tobytes()
    return b"RIFF" + (len(content) - samples.nbytes + n_bytes).to_bytes(4, "little") + content


def noise(n_samples: int, n_channels: int = 1) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.5, 0.5, (n_samples, n_channels)).astype(np.float32)


# Formats


def amr(magic: bytes, frame_type: int, n_bits: int) -> bytes:
    """Five seconds of speech frames with random bits: no encoder is installed anywhere."""
    noise = random.Random(1)
    header = bytes([frame_type << 3 | 0b100])
    return magic + b"".join(header + noise.randbytes(math.ceil(n_bits / 8)) for _ in range(250))


def dss(mode: int) -> bytes:
    """Noise in the block layout that ffmpeg's libavformat/dss.c reads; 0 is SP, 2 is LP."""
    noise = random.Random(1)
    header = bytearray(1024)
    header[:4] = b"\x02dss"
    header[0x26:0x3E] = b"200101120000200101120010"  # began, ended
    header[0x2A4] = mode
    blocks = [bytes(6) + bytes(noise.randrange(64) * 4 for _ in range(506)) for _ in range(20)]
    return bytes(header) + b"".join(blocks)


WRITTEN_BY_HAND = {
    "amr": amr(b"#!AMR\n", 7, 244),
    "awb": amr(b"#!AMR-WB\n", 8, 477),
    "dss": dss(0),
}
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
    "mpg": (*PICTURE, "mpeg1video", "-r", "25"),
    "mts": (*PICTURE, "mpeg2video", "-f", "mpegts", "-r", "25"),
}


RARE = ("w64", "3gp", "aiff", "caf", "au", "mov", "mkv", "wmv", "avi", "mpg", "mts")


@pytest.mark.parametrize("ending", [slow(e) if e in RARE else e for e in WRITTEN_BY_FFMPEG])
def test_each_format_keeps_its_tone_and_its_length(make: Make, ending: str) -> None:
    recording = decoded(make(ending, *WRITTEN_BY_FFMPEG[ending]))

    assert recording.samples.shape[0] == 1 and recording.samples.dtype == np.float32
    assert recording.duration == pytest.approx(5, abs=0.15)
    assert loudest_tone(recording.samples[0]) == pytest.approx(300, abs=1)


@pytest.mark.parametrize("ending", ["amr", "dss", slow("awb")])
def test_each_format_without_an_encoder_is_decoded(ending: str) -> None:
    recording = decoded_bytes(WRITTEN_BY_HAND[ending])

    assert recording.duration == pytest.approx(5.9 if ending == "dss" else 5, abs=0.05)
    assert recording.info.duration is None and recording.levels[0] > -30


@pytest.mark.slow
def test_dss_of_the_long_play_kind_is_decoded() -> None:
    assert decoded_bytes(dss(2)).info.codec == "g723_1"


def test_every_ending_in_the_formats_table_has_a_fixture() -> None:
    table = (ROOT / "docs/reference/formats.md").read_text().split("## Not read")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    endings = {ending for row in rows for ending in re.findall(r"`\.(\w+)`", row)}
    assert endings == {*WRITTEN_BY_FFMPEG, *WRITTEN_BY_HAND}


# What the file says


def test_probe_says_what_the_header_says_and_no_tag(make: Make) -> None:
    tags = ("-metadata", "title=Eva Muster", "-metadata", "comment=Klinik Sonnenhof")
    path = make("m4a", *tags, "-ar", "44100", "-ac", "2")
    info = probed(path)

    assert (info.codec, info.sample_rate, info.channels) == ("aac", 44100, 2)
    assert info.duration == pytest.approx(5, abs=0.05) and info.n_bytes == path.stat().st_size
    assert "Eva" not in repr(info) and "Klinik" not in repr(info)


def test_a_wav_that_was_streamed_has_the_length_of_its_bytes() -> None:
    content = bytearray(wav(tones(300)))
    at = content.index(b"data")
    content[4:8] = content[at + 4 : at + 8] = b"\xff" * 4
    assert decoded_bytes(bytes(content)).duration == 2


def test_a_wav_that_lost_only_a_tag_at_its_end_is_whole() -> None:
    """As much was missing as would be ten seconds of sound, but the sound was there."""
    content = bytearray(wav(tones(300)))
    content[4:8] = (len(content) + 10 * SAMPLE_RATE * 4).to_bytes(4, "little")
    recording = decoded_bytes(bytes(content))
    assert recording.duration == 2 and recording.info.duration == 2


def test_sound_after_the_end_in_the_header_is_not_lost() -> None:
    """A recorder whose battery died had brought its header up to date only now and then."""
    content = wav(tones(300, seconds=30), declared_bytes=2 * SAMPLE_RATE * 4)
    assert decoded_bytes(content).duration == 30


def test_a_phone_recording_with_its_index_at_the_end_is_read_whole(make: Make) -> None:
    """Ten minutes of it give nothing through a pipe; five seconds would come through."""
    path = make("m4a", "-c:a", "alac", of="sine=300:duration=600:sample_rate=8000")
    content = path.read_bytes()
    assert content.index(b"moov") > content.index(b"mdat") > 0 and len(content) > 1_000_000

    with memory_file(content[i : i + 65536] for i in range(0, len(content), 65536)) as file:
        recording = decode(file)

    assert recording.duration == pytest.approx(600, abs=0.01)
    assert recording.info.duration == pytest.approx(600, abs=0.01)


def test_a_memory_file_cannot_be_changed() -> None:
    with memory_file([b"RIFF"]) as file, pytest.raises(PermissionError):
        os.pwrite(file.fileno(), b"x", 0)


# What is in it


def test_channels_are_mixed_with_equal_weights_or_kept_apart() -> None:
    content = wav(tones(300, 700, peak=[0.5, 0.1], rate=44_100), rate=44_100)
    mixed, split = decoded_bytes(content), decoded_bytes(content, split_channels=True)

    assert [loudest_tone(channel) for channel in split.samples] == [300, 700]
    assert split.peak_dbfs == pytest.approx((-6.02, -20), abs=0.1)
    assert split.levels == pytest.approx((-9.03, -23.01), abs=0.1)
    np.testing.assert_allclose(mixed.samples[0], split.samples.mean(axis=0), atol=1e-4)


def test_no_microphone_of_six_is_lost() -> None:
    """As a 5.1 sound track the fourth would be the bass, which a usual mix to mono leaves out."""
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


def test_24_bit_samples_at_16_khz_come_out_as_they_are(make: Make) -> None:
    path = make("wav", "-c:a", "pcm_s24le")
    content = path.read_bytes()
    raw = np.frombuffer(content[content.index(b"data") + 8 :], dtype=np.uint8).reshape(-1, 3)
    values = (raw.astype(np.int32) << [8, 16, 24]).sum(axis=1, dtype=np.int32) / 2**31
    np.testing.assert_array_equal(decoded(path).samples[0], values.astype(np.float32))


@pytest.mark.parametrize("count", ["0", slow("1")])
def test_a_variable_rate_mp3_is_whole(make: Make, count: str) -> None:
    """Loud after quiet: from its first frames one would think it many times longer."""
    sound = "aevalsrc=if(lt(t\\,2)\\,0\\,0.5*sin(2*PI*300*t)+0.2*random(0)):d=10:s=44100"
    recording = decoded(make("mp3", "-q:a", "2", "-write_xing", count, of=sound))

    assert recording.duration == pytest.approx(10, abs=0.1)
    assert recording.info.duration == (pytest.approx(10, abs=0.1) if count == "1" else None)


def test_an_mp3_with_a_cover_picture_is_a_recording(make: Make) -> None:
    picture = ("-f", "lavfi", "-i", "color=size=64x64:rate=1:duration=1", "-c:v", "mjpeg")
    path = make("mp3", *picture, "-map", "0:a", "-map", "1:v", "-disposition:v", "attached_pic")
    recording = decoded(path)

    assert b"APIC" in path.read_bytes()
    assert recording.duration == pytest.approx(5, abs=0.1)
    assert recording.info.duration == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("ending", ["mkv", slow("mp4"), slow("wmv")])
def test_a_picture_longer_than_the_sound_is_no_broken_copy(make: Make, ending: str) -> None:
    longer = ("-f", "lavfi", "-i", "testsrc=duration=30:size=64x48:rate=5", "-c:v", "mpeg4")
    assert decoded(make(ending, *longer)).duration == pytest.approx(5, abs=0.2)


def test_a_gap_in_the_time_stamps_becomes_silence(make: Make) -> None:
    """A call sends nothing while nobody speaks; all later times would otherwise be too early."""
    whole = make("webm", "-c:a", "libopus", of="sine=300:duration=20:sample_rate=48000")
    with_gap = whole.with_suffix(".gap.webm")
    drop = ("-c", "copy", "-bsf:a", "noise=drop='gt(n,200)*lt(n,400)'")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(whole), *drop, str(with_gap)]
    subprocess.run(command, check=True)
    recording = decoded(with_gap)

    assert recording.duration == pytest.approx(20, abs=0.05)
    assert np.abs(recording.samples[0, 5 * SAMPLE_RATE : 7 * SAMPLE_RATE]).max() == 0
    assert loudest_tone(recording.samples[0, 9 * SAMPLE_RATE :]) == pytest.approx(300, abs=1)


@pytest.mark.parametrize("ending", ["webm", slow("mp3"), slow("ogg")])
def test_recordings_stuck_together_are_all_decoded(make: Make, ending: str) -> None:
    """The time stamps of the second begin at zero again; following them would cut it off."""
    content = make(ending).read_bytes()
    assert decoded_bytes(content + content).duration == pytest.approx(10, abs=0.2)


@pytest.mark.parametrize("order", ["12", slow("21")])
def test_a_change_between_one_channel_and_two_loses_nothing(make: Make, order: str) -> None:
    parts = [
        make("mp3", "-write_xing", "0", "-ac", n_channels).read_bytes() for n_channels in order
    ]
    assert decoded_bytes(b"".join(parts)).duration == pytest.approx(10, abs=0.2)


def test_a_pipe_is_no_recording() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    with open(read_end, "rb") as file, pytest.raises(ValueError, match="regular file"):
        decode(file)


@pytest.mark.slow
def test_a_large_picture_fits_into_the_memory_limit(make: Make) -> None:
    """ffprobe opens a decoder for it, although only the sound is wanted."""
    picture = ("-f", "lavfi", "-i", "testsrc=duration=1:size=3840x2160:rate=5", "-c:v", "libx264")
    path = make("mp4", *picture, "-preset", "ultrafast", of="sine=300:duration=1")
    assert decoded(path).duration == pytest.approx(1, abs=0.1)


def test_progress_counts_the_seconds_and_can_stop_the_decoding(make: Make) -> None:
    path = make("m4a", "-c:a", "alac", of="sine=300:duration=600:sample_rate=8000")
    seen: list[float] = []
    with path.open("rb") as file:
        recording = decode(file, on_progress=seen.append)
    assert seen == sorted(seen) and len(seen) > 10 and seen[-1] == recording.duration

    def stop(seconds: float) -> None:
        raise InterruptedError

    with path.open("rb") as file, pytest.raises(InterruptedError):
        decode(file, on_progress=stop)


def test_joined_recordings_lie_on_one_timeline() -> None:
    first = decoded_bytes(wav(tones(300)))
    second = decoded_bytes(wav(tones(700, seconds=3, rate=48_000), rate=48_000))
    samples, starts = join([first, second, second])

    assert starts == (0, 2, 5) and samples.shape == (1, 8 * SAMPLE_RATE)
    np.testing.assert_array_equal(samples[0, 2 * SAMPLE_RATE : 5 * SAMPLE_RATE], second.samples[0])


def test_recordings_with_different_channels_are_not_joined() -> None:
    stereo = decoded_bytes(wav(tones(300, 700)), split_channels=True)
    mono = audio.Recording(stereo.samples[:1], stereo.info)
    with pytest.raises(ValueError, match="number of channels"):
        join([mono, stereo])


# What cannot be used


def refusal(content: bytes, *, split_channels: bool = False) -> AudioError:
    with pytest.raises(AudioError) as caught:
        decoded_bytes(content, split_channels=split_channels)
    return caught.value


def test_an_empty_file_is_named_as_such() -> None:
    assert refusal(b"").code == "empty_file"


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
def test_what_is_no_recording_is_told_apart(content: bytes, word: str) -> None:
    error = refusal(content)
    assert error.code == "unreadable_audio" and word in str(error)


@pytest.mark.parametrize(("ending", "codec"), [("ac3", "ac3"), slow("mka", "wavpack")])
def test_other_formats_and_codecs_are_switched_off(make: Make, ending: str, codec: str) -> None:
    error = refusal(make(ending, "-c:a", codec).read_bytes())
    assert error.code == "unreadable_audio" and "export" in str(error)


def test_an_m4a_whose_index_was_never_written_is_explained(make: Make) -> None:
    content = make("m4a").read_bytes()
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


@pytest.mark.parametrize("tag", [b"drms", slow(b"enca"), slow(b"aavd")])
def test_an_m4a_with_copy_protection_is_named_as_such(make: Make, tag: bytes) -> None:
    assert refusal(make("m4a").read_bytes().replace(b"mp4a", tag)).code == "encrypted_audio"


def test_a_video_without_sound_has_no_sound(make: Make) -> None:
    path = make("mp4", "-c:v", "mpeg4", of="testsrc=duration=1:size=64x48:rate=5")
    assert refusal(path.read_bytes()).code == "no_audio_stream"


@pytest.mark.parametrize("ending", ["jpg", slow("png")])
def test_a_picture_has_no_sound(make: Make, ending: str) -> None:
    path = make(ending, "-frames:v", "1", of="testsrc=duration=1:size=64x48:rate=5")
    assert refusal(path.read_bytes()).code == "no_audio_stream"


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
def test_half_a_file_is_an_error_with_its_remedy(
    make: Make, ending: str, options: tuple[str, ...]
) -> None:
    """ffmpeg itself calls every one of these a success."""
    path = make(ending, *options, of="anoisesrc=amplitude=0.3:duration=20:sample_rate=16000")
    content = path.read_bytes()
    error = refusal(content[: len(content) // 2])

    assert error.code == "truncated_audio"
    assert re.search(r"lasts (19|20)\.\d s and holds \d+\.\d s", str(error))
    assert "copy it from the recorder again" in str(error) and "export it as WAV" in str(error)


def test_silence_is_an_error_that_says_how_silent() -> None:
    error = refusal(wav(tones(300, peak=0.0001)))
    assert error.code == "silent_audio" and "-80.0 dBFS" in str(error)


def test_one_silent_channel_of_two_is_no_error() -> None:
    one_side = wav(tones(300, 300, peak=[0, 0.5]))
    assert decoded_bytes(one_side, split_channels=True).peak_dbfs[0] == -math.inf


def test_channels_that_cancel_each_other_out_are_hinted_at() -> None:
    assert "cancel" in str(refusal(wav(tones(300, 300, peak=[0.5, -0.5]))))


def test_more_than_eight_channels_are_refused() -> None:
    assert decoded_bytes(wav(noise(16_000, 8)), split_channels=True).samples.shape[0] == 8
    error = refusal(wav(noise(16_000, 32)))
    assert error.code == "too_many_channels" and "32" in str(error)


def test_a_rate_under_the_telephones_is_refused() -> None:
    error = refusal(wav(noise(16_000), rate=4000))
    assert error.code == "sample_rate_too_low" and "4000" in str(error)


@pytest.mark.parametrize("n_samples", [800, slow(0)])
def test_less_than_a_tenth_of_a_second_is_too_short(n_samples: int) -> None:
    assert refusal(wav(noise(n_samples))).code == "audio_too_short"


def test_more_than_a_day_is_refused_before_decoding() -> None:
    error = refusal(wav(noise(160_000).astype(np.int16), rate=8000, declared_bytes=26 * 57_600_000))
    assert error.code == "too_long"
    assert re.search(r"lasts 25 h 5\d min or more and the limit is 24 h", str(error))


def test_decoding_stops_at_the_limit_where_nothing_was_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audio, "MAX_SECONDS", 3)
    assert refusal(WRITTEN_BY_HAND["amr"]).code == "too_long"


def test_channels_apart_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_CHANNEL_SECONDS", 8)
    content = wav(tones(300, 700, seconds=5))
    error = refusal(content, split_channels=True)
    assert error.code == "too_long" and "2 channels" in str(error)
    assert decoded_bytes(content).duration == 5


@pytest.mark.parametrize("sample", [np.nan, np.inf, 1e25, -1e4])
def test_samples_that_no_sound_has_are_refused(sample: float) -> None:
    samples = noise(16_000)
    samples[5000] = sample
    assert refusal(wav(samples)).code == "unreadable_audio"


def test_samples_beyond_full_scale_as_recorders_of_floats_have_are_taken() -> None:
    assert decoded_bytes(wav(20 * noise(16_000))).duration == 1


def test_a_recording_damaged_in_the_middle_is_refused(make: Make) -> None:
    content = bytearray(make("m4a", "-movflags", "+faststart").read_bytes())
    middle = slice(len(content) // 3, len(content) // 2)
    content[middle] = random.Random(4).randbytes(len(content[middle]))
    error = refusal(bytes(content))
    assert error.code == "decode_failed" and "damaged" in str(error)


def test_no_error_tells_the_name_the_tags_or_the_content(make: Make, tmp_path: Path) -> None:
    """Through the whole traceback: ffmpeg's own messages begin with the path."""
    folder = tmp_path / NAME
    folder.mkdir()
    tags = ("-metadata", "title=Eva Muster", "-movflags", "+faststart")
    sound = "anoisesrc=amplitude=0.3:duration=20:sample_rate=16000"
    half = make("m4a", *tags, of=sound).read_bytes()[:90_000]
    for content in (b"Eva Muster lives at", half):
        path = folder / f"{NAME}.m4a"
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(AudioError) as caught:
            decode(file)
        shown = "".join(traceback.format_exception(caught.value))
        assert NAME not in shown and "Eva" not in shown and caught.value.__context__ is None


# The sandbox


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio {port} RTP/AVP 0\n",
    "xspf": '<?xml version="1.0"?><playlist xmlns="http://xspf.org/ns/0/" version="1"><trackList>'
    "<track><location>{target}</location></track></trackList></playlist>",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet contentType="audio"><Representation id="1" bandwidth="1"><BaseURL>{target}'
    "</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "pls": "[playlist]\nFile1={target}\n",
    "rtsp": "RTSPtext\nrtsp://127.0.0.1:{port}/x\n",
    "script": "; a script\nimport os\nos.system('touch {target}')\n",
}
COMMON_PLAYLISTS = ("m3u8", "ffconcat")


@pytest.mark.parametrize("kind", [k if k in COMMON_PLAYLISTS else slow(k) for k in PLAYLISTS])
def test_a_playlist_opens_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Even where Landlock does not keep files shut: its format is not among the allowed ones."""
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK)
    canary = tmp_path / "canary.wav"
    canary.write_bytes(wav(tones(300)))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        for target in (f"file:{canary}", f"http://127.0.0.1:{port}/x.wav"):
            os.utime(canary, (1, 2))  # older than its content, so that any reading shows
            error = refusal(PLAYLISTS[kind].format(target=target, port=port).encode())
            assert error.code == "unreadable_audio"
            assert canary.stat().st_atime == 1
        with pytest.raises(BlockingIOError):
            server.accept()


def in_sandbox(code: str, *, seconds: float = 20, path: Path | None = None) -> str:
    """What a Python program prints that runs in ffmpeg's place."""
    command = [sys.executable, "-I", "-S", "-c", code]
    with (
        memory_file([b"recording"]) if path is None else path.open("r+b") as file,
        audio.sandboxed(command, file, seconds=seconds) as child,
    ):
        return audio.output_of(child).read().decode()


ON_FILES = {
    "the user's files": "os.open({secret!r}, os.O_RDONLY)",
    "a list of files": "os.listdir('/')",
    "the parent's environment": "os.open(f'/proc/{{os.getppid()}}/environ', os.O_RDONLY)",
    "a new file": "os.open({secret!r} + '.new', os.O_WRONLY | os.O_CREAT)",
    "writing the input": "os.open('/proc/self/fd/0', os.O_WRONLY)",
    "removing a file": "os.unlink({secret!r})",
}
ATTEMPTS = ON_FILES | {
    "a socket": "import socket; socket.socket()",
    "a pair of sockets": "import socket; socket.socketpair()",
    "a process": "os.fork() or os._exit(0)",
    "a signal": "os.kill(os.getppid(), 0)",
    "namespaces": "libc.unshare(0x200) and fail()",
    "ptrace": "libc.ptrace(0, 0, 0, 0) and fail()",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_sandbox_refuses(attempt: str, tmp_path: Path) -> None:
    if attempt in ON_FILES and sandbox.libc.syscall(444, None, 0, 1) < 1:
        pytest.skip("this kernel has no Landlock")
    secret = tmp_path / "secret"
    secret.write_text("x")
    recording = tmp_path / "recording"
    recording.write_text("x")
    program = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def fail():
    raise OSError(ctypes.get_errno(), "")
try:
    {ATTEMPTS[attempt].format(secret=str(secret))}
    print("allowed")
except PermissionError:
    print("refused")
"""
    assert run_outside(program, recording) == "allowed\n"
    secret.write_text("x")
    assert in_sandbox(program, path=recording) == "refused\n"


def run_outside(program: str, path: Path) -> str:
    """The same without the sandbox, so that an attempt that never works proves nothing."""
    command = [sys.executable, "-I", "-S", "-c", program]
    with path.open("r+b") as file:
        return subprocess.run(command, stdin=file, capture_output=True, text=True).stdout


def test_the_sandbox_can_open_its_input_again_and_start_threads() -> None:
    program = """
import threading
thread = threading.Thread(target=print, args=(open("/proc/self/fd/0").read(),))
thread.start()
thread.join()
"""
    assert in_sandbox(program) == "recording\n"


def test_ffmpeg_in_the_sandbox_reaches_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", url, "-f", "null", "-"]
        with memory_file([b"x"]) as file, audio.sandboxed(command, file, seconds=20) as child:
            pass
        assert child.returncode > 0
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_environment_with_its_secrets_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDSCRIBE_SECRET", "x")
    names = in_sandbox("import os; print(*sorted(os.environ))").split()
    assert set(names) <= {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_CTYPE"}


def test_memory_has_a_limit() -> None:
    program = "try: bytearray(4 << 30)\nexcept MemoryError: print('refused')"
    assert in_sandbox(program) == "refused\n"


def test_processor_time_has_a_limit() -> None:
    program = "import resource; print(*resource.getrlimit(resource.RLIMIT_CPU))"
    assert in_sandbox(program, seconds=7) == "7 7\n"


@pytest.mark.slow
def test_an_endless_loop_hits_the_limit() -> None:
    with pytest.raises(audio.DecoderKilled, match="limit"):
        in_sandbox("while True: pass", seconds=1)


def test_the_clock_has_a_limit() -> None:
    with pytest.raises(audio.DecoderKilled, match="limit"):
        in_sandbox("import time; time.sleep(60)", seconds=0.1)


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_decoder_is_not_taken_for_a_bad_recording(with_signal: signal.Signals) -> None:
    """By the kernel for want of memory, or with the whole service: the next try may succeed."""
    content = wav(noise(60 * SAMPLE_RATE))

    with memory_file([content]) as file, pytest.raises(audio.DecoderKilled) as caught:
        decode(file, on_progress=lambda _: kill_decoders(with_signal))
    assert caught.value.retryable
    assert decoded_bytes(content).duration == 60


def test_a_killed_probe_is_not_taken_for_a_bad_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(child: "subprocess.Popen[bytes]") -> IO[bytes]:
        child.kill()
        assert child.stdout is not None
        return child.stdout

    monkeypatch.setattr(audio, "output_of", kill)
    with memory_file([wav(noise(16_000))]) as file, pytest.raises(audio.DecoderKilled):
        probe(file)


def test_the_child_dies_with_its_parent() -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from models.audio import decode as audio
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
command = [sys.executable, "-I", "-S", "-c", code]
with audio.sandboxed(command, audio.memory_file([b"x"]), seconds=60) as child:
    print(audio.output_of(child).readline().decode(), flush=True)
    audio.output_of(child).read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(child)


def running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def sandbox_with(monkeypatch: pytest.MonkeyPatch, folder: Path, changes: dict[str, str]) -> None:
    """The sandbox as on a machine without something."""
    text = Path(sandbox.__file__).read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    changed = folder / "sandbox.py"
    changed.write_text(text)
    monkeypatch.setattr(sandbox, "__file__", str(changed))


NO_LANDLOCK = {"if version < 1:": "if True:"}
NO_SECCOMP = {"arch = {": "arch = None and {"}
NO_NAMESPACES = {"libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0": "False"}


def test_without_a_way_to_cut_off_the_network_nothing_is_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox_with(monkeypatch, tmp_path, NO_SECCOMP | NO_NAMESPACES)
    error = refusal(wav(tones(300)))
    assert error.code == "sandbox_unavailable" and "network" in str(error)


def test_without_seccomp_an_empty_network_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True).returncode != 0:
        pytest.skip("user namespaces are not allowed here")
    sandbox_with(monkeypatch, tmp_path, NO_SECCOMP | NO_LANDLOCK)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        program = f"""
import socket
try:
    socket.create_connection({address!r}, 5)
except OSError as error:
    print(error.strerror)
"""
        assert in_sandbox(program) == "Network is unreachable\n"
    assert decoded_bytes(wav(tones(300))).duration == 2


def test_without_landlock_the_network_is_blocked_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK)
    recording = tmp_path / "recording"
    recording.write_text("x")
    program = """
import os, socket
for attempt in (socket.socket, lambda: os.write(os.open("/proc/self/fd/0", os.O_WRONLY), b"y")):
    try:
        attempt()
    except OSError as error:
        print(error.strerror)
"""
    assert in_sandbox(program, path=recording) == "Operation not permitted\nFile too large\n"
    assert recording.read_text() == "x"
    assert decoded_bytes(wav(tones(300))).duration == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to lose")
def test_root_is_not_root_in_the_sandbox_but_reads_the_recording(tmp_path: Path) -> None:
    program = "import os\ntry: os.setuid(1)\nexcept PermissionError: print('refused')"
    assert in_sandbox(program) == "refused\n"

    path = tmp_path / "somebody-elses.wav"
    path.write_bytes(wav(tones(300)))
    path.chmod(0o600)
    os.chown(path, 1000, 1000)
    assert decoded(path).duration == 2


def test_a_sandbox_that_breaks_never_starts_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox_with(monkeypatch, tmp_path, {"drop_capabilities()\n    if": "1 / 0\n    if"})
    assert refusal(wav(tones(300))).code == "sandbox_unavailable"


def test_a_machine_without_ffmpeg_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refusal(wav(tones(300))).code == "ffmpeg_missing"


# Memory


def test_decoding_takes_little_more_memory_than_the_samples(tmp_path: Path) -> None:
    """Half an hour in two channels; most of the file is a hole, so that it costs no disk."""
    n_samples = 30 * 60 * SAMPLE_RATE
    path = tmp_path / "long.wav"
    path.write_bytes(wav((noise(1000, 2) * 32767).astype(np.int16), declared_bytes=n_samples * 4))
    os.truncate(path, n_samples * 4 + 44)
    program = f"""
import re, sys
sys.path.insert(0, {str(ROOT)!r})
from models.audio import decode as audio
def peak():  # getrusage's begins with what the parent had
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
with open({str(path)!r}, "rb") as file:
    before = peak()
    samples = audio.decode(file, split_channels=True).samples
    after = peak()
assert samples.shape == (2, {n_samples})
print((after - before) * 1024 / samples.nbytes)
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert float(shown.stdout) < 1.3
