"""Decoded recordings on one timeline."""

import numpy as np
import pytest

from models.audio.recording import SAMPLE_RATE, DecodedRecording, join
from tests.audio_files import decoded_bytes, tones, wav


def test_joined_recordings_share_one_timeline() -> None:
    first = decoded_bytes(wav(tones(300)))
    second = decoded_bytes(wav(tones(700, seconds=3, rate=48_000), rate=48_000))
    samples, starts = join([first, second, second])

    assert starts == (0, 2, 5) and samples.shape == (1, 8 * SAMPLE_RATE)
    np.testing.assert_array_equal(samples[0, 2 * SAMPLE_RATE : 5 * SAMPLE_RATE], second.samples[0])


def test_recordings_with_different_channels_cannot_be_joined() -> None:
    stereo = decoded_bytes(wav(tones(300, 700)), split_channels=True)
    mono = DecodedRecording(stereo.samples[:1], stereo.info)
    with pytest.raises(ValueError, match="number of channels"):
        join([mono, stereo])
