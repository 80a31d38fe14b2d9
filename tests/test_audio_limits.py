"""Limits on the length, channels, sample rate and level of a recording."""

import math
import re

import numpy as np
import pytest

from models.audio import limits
from tests.audio_files import WRITTEN_BY_HAND, decoded_bytes, noise, refusal, slow, tones, wav


def test_a_silent_recording_is_refused_with_its_level() -> None:
    error = refusal(wav(tones(300, peak=0.0001)))
    assert error.code == "silent_audio" and "-80.0 dBFS" in str(error)


def test_one_silent_channel_of_two_is_accepted() -> None:
    one_side = wav(tones(300, 300, peak=[0, 0.5]))
    assert decoded_bytes(one_side, split_channels=True).peak_dbfs[0] == -math.inf


def test_channels_that_cancel_each_other_out_are_mentioned() -> None:
    assert "cancel" in str(refusal(wav(tones(300, 300, peak=[0.5, -0.5]))))


def test_more_than_eight_channels_are_refused() -> None:
    assert decoded_bytes(wav(noise(16_000, 8)), split_channels=True).samples.shape[0] == 8
    error = refusal(wav(noise(16_000, 32)))
    assert error.code == "too_many_channels" and "32" in str(error)


def test_a_sample_rate_below_the_telephones_is_refused() -> None:
    error = refusal(wav(noise(16_000), rate=4000))
    assert error.code == "sample_rate_too_low" and "4000" in str(error)


@pytest.mark.parametrize("n_samples", [800, slow(0)])
def test_less_than_a_tenth_of_a_second_is_too_short(n_samples: int) -> None:
    assert refusal(wav(noise(n_samples))).code == "audio_too_short"


def test_more_than_a_day_is_refused_before_decoding() -> None:
    error = refusal(wav(noise(160_000).astype(np.int16), rate=8000, declared_bytes=26 * 57_600_000))
    assert error.code == "too_long"
    assert re.search(r"lasts 26 h 0 min or more and the limit is 24 h", str(error))


def test_decoding_stops_at_the_limit_if_no_duration_was_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 3)
    assert refusal(WRITTEN_BY_HAND["amr"]).code == "too_long"


def test_separate_channels_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CHANNEL_SECONDS", 8)
    content = wav(tones(300, 700, seconds=5))
    error = refusal(content, split_channels=True)
    assert error.code == "too_long" and "2 channels" in str(error)
    assert decoded_bytes(content).duration == 5


@pytest.mark.parametrize("sample", [np.nan, np.inf, 1e25, -1e4])
def test_impossible_sample_values_are_refused(sample: float) -> None:
    samples = noise(16_000)
    samples[5000] = sample
    assert refusal(wav(samples)).code == "unreadable_audio"


def test_float_samples_above_full_scale_are_accepted() -> None:
    assert decoded_bytes(wav(20 * noise(16_000))).duration == 1
