"""Files in, words out: what an hour of audio costs in one long file and in many short ones.

    scripts/bench whole-path --model base --minutes 1 10 60 240 --files 1 20 200

Random weights and 110 tokens a window, as in `scripts/bench whisper`; noise with a pause every few
seconds. Reading files, mel and windows, decoding and word times, with the share of the decoder
alone; finding speech and speakers is not part of it.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.audio import SAMPLE_RATE, decode
from models.segmentation import SpeechRegion
from models.whisper_engine import Session, WhisperEngine, WhisperOptions
from models.windows import cut_windows
from scripts.bench_whisper import DIMENSIONS, forced_ends, hardware, random_whisper

SHORT_FILE = 2.0  # minutes, of each of many files
SPEECH, PAUSE = 4.5, 0.5  # s
OPTIONS = WhisperOptions(language="en")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=DIMENSIONS, default="base")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"))
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 10, 60, 240])
    parser.add_argument("--files", nargs="+", type=int, default=[1, 20, 200])
    parser.add_argument("--tokens", type=int, default=110)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, default=Path("build/bench/whole-path.json"))


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    whisper = random_whisper(arguments.model).to(arguments.device)
    engine = WhisperEngine(whisper, precision=arguments.precision)
    cases = [(minutes, 1) for minutes in arguments.minutes]
    cases += [(SHORT_FILE, n_files) for n_files in arguments.files]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        measure(engine, [noise(0.5, Path(folder))], arguments.tokens)  # sets up what stays
        for minutes, n_files in cases:
            files = [noise(minutes, Path(folder))] * n_files
            row = {"files": n_files, "minutes_each": minutes}
            rows.append(row | measure(engine, files, arguments.tokens))
            print(line(rows[-1]), flush=True)
    report = {
        "setup": {name: str(value) for name, value in vars(arguments).items() if name != "run"},
        "hardware": hardware(arguments.device),
        "cases": rows,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def noise(minutes: float, folder: Path) -> Path:
    """A FLAC file."""
    path = folder / f"{minutes}.flac"
    if not path.exists():
        source = f"anoisesrc=r={SAMPLE_RATE}:a=0.1:d={60 * minutes}:seed=1"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, str(path)]
        subprocess.run(command, check=True)
    return path


def measure(engine: WhisperEngine, files: Sequence[Path], n_tokens: int) -> dict[str, Any]:
    """Seconds of each stage."""
    times = [time.perf_counter()]
    recordings = []
    for path in files:
        with path.open("rb") as file:
            recordings.append(decode(file).samples[0])
    times.append(time.perf_counter())
    sessions = [session_of(engine, samples) for samples in recordings]
    times.append(time.perf_counter())
    with forced_ends(engine._decoder, lambda index: n_tokens):
        decoded = engine.decode_many(sessions)
        times.append(time.perf_counter())
        words = [engine.word_times(results, OPTIONS) for results in decoded]
        times.append(time.perf_counter())
        sounds = list(engine._sounds(sessions))
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in engine._decoder.decode(sounds):
                pass
        alone = time.perf_counter() - started
    assert all(words)
    audio = sum(len(samples) for samples in recordings) / SAMPLE_RATE
    total = times[-1] - times[0]
    stages = ("read", "windows", "decode_and_align", "place_words")
    return {
        "audio_seconds": audio,
        "seconds": dict(zip(stages, np.diff(times).tolist(), strict=True)),
        "rtfx": audio / total,
        "share_of_decoder": alone / total,
    }


def session_of(engine: WhisperEngine, samples: np.ndarray) -> Session:
    starts = np.arange(0.0, len(samples) / SAMPLE_RATE - PAUSE, SPEECH + PAUSE)
    regions = [SpeechRegion(float(start), float(start) + SPEECH) for start in starts]
    return Session(samples, cut_windows(regions, samples), OPTIONS, engine.maximum(samples))


def line(row: dict[str, Any]) -> str:
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in row["seconds"].items())
    return (
        f"{row['files']} x {row['minutes_each']} min: RTFx {row['rtfx']:.1f}, "
        f"{row['share_of_decoder']:.0%} of it the decoder alone ({seconds})"
    )
