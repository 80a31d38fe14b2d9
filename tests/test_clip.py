"""Clips hold exactly the passage that was asked for."""

import io
import wave

import numpy as np
import pytest

from models.audio.clip import cut_clip
from tests.api import tone


def samples_of(wav: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(wav)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Half a second each of silence, a loud tone, silence and a soft tone."""
    path = tmp_path_factory.mktemp("clip") / "parts.wav"
    parts = [np.zeros(8000), *(level * np.sin(np.arange(8000) * 0.3) for level in (9000, 0, 900))]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.concatenate(parts).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize(
    ("start", "end", "peak"), [(0.5, 1.0, 9000), (0.0, 0.5, 0), (1.0, 1.5, 0), (1.5, 2.0, 900)]
)
def test_a_clip_holds_its_passage_and_nothing_else(recording, start, end, peak):
    with recording.open("rb") as file:
        cut = samples_of(cut_clip(file, start, end))

    assert len(cut) == 8000
    assert abs(int(np.abs(cut).max()) - peak) <= 0.01 * peak + 2


def test_a_clip_past_the_end_is_silent_there(recording):
    with recording.open("rb") as file:
        cut = samples_of(cut_clip(file, 1.5, 3.0))

    assert len(cut) == 24_000
    assert np.abs(cut[8000:]).max() == 0


def test_channels_are_mixed(tmp_path):
    path = tmp_path / "two.wav"
    path.write_bytes(tone(1.0, channels=2))
    with path.open("rb") as file:
        assert len(samples_of(cut_clip(file, 0.2, 0.7))) == 8000
