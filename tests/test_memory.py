"""Memory on 20 minutes of sound, and how it grows with the length: what four hours will take.

Each measurement is a process of its own. Its peak is VmHWM of /proc, because getrusage's starts
with what the parent had when it was started.
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
find_log_mel_maximum(torch.zeros(16_000).numpy(), 128, cpu)  # loads what is loaded once
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


def peak_of_reading(minutes: int, folder: Path) -> int:
    """Bytes for decoding, windows and spectrograms of a recording, most of which is a hole."""
    path = folder / f"{minutes}.wav"
    n_bytes = minutes * 60 * SAMPLE_RATE * 2
    path.write_bytes(wav((noise(1000) * 32767).astype(np.int16), declared_bytes=n_bytes))
    os.truncate(path, n_bytes + 44)
    command = [sys.executable, "-c", READ, str(path)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(shown.stdout)


def test_reading_20_minutes_takes_the_samples_and_little_more(tmp_path):
    """A spectrogram of the whole file would take as much as the samples, on the way twice more."""
    ten, twenty = peak_of_reading(10, tmp_path), peak_of_reading(20, tmp_path)

    assert twenty < 20 * 60 * BYTES_PER_SECOND + 150 * MB
    assert (twenty - ten) / (10 * 60) < 2 * BYTES_PER_SECOND


@pytest.mark.slow
def test_the_whole_path_takes_little_on_20_minutes_and_little_more_with_each_further_one():
    """With drawn embeddings, as scripts/measure_memory says; with real ones it takes an hour.

    docs/developer/performance.md has four hours, `scripts/measure_memory --minutes 240`;
    the slope wavers too much from run to run to tell that from two short ones.
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
