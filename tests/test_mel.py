"""Spectrograms of windows against openai-whisper's of the whole recording."""

import numpy as np
import pytest
import torch
from whisper.audio import N_SAMPLES, log_mel_spectrogram

from models.audio.recording import SAMPLE_RATE
from models.whisper_engine.mel import compute_log_mel, find_log_mel_maximum
from models.windows import Window

CPU = torch.device("cpu")


@pytest.mark.parametrize("n_mels", [80, 128])
def test_windows_equal_whispers_spectrogram_of_the_whole_recording(n_mels):
    """Except for the two frames at each edge, which reach beyond the window."""
    rng = np.random.default_rng(0)
    loudness = np.repeat(rng.uniform(1e-4, 0.5, 750), SAMPLE_RATE // 10)
    samples = (rng.standard_normal(len(loudness)) * loudness).astype(np.float32)
    whole = log_mel_spectrogram(samples, n_mels, padding=N_SAMPLES)
    maximum = find_log_mel_maximum(samples, n_mels, CPU)

    assert (maximum + 4.0) / 4.0 == pytest.approx(whole.max().item(), abs=1e-5)
    for window in (Window(0.0, 30.0), Window(31.37, 44.0), Window(61.02, 75.0)):
        first, last = round(window.start * 100) + 2, round(window.end * 100) - 2
        found = compute_log_mel(window.cut(samples), n_mels, maximum, CPU)[:, 2 : last - first + 2]
        assert torch.allclose(found, whole[:, first:last], atol=1e-5)


MINUTE = 60 * SAMPLE_RATE


@pytest.mark.parametrize("length", [1, 200, MINUTE - 1, MINUTE + 1, MINUTE + 170, 2 * MINUTE])
@pytest.mark.parametrize("click", [-319, -161, -40, 0, 41, 200])
def test_the_maximum_is_that_of_the_whole_recording_even_at_block_boundaries(length, click):
    samples = np.zeros(length, np.float32)
    samples[min(MINUTE + click, length - 1)] = 0.9
    whole = log_mel_spectrogram(samples, 80, padding=N_SAMPLES if length <= 200 else 0)
    own = whole[:, : max(1, length // 160)]

    assert (find_log_mel_maximum(samples, 80, CPU) + 4.0) / 4.0 == pytest.approx(own.max().item())
