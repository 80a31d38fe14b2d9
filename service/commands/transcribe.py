"""`fieldscribe transcribe`: batch mode with its progress display."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from models.audio.probe import probe
from models.errors import AudioError
from models.gates import check_gates
from models.options import JobOptions
from models.pipeline import COSTLY_STAGES, Pipeline, StageProgress
from models.precision import Precision
from models.weights.catalogue import default_pipeline, default_whisper, find_pipeline, find_whisper
from service.batch.batch import (
    Batch,
    Result,
    SessionFiles,
    Shard,
    find_finished,
    group_into_sessions,
    prepare_output,
    run,
)
from service.batch.eta import EtaEstimator
from service.batch.reading import open_recording
from service.commands.console import STAGE_LABELS, describe_seconds, print_json, printable
from service.commands.interrupts import Interrupts
from service.errors import RecordingNotFound
from service.exports import Format
from service.exports.text import clock

NAME_TAKEN = (
    "The folder holds the transcript of another recording with this name, so this one's is called "
    "{}."
)
EDITED = "A person has changed the transcript with this name, so it is kept; the new one is {}."
KEPT = "{} is kept, because a person may have changed it; the new one is {}."


def transcribe(
    *,
    files: Sequence[Path],
    out: Path,
    model: str | None,
    diarisation: str | None,
    options: JobOptions,
    formats: tuple[Format, ...],
    join: bool,
    precision: Precision | None,
    shard: tuple[int, int] | None,
    weights: Path,
    as_json: bool,
) -> int:
    """Returns the exit code: 0 all done, 1 some sessions failed, 130 interrupted."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    whisper_name = model or default_whisper(device.type)
    pipeline_name = diarisation or default_pipeline(whisper_name)
    whisper_weights = find_whisper(whisper_name, weights)
    pipeline_weights = find_pipeline(pipeline_name, weights)
    check_gates(precision, device, whisper_weights, pipeline_weights, weights)
    sessions = group_into_sessions(files, join=join)
    if shard is not None:
        sessions = tuple(session for session in sessions if session in Shard(*shard))
    prepare_output(out)
    batch = Batch(sessions, out, formats, options, whisper_weights, pipeline_weights, precision)

    view = ProgressDisplay(batch)

    def load() -> Pipeline:
        view.show_loading()
        pipeline = Pipeline(whisper_weights, pipeline_weights, device, precision)
        view.prepare_estimate(pipeline)
        return pipeline

    rows: list[dict[str, Any]] = []
    failed: list[Result] = []
    interrupted = False
    interrupts = Interrupts()

    def on_progress(progress: StageProgress) -> None:
        interrupts.check()
        view.show_progress(progress)

    try:
        with interrupts, view:
            for result in run(batch, load, view.start_group, on_progress):
                rows.append(as_dict(result))
                failed += [result] if result.status == "failed" else []
                view.show_result(result)
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        print_json(rows)
    view.show_summary(failed, interrupted)
    if interrupted:
        return 130
    return 1 if failed else 0


def as_dict(result: Result) -> dict[str, Any]:
    transcript = result.transcript
    return {
        "recordings": [str(path) for path in result.session.recordings],
        "status": result.status,
        "outputs": [str(path) for path in result.outputs],
        "duration": None if transcript is None else transcript.duration,
        "speakers": None if transcript is None else len(transcript.speakers),
        "flags": None if transcript is None else len(transcript.flags),
        "warnings": [
            *_notes(result),
            *(transcript.warnings if transcript is not None else ()),
        ],
        "seconds": round(result.seconds, 2),
        "code": result.code,
        "message": result.message,
    }


def _notes(result: Result) -> Iterator[str]:
    """Yield why files have other names than usual."""
    if result.written_as:
        yield (EDITED if result.edited else NAME_TAKEN).format(result.written_as)
    for each in result.kept:
        yield KEPT.format(each.kept.name, each.written.name)


@dataclass(frozen=True)
class _Bars:
    progress: Progress
    overall: Any
    stage: Any


