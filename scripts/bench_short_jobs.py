"""Measure many short jobs of the service against one long job with as much audio.

    scripts/bench short-jobs --jobs 20 --minutes 2 --model base.pt

Starts `serve` in a temporary folder. In each round the same minutes of the demo interview are
transcribed as one job, as short jobs of one study, which wait together and so share the decoder's
slots, and as short jobs of a study each, which run alone. The worker is frozen while the jobs are
submitted. Processor time is that of the worker and its engine child.
"""

import argparse
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from models.weights.catalogue import find_pipeline, find_whisper
from scripts.reports import describe_hardware, read_versions, write_report
from scripts.stand_in.installation import Installation, wait_until
from scripts.stand_in.jobs import make_job, make_study, read_job
from service.services import open_services
from service.worker.protocol import PIPELINE_ENGINE

INTERVIEW = Path(__file__).parent.parent / "demo" / "interview.flac"
LONGEST = 4 * 3600.0  # s of one case
TICKS = os.sysconf("SC_CLK_TCK")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=2.0, help="of each short job")
    parser.add_argument("--model", default="demo", help="Whisper's name or path")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/bench/short-jobs.json"))


def run(arguments: argparse.Namespace) -> None:
    seconds = 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # the database's user must reach its files
        site = Installation(Path(folder), None)
        site.start_serve(PIPELINE_ENGINE)
        try:
            wait_until(site.is_ready, 120, "the service to answer")
            site.services = open_services(site.settings)
            short, long = (make_audio(each) for each in (seconds, arguments.jobs * seconds))
            submit = partial(submit_job, site, arguments.model)
            cases: dict[str, Callable[[], Sequence[UUID]]] = {
                "one job": lambda: [submit(make_study(site.services), long)],
                "together": lambda: submit_to_one_study(site, submit, short, arguments.jobs),
                "alone": lambda: [
                    submit(make_study(site.services), short) for _ in range(arguments.jobs)
                ],
            }
            measure(site, lambda: [submit(make_study(site.services), make_audio(13))])  # loads
            rows: list[dict[str, Any]] = []
            for _ in range(arguments.rounds):
                for name, submit_all in cases.items():
                    rows.append({"case": name, **measure(site, submit_all)})
                    print(rows[-1], flush=True)
        finally:
            site.cut_power()
            with suppress(AttributeError):
                site.services.close()
    for clock in ("processor_seconds", "wall_seconds"):
        medians = {
            name: statistics.median(row[clock] for row in rows if row["case"] == name)
            for name in cases
        }
        ratios = {name: round(value / medians["one job"], 2) for name, value in medians.items()}
        print(f"{clock}, times one job: {ratios}")
    report = {
        "setup": {name: str(value) for name, value in vars(arguments).items() if name != "run"},
        "hardware": describe_hardware("cpu"),
        "versions": read_versions(("torch", "pyannote.audio", "openai-whisper")),
        "rows": rows,
    }
    write_report(arguments.json, report)


def make_audio(seconds: float) -> bytes:
    """A FLAC file of the demo interview, repeated."""
    sound = ["-stream_loop", "-1", "-i", str(INTERVIEW), "-t", str(seconds)]
    command = ["ffmpeg", "-v", "error", *sound, "-f", "flac", "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def submit_job(site: Installation, model: str, study_id: UUID, audio: bytes) -> UUID:
    whisper, diarisation = find_whisper(model, Path()), find_pipeline("demo", Path())
    pinned = {
        "whisper_model": model,
        "whisper_sha256": whisper.sha256,
        "diarisation_pipeline": "demo",
        "diarisation_sha256": diarisation.sha256,
    }
    return make_job(site.services, study_id, content=audio, pinned=pinned)


def submit_to_one_study(
    site: Installation, submit: Callable[[UUID, bytes], UUID], audio: bytes, n_jobs: int
) -> list[UUID]:
    study_id = make_study(site.services)
    return [submit(study_id, audio) for _ in range(n_jobs)]


def measure(site: Installation, submit_all: Callable[[], Sequence[UUID]]) -> dict[str, float]:
    """Submit jobs while the worker is frozen, and measure the seconds until all have succeeded."""
    (worker,) = site.pids()["worker"]
    os.kill(worker, signal.SIGSTOP)
    try:
        jobs = submit_all()
    finally:
        os.kill(worker, signal.SIGCONT)
    before, started = processor_seconds(site), time.perf_counter()
    ended = {"succeeded", "failed"}
    wait_until(
        lambda: all(site.status(job_id) in ended for job_id in jobs), LONGEST, "the jobs to end"
    )
    measured = {
        "processor_seconds": round(processor_seconds(site) - before, 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
    }
    assert all(read_job(site.services, job_id).status == "succeeded" for job_id in jobs)
    return measured


def processor_seconds(site: Installation) -> float:
    """Of the worker, its engine child and their children that have ended."""
    pids = site.pids()
    total = 0
    for pid in (*pids["worker"], *pids["engine"]):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return total / TICKS
