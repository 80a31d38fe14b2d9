"""Measure on one GPU, in under eight minutes, everything that a machine without one leaves open.

    scripts/bench gpu                            goals and results: docs/developer/performance.md
    scripts/bench gpu --wheels FOLDER            on a bare machine with torch, without a network
    scripts/bench gpu --device cpu --size tiny   the rehearsal that the tests run

Each step runs in its own process, with a limit, and the JSON is written after each, so a run that
is cut off still counts. The steps come in the order of their value:

    hardware     arithmetic and copy rates
    equality     tokens equal to openai-whisper's, turns equal to stock pyannote.audio's, in fp32
    turbo        Whisper turbo at 110 tokens a window, against transformers and the limit
    large        the same for large-v3
    diarisation  against stock pyannote.audio
    whole        samples to transcript with turbo, both engines on the device
    start        from weights in memory to the first window, the first batch and the second
    memory       the whole path on a card of 8 GB, and when memory runs out
    pair         two processes on the device at once

All weights are random at the real dimensions, as in the other benchmarks. Recordings are samples in
memory: reading files is not measured, and neither ffmpeg nor espeak-ng is needed. `scripts/bench
collect-wheels FOLDER PYTHON_VERSION` fills the folder, on a machine with a network.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from models.audio.recording import SAMPLE_RATE, DecodedRecording, RecordingInfo
from models.options import JobOptions, SpeakerCount
from models.pipeline import Pipeline
from scripts.reports import describe_hardware, read_versions, write_report

SECONDS = 460  # for all steps
LEAST_SECONDS = 5.0  # left, to begin a step
GOALS = {"turbo": 4900, "large": 2050, "diarisation": 2000, "whole": 1500}  # RTFx on an H200
OPTIONS = JobOptions(language="en", speakers=SpeakerCount(2, 2))
SMALL_CARD = 8 * 2**30  # bytes
PACKAGES = ("torch", "openai-whisper", "transformers", "pyannote.audio", "numpy", "triton")
RESULT = "RESULT "  # begins the line of a step's output that holds its JSON


@dataclass(frozen=True)
class Size:
    """How much each step computes."""

    equality: str  # models, of DIMENSIONS
    turbo: str
    large: str
    batch: int
    windows: int
    tokens: int
    equality_seconds: float
    diarisation_seconds: float
    whole_seconds: float


SIZES = {
    "full": Size("base", "turbo", "large-v3", 128, 512, 110, 60, 600, 3600),
    "tiny": Size("micro", "micro", "micro", 2, 3, 4, 11, 11, 12),
}


@dataclass(frozen=True)
class Setup:
    size: Size
    device: str
    gate: Path | None = None  # the step `whole` waits until this file exists


# --- the steps ------------------------------------------------------------------------------------


def measure_hardware(setup: Setup) -> dict[str, Any]:
    from scripts.bench_whisper import measure_copy_rate, measure_gemm_rate

    found: dict[str, Any] = describe_hardware(setup.device)
    precisions = ("fp32", "bf16") if setup.device == "cuda" else ("fp32",)
    found["gemm_flops"] = {each: measure_gemm_rate(setup.device, each) for each in precisions}
    found["copy_bytes_per_second"] = measure_copy_rate(setup.device)
    if setup.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"free_bytes": free, "total_bytes": total}
    return found | {"versions": read_versions(PACKAGES)}


def measure_equality(setup: Setup) -> dict[str, Any]:
    whisper = compare_whisper(setup, setup.size.equality, 4, 8, "openai-whisper", "fp32", rounds=1)
    return {
        "same_tokens": whisper["fieldscribe"]["same_tokens"],
        "same_turns": has_same_turns(setup),
    }


def has_same_turns(setup: Setup) -> bool:
    from models.diarisation.diarisation import start_diarisation
    from models.diarisation.segmentation import segment
    from models.pyannote_guard import import_pyannote_audio
    from scripts.synthetic_diarisation import (
        loud_and_quiet,
        stock_diarisation,
        stock_pipeline,
    )

    import_pyannote_audio()
    pipeline = make_speaker_models(setup).to(torch.device(setup.device))
    samples = loud_and_quiet(setup.size.equality_seconds)
    segmentation = segment(pipeline, samples)
    found = start_diarisation(
        pipeline, samples, segmentation, SpeakerCount(), precision="fp32"
    ).result()
    stock = stock_diarisation(stock_pipeline(pipeline), samples)
    ours = [(round(t.start, 3), round(t.end, 3), t.speaker) for t in found.turns]
    return ours == stock.turns


def compare_whisper(
    setup: Setup,
    model: str,
    batch: int,
    windows: int,
    reference: str,
    precision: str,
    rounds: int,
) -> dict[str, Any]:
    """Fieldscribe against another program, with the same windows and numbers of tokens."""
    from scripts import bench_whisper, whisper_contestants

    size = setup.size
    n_windows = windows if size.turbo == "turbo" else size.windows
    ours = whisper_contestants.Setup(
        model, setup.device, torch.get_num_threads(), batch, n_windows, size.tokens
    )
    report = bench_whisper.measure(ours, [reference, "fieldscribe"], [precision], rounds)
    found: dict[str, Any] = {"rates": report["rates"]}
    for one in report["contestants"]:
        fixed = one.get("fixed", {})
        found[one["name"]] = {
            "rtfx": fixed.get("rtfx"),
            "rtfx_drawn": one.get("drawn", {}).get("rtfx"),
            "share_of_limit": fixed.get("share_of_limit"),
            "same_tokens": fixed.get("same_as_first_contestant"),
            "load_seconds": one.get("load_seconds"),
            "first_round_seconds": one.get("first_round_seconds"),
            "peak_bytes": one.get("peak_gpu_bytes", one.get("peak_rss_bytes")),
            "error": one.get("error"),
        }
    return found


def default_precision(device: str) -> str:
    return "bf16" if device == "cuda" else "fp32"


def measure_turbo(setup: Setup) -> dict[str, Any]:
    size, precision = setup.size, default_precision(setup.device)
    found = compare_whisper(
        setup, size.turbo, size.batch, size.windows, "transformers", precision, rounds=2
    )
    return found | {"rtfx": found["fieldscribe"]["rtfx"]}


def measure_large(setup: Setup) -> dict[str, Any]:
    size, precision = setup.size, default_precision(setup.device)
    batch, windows = max(1, size.batch // 2), size.windows // 2
    found = compare_whisper(setup, size.large, batch, windows, "transformers", precision, rounds=1)
    return found | {"rtfx": found["fieldscribe"]["rtfx"]}


def measure_diarisation(setup: Setup) -> dict[str, Any]:
    from models.pyannote_guard import import_pyannote_audio
    from scripts import bench_diarisation

    import_pyannote_audio()
    seconds = setup.size.diarisation_seconds
    with mock.patch.object(
        bench_diarisation, "random_pipeline", lambda: make_speaker_models(setup)
    ):
        found = bench_diarisation.measure_speed(torch.device(setup.device), seconds, rounds=1)
    fastest = max(found[name]["rtfx"] for name in ("fp32", "bf16") if name in found)
    return found | {"rtfx": fastest}


def measure_whole(setup: Setup) -> dict[str, Any]:
    pipeline = build_pipeline(setup)
    transcribe(pipeline, setup, min(120.0, setup.size.whole_seconds))  # sets up graphs and buffers
    if setup.gate is not None:
        setup.gate.with_suffix(f".{os.getpid()}").touch()
        while not setup.gate.exists():
            time.sleep(0.01)
    rounds = [transcribe(pipeline, setup, setup.size.whole_seconds) for _ in range(2)]
    best = min(rounds, key=lambda each: float(each["seconds"]))
    return best | {
        "rtfx": setup.size.whole_seconds / best["seconds"],
        "slots": pipeline.engine.n_slots,
        "halvings": pipeline._halvings.count,
        "peak_bytes": peak_bytes(setup.device),
    }


def measure_start(setup: Setup) -> dict[str, Any]:
    """The engine from weights in memory, then batches: the first ones record graphs."""
    from models.whisper_engine import WhisperEngine
    from scripts.bench_whole_path import force_texts
    from scripts.whisper_contestants import make_random_whisper

    weights, size = make_random_whisper(setup.size.turbo), setup.size
    started = time.perf_counter()
    engine = WhisperEngine(weights, device=torch.device(setup.device))
    found = {"engine_seconds": time.perf_counter() - started}
    with force_texts(engine, size.tokens):
        for name, n_windows in (
            ("first_window", 1),
            ("first_batch", size.windows),
            ("second_batch", size.windows),
            ("one_window", 1),
        ):
            started = time.perf_counter()
            decode_noise(engine, n_windows)
            found[f"{name}_seconds"] = time.perf_counter() - started
    return found


def decode_noise(engine: Any, n_windows: int) -> None:
    from models.whisper_engine import DecodingRequest, WhisperOptions
    from models.windows import Window

    samples = np.random.default_rng(0).normal(scale=0.01, size=n_windows * 30 * SAMPLE_RATE)
    samples = samples.astype(np.float32)
    windows = [Window(30.0 * i, 30.0 * (i + 1)) for i in range(n_windows)]
    engine.decode([DecodingRequest(samples, windows, WhisperOptions("en"), 0.0)])


def measure_memory(setup: Setup) -> dict[str, Any]:
    """A card of 8 GB: with slots counted for it, and with slots counted for the whole card."""
    if setup.device != "cuda":
        pipeline = build_pipeline(setup)
        return {"cpu": transcribe(pipeline, setup, setup.size.whole_seconds)}
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, SMALL_CARD / total))
    found: dict[str, Any] = {}
    for name in ("small_card", "memory_runs_out"):
        with ExitStack() as stack:
            if name == "small_card":
                free = mock.patch(
                    "torch.cuda.mem_get_info",
                    lambda *_: (SMALL_CARD - torch.cuda.memory_reserved(), SMALL_CARD),
                )
                stack.enter_context(free)
            torch.cuda.reset_peak_memory_stats()
            pipeline = build_pipeline(setup)
            found[name] = transcribe(pipeline, setup, setup.size.whole_seconds / 4) | {
                "slots": pipeline.engine.n_slots,
                "halvings": pipeline._halvings.count,
                "peak_bytes": peak_bytes(setup.device),
            }
        del pipeline
        torch.cuda.empty_cache()
    return found


def measure_pair(setup: Setup) -> dict[str, Any]:
    """Two processes that begin at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder) / "gate"
        command = [*step_command("whole", setup), "--gate", str(gate)]
        pair = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
            for _ in range(2)
        ]
        while len(list(Path(folder).iterdir())) < 2 and all(p.poll() is None for p in pair):
            time.sleep(0.05)
        gate.touch()
        outputs = [process.communicate()[0] for process in pair]
    results = [read_result(output) for output in outputs]
    return {"processes": results, "rtfx": sum(result["rtfx"] for result in results)}


