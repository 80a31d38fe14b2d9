"""Measure the diarisation against stock pyannote.audio, and print one JSON document.

    scripts/bench diarisation --threads 2           against stock, some minutes
    scripts/bench diarisation --parts flatness      10 minutes to 4 hours

Models have random weights at community-1's real dimensions: what is computed does not depend on
them. Stock and ours take turns in one process, so that a busy machine is busy for both. Parts:

    speed           segmentation to turns, from samples: stock, ours in fp32, and with a bf16 trunk
                    where the processor has bf16 (emulated, it is slower than fp32)
    postprocessing  counting, reconstruction and turns of an hour, without the models and
                    without pyannote's clustering, which is timed beside it
    flatness        everything but the clustering, per hour of sound, as sessions get longer; with
                    the small demo models unless on a GPU
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.audio.recording import SAMPLE_RATE
from models.diarisation.clustering import Clusters, start_clustering
from models.diarisation.diarisation import Diarisation, RunningDiarisation, start_diarisation
from models.diarisation.embedding import embed
from models.diarisation.pyannote_clustering import NOBODY
from models.diarisation.reconstruction import count_speakers
from models.diarisation.segmentation import Segmentation, segment
from models.diarisation.speaker_models import SpeakerModels
from models.options import SpeakerCount
from models.precision import TrunkPrecision
from models.weights.catalogue import find_pipeline
from models.weights.pyannote import load_pipeline
from models.whisper_engine.linear import has_bf16
from scripts.synthetic_diarisation import (
    conversation,
    loud_and_quiet,
    random_pipeline,
    stock_diarisation,
    stock_pipeline,
)

PARTS = ("speed", "postprocessing", "flatness")
N_SPEAKERS = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60.0, help="of sound, for speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", nargs="+", type=float, default=[10, 60, 240])
    parser.add_argument("--json", type=Path, default=Path("build/bench/diarisation.json"))


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    measured: dict[str, Any] = {"machine": machine(device)}
    if "speed" in options.parts:
        measured["speed"] = speed(device, options.seconds, options.rounds)
    if "postprocessing" in options.parts:
        measured["postprocessing"] = postprocessing(options.rounds)
    if "flatness" in options.parts:
        measured["flatness"] = flatness(device, options.minutes)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(measured, indent=1) + "\n")
    print(options.json.read_text(), end="")


def machine(device: torch.device) -> dict[str, Any]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    packages = ("torch", "pyannote.audio", "numpy", "scipy", "scikit-learn")
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def speed(device: torch.device, seconds: float, rounds: int) -> dict[str, Any]:
    pipeline = random_pipeline().to(device)
    samples = loud_and_quiet(seconds)
    count = SpeakerCount()

    def diarise(samples: np.ndarray, precision: TrunkPrecision) -> Diarisation:
        segmentation = segment(pipeline, samples)
        started = start_diarisation(pipeline, samples, segmentation, count, precision=precision)
        return started.result()

    def ours(precision: TrunkPrecision) -> Callable[[], object]:
        return lambda: diarise(samples, precision)

    precisions: list[TrunkPrecision] = ["fp32", "bf16"] if has_bf16(device) else ["fp32"]
    stock = stock_pipeline(pipeline)
    runs: dict[str, Callable[[], object]] = {"stock": lambda: stock_diarisation(stock, samples)}
    runs |= {precision: ours(precision) for precision in precisions}
    warm_up = samples[: 12 * SAMPLE_RATE]
    stock_diarisation(stock, warm_up)
    for precision in precisions:
        diarise(warm_up, precision)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(timed(run, device))
    active = segment(pipeline, samples).is_active
    result: dict[str, Any] = {
        "audio_seconds": seconds,
        "silent_local_speakers": round(float(1 - active.mean()), 3),
        "chunks_without_speech": round(float(1 - active.max(axis=1).mean()), 3),
    }
    stock_seconds = statistics.median(run["seconds"] for run in found["stock"])
    for name, run_times in found.items():
        median = statistics.median(run["seconds"] for run in run_times)
        result[name] = {
            "seconds": [round(run["seconds"], 3) for run in run_times],
            "rtfx": round(seconds / median, 2),
            "times_stock": round(stock_seconds / median, 2),
            "peak_mb": round(max(run["peak_mb"] for run in run_times)),
        }
    return result


def timed(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Wall-clock seconds, and the highest memory of the process or, on a GPU, of torch there."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return {
            "seconds": time.perf_counter() - started,
            "peak_mb": torch.cuda.max_memory_allocated(device) / 1e6,
        }
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    return {"seconds": seconds, "peak_mb": peak_kb / 1e3}


def postprocessing(rounds: int) -> dict[str, Any]:
    """Of one hour with six speakers, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipeline = random_pipeline()
    of_stock = stock_pipeline(pipeline)
    segmentation, embeddings = conversation(3600, N_SPEAKERS, 256)
    nothing = np.zeros(160, dtype=np.float32)
    clusters = start_clustering(pipeline, segmentation, embeddings, None, None).result()
    counting, rest, clustering, stock = [], [], [], []
    for _ in range(rounds):
        started = time.perf_counter()
        count = count_speakers(segmentation)
        counting.append(time.perf_counter() - started)
        rest.append(seconds_to_turns(pipeline, segmentation, embeddings, count, clusters))
        started = time.perf_counter()
        start_clustering(pipeline, segmentation, embeddings, None, None).result()
        clustering.append(time.perf_counter() - started)
        started = time.perf_counter()
        stock_diarisation(of_stock, nothing, segmentation=segmentation, embeddings=embeddings)
        stock.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return {
        "audio_seconds": 3600,
        "speakers": N_SPEAKERS,
        "ours_seconds": round(statistics.median(map(sum, zip(counting, rest, strict=True))), 3),
        "clustering_seconds": round(statistics.median(clustering), 3),
        "stock_with_clustering_seconds": round(statistics.median(stock), 3),
    }


