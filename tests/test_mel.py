"""Mel of windows against openai-whisper's mel of the whole recording."""

import numpy as np
import pytest
import torch
from whisper.audio import N_SAMPLES, log_mel_spectrogram

from models.audio import SAMPLE_RATE
from models.whisper_engine.mel import log_mel, log_mel_maximum
from models.windows import Window

CPU = torch.device("cpu")


@pytest.mark.parametrize("n_mels", [80, 128])
def test_windows_are_cut_from_whispers_spectrogram_of_the_whole_recording(n_mels):
    """But for the two frames at each edge of a window, which there reach over it."""
    rng = np.random.default_rng(0)
    loudness = np.repeat(rng.uniform(1e-4, 0.5, 750), SAMPLE_RATE // 10)
    samples = (rng.standard_normal(len(loudness)) * loudness).astype(np.float32)
    whole = log_mel_spectrogram(samples, n_mels, padding=N_SAMPLES)
    maximum = log_mel_maximum(samples, n_mels, CPU)

    for window in (Window(0.0, 30.0), Window(31.37, 44.0), Window(61.02, 75.0)):
        first, last = round(window.start * 100) + 2, round(window.end * 100) - 2
        found = log_mel(window.cut(samples), n_mels, maximum, CPU)[:, 2 : last - first + 2]
        assert torch.allclose(found, whole[:, first:last], atol=1e-5)