STEPS: dict[str, tuple[Callable[[Setup], dict[str, Any]], float]] = {
    "hardware": (measure_hardware, 40),
    "equality": (measure_equality, 75),
    "turbo": (measure_turbo, 120),
    "large": (measure_large, 120),
    "diarisation": (measure_diarisation, 90),
    "whole": (measure_whole, 75),
    "start": (measure_start, 45),
    "memory": (measure_memory, 75),
    "pair": (measure_pair, 90),
}
"""Each step with the most seconds that it may take."""


# --- the whole path -------------------------------------------------------------------------------


def make_speaker_models(setup: Setup) -> Any:
    """Diarisation models of community-1's size; the demo's for the rehearsal."""
    from models.weights.catalogue import find_pipeline
    from models.weights.pyannote import load_pipeline
    from scripts.evaluate import NO_WEIGHTS_FOLDER
    from scripts.synthetic_diarisation import random_pipeline

    if setup.size == SIZES["tiny"]:
        return load_pipeline(find_pipeline("demo", NO_WEIGHTS_FOLDER), torch.device("cpu"))
    return random_pipeline()


def build_pipeline(setup: Setup) -> Pipeline:
    from scripts import bench_whole_path

    pipeline = bench_whole_path.build_pipeline(setup.size.turbo, setup.device, None)
    pipeline.diarisation = make_speaker_models(setup).to(pipeline.device)
    return pipeline


