"""Recordings of every format, made by ffmpeg or byte by byte, and functions that decode them."""

import copy
import hashlib
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from _pytest.mark.structures import ParameterSet

from models.audio.decode import decode
from models.audio.memory_file import memory_file
from models.audio.probe import probe
from models.audio.recording import SAMPLE_RATE, DecodedRecording, RecordingInfo
from models.errors import AudioError

NAME = "eva-muster"  # a file name that identifies the person interviewed; it must never be shown

MakeRecording = Callable[..., Path]


def slow(*values: object) -> ParameterSet:
    """Mark a case as slow that is much like one the quick tests cover."""
    return pytest.param(*values, marks=pytest.mark.slow)


def decoded(path: Path, *, split_channels: bool = False) -> DecodedRecording:
    with path.open("rb") as file:
        return decode(file, split_channels=split_channels)


def probed(path: Path) -> RecordingInfo:
    with path.open("rb") as file:
        return probe(file)


def decoded_bytes(content: bytes, *, split_channels: bool = False) -> DecodedRecording:
    with memory_file([content]) as file:
        return decode(file, split_channels=split_channels)


def refusal(content: bytes, *, split_channels: bool = False) -> AudioError:
    with pytest.raises(AudioError) as caught:
        decoded_bytes(content, split_channels=split_channels)
    return caught.value


def read_once(monkeypatch: pytest.MonkeyPatch, *functions: str) -> None:
    """Make these functions, named by module, read the same bytes once.

    Each reading starts a sandboxed process. For tests whose subject is not the reading.
    """
    known: dict[tuple[object, ...], RecordingInfo | DecodedRecording | AudioError] = {}

    def remembered(read: Callable[..., Any]) -> Callable[..., Any]:
        def read_unless_known(file: IO[bytes], **options: Any) -> Any:
            content = hashlib.sha256(Path(f"/proc/self/fd/{file.fileno()}").read_bytes())
            key = (content.digest(), read, options.get("split_channels"))
            if key not in known:
                try:
                    known[key] = read(file, **options)
                except AudioError as error:
                    known[key] = error
            result = copy.deepcopy(known[key])
            if isinstance(result, AudioError):
                raise result
            return result

        return read_unless_known

    reading = {"probe": remembered(probe), "decode": remembered(decode)}
    for function in functions:
        monkeypatch.setattr(function, reading[function.rpartition(".")[2]])


def loudest_tone(channel: np.ndarray) -> float:
    """Frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(channel))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(channel))


def tones(
    *hertz: float, peak: float | list[float] = 0.5, seconds: float = 2, rate: int = SAMPLE_RATE
) -> np.ndarray:
    """One channel per frequency, (n_samples, n_channels), as `wav` takes them."""
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


def amr(magic: bytes, frame_type: int, n_bits: int) -> bytes:
    """Five seconds of speech frames with random bits: ffmpeg has no encoder for them."""
    noise = random.Random(1)
    header = bytes([frame_type << 3 | 0b100])
    return magic + b"".join(header + noise.randbytes(math.ceil(n_bits / 8)) for _ in range(250))


def dss(mode: int) -> bytes:
    """Noise in the block layout that ffmpeg's libavformat/dss.c reads; mode 0 is SP, 2 is LP."""
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
