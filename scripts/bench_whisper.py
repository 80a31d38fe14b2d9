"""Whisper engines with the same random weights, windows and numbers of tokens, taking turns.

    scripts/bench whisper --model base --precisions fp32 bf16 int8
    scripts/bench whisper --model large-v3 --device cuda --batch 64 --precisions bf16

Every contestant lives in a process of its own and waits while another one works. The random weights
would never end a text, so that its end is forced: after a fixed number of tokens, and after numbers
drawn from a distribution as of real windows, the same for all. All decode greedily (beam 1) without
fallback, with timestamps; then each with the batch and the beams it has if nobody asks for others.
One exception in the drawn case: CTranslate2 takes one limit per batch, and is given the batch's
mean, as if texts that ended cost it nothing. Needs the packages of `scripts/setup bench`.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from scripts.whisper_contestants import (
    CONTESTANTS,
    DEFAULTS,
    DIMENSIONS,
    WINDOW,
    Setup,
    Tokens,
    Unsupported,
)

PACKAGES = ("torch", "openai-whisper", "transformers", "faster-whisper", "ctranslate2", "numpy")

PARTS = {"equal": ("fixed", "drawn"), "defaults": ("fixed",)}
"""Cases of each part: all alike, and each as it comes."""

# --- the limit of the hardware --------------------------------------------------------------------


def gemm_rate(device: str, precision: str) -> float:
    """FLOP/s of a large matrix multiplication, by the faster of torch's two ways on a CPU."""
    n = 8192 if device == "cuda" else 1536
    has_onednn = device == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if precision == "int8":
        a, b = (torch.randint(-9, 9, (n, n), dtype=torch.int8, device=device) for _ in range(2))
        seconds = [_best_seconds(lambda: torch._int_mm(a, b.t()), device)]
        if has_onednn:
            packed = torch.ops.onednn.qlinear_prepack(b, None)
            scales, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int32)
            given = (a.to(torch.uint8), 1.0, 9, packed, scales, zeros, None)
            after: Any = (1.0, 0, torch.float32, "none", [], "")
            qlinear = torch.ops.onednn.qlinear_pointwise
            seconds.append(_best_seconds(lambda: qlinear(*given, *after), device))
        return 2 * n**3 / min(seconds)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    x, y = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    seconds = [_best_seconds(lambda: x @ y, device)]
    if has_onednn:
        packed = torch.ops.mkldnn._reorder_linear_weight(y)
        multiply = torch.ops.mkldnn._linear_pointwise
        seconds.append(_best_seconds(lambda: multiply(x, packed, None, "none", [], ""), device))
    return 2 * n**3 / min(seconds)


def copy_rate(device: str) -> float:
    """Bytes read and written per second, of a copy far larger than any cache."""
    source = torch.ones((1 << 30) if device == "cuda" else (1 << 27), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device)


