"""`fieldscribe transcribe`: batch mode with what a person sees of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from models.audio.channels import Channels
from models.audio.probe import probe
from models.diarisation.diarisation import SpeakerCount
from models.errors import AudioError
from models.gates import check_gates
from models.languages import language_code
from models.pipeline import COSTLY_STAGES, Pipeline, StageProgress, TranscribeOptions
from models.precision import Precision
from models.weights.catalogue import default_pipeline, default_whisper, find_pipeline, find_whisper
from service.batch.batch import (
    Batch,
    Result,
    Session,
    finished_transcript,
    prepare_output,
    run,
    sessions_of,
)
from service.batch.eta import Eta
from service.batch.reading import open_recording
from service.commands.console import STAGE_LABELS, print_json, read_roster, read_vocabulary, shown
from service.commands.interrupts import Interrupts
from service.errors import RecordingNotFound
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
    roster: Path | None,
    vocabulary: Path | None,
    channels: str,
    translate: bool,
    mixed_languages: bool,
    formats: tuple[Format, ...],
    join: bool,
    precision: Precision | None,
    weights: Path,
    as_json: bool,
) -> int:
    """Returns the exit code: 0 all done, 1 some recordings failed, 130 interrupted."""
    options = TranscribeOptions(
        language=None if language is None else language_code(language),
        speakers=SpeakerCount() if speakers is None else SpeakerCount.parse(speakers),
        roster=() if roster is None else read_roster(roster),
        vocabulary=() if vocabulary is None else read_vocabulary(vocabulary),
        channels=Channels(channels),
        translate=translate,
        mixed_languages=mixed_languages,
        precision=precision,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    whisper_name = model or default_whisper(device.type)
    pipeline_name = diarisation or default_pipeline(whisper_name)
    whisper_weights = find_whisper(whisper_name, weights)
    pipeline_weights = find_pipeline(pipeline_name, weights)
    check_gates(precision, device, whisper_weights, pipeline_weights, weights)
    sessions = sessions_of(files, join=join)
    prepare_output(out)
    batch = Batch(sessions, out, formats, options, whisper_weights, pipeline_weights)

    view = View(batch)

    def load() -> Pipeline:
        view.loading()
        return view.loaded(Pipeline(whisper_weights, pipeline_weights, device, precision))

    rows: list[dict[str, Any]] = []
    failed: list[Result] = []
    interrupted = False
    interrupts = Interrupts()

    def progress(made: StageProgress) -> None:
        interrupts.check()
        view.progress(made)

    try:
        with interrupts, view:
            for result in run(batch, load, view.start, progress):
                rows.append(as_dict(result))
                failed += [result] if result.status == "failed" else []
                view.finished(result)
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        print_json(rows)
    view.summary(failed, interrupted)
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
        self.eta = Eta(dict.fromkeys(COSTLY_STAGES, 0.0))
        self.durations: dict[Session, float] = {}  # of what is still to be transcribed
        self.group: set[Session] = set()  # what is being transcribed
        self.n_finished = 0

    def __enter__(self) -> None:
        self.bars.progress.start()

    def __exit__(self, *_: object) -> None:
        self.bars.progress.stop()

    def loading(self) -> None:
        self.bars.progress.update(self.bars.stage, description="loading the models", completed=0)

    def loaded(self, pipeline: Pipeline) -> Pipeline:
        self.eta = Eta(pipeline.seconds_per_second())
        later = self.batch.sessions[self.n_finished + 1 :]
        for i, session in enumerate(later):
            label = "looking at the others"
            self.bars.progress.update(
                self.bars.stage, description=label, completed=i / len(later), eta=""
            )
            if not finished_transcript(session, self.batch):
                self.durations[session] = _declared_duration(session)
        return pipeline

    def start(self, group: Mapping[Session, float]) -> None:
        """A group of sessions begins, with the seconds of each."""
        for session in group:
            self.durations.pop(session, None)
        self.group, seconds = set(group), sum(group.values())
        self.eta.start(seconds)
        expected = self.eta.estimate(seconds)
        if not self.console.is_terminal or expected > 60:
            first, *others = (shown(session.name) for session in group)
            names = f"{first} and {len(others)} more" if others else first
            self._print(
                f"{names}: {clock(seconds)} of sound, about "
                f"{clock(expected)} to go by a short trial of this machine"
            )

    def progress(self, progress: StageProgress) -> None:
        label = STAGE_LABELS[progress.stage]
        bar, overall = self.bars.stage, self.bars.overall
        if progress.stage == "ingest":  # how much sound it is will be known at the end
            self.bars.progress.update(bar, description=label, completed=progress.fraction, eta="")
            return
        self.eta.progress(progress)
        remaining = self.eta.remaining()
        in_all = remaining + sum(map(self.eta.estimate, self.durations.values()))
        about = f"about {clock(remaining)} to go"
        self.bars.progress.update(bar, description=label, completed=progress.fraction, eta=about)
        self.bars.progress.update(overall, eta=f"about {clock(in_all)} to go")

    def finished(self, result: Result) -> None:
        self.n_finished += 1
        self.durations.pop(result.session, None)
        self.group.discard(result.session)
        if result.status == "done" and not self.group:
            self.eta.progress(StageProgress("", 1.0))
            self.eta.finish()
        done = f"{self.n_finished} of {len(self.batch.sessions)} sessions"
        self.bars.progress.update(self.bars.overall, completed=self.n_finished, description=done)
        self._print(_line(result))
        for warning in result.transcript.warnings if result.transcript else ():
            self._print(f"  WARNING: {warning}")

    def summary(self, failed: Sequence[Result], interrupted: bool) -> None:
        if failed:
            self._print(f"\n{len(failed)} of {self.n_finished} failed:")
            for result in failed:
                self._print(f"  {shown(result.session.name)}: {result.code}: {result.message}")
        if interrupted:
            self._print(
                "\nInterrupted. What is finished is kept; the same command goes on from there."
            )
        if self.n_finished > len(failed):
            self._print(f"\nTranscripts (identified, keep them safe): {shown(str(self.batch.out))}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False)


def _line(result: Result) -> str:
    name = shown(result.session.name)
    if result.status == "failed":
        return f"{name}: failed, {result.code}"
    transcript = result.transcript
    assert transcript is not None
    if result.status == "skipped":
        return f"{name}: done before"
    n_flags = len(transcript.flags)
    return (
        f"{name}: {clock(transcript.duration)} of sound in {clock(result.seconds)} "
        f"(RTFx {transcript.duration / result.seconds:.1f}), {len(transcript.speakers)} speakers, "
        f"{n_flags} place{'s' * (n_flags != 1)} to listen to again"
    )


def _declared_duration(session: Session) -> float:
    """Seconds; 0 where a recording cannot be read, which `run` will say."""
    seconds = 0.0
    for path in session.recordings:
        try:
            with open_recording(path) as file:
                seconds += probe(file).duration or 0.0
        except (RecordingNotFound, AudioError):
            continue
    return seconds
