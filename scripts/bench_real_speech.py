"""Measure the time from files to words on real recordings, beside other Whisper programs.

    scripts/bench real-speech --folder recordings --model base.pt --diarisation segmentation
    scripts/bench real-speech --folder recordings --model base.pt --rounds 3

All programs have the same weights. For each recording they take turns, so that changes in the
machine's speed affect all of them, and each is used as its users do: openai-whisper's `transcribe`,
faster-whisper as it comes and in batches of 8, in fp32 and int8, all with word times; Fieldscribe
with the whole path, who spoke when included. `one batch` is Fieldscribe with all recordings at
once, as in batch mode. The errors are those of the same texts. Processor time counts all threads
and child processes; on a busy machine it says more than the clock.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.audio.decode import decode
from models.metrics import WordCounts
from models.options import JobOptions
from models.pipeline import Pipeline
from models.precision import Precision
from models.weights.catalogue import WhisperWeights, find_pipeline, find_whisper
from models.weights.whisper import load_whisper
from scripts.evaluation import compare_text
from scripts.references import ManifestEntry, read_entry, read_folder
from scripts.reports import describe_hardware, read_versions, write_report
from scripts.whisper_peers import convert
from service.batch.batch import Batch, group_into_sessions, prepare_output
from service.batch.batch import run as run_batch
from service.exports import Format

OURS = "fieldscribe"
ALL_AT_ONCE = "fieldscribe, one batch"
PACKAGES = ("torch", "openai-whisper", "faster-whisper", "ctranslate2", "pyannote.audio")
BATCH = 8  # of faster-whisper's BatchedInferencePipeline, its default

Transcribe = Callable[[Path, str | None], str]
"""From a recording and its language to its text."""


@dataclass(frozen=True)
class Run:
    """One program on one recording."""

    program: str
    recording: str
    audio_seconds: float
    wall_seconds: float
    processor_seconds: float
    counts: WordCounts | None

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "counts": vars(self.counts) if self.counts else None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="recordings with references")
    parser.add_argument("--model", required=True, help="a Whisper model, by name or path")
    parser.add_argument("--diarisation", default="demo", help="a pyannote pipeline, as a path")
    parser.add_argument("--programs", nargs="+", help="some of those that are measured by default")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, default=Path("build/bench/real-speech.json"))


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    entries = read_folder(arguments.folder)
    whisper = find_whisper(arguments.model, arguments.folder)
    diarisation = find_pipeline(arguments.diarisation, arguments.folder)
    device = torch.device("cpu")
    pipelines = {
        precision: Pipeline(whisper, diarisation, device, precision)
        for precision in arguments.precisions
    }
    runs: list[Run] = []
    load_before, started = os.getloadavg()[0], time.time()
    with tempfile.TemporaryDirectory() as folder:
        programs = load_programs(whisper, pipelines, Path(folder), arguments.threads)
        if arguments.programs:
            programs = {name: programs[name] for name in arguments.programs}
        for transcribe in programs.values():  # one-off initialisation
            transcribe(entries[0].audio, None)
        for _ in range(arguments.rounds):
            for entry in entries:
                runs += [measure(name, each, entry) for name, each in programs.items()]
                print(entry.audio.name, flush=True)
            if not arguments.programs:
                runs += [
                    measure_batch(f"{ALL_AT_ONCE}, {precision}", pipeline, entries)
                    for precision, pipeline in pipelines.items()
                ]
    summary = summarise(runs)
    print(format_table(summary))
    report = {
        "setup": {name: str(value) for name, value in vars(arguments).items() if name != "run"},
        "hardware": describe_hardware("cpu"),
        "versions": read_versions(PACKAGES),
        "load_average": [load_before, os.getloadavg()[0]],
        "wall_seconds": round(time.time() - started),
        "summary": summary,
        "runs": [each.as_dict() for each in runs],
    }
    write_report(arguments.json, report)


def load_programs(
    whisper: WhisperWeights,
    pipelines: dict[Precision, Pipeline],
    folder: Path,
    threads: int,
) -> dict[str, Transcribe]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = load_whisper(whisper)
    convert(model, folder / "ct2")

    def openai(audio: Path, language: str | None) -> str:
        torch.manual_seed(0)  # higher temperatures sample
        found = model.transcribe(str(audio), language=language, fp16=False, word_timestamps=True)
        return str(found["text"])

    def faster(peer: Any, options: dict[str, Any], audio: Path, language: str | None) -> str:
        segments, _ = peer.transcribe(
            str(audio), language=language, word_timestamps=True, **options
        )
        return " ".join(segment.text.strip() for segment in segments)

    programs: dict[str, Transcribe] = {"openai-whisper, fp32": openai}
    for precision, compute_type in (("fp32", "float32"), ("int8", "int8")):
        peer = WhisperModel(
            str(folder / "ct2"), device="cpu", compute_type=compute_type, cpu_threads=threads
        )
        batched = BatchedInferencePipeline(model=peer)
        programs[f"faster-whisper, {precision}"] = partial(faster, peer, {})
        programs[f"faster-whisper in batches, {precision}"] = partial(
            faster, batched, {"batch_size": BATCH}
        )
    for name, pipeline in pipelines.items():
        programs[f"{OURS}, {name}"] = partial(transcribe_ours, pipeline)
    return programs


def transcribe_ours(pipeline: Pipeline, audio: Path, language: str | None) -> str:
    with audio.open("rb") as file:
        transcript = pipeline.transcribe([decode(file)], JobOptions(language=language))
    return "".join(word.text for word in transcript.words)


def measure(program: str, transcribe: Transcribe, entry: ManifestEntry) -> Run:
    before, started = _processor_seconds(), time.perf_counter()
    text = transcribe(entry.audio, entry.options.get("language"))
    wall, processor = time.perf_counter() - started, _processor_seconds() - before
    return Run(
        program,
        entry.audio.name,
        duration_of(entry.audio),
        round(wall, 3),
        round(processor, 3),
        compare_text(read_entry(entry), text, entry.options.get("language") or "en"),
    )


def measure_batch(program: str, pipeline: Pipeline, entries: Sequence[ManifestEntry]) -> Run:
    """All recordings in one batch, whose options are the same: the languages are detected."""
    with tempfile.TemporaryDirectory() as out:
        prepare_output(Path(out))
        batch = Batch(
            group_into_sessions([entry.audio for entry in entries], join=False),
            Path(out),
            (Format.JSON,),
            JobOptions(),
            pipeline.whisper_weights,
            pipeline.diarisation_weights,
        )
        before, started = _processor_seconds(), time.perf_counter()
        results = list(run_batch(batch, lambda: pipeline, lambda _: None, lambda _: None))
        wall, processor = time.perf_counter() - started, _processor_seconds() - before
    counts = [
        compare_text(read_entry(entry), text, entry.options.get("language") or "en")
        for entry, result in zip(entries, results, strict=True)
        if result.transcript
        for text in ["".join(word.text for word in result.transcript.words)]
    ]
    seconds = sum(duration_of(entry.audio) for entry in entries)
    return Run(program, "all", seconds, round(wall, 3), round(processor, 3), add_up(counts))


def duration_of(audio: Path) -> float:
    with audio.open("rb") as file:
        return decode(file).duration


def add_up(counts: Iterable[WordCounts | None]) -> WordCounts:
    total = WordCounts(0, 0, 0, 0)
    for each in counts:
        total = total if each is None else total + each
    return total


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each program over all recordings and rounds; errors and words are those of one round."""
    rows = []
    for program in dict.fromkeys(each.program for each in runs):
        own = [each for each in runs if each.program == program]
        n_rounds = len(own) / len({each.recording for each in own})
        counts = add_up(each.counts for each in own)
        seconds = sum(each.audio_seconds for each in own)
        rows.append(
            {
                "program": program,
                "rtfx": round(seconds / sum(each.wall_seconds for each in own), 2),
                "audio_per_processor_second": round(
                    seconds / sum(each.processor_seconds for each in own), 2
                ),
                "errors": round(counts.errors / n_rounds, 1),
                "words": round(counts.total / n_rounds),
            }
        )
    return rows


def format_table(summary: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| | RTFx | audio per processor second | errors in words |", "|---|---|---|---|"]
    lines += [
        f"| {row['program']} | {row['rtfx']:.1f} | {row['audio_per_processor_second']:.1f}"
        f" | {row['errors']:.0f} in {row['words']} |"
        for row in summary
    ]
    return "\n".join(lines)