def _best_seconds(step: Callable[[], object], device: str) -> float:
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def least_seconds(setup: Setup, lengths: Sequence[int], precision: str, rates: Any) -> float:
    """What the arithmetic and the memory traffic of all windows take at the measured rates.

    Encoder and cross-attention's keys and values are bound by arithmetic; a step of decoding by
    arithmetic or by reading each weight once per batch and each window's keys and values.
    """
    n_mels, n_vocab, n, _, n_audio, n_text = DIMENSIONS[setup.model]
    gemm, copy = float(rates["gemm"][precision]), float(rates["copy"])
    encoder = 2 * (3000 * 3 * n_mels * n + 1500 * 3 * n * n)
    encoder += n_audio * (24 * 1500 * n * n + 4 * 1500**2 * n)
    cross = n_text * 2 * 2 * 1500 * n * n
    weights = n_text * 14 * n * n + n * n_vocab
    n_bytes = {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    kept = {"fp32": 4, "bf16": 2, "int8": 2}[precision]  # keys and values
    step_flops = 2 * weights + 4 * 1500 * n * n_text
    step_bytes = weights * n_bytes / setup.batch + 2 * 1500 * n * n_text * kept
    step = max(step_flops / gemm, step_bytes / copy)
    return len(lengths) * (encoder + cross) / gemm + sum(lengths) * step


# --- a process per contestant ---------------------------------------------------------------------


def work(pipe: Connection, name: str, precision: str, setup: Setup) -> None:
    """Build a contestant, then one round per case that is asked for, until None is."""
    torch.set_num_threads(setup.threads)
    torch.set_grad_enabled(False)
    try:
        pipe.send({"peak": take_turns(pipe, CONTESTANTS[name], precision, setup)})
    except Unsupported:
        pipe.send({"unsupported": True})
    except Exception as error:  # noqa: BLE001 - a peer that cannot run is reported, never as slow
        pipe.send({"error": f"{type(error).__name__}: {error}"})


def take_turns(
    pipe: Connection, make: Callable[[Setup, str], Any], precision: str, setup: Setup
) -> dict[str, int]:
    started = time.perf_counter()
    contestant = make(setup, precision)
    mels = setup.mels()
    pipe.send({"load_seconds": time.perf_counter() - started})
    while (case := pipe.recv()) is not None:
        started = time.perf_counter()
        texts = contestant.decode(mels, setup.lengths(case))
        if setup.device == "cuda":
            torch.cuda.synchronize()
        pipe.send({"seconds": time.perf_counter() - started, "texts": texts})
    peak = {"peak_rss_bytes": peak_memory()}
    if setup.device == "cuda":  # of torch; CTranslate2 allocates on its own
        peak["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return peak


def peak_memory() -> int:
    """Bytes of this process alone: the peak that getrusage tells begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kibibytes) * 1024


@dataclass
class Entry:
    """A contestant at a precision, and what was measured of it."""

    name: str
    precision: str
    pipe: Any
    process: Any
    result: dict[str, Any]
    seconds: dict[str, list[float]]
    texts: dict[str, Tokens]

    def ask(self, case: str) -> None:
        self.pipe.send(case)
        reply = self.pipe.recv()
        if "error" in reply:
            self.result.update(reply)
            return
        self.seconds.setdefault(case, []).append(reply["seconds"])
        self.texts[case] = reply["texts"]


def start(name: str, precision: str, setup: Setup) -> Entry | None:
    """None where the contestant does not have this precision."""
    context = get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, name, precision, setup), daemon=True)
    process.start()
    theirs.close()
    reply = pipe.recv()
    if "unsupported" in reply:
        return None
    return Entry(name, precision, pipe, process, {**reply}, {}, {})


# --- the run --------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=DIMENSIONS, default="base")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16", "int8"), default=["fp32"]
    )
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--batch", type=int, default=8, help="windows at a time, slots of ours")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=110, help="of each window, if fixed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--json", type=Path, default=Path("build/bench/whisper.json"))


def run(arguments: argparse.Namespace) -> None:
    setup = Setup(
        arguments.model,
        arguments.device,
        arguments.threads,
        arguments.batch,
        arguments.windows,
        arguments.tokens,
    )
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    report = {}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        report[part] = measure(
            setup, arguments.contestants, arguments.precisions, arguments.rounds, part
        )
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        print(f"{part}: {table(report[part])}\n", flush=True)


def measure(
    setup: Setup,
    contestants: Sequence[str],
    precisions: Sequence[str],
    rounds: int,
    part: str = "equal",
) -> dict[str, Any]:
    torch.set_num_threads(setup.threads)
    rates: dict[str, Any] = {"gemm": dict.fromkeys(precisions, 0.0), "copy": 0.0}
    setups = dict.fromkeys(contestants, setup)
    if part == "defaults":
        setups = {
            name: replace(setup, batch=batch, beams=beams)
            for name, (batch, beams) in DEFAULTS.items()
            if name in contestants
        }
    started = [
        entry
        for precision in precisions
        for name, own in setups.items()
        if (entry := start(name, precision, own)) is not None
    ]
    for i in range(rounds + 1):
        # A limit measured once, in a slow moment, is one that contestants then exceed.
        rates["copy"] = max(rates["copy"], copy_rate(setup.device))
        for precision, rate in rates["gemm"].items():
            rates["gemm"][precision] = max(rate, gemm_rate(setup.device, precision))
        for case in PARTS[part]:
            for entry in started:
                if "error" not in entry.result:
                    entry.ask(case)
        if i == 0:  # it sets up what stays, and is told apart
            for entry in started:
                entry.result["first_round_seconds"] = dict(entry.seconds)
                entry.seconds.clear()
    running = [entry for entry in started if "error" not in entry.result]
    for entry in running:
        entry.pipe.send(None)
        entry.result.update(entry.pipe.recv()["peak"])
        entry.process.join()
        entry.result.update(results(entry, setup, running[0]))
        for case in PARTS[part] if part == "equal" else ():  # with beams it is another one
            least = least_seconds(setup, setup.lengths(case), entry.precision, rates)
            median = statistics.median(entry.seconds[case])
            entry.result[case]["share_of_limit"] = least / median
    return {
        "setup": asdict(setup),
        "rounds": rounds,
        "hardware": hardware(setup.device),
        "versions": {"python": platform.python_version(), **_versions()},
        "rates": {**rates, "unit": "FLOP/s and bytes/s"},
        "contestants": [
            {
                "name": entry.name,
                "precision": entry.precision,
                "batch": setups[entry.name].batch,
                "beams": setups[entry.name].beams,
                **entry.result,
            }
            for entry in started
        ],
    }


def results(entry: Entry, setup: Setup, reference: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for case, seconds in entry.seconds.items():
        median = statistics.median(seconds)
        lengths = setup.lengths(case)
        found[case] = {
            "seconds": seconds,
            "rtfx": WINDOW * setup.windows / median,
            "tokens": sum(map(len, entry.texts[case])),
            "tokens_asked_for": sum(lengths),
            "same_as_first_contestant": same_share(entry.texts[case], reference.texts[case]),
        }
    return found


def same_share(texts: Tokens, others: Tokens) -> float:
    """The share of tokens before the first one that differs, 1 where all are the same."""
    same = total = 0
    for text, other in zip(texts, others, strict=True):
        n = min(len(text), len(other))
        total += n
        same += next((i for i in range(n) if text[i] != other[i]), n)
    return round(same / max(1, total), 4)


def hardware(device: str) -> dict[str, Any]:
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    found: dict[str, Any] = {"cpu": model, "cpus": os.cpu_count()}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(ImportError):
            found[package] = version(package)
    return found


def table(report: dict[str, Any]) -> str:
    """Markdown, for docs/developer/performance.md."""
    setup, rates = report["setup"], report["rates"]
    lines = [
        f"{setup['model']}, {setup['device']}, {setup['threads']} threads, batch {setup['batch']}, "
        f"{setup['windows']} windows, {setup['tokens']} tokens; {report['rounds']} rounds. Limits: "
        + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates["gemm"].items())
        + f", copy {rates['copy'] / 1e9:.1f} GB/s.",
        "",
        "| | precision | batch, beams | RTFx, fixed | range | of the limit | RTFx, drawn "
        "| same tokens | peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in report["contestants"]:
        if "error" in one:
            lines.append(f"| {one['name']} | {one['precision']} | does not run here | | | | | | |")
            continue
        fixed = one["fixed"]
        drawn = f"{one['drawn']['rtfx']:.1f}" if "drawn" in one else ""
        share = f"{fixed['share_of_limit']:.0%}" if "share_of_limit" in fixed else ""
        batch = f"{one['batch'] or 'own'}, {one['beams']}"
        audio = WINDOW * setup["windows"]
        slowest, fastest = audio / max(fixed["seconds"]), audio / min(fixed["seconds"])
        peak = one.get("peak_gpu_bytes", one["peak_rss_bytes"])
        lines.append(
            f"| {one['name']} | {one['precision']} | {batch} | {fixed['rtfx']:.1f} | "
            f"{slowest:.1f} to {fastest:.1f} | {share} | {drawn} | "
            f"{fixed['same_as_first_contestant']:.0%} | {peak / 1e9:.1f} GB |"
        )
    return "\n".join(lines)