def transcribe(pipeline: Pipeline, setup: Setup, seconds: float) -> dict[str, Any]:
    """Time `Pipeline.transcribe`, and each of its stages."""
    from scripts.bench_whole_path import force_texts
    from scripts.synthetic_diarisation import loud_and_quiet

    samples = loud_and_quiet(min(seconds, 600.0))
    n_samples = round(seconds * SAMPLE_RATE)
    samples = np.tile(samples, -(-n_samples // len(samples)))[:n_samples]
    info = RecordingInfo("wav", "pcm_s16le", SAMPLE_RATE, 1, seconds, 2 * n_samples)
    stages: dict[str, float] = {}
    stage, last = "segment", time.perf_counter()

    def note(progress: Any) -> None:
        nonlocal stage, last
        now = time.perf_counter()
        stages[stage] = stages.get(stage, 0.0) + now - last
        stage, last = progress.stage, now

    started = time.perf_counter()
    with force_texts(pipeline.engine, setup.size.tokens):
        transcript = pipeline.transcribe([DecodedRecording(samples[None], info)], OPTIONS, note)
    return {
        "audio_seconds": seconds,
        "seconds": time.perf_counter() - started,
        "stages": stages,
        "words": len(transcript.words),
    }


def peak_bytes(device: str) -> int | None:
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


# --- the run --------------------------------------------------------------------------------------


def step_command(step: str, setup: Setup) -> list[str]:
    size = next(name for name, each in SIZES.items() if each == setup.size)
    module = "scripts.bench_gpu"
    return [sys.executable, "-m", module, step, "--device", setup.device, "--size", size]


def read_result(output: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith(RESULT)]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(RESULT))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=[*STEPS])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all steps")
    parser.add_argument("--json", type=Path, default=Path("build/bench/gpu.json"))


