"""`fieldscribe transcribe`: batch mode with what a person sees of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from models.audio import probe
from models.diarisation import SpeakerCount
from models.errors import AudioError
from models.pipeline import COSTLY_STAGES, Pipeline, StageProgress, TranscribeOptions
from models.weights import default_pipeline, default_whisper, find_pipeline, find_whisper
from models.whisper_engine import language_code
from service.batch import Batch, Result, Session, prepare_output, run, sessions_of
from service.console import STAGE_LABELS, print_json, read_vocabulary
from service.eta import Eta
from service.exports import Format
from service.exports.text import clock


def transcribe(
    *,
    files: Sequence[Path],
    out: Path,
    model: str | None,
    diarisation: str | None,
    language: str | None,
    speakers: str | None,
    vocabulary: Path | None,
    formats: tuple[Format, ...],
    join: bool,
    weights: Path,
    as_json: bool,
) -> int:
    """Returns the exit code: 0 all done, 1 some recordings failed, 130 interrupted."""
    options = TranscribeOptions(
        language=None if language is None else language_code(language),
        speakers=SpeakerCount() if speakers is None else SpeakerCount.parse(speakers),
        vocabulary=() if vocabulary is None else read_vocabulary(vocabulary),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    whisper_name = model or default_whisper(device.type)
    pipeline_name = diarisation or default_pipeline(whisper_name)
    whisper_weights = find_whisper(whisper_name, weights)
    pipeline_weights = find_pipeline(pipeline_name, weights)
    sessions = sessions_of(files, join=join)
    prepare_output(out)
    batch = Batch(sessions, out, formats, options, whisper_weights, pipeline_weights)

    def load() -> Pipeline:
        return Pipeline(whisper_weights, pipeline_weights, device)

    view = View(batch)
    results: list[Result] = []
    interrupted = False
    try:
        with view:
            for result in run(batch, lambda: view.loaded(load()), view.start, view.progress):
                results.append(result)
                view.finished(result)
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        print_json([as_dict(result) for result in results])
    view.summary(results, interrupted)
    if interrupted:
        return 130
    return 1 if any(result.status == "failed" for result in results) else 0


def as_dict(result: Result) -> dict[str, Any]:
    transcript = result.transcript
    return {
        "recordings": [str(path) for path in result.session.recordings],
        "status": result.status,
        "outputs": [str(path) for path in result.outputs],
        "duration": None if transcript is None else transcript.duration,
        "speakers": None if transcript is None else len(transcript.speakers),
        "flags": None if transcript is None else len(transcript.flags),
        "warnings": [] if transcript is None else list(transcript.warnings),
        "seconds": round(result.seconds, 2),
        "code": result.code,
        "message": result.message,
    }


@dataclass(frozen=True)
class _Bars:
    progress: Progress
    overall: Any
    stage: Any


class View:
    """Bars on a terminal, a line per finished session anywhere; all on standard error."""

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
        bars = Progress(*columns, console=self.console, transient=True)
        total = len(batch.sessions)
        self.bars = _Bars(
            bars,
            bars.add_task(f"0 of {total} sessions", total=total, eta=""),
            bars.add_task("loading the models", total=1.0, eta=""),
        )
        self.eta = Eta(dict.fromkeys(COSTLY_STAGES, 0.0))
        self.durations = {session: _declared_duration(session) for session in batch.sessions}
        self.n_finished = 0

    def __enter__(self) -> None:
        self.bars.progress.start()

    def __exit__(self, *_: object) -> None:
        self.bars.progress.stop()

    def loaded(self, pipeline: Pipeline) -> Pipeline:
        self.eta = Eta(pipeline.seconds_per_second())
        return pipeline

    def start(self, session: Session) -> None:
        self.eta.start(self.durations[session])
        expected = self.eta.estimate(self.durations[session])
        if not self.console.is_terminal or expected > 60:
            self._print(
                f"{session.name}: {clock(self.durations[session])} of sound, about "
                f"{clock(expected)} to go by a short trial of this machine"
            )

    def progress(self, progress: StageProgress) -> None:
        self.eta.progress(progress)
        label = STAGE_LABELS[progress.stage]
        later = self.batch.sessions[self.n_finished + 1 :]
        remaining = self.eta.remaining()
        in_all = remaining + sum(self.eta.estimate(self.durations[session]) for session in later)
        self.bars.progress.update(
            self.bars.stage,
            description=label,
            completed=progress.fraction,
            eta=f"about {clock(remaining)} to go",
        )
        self.bars.progress.update(self.bars.overall, eta=f"about {clock(in_all)} to go")

    def finished(self, result: Result) -> None:
        self.n_finished += 1
        if result.status == "done":
            self.eta.progress(StageProgress("", 1.0))
            self.eta.finish()
        done = f"{self.n_finished} of {len(self.batch.sessions)} sessions"
        self.bars.progress.update(self.bars.overall, completed=self.n_finished, description=done)
        self._print(_line(result))

    def summary(self, results: Sequence[Result], interrupted: bool) -> None:
        failed = [result for result in results if result.status == "failed"]
        if failed:
            self._print(f"\n{len(failed)} of {len(results)} failed:")
            for result in failed:
                self._print(f"  {result.session.name}: {result.code}: {result.message}")
        if interrupted:
            self._print(
                "\nInterrupted. What is finished is kept; the same command goes on from there."
            )
        if any(result.outputs for result in results):
            self._print(f"\nTranscripts (identified, keep them safe): {self.batch.out}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False)


def _line(result: Result) -> str:
    name = result.session.name
    if result.status == "failed":
        return f"{name}: failed, {result.code}"
    transcript = result.transcript
    assert transcript is not None
    if result.status == "skipped":
        return f"{name}: done before"
    return (
        f"{name}: {clock(transcript.duration)} of sound in {clock(result.seconds)} "
        f"(RTFx {transcript.duration / result.seconds:.1f}), {len(transcript.speakers)} speakers, "
        f"{len(transcript.flags)} places to listen to again"
    )


def _declared_duration(session: Session) -> float:
    """Seconds; 0 where a recording cannot be read, which `run` will say."""
    seconds = 0.0
    for path in session.recordings:
        try:
            with path.open("rb") as file:
                seconds += probe(file).duration or 0.0
        except (OSError, AudioError):
            continue
    return seconds
