"""Measure our diarisation against stock pyannote.audio, and print one JSON document.

    scripts/bench diarisation --threads 2           against stock, takes a few minutes
    scripts/bench diarisation --parts flatness      sessions of 10 minutes to 4 hours

The models have community-1's real dimensions and random weights, which do not change the amount of
computation. Stock and ours take turns in one process, so that other load on the machine affects
both. Parts:

    speed           samples to turns: stock, ours in fp32, and ours with a bf16 trunk where the
                    processor has bf16 (emulated, it is slower than fp32)
    postprocessing  counting, reconstruction and turns of one hour, without the models; pyannote's
                    clustering is timed separately
    flatness        everything but the clustering, per hour of audio, for sessions of increasing
                    length; with the small demo models unless on a GPU
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
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
from models.pyannote_guard import import_pyannote_audio
from models.weights.catalogue import find_pipeline
from models.weights.pyannote import load_pipeline
from models.whisper_engine.linear import has_bf16
from scripts.reports import read_cpu_name, read_peak_bytes, read_versions, write_report
from scripts.synthetic_diarisation import (
    conversation,
    loud_and_quiet,
    random_pipeline,
    stock_diarisation,
    stock_pipeline,
)

PARTS = ("speed", "postprocessing", "flatness")
N_SPEAKERS = 6
PACKAGES = ("torch", "pyannote.audio", "numpy", "scipy", "scikit-learn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60.0, help="of audio, for speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", nargs="+", type=float, default=[10, 60, 240])
    parser.add_argument("--json", type=Path, default=Path("build/bench/diarisation.json"))


def run(options: argparse.Namespace) -> None:
    import_pyannote_audio()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    report: dict[str, Any] = {"machine": describe_machine(device)}
    if "speed" in options.parts:
        report["speed"] = measure_speed(device, options.seconds, options.rounds)
    if "postprocessing" in options.parts:
        report["postprocessing"] = measure_postprocessing(options.rounds)
    if "flatness" in options.parts:
        report["flatness"] = measure_flatness(device, options.minutes)
    write_report(options.json, report)
    print(options.json.read_text(), end="")


def describe_machine(device: torch.device) -> dict[str, Any]:
    return {
        "cpu": read_cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": read_versions(PACKAGES),
    }


def measure_speed(device: torch.device, seconds: float, rounds: int) -> dict[str, Any]:
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
            found[name].append(measure_run(run, device))
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


def measure_run(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Wall-clock seconds, and the peak memory of the process or, on a GPU, of torch."""
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
    return {"seconds": seconds, "peak_mb": read_peak_bytes() / 1e6}


def measure_postprocessing(rounds: int) -> dict[str, Any]:
    """One hour with six speakers, on one core."""
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
        rest.append(time_turns(pipeline, segmentation, embeddings, count, clusters))
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


def time_turns(
    pipeline: SpeakerModels,
    segmentation: Segmentation,
    embeddings: np.ndarray,
    count: np.ndarray,
    clusters: Clusters,
) -> float:
    known: Any = type("Known", (), {"result": lambda self, progress: clusters})()
    running = RunningDiarisation(pipeline, segmentation, SpeakerCount(), count, embeddings, known)
    started = time.perf_counter()
    running.result()
    return time.perf_counter() - started


def measure_flatness(device: torch.device, minutes: Sequence[float]) -> list[dict[str, float]]:
    """Seconds of each stage per hour of audio."""
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
        segmentation = segment(pipeline, samples)
        segmented = time.perf_counter()
        embeddings = embed(pipeline, samples, segmentation)
        embedded = time.perf_counter()
        # To the models noise is no conversation, so the turns are built from a synthetic
        # conversation of the same length.
        segmentation = conversation(length * 60, N_SPEAKERS, 2)[0]
        active = segmentation.is_active
        labels = np.where(active, rng.integers(N_SPEAKERS, size=active.shape), NOBODY)
        similarities = rng.random((*active.shape, N_SPEAKERS), dtype=np.float32)
        clusters = Clusters(labels.astype(np.int32), similarities, sampled=False)
        started_counting = time.perf_counter()
        count = count_speakers(segmentation)
        turns = time.perf_counter() - started_counting
        turns += time_turns(pipeline, segmentation, embeddings, count, clusters)
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
