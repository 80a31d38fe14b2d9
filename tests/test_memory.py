"""Memory for 20 minutes of audio, and its growth with the length, which predicts four hours.

Each measurement runs in a process of its own and reads the peak from VmHWM in /proc: the peak of
getrusage starts at the parent's memory.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.audio.recording import SAMPLE_RATE
from tests.audio_files import noise, wav

ROOT = Path(__file__).parent.parent
MB = 1_000_000
BYTES_PER_SECOND = 4 * SAMPLE_RATE  # of samples

READ = """
import sys
import torch
from models.audio.decode import decode
from models.diarisation.segmentation import SpeechRegion
from models.whisper_engine.mel import compute_log_mel, find_log_mel_maximum
from models.windows import cut_windows
from scripts.reports import read_peak_bytes

torch.set_num_threads(1)
cpu = torch.device("cpu")
find_log_mel_maximum(torch.zeros(16_000).numpy(), 128, cpu)  # loads what it needs once
loaded = read_peak_bytes()
with open(sys.argv[1], "rb") as file:
    samples = decode(file).samples[0]
regions = [SpeechRegion(start, start + 8.0) for start in range(0, len(samples) // 16_000 - 8, 9)]
windows = cut_windows(regions, samples)
maximum = find_log_mel_maximum(samples, 128, cpu)
for window in windows:
    compute_log_mel(window.cut(samples), 128, maximum, cpu)
assert len(windows) > len(samples) / 16_000 / 40
print(read_peak_bytes() - loaded)
"""


def measure_reading(minutes: int, folder: Path) -> int:
    """Peak bytes for decoding a recording, cutting windows and computing spectrograms.

    Most of the file is a hole.
    """
    path = folder / f"{minutes}.wav"
    n_bytes = minutes * 60 * SAMPLE_RATE * 2
    path.write_bytes(wav((noise(1000) * 32767).astype(np.int16), declared_bytes=n_bytes))
    os.truncate(path, n_bytes + 44)
    command = [sys.executable, "-c", READ, str(path)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(shown.stdout)


def test_reading_20_minutes_takes_little_more_memory_than_the_samples(tmp_path):
    """A spectrogram of the whole file would double it, and for a while quadruple it."""
    ten, twenty = measure_reading(10, tmp_path), measure_reading(20, tmp_path)

    assert twenty < 20 * 60 * BYTES_PER_SECOND + 150 * MB
    assert (twenty - ten) / (10 * 60) < 2 * BYTES_PER_SECOND


@pytest.mark.slow
def test_the_pipelines_memory_on_20_minutes_and_its_growth_are_bounded():
    """With random embeddings, as scripts/measure_memory explains; real ones would take an hour.

    docs/developer/performance.md has the figures for four hours (`scripts/measure_memory --minutes
    240`): the slope varies too much between runs to predict them from two short recordings.
    """

    def measured(minutes: int) -> dict[str, int]:
        command = [sys.executable, "-m", "scripts.measure_memory", "--minutes", str(minutes)]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        report: dict[str, int] = json.loads(shown.stdout)
        return report

    twenty, forty = measured(20), measured(40)
    slope = (forty["peak_bytes"] - twenty["peak_bytes"]) / (20 * 60)

    assert twenty["peak_bytes"] < 1800 * MB
    assert slope < 2.2 * BYTES_PER_SECOND