def seconds_to_turns(
    pipeline: SpeakerModels,
    segmentation: Segmentation,
    embeddings: np.ndarray,
    count: np.ndarray,
    clusters: Clusters,
) -> float:
    known: Any = type("Known", (), {"result": lambda self, progress: clusters})()
    begun = RunningDiarisation(pipeline, segmentation, SpeakerCount(), count, embeddings, known)
    started = time.perf_counter()
    begun.result()
    return time.perf_counter() - started


def flatness(device: torch.device, minutes: Sequence[float]) -> list[dict[str, float]]:
    """Seconds per hour of sound of each stage."""
    if device.type == "cuda":
        pipeline = random_pipeline().to(device)
    else:
        pipeline = load_pipeline(find_pipeline("demo", Path()), device)
    rng = np.random.default_rng(0)
    minute = loud_and_quiet(60.0)
    result = []
    for length in minutes:
        samples = np.resize(minute, round(length * 60 * SAMPLE_RATE))
        started = time.perf_counter()
        heard = segment(pipeline, samples)
        segmented = time.perf_counter()
        embeddings = embed(pipeline, samples, heard)
        embedded = time.perf_counter()
        # What noise sounds like to the models is no conversation; what they are put together from
        # is one of the same length.
        heard = conversation(length * 60, N_SPEAKERS, 2)[0]
        active = heard.is_active
        labels = np.where(active, rng.integers(N_SPEAKERS, size=active.shape), NOBODY)
        similarities = rng.random((*active.shape, N_SPEAKERS), dtype=np.float32)
        clusters = Clusters(labels.astype(np.int32), similarities, sampled=False)
        started_counting = time.perf_counter()
        count = count_speakers(heard)
        turns = time.perf_counter() - started_counting
        turns += seconds_to_turns(pipeline, heard, embeddings, count, clusters)
        hours = length / 60
        result.append(
            {
                "minutes": length,
                "segmentation_seconds_per_hour": round((segmented - started) / hours, 2),
                "embedding_seconds_per_hour": round((embedded - segmented) / hours, 2),
                "turns_seconds_per_hour": round(turns / hours, 3),
            }
        )
    return result
