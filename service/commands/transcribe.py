"""`fieldscribe transcribe`: batch mode with its progress display."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    find_results,
    group_into_sessions,
    prepare_output,
    run,
)
from service.batch.eta import EtaEstimator
from service.batch.reading import open_recording
from service.batch.spread import spread
from service.commands.console import STAGE_LABELS, describe_seconds, print_json, printable
from service.commands.interrupts import Interrupts
from service.devices import find_devices
from service.errors import RecordingNotFound
from service.exports import Format
from service.exports.text import clock

ONLY = ""  # the device of a batch that runs in this process
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
    devices: str,
    weak_sandbox: bool,
    shard: tuple[int, int] | None,
    weights: Path,
    as_json: bool,
) -> int:
    """
    Args:
        devices: as in `Settings.devices`.

    Returns:
        The exit code: 0 all done, 1 some sessions failed, 130 interrupted.
    """
    used = find_devices(devices, torch.cuda.device_count)
    kind = used[0].partition(":")[0]
    device = torch.device("cuda" if kind == "cuda" and torch.cuda.is_available() else "cpu")
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
    is_alone = len(used) == 1 and used[0] in ("cpu", "cuda:0")
    view = ProgressDisplay(batch, (ONLY,) if is_alone else used)
    interrupts = Interrupts()
    if is_alone:
        work = _run_here(batch, device, view, interrupts)
    else:
        work = _run_on(used, batch, view, interrupts, weak_sandbox)
    results: dict[SessionFiles, Result] = {}
    interrupted = False
    try:
        with interrupts, view:
            for result in work:
                results[result.session] = result
                view.show_result(result)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        work.close()
    in_order = [results[session] for session in sessions if session in results]
    failed = [result for result in in_order if result.status == "failed"]
    if as_json:
        print_json([as_dict(result) for result in in_order])
    view.show_summary(failed, interrupted)
    if interrupted:
        return 130
    return 1 if failed else 0


def _run_here(
    batch: Batch, device: torch.device, view: "ProgressDisplay", interrupts: Interrupts
) -> Generator[Result, None, None]:
    """Transcribe in this process."""

    def load() -> Pipeline:
        view.show_loading()
        pipeline = Pipeline(batch.whisper, batch.diarisation, device, batch.precision)
        view.show_self_test()
        view.prepare_estimate(pipeline.measure_speed())
        return pipeline

    def on_progress(progress: StageProgress) -> None:
        interrupts.check()
        view.show_progress(progress)

    yield from run(batch, load, view.start_group, on_progress)


def _run_on(
    devices: tuple[str, ...],
    batch: Batch,
    view: "ProgressDisplay",
    interrupts: Interrupts,
    weak_sandbox: bool,
) -> Generator[Result, None, None]:
    """Transcribe in a child process on each device."""
    left = dict.fromkeys(batch.sessions)
    for result in find_results(batch):
        interrupts.check()
        del left[result.session]
        yield result
    if not left:
        return
    rest = replace(batch, sessions=tuple(left))
    for device, name, value in spread(rest, devices, allow_weak_sandbox=weak_sandbox):
        interrupts.check()
        if name == "loading":
            view.show_loading(device)
        elif name == "rates":
            view.prepare_estimate(value, device)
        elif name == "start":
            view.start_group(value, device)
        elif name == "progress":
            view.show_progress(value, device)
        elif name == "died":
            view.show_death(device, restarts=value)
        else:
            yield value


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


@dataclass
class _DeviceProgress:
    """The progress of the group that a device is transcribing."""

    bar: Any
    eta: EtaEstimator
    group: set[SessionFiles] = field(default_factory=set)


class ProgressDisplay:
    """Progress bars on a terminal, and a line per finished session; all on standard error.

    There is a bar for the whole batch, and one for each device.
    """

    def __init__(self, batch: Batch, devices: Sequence[str] = (ONLY,)) -> None:
        self.batch = batch
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
        )
        self.bars = Progress(
            *columns,
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        total = len(batch.sessions)
        self.overall = self.bars.add_task(f"0 of {total} sessions", total=total, eta="")
        self.devices = {
            device: _DeviceProgress(
                self.bars.add_task(device, total=1.0, eta=""),
                EtaEstimator(dict.fromkeys(COSTLY_STAGES, 0.0)),
            )
            for device in devices
        }
        self.durations: dict[SessionFiles, float] = {}  # s, of sessions not yet begun
        self.has_durations = False
        self.n_finished = 0
        self.waits = False  # for other runs

    def __enter__(self) -> None:
        self.bars.start()

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def show_loading(self, device: str = ONLY) -> None:
        self._show(device, "loading the models", refresh=True)
        if not self.console.is_terminal:
            self._print(f"Loading the models{f' on {device}' if device else ''}.")

    def show_self_test(self) -> None:
        self._show(ONLY, "measuring the speed")

    def prepare_estimate(self, rates: Mapping[str, float], device: str = ONLY) -> None:
        """Take a device's speed, and find the length of the sessions after the current one.

        Args:
            rates: from `Pipeline.measure_speed`.
        """
        self.devices[device].eta = EtaEstimator(rates)
        if self.has_durations:
            return
        self.has_durations = True
        begun = set().union(*(each.group for each in self.devices.values()))
        later = [s for s in self.batch.sessions[self.n_finished + 1 :] if s not in begun]
        for i, session in enumerate(later):
            self._show(device, "checking the lengths", i / len(later))
            if not find_finished(session, self.batch):
                self.durations[session] = _declared_duration(session)

    def start_group(self, group: Mapping[SessionFiles, float], device: str = ONLY) -> None:
        """Begin a group of sessions, given with their durations in seconds."""
        for session in group:
            self.durations.pop(session, None)
        progress, seconds = self.devices[device], sum(group.values())
        progress.group = set(group)
        progress.eta.start(seconds)
        expected = progress.eta.estimate(seconds)
        if not self.console.is_terminal or expected > 60:
            first, *others = (printable(session.name) for session in group)
            names = f"{first} and {len(others)} more" if others else first
            where = f" on {device}" if device else ""
            self._print(
                f"{names}: {clock(seconds)} of audio{where}, about "
                f"{describe_seconds(expected)} left (estimated from {progress.eta.basis})"
            )

    def show_progress(self, progress: StageProgress, device: str = ONLY) -> None:
        label, eta = STAGE_LABELS[progress.stage], self.devices[device].eta
        if progress.stage == "wait":
            if not self.waits and len(self.devices) == 1:
                n = len(self.batch.sessions) - self.n_finished
                self._print(f"Waiting for other runs, which have the last {n} sessions.")
            self.waits = True
            self._show(device, label)
            return
        if progress.stage == "ingest":  # its duration is known only at the end
            self._show(device, label, progress.fraction)
            return
        eta.update(progress)
        left = f"about {describe_seconds(eta.remaining())} left"
        self._show(device, label, progress.fraction, eta=left)
        self.bars.update(self.overall, eta=f"about {describe_seconds(self._estimate_all())} left")

    def _estimate_all(self) -> float:
        """Seconds until the batch is done, if its devices share what is left."""
        busy = [each.eta for each in self.devices.values() if each.group]
        seconds_per_second = [eta.estimate(1.0) for eta in busy]
        if not busy or not all(seconds_per_second):
            return 0.0
        later = sum(self.durations.values()) / sum(1 / each for each in seconds_per_second)
        return sum(eta.remaining() for eta in busy) / len(busy) + later

    def show_death(self, device: str, *, restarts: bool) -> None:
        self._show(device, "starting again" if restarts else "not used any more")
        self._print(
            f"{device}: its process ended; other devices take over its recordings"
            + ("." if restarts else ", and it is not used any more.")
        )

    def show_result(self, result: Result) -> None:
        self.n_finished += 1
        self.durations.pop(result.session, None)
        for progress in self.devices.values():
            if result.session not in progress.group:
                continue
            progress.group.discard(result.session)
            if result.status == "done" and not progress.group:
                progress.eta.update(StageProgress("", 1.0))
                progress.eta.finish()
        done = f"{self.n_finished} of {len(self.batch.sessions)} sessions"
        self.bars.update(self.overall, completed=self.n_finished, description=done)
        self._print(_describe_result(result))
        for note in _notes(result):
            self._print(f"  NOTE: {printable(note)}")
        for warning in result.transcript.warnings if result.transcript else ():
            self._print(f"  WARNING: {warning}")

    def _show(
        self, device: str, label: str, fraction: float = 0.0, eta: str = "", refresh: bool = False
    ) -> None:
        description = f"{device}: {label}" if device else label
        bar = self.devices[device].bar
        self.bars.update(bar, description=description, completed=fraction, eta=eta, refresh=refresh)

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
