"""Log-mel spectrograms of windows, on the scale of the whole session.

Whisper clamps a spectrogram at 8 (80 dB) below the maximum of the whole recording. Here the maximum
is found block by block, and each window is transformed just before it is decoded, so memory does
not grow with the length of the session. A window sees nothing beyond its edges
(docs/developer/experiments.md).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from whisper.audio import HOP_LENGTH, N_FFT, N_SAMPLES, mel_filters

BLOCK = 6000  # frames, one minute
MARGIN = 2  # frames on either side, because a frame reaches into its neighbours


def compute_mel_power(samples: Tensor, n_mels: int) -> Tensor:
    """log10 of mel power, (..., n_mels, n_samples / 160), before whisper's clamp and scaling.

    Source: whisper/audio.py, `log_mel_spectrogram`.
    """
    window = torch.hann_window(N_FFT).to(samples.device)
    stft = torch.stft(samples, N_FFT, HOP_LENGTH, window=window, return_complex=True)
    frames = stft[..., :-1]
    power = frames.real.square() + frames.imag.square()  # takes a third less time than abs() ** 2
    return torch.clamp(mel_filters(samples.device, n_mels) @ power, min=1e-10).log10()


def find_log_mel_maximum(samples: np.ndarray, n_mels: int, device: torch.device) -> float:
    """The highest log10 mel power of (n_samples,); whisper's clamp is relative to it."""
    maximum = -10.0  # log10 of the lowest power that whisper distinguishes
    n_frames = max(1, len(samples) // HOP_LENGTH)
    for start in range(0, n_frames, BLOCK):
        first = max(0, start - MARGIN)
        block = samples[first * HOP_LENGTH : (start + BLOCK + MARGIN) * HOP_LENGTH]
        if len(block) <= N_FFT // 2:  # too short for reflection padding
            block = np.pad(block, (0, N_FFT // 2 + 1 - len(block)))
        power = compute_mel_power(torch.from_numpy(block).to(device), n_mels)
        own = power[:, start - first : start - first + BLOCK]
        maximum = max(maximum, own.max().item())
    return maximum


def compute_log_mel(
    samples: np.ndarray, n_mels: int, maximum: float, device: torch.device
) -> Tensor:
    """Whisper's input for one window, (n_mels, 3000), padded with silence to 30 s.

    Args:
        samples: float32, (n_samples,), at most 30 s.
        maximum: `find_log_mel_maximum` of the whole session.
    """
    if len(samples) > N_SAMPLES:
        raise ValueError("a window is longer than 30 s")  # pad_or_trim would drop the rest
    padded = F.pad(torch.from_numpy(samples).to(device), (0, N_SAMPLES - len(samples)))
    return (torch.clamp(compute_mel_power(padded, n_mels), min=maximum - 8.0) + 4.0) / 4.0
