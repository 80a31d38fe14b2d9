"""Compare Whisper engines on the same random weights, windows and numbers of tokens.

    scripts/bench whisper --model base --precisions fp32 bf16 int8
    scripts/bench whisper --model large-v3 --device cuda --batch 64 --precisions bf16

The engines take turns, each in its own process. Random weights never end a text, so its end is
forced: in the case `fixed` after a fixed number of tokens, in the case `drawn` after numbers drawn
from a distribution like that of real windows, the same for all engines. All decode greedily (beam
1), with timestamps and without fallback; in the part `defaults` each uses its own default batch and
beams. One exception in the case `drawn`: CTranslate2 takes one limit per batch, and is given the
batch's mean, as if ended texts cost it nothing. Needs `pip install .[bench]`.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from scripts.reports import describe_hardware, read_peak_bytes, read_versions, write_report
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
"""The cases of each part: equal settings for all, and the defaults of each."""

# --- the limit of the hardware --------------------------------------------------------------------


def measure_gemm_rate(device: str, precision: str) -> float:
    """FLOP/s of a large matrix multiplication, with the faster of torch's two CPU libraries."""
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


def measure_copy_rate(device: str) -> float:
    """Bytes read and written per second when copying far more than any cache holds."""
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


def compute_least_seconds(
    setup: Setup, lengths: Sequence[int], precision: str, rates: Any
) -> float:
    """The least time for all windows, by arithmetic and memory traffic at the measured rates.

    The encoder and the cross-attention keys and values are bound by arithmetic; a decoding step by
    arithmetic, or by reading each weight once per batch and each window's keys and values.
    """
    n_mels, n_vocab, n, _, n_audio, n_text = DIMENSIONS[setup.model]
    gemm, copy = float(rates["gemm"][precision]), float(rates["copy"])
    encoder = 2 * (3000 * 3 * n_mels * n + 1500 * 3 * n * n)
    encoder += n_audio * (24 * 1500 * n * n + 4 * 1500**2 * n)
    cross = n_text * 2 * 2 * 1500 * n * n
    weights = n_text * 14 * n * n + n * n_vocab
    n_bytes = {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    kv_bytes = {"fp32": 4, "bf16": 2, "int8": 2}[precision]  # keys and values
    step_flops = 2 * weights + 4 * 1500 * n * n_text
    step_bytes = weights * n_bytes / setup.batch + 2 * 1500 * n * n_text * kv_bytes
    step = max(step_flops / gemm, step_bytes / copy)
    return len(lengths) * (encoder + cross) / gemm + sum(lengths) * step


# --- a process per contestant ---------------------------------------------------------------------


def run_contestant(pipe: Connection, name: str, precision: str, setup: Setup) -> None:
    """Build a contestant, then run one round for each case received, until None."""
    torch.set_num_threads(setup.threads)
    torch.set_grad_enabled(False)
    try:
        pipe.send({"peak": take_turns(pipe, CONTESTANTS[name], precision, setup)})
    except Unsupported:
        pipe.send({"unsupported": True})
    except Exception as error:  # noqa: BLE001 - an engine that cannot run is reported, never as slow
        pipe.send({"error": f"{type(error).__name__}: {error}"})


def take_turns(
    pipe: Connection, make: Callable[[Setup, str], Any], precision: str, setup: Setup
) -> dict[str, int]:
    started = time.perf_counter()
    contestant = make(setup, precision)
    mels = setup.make_mels()
    pipe.send({"load_seconds": time.perf_counter() - started})
    while (case := pipe.recv()) is not None:
        started = time.perf_counter()
        texts = contestant.decode(mels, setup.lengths(case))
        if setup.device == "cuda":
            torch.cuda.synchronize()
        pipe.send({"seconds": time.perf_counter() - started, "texts": texts})
    peak = {"peak_rss_bytes": read_peak_bytes()}
    if setup.device == "cuda":  # torch's only; CTranslate2 has its own allocator
        peak["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return peak


@dataclass
class RunningContestant:
    """A contestant at one precision, and its measurements."""

    name: str
    precision: str
    pipe: Any
    process: Any
    result: dict[str, Any]
    seconds: dict[str, list[float]]
    texts: dict[str, Tokens]

    def run_round(self, case: str) -> None:
        self.pipe.send(case)
        reply = self.pipe.recv()
        if "error" in reply:
            self.result.update(reply)
            return
        self.seconds.setdefault(case, []).append(reply["seconds"])
        self.texts[case] = reply["texts"]


def start_contestant(name: str, precision: str, setup: Setup) -> RunningContestant | None:
    """Start a contestant's process; None if it does not have this precision."""
    context = get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(
        target=run_contestant, args=(theirs, name, precision, setup), daemon=True
    )
    process.start()
    theirs.close()
    reply = pipe.recv()
    if "unsupported" in reply:
        return None
    return RunningContestant(name, precision, pipe, process, {**reply}, {}, {})


# --- the run --------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=DIMENSIONS, default="base")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16", "int8"), default=["fp32"]
    )
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--batch", type=int, default=8, help="windows at a time")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=110, help="per window in the case `fixed`")
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
    for part in arguments.parts:
        report[part] = measure(
            setup, arguments.contestants, arguments.precisions, arguments.rounds, part
        )
        write_report(arguments.json, report)
        print(f"{part}: {format_table(report[part])}\n", flush=True)


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
        if (entry := start_contestant(name, precision, own)) is not None
    ]
    for i in range(rounds + 1):
        # A limit measured once, in a slow moment, could be exceeded by a contestant.
        rates["copy"] = max(rates["copy"], measure_copy_rate(setup.device))
        for precision, rate in rates["gemm"].items():
            rates["gemm"][precision] = max(rate, measure_gemm_rate(setup.device, precision))
        for case in PARTS[part]:
            for entry in started:
                if "error" not in entry.result:
                    entry.run_round(case)
        if i == 0:  # includes one-off initialisation, so it is reported separately
            for entry in started:
                entry.result["first_round_seconds"] = dict(entry.seconds)
                entry.seconds.clear()
    running = [entry for entry in started if "error" not in entry.result]
    for entry in running:
        entry.pipe.send(None)
        entry.result.update(entry.pipe.recv()["peak"])
        entry.process.join()
        entry.result.update(summarise(entry, setup, running[0]))
        for case in PARTS[part] if part == "equal" else ():  # the limit does not count beams
            least = compute_least_seconds(setup, setup.lengths(case), entry.precision, rates)
            median = statistics.median(entry.seconds[case])
            entry.result[case]["share_of_limit"] = least / median
    return {
        "setup": asdict(setup),
        "rounds": rounds,
        "hardware": describe_hardware(setup.device),
        "versions": {"python": platform.python_version(), **read_versions(PACKAGES)},
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


def summarise(
    entry: RunningContestant, setup: Setup, reference: RunningContestant
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for case, seconds in entry.seconds.items():
        median = statistics.median(seconds)
        lengths = setup.lengths(case)
        found[case] = {
            "seconds": seconds,
            "rtfx": WINDOW * setup.windows / median,
            "tokens": sum(map(len, entry.texts[case])),
            "tokens_asked_for": sum(lengths),
            "same_as_first_contestant": compute_agreement(entry.texts[case], reference.texts[case]),
        }
    return found


def compute_agreement(texts: Tokens, others: Tokens) -> float:
    """The share of tokens before the first difference in each text; 1 if all are equal."""
    same = total = 0
    for text, other in zip(texts, others, strict=True):
        n = min(len(text), len(other))
        total += n
        same += next((i for i in range(n) if text[i] != other[i]), n)
    return round(same / max(1, total), 4)


def format_table(report: dict[str, Any]) -> str:
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
