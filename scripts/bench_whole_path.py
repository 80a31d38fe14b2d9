"""Measure the time from files to transcripts, for one long file and for many short ones.

    scripts/bench whole-path --model base --minutes 1 10 60 240 --files 1 20 200
    scripts/bench whole-path --model demo --minutes 1 10 --files 1 20
    scripts/bench whole-path --model turbo --device cuda --diarisation real

Runs batch mode on the demo interview, repeated. Whisper has random weights and 110 tokens per
window, as in `scripts/bench whisper`, or the demo weights with their own texts. Speaker embeddings
are random numbers; `--diarisation real` uses models of community-1's size with random weights
instead, to measure both engines on one device. The share of the engine's own rate is the time that
the decoder alone takes for as many windows, divided by the time of reading, transcribing and timing
words.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from models.options import JobOptions, SpeakerCount
from models.pipeline import COSTLY_STAGES, Pipeline, StageProgress
from models.precision import Precision
from models.progress import Progress, ignore
from models.weights.catalogue import find_pipeline, find_whisper
from models.weights.whisper import load_whisper
from models.whisper_engine import DecodedWindow, DecodingRequest, WhisperEngine
from scripts.evaluate import NO_WEIGHTS_FOLDER
from scripts.measure_memory import draw_embeddings
from scripts.reports import describe_hardware, write_report
from scripts.synthetic_diarisation import random_pipeline
from scripts.whisper_contestants import DIMENSIONS, force_ends, make_random_whisper
from service.batch.batch import Batch, group_into_sessions, prepare_output
from service.batch.batch import run as run_batch
from service.exports import Format

SHORT_FILE = 2.0  # minutes, of each of many files
INTERVIEW = Path(__file__).parent.parent / "demo" / "interview.flac"
OPTIONS = JobOptions(language="en", speakers=SpeakerCount(2, 2))
TO_WORDS = ("ingest", "transcribe", "align")
STAGES = ("ingest", *COSTLY_STAGES, "attribute", "check")
TIMES_FILLED = 3  # how often all slots are filled to measure the decoder alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=(*DIMENSIONS, "demo"), default="base")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"))
    parser.add_argument("--diarisation", choices=("drawn", "real"), default="drawn")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 10, 60, 240])
    parser.add_argument("--files", nargs="+", type=int, default=[1, 20, 200])
    parser.add_argument("--tokens", type=int, default=110)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, default=Path("build/bench/whole-path.json"))


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    pipeline = build_pipeline(arguments.model, arguments.device, arguments.precision)
    if arguments.diarisation == "drawn":
        draw_embeddings(pipeline)
    else:
        pipeline.diarisation = random_pipeline().to(pipeline.device)
    n_tokens = None if arguments.model == "demo" else arguments.tokens
    cases = [(minutes, 1) for minutes in arguments.minutes]
    cases += [(SHORT_FILE, n_files) for n_files in arguments.files]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        measure(pipeline, make_recordings(0.5, 1, Path(folder)), n_tokens)  # one-off initialisation
        for minutes, n_files in cases:
            files = make_recordings(minutes, n_files, Path(folder))
            row = {"files": n_files, "minutes_each": minutes}
            rows.append(row | measure(pipeline, files, n_tokens))
            print(format_row(rows[-1]), flush=True)
    report = {
        "setup": {name: str(value) for name, value in vars(arguments).items() if name != "run"},
        "hardware": describe_hardware(arguments.device),
        "slots": pipeline.engine.n_slots,
        "cases": rows,
    }
    write_report(arguments.json, report)


class CountingEngine(WhisperEngine):
    """Counts the windows it decodes and remembers the first requests."""

    n_windows = 0
    first: Sequence[DecodingRequest] = ()

    def decode(
        self, requests: Sequence[DecodingRequest], progress: Progress = ignore
    ) -> list[tuple[DecodedWindow, ...]]:
        self.n_windows += sum(len(request.windows) for request in requests)
        self.first = self.first or requests
        return super().decode(requests, progress)

    def measure_decoder(self) -> float:
        """Seconds of the decoder alone for as many windows, given their spectrograms."""
        inputs = list(islice(self._make_inputs(self.first), TIMES_FILLED * self.n_slots))
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in self._decoder.decode(inputs):
                pass
        return (time.perf_counter() - started) / len(inputs) * self.n_windows


def build_pipeline(model: str, device: str, precision: Precision | None) -> Pipeline:
    """The demo pipeline with an engine of this model."""
    demo, place = find_whisper("demo", NO_WEIGHTS_FOLDER), torch.device(device)
    pipeline = Pipeline(demo, find_pipeline("demo", NO_WEIGHTS_FOLDER), place)
    weights = load_whisper(demo) if model == "demo" else make_random_whisper(model)
    pipeline.engine = CountingEngine(weights, precision=precision, device=place)
    return pipeline


def make_recordings(minutes: float, n_files: int, folder: Path) -> list[Path]:
    """FLAC files of the demo interview, repeated."""
    first = folder / f"{minutes}.flac"
    if not first.exists():
        sound = ["-stream_loop", "-1", "-i", str(INTERVIEW), "-t", str(60 * minutes)]
        subprocess.run(["ffmpeg", "-v", "error", *sound, str(first)], check=True)
    files = [folder / f"{minutes}-{i}.flac" for i in range(n_files)]
    for file in files:
        if not file.exists():
            file.hardlink_to(first)
    return files


def measure(pipeline: Pipeline, files: Sequence[Path], n_tokens: int | None) -> dict[str, Any]:
    """Measure each stage of a batch, and the decoder alone on as many windows.

    Args:
        n_tokens: of each window; None: the texts of the weights.
    """
    engine = pipeline.engine
    assert isinstance(engine, CountingEngine)
    engine.n_windows, engine.first = 0, ()
    seconds = dict.fromkeys(STAGES, 0.0)
    stage, last = "ingest", time.perf_counter()

    def note(progress: StageProgress) -> None:
        nonlocal stage, last
        now = time.perf_counter()
        seconds[stage] += now - last
        stage, last = progress.stage, now

    with tempfile.TemporaryDirectory() as out, force_texts(engine, n_tokens):
        prepare_output(Path(out))
        batch = Batch(
            group_into_sessions(files, join=False),
            Path(out),
            (Format.JSON,),
            OPTIONS,
            pipeline.whisper_weights,
            pipeline.diarisation_weights,
        )
        results = list(run_batch(batch, lambda: pipeline, lambda group: None, note))
        seconds[stage] += time.perf_counter() - last
        alone = engine.measure_decoder()
    assert all(result.status == "done" for result in results), results
    audio = sum(result.transcript.duration for result in results if result.transcript)
    to_words = sum(seconds[stage] for stage in TO_WORDS)
    return {
        "audio_seconds": audio,
        "windows": engine.n_windows,
        "seconds": seconds,
        "rtfx": audio / sum(seconds.values()),
        "rtfx_to_words": audio / to_words,
        "share_of_engine": alone / to_words,
    }


@contextmanager
def force_texts(engine: WhisperEngine, n_tokens: int | None) -> Iterator[None]:
    """Give each text this many tokens and no fallback: random weights never end a text."""
    if n_tokens is None:
        yield
        return
    with (
        force_ends(engine._decoder, lambda index: n_tokens),
        mock.patch("models.whisper_engine.engine.find_gaps", lambda *_: []),
    ):
        yield


def format_row(row: dict[str, Any]) -> str:
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in row["seconds"].items())
    return (
        f"{row['files']} x {row['minutes_each']} min: RTFx {row['rtfx']:.1f}, to words "
        f"{row['rtfx_to_words']:.1f}, {row['share_of_engine']:.0%} of the engine's own rate "
        f"({row['windows']} windows; {seconds})"
    )