class ProgressDisplay:
    """Progress bars on a terminal, and a line per finished session; all on standard error."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
        )
        bars = Progress(
            *columns,
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        total = len(batch.sessions)
        self.bars = _Bars(
            bars,
            bars.add_task(f"0 of {total} sessions", total=total, eta=""),
            bars.add_task("", total=1.0, eta=""),
        )
        self.eta = EtaEstimator(dict.fromkeys(COSTLY_STAGES, 0.0))
        self.durations: dict[SessionFiles, float] = {}  # s, of sessions not yet begun
        self.group: set[SessionFiles] = set()  # sessions being transcribed
        self.n_finished = 0
        self.waits = False  # for other runs

    def __enter__(self) -> None:
        self.bars.progress.start()

    def __exit__(self, *_: object) -> None:
        self.bars.progress.stop()

    def show_loading(self) -> None:
        self.bars.progress.update(
            self.bars.stage, description="loading the models", completed=0, refresh=True
        )
        if not self.console.is_terminal:
            self._print("Loading the models.")

    def show_self_test(self) -> None:
        self.bars.progress.update(self.bars.stage, description="measuring the speed", completed=0)

    def prepare_estimate(self, pipeline: Pipeline) -> None:
        """Measure this machine's speed, and the length of the sessions after the current one."""
        self.show_self_test()
        self.eta = EtaEstimator(pipeline.measure_speed())
        later = self.batch.sessions[self.n_finished + 1 :]
        for i, session in enumerate(later):
            label = "checking the lengths"
            self.bars.progress.update(
                self.bars.stage, description=label, completed=i / len(later), eta=""
            )
            if not find_finished(session, self.batch):
                self.durations[session] = _declared_duration(session)

    def start_group(self, group: Mapping[SessionFiles, float]) -> None:
        """Begin a group of sessions, given with their durations in seconds."""
        for session in group:
            self.durations.pop(session, None)
        self.group, seconds = set(group), sum(group.values())
        self.eta.start(seconds)
        expected = self.eta.estimate(seconds)
        if not self.console.is_terminal or expected > 60:
            first, *others = (printable(session.name) for session in group)
            names = f"{first} and {len(others)} more" if others else first
            self._print(
                f"{names}: {clock(seconds)} of audio, about "
                f"{describe_seconds(expected)} left (estimated from {self.eta.basis})"
            )

    def show_progress(self, progress: StageProgress) -> None:
        label = STAGE_LABELS[progress.stage]
        bar, overall = self.bars.stage, self.bars.overall
        if progress.stage == "wait":
            if not self.waits:
                n = len(self.batch.sessions) - self.n_finished
                self._print(f"Waiting for other runs, which have the last {n} sessions.")
            self.waits = True
            self.bars.progress.update(bar, description=label, completed=0, eta="")
            return
        if progress.stage == "ingest":  # its duration is known only at the end
            self.bars.progress.update(bar, description=label, completed=progress.fraction, eta="")
            return
        self.eta.update(progress)
        remaining = self.eta.remaining()
        total = remaining + sum(map(self.eta.estimate, self.durations.values()))
        left = f"about {describe_seconds(remaining)} left"
        self.bars.progress.update(bar, description=label, completed=progress.fraction, eta=left)
        self.bars.progress.update(overall, eta=f"about {describe_seconds(total)} left")

    def show_result(self, result: Result) -> None:
        self.n_finished += 1
        self.durations.pop(result.session, None)
        self.group.discard(result.session)
        if result.status == "done" and not self.group:
            self.eta.update(StageProgress("", 1.0))
            self.eta.finish()
        done = f"{self.n_finished} of {len(self.batch.sessions)} sessions"
        self.bars.progress.update(self.bars.overall, completed=self.n_finished, description=done)
        self._print(_describe_result(result))
        for note in _notes(result):
            self._print(f"  NOTE: {printable(note)}")
        for warning in result.transcript.warnings if result.transcript else ():
            self._print(f"  WARNING: {warning}")

    def show_summary(self, failed: Sequence[Result], interrupted: bool) -> None:
        if failed:
            self._print(f"\n{len(failed)} of {self.n_finished} failed:")
            for result in failed:
                self._print(f"  {printable(result.session.name)}: {result.code}: {result.message}")
        if interrupted:
            self._print(
                "\nInterrupted. Finished sessions are kept: run the same command again to resume."
            )
        if self.n_finished > len(failed):
            self._print(
                f"\nTranscripts (identified: keep them safe): {printable(str(self.batch.out))}"
            )

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False)


def _describe_result(result: Result) -> str:
    name = printable(result.session.name)
    if result.status == "failed":
        return f"{name}: failed ({result.code})"
    transcript = result.transcript
    assert transcript is not None
    if result.status == "skipped":
        return f"{name}: already finished, skipped"
    n_speakers, n_flags = len(transcript.speakers), len(transcript.flags)
    return (
        f"{name}: {clock(transcript.duration)} of audio in {describe_seconds(result.seconds)} "
        f"(RTFx {transcript.duration / result.seconds:.1f}), "
        f"{n_speakers} speaker{'s' * (n_speakers != 1)}, "
        f"{n_flags} passage{'s' * (n_flags != 1)} to check"
    )


def _declared_duration(session: SessionFiles) -> float:
    """Seconds; recordings that cannot be read count as 0, and `run` will report them."""
    seconds = 0.0
    for path in session.recordings:
        try:
            with open_recording(path) as file:
                seconds += probe(file).duration or 0.0
        except (RecordingNotFound, AudioError):
            continue
    return seconds