def run(arguments: argparse.Namespace) -> None:
    setup = Setup(SIZES[arguments.size], arguments.device)
    end = time.monotonic() + arguments.seconds
    report: dict[str, Any] = {"size": arguments.size, "device": arguments.device, "goals": GOALS}
    report["steps"] = {}
    for step in arguments.steps:
        limit = min(STEPS[step][1], end - time.monotonic())
        report["steps"][step] = run_step(step, setup, limit)
        write_report(arguments.json, report)
        print(format_step(step, report["steps"][step]), flush=True)


def run_step(step: str, setup: Setup, limit: float) -> dict[str, Any]:
    """Run a step in a process of its own; what goes wrong is part of the report."""
    if limit < LEAST_SECONDS:
        return {"error": "no time left"}
    started = time.monotonic()
    process = subprocess.Popen(
        step_command(step, setup),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # with the processes that it started
        process.communicate()
        return {"error": f"took longer than {limit:.0f} s"}
    seconds = round(time.monotonic() - started, 1)
    if process.returncode:
        return {"error": errors.strip().splitlines()[-3:], "step_seconds": seconds}
    return read_result(output) | {"step_seconds": seconds}


def format_step(step: str, result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{step}: {result['error']}"
    goal = f" (goal {GOALS[step]})" if step in GOALS else ""
    rtfx = f"RTFx {result['rtfx']:.0f}{goal}" if result.get("rtfx") else "measured"
    return f"{step}: {rtfx}, in {result['step_seconds']} s"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--gate", type=Path)
    arguments = parser.parse_args()
    setup = Setup(SIZES[arguments.size], arguments.device, arguments.gate)
    torch.set_grad_enabled(False)
    result = STEPS[arguments.step][0](setup)
    print(RESULT + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
