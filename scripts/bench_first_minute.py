"""Measure what a first, short recording takes: start, imports, loading and transcription.

    scripts/bench first-minute --rounds 3

Runs `fieldscribe transcribe` with the demo weights on the start of the demo interview, each round
in a new process. Processor time is user and system time, child processes included.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.reports import describe_hardware, read_versions, write_report

INTERVIEW = Path(__file__).parent.parent / "demo" / "interview.flac"
PROGRAM = "from service.commands.main import main; main()"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=13.0, help="of audio")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/bench/first-minute.json"))


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "INT-01.flac"
        sound = ["-i", str(INTERVIEW), "-t", str(arguments.seconds)]
        subprocess.run(["ffmpeg", "-v", "error", *sound, str(recording)], check=True)
        rounds = [measure(recording, arguments.model) for _ in range(arguments.rounds)]
    for name in ("processor_seconds", "wall_seconds"):
        print(f"{name}: {statistics.median(each[name] for each in rounds):.1f} (median)")
    report = {
        "audio_seconds": arguments.seconds,
        "model": arguments.model,
        "hardware": describe_hardware("cpu"),
        "versions": read_versions(("torch", "pyannote.audio", "openai-whisper")),
        "rounds": rounds,
    }
    write_report(arguments.json, report)


def measure(recording: Path, model: str) -> dict[str, Any]:
    """Transcribe a recording once; the result has seconds of processor time and wall clock."""
    with tempfile.TemporaryDirectory() as out:
        command = ["transcribe", str(recording), "--model", model, "--diarisation", "demo"]
        before, started = os.times(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", PROGRAM, *command, "--out", out],
            check=True,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        after, wall = os.times(), time.perf_counter() - started
    user = after.children_user - before.children_user
    system = after.children_system - before.children_system
    return {"processor_seconds": round(user + system, 2), "wall_seconds": round(wall, 2)}
