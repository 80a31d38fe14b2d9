"""Batch mode: recordings in, transcripts out, without the service.

The JSON of a transcript is what was computed; the other formats are views of it. A recording whose
JSON is there, newer than the recording and made with the same weights and options, is not
transcribed again.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from models.audio.channels import Channels
from models.errors import OptionError, SpeechError, Stopped, WeightsError
from models.pipeline import COSTLY_STAGES, OnProgress, Pipeline, StageProgress, TranscribeOptions
from models.transcript import Transcript
from models.transcript_json import from_json
from models.weights.catalogue import PipelineWeights, WhisperWeights
from service.batch.reading import SOUND_SECONDS, Reader
from service.errors import OutputNotWritable, SameName, ServiceError
from service.exports import FORMATS, Format
from service.exports.files import remove_abandoned, write_all_whole, write_whole

MARK = "identified"  # part of every name: INT-07.identified.txt
ROOM = 16 << 20  # bytes, many times the transcript of a long day


@dataclass(frozen=True)
class Session:
    """One or more recordings, in order, that become one transcript."""

    name: str
    recordings: tuple[Path, ...]

    def output(self, folder: Path, format: Format) -> Path:
        return folder / f"{self.name}.{MARK}.{format}"


@dataclass(frozen=True)
class Result:
    session: Session
    status: str  # done, skipped, failed
    outputs: tuple[Path, ...] = ()
    transcript: Transcript | None = None
    seconds: float = 0.0
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Batch:
    """What a run is to do. `out` exists and can be written to: `prepare_output`."""

    sessions: tuple[Session, ...]
    out: Path
    formats: tuple[Format, ...]
    options: TranscribeOptions
    whisper: WhisperWeights
    diarisation: PipelineWeights


def sessions_of(files: Sequence[Path], *, join: bool) -> tuple[Session, ...]:
    """Every file its own session, or all of them one, named after the first.

    Files whose names differ only in their ending keep it, so that no result overwrites another's.
    """
    if join:
        return (Session(files[0].stem, tuple(files)),)
    unique = list(dict.fromkeys(files))
    stems = [file.stem for file in unique]
    names = [file.stem if stems.count(file.stem) == 1 else file.name for file in unique]
    for name in names:
        if names.count(name) > 1:
            raise SameName(
                "Two of the recordings have the same name and would have the same result; "
                "transcribe them into different folders."
            )
    return tuple(Session(name, (file,)) for name, file in zip(names, unique, strict=True))


def prepare_output(folder: Path) -> None:
    """Makes the folder and tries to write in it, before hours are spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_abandoned(folder)
        write_whole(folder / f".fieldscribe-{MARK}", "Identified transcripts. Keep them safe.\n")
    except FileExistsError:
        raise OutputNotWritable(
            "The output folder is a file or a device; name a folder with --out."
        ) from None
    except OSError as error:
        raise OutputNotWritable(
            f"The output folder cannot be written to ({error.strerror}); choose another with --out."
        ) from None


def run(
    batch: Batch,
    load: Callable[[], Pipeline],
    on_start: Callable[[Mapping[Session, float]], None],
    on_progress: OnProgress,
) -> Iterator[Result]:
    """A result per session, in order, as they are finished. A bad one does not stop the others.

    Short sessions are transcribed in groups, whose windows are decoded beside each other.

    Args:
        load: called once, when there is sound to transcribe.
        on_start: called with the sessions of a group and their seconds of sound, once known.
        on_progress: the stages are those of a group.

    Raises:
        OptionError, WeightsError: every other session would fail with the same.
        Stopped
    """
    loaded = cache(load)
    by_name = {session.name: session for session in batch.sessions}
    with Reader(
        {name: session.recordings for name, session in by_name.items()},
        split_channels=batch.options.channels != Channels.MIX,
        is_wanted=lambda name: finished_transcript(by_name[name], batch) is None,
    ) as reader:
        for group in _groups(batch, reader, loaded, on_progress):
            if any(turn.result is None for turn in group):
                yield from _transcribe(group, batch, reader, loaded(), on_start, on_progress)
            else:
                yield from (turn.outcome for turn in group)


@dataclass(eq=False)
class _Turn:
    """A session whose turn has come, and how far it is.

    Its sound, four hours of which take a gigabyte, is in `reached` or in what follows from it.
    """

    session: Session
    reached: Any = None  # recordings, then what each step of the pipeline makes of them
    duration: float = 0.0  # s
    sound: float = 0.0  # s, of all channels
    seconds: float = 0.0  # of work for it
    result: Result | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Work for this session. An error of its own is its result, and the others go on."""
        started = time.monotonic()
        try:
            yield
        except (OptionError, WeightsError, Stopped):
            raise
        except (SpeechError, ServiceError) as error:
            self.fail(error)
        finally:
            self.seconds += time.monotonic() - started

    @property
    def outcome(self) -> Result:
        assert self.result is not None
        return replace(self.result, seconds=self.seconds)

    def fail(self, error: SpeechError | ServiceError) -> None:
        self.reached = None
        self.result = Result(self.session, "failed", (), None, 0.0, error.code, str(error))


def _groups(
    batch: Batch, reader: Reader, loaded: Callable[[], Pipeline], on_progress: OnProgress
) -> Iterator[list[_Turn]]:
    """Sessions in order, with as much sound together as fills the decoder, or a long one alone."""
    group: list[_Turn] = []
    room = 0.0

    def alive() -> None:
        on_progress(StageProgress("ingest", 1.0))

    for session in batch.sessions:
        if group and (room <= 0 or not reader.fits(session.name, room, alive)):
            yield group
            group = []
        turn = _read(session, batch, reader, on_progress)
        if turn.result is not None and not group:  # done before, or failed
            yield [turn]
            continue
        if not group:
            room = min(loaded().seconds_at_once, SOUND_SECONDS / 2)
        room -= turn.sound
        group.append(turn)
        del turn
    if group:
        yield group


def _read(session: Session, batch: Batch, reader: Reader, on_progress: OnProgress) -> _Turn:
    turn = _Turn(session)
    with turn.step():
        if transcript := finished_transcript(session, batch):
            outputs = _write(transcript, session, batch, missing_only=True)
            turn.result = Result(session, "skipped", outputs, transcript)
        else:
            _check_output(session, batch)
            turn.reached = recordings = reader.take(
                session.name, lambda fraction: on_progress(StageProgress("ingest", fraction))
            )
            turn.duration = sum(recording.duration for recording in recordings)
            turn.sound = sum(len(r.samples) * r.duration for r in recordings)
    if turn.result is not None:
        reader.let_go(session.name)
    return turn


def _transcribe(
    group: Sequence[_Turn],
    batch: Batch,
    reader: Reader,
    pipeline: Pipeline,
    on_start: Callable[[Mapping[Session, float]], None],
    on_progress: OnProgress,
) -> Iterator[Result]:
    reading = [turn for turn in group if turn.result is None]
    on_start({turn.session: turn.duration for turn in reading})
    progress = _Progress(reading, on_progress)
    for turn in reading:
        with turn.step():
            turn.reached = pipeline.segment(turn.reached, batch.options, progress.of(turn))
    _hear([turn for turn in reading if turn.result is None], pipeline, progress)
    # One step behind: a session's speakers are told apart while the next one is embedded.
    before: _Turn | None = None
    for turn in group:
        if turn.result is None:
            with turn.step():
                turn.reached = pipeline.diarise(turn.reached, progress.of(turn))
        if before:
            yield _finish(before, batch, reader, pipeline, progress)
        before = turn
    if before:
        yield _finish(before, batch, reader, pipeline, progress)


def _hear(turns: Sequence[_Turn], pipeline: Pipeline, progress: "_Progress") -> None:
    if not turns:
        return
    started = time.monotonic()
    try:
        heard = pipeline.hear([turn.reached for turn in turns], progress.of_all)
    except (OptionError, WeightsError, Stopped):
        raise
    except SpeechError as error:  # the device has no memory for a single window
        for turn in turns:
            turn.fail(error)
        return
    each = (time.monotonic() - started) / sum(turn.duration for turn in turns)
    for turn, found in zip(turns, heard, strict=True):
        turn.reached = found
        turn.seconds += each * turn.duration


def _finish(
    turn: _Turn, batch: Batch, reader: Reader, pipeline: Pipeline, progress: "_Progress"
) -> Result:
    if turn.result is None:
        with turn.step():
            transcript = pipeline.finish(turn.reached, progress.of(turn))
            outputs = _write(transcript, turn.session, batch)
            turn.result = Result(turn.session, "done", outputs, transcript)
    turn.reached = None
    reader.let_go(turn.session.name)
    return turn.outcome


class _Progress:
    """How far a group is, from how far its sessions are."""

    def __init__(self, turns: Sequence[_Turn], on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._latest = StageProgress("", 0.0)
        total = sum(turn.duration for turn in turns)
        self._shares = {turn: turn.duration / total for turn in turns}

    def of(self, turn: _Turn) -> OnProgress:
        """What a step that takes one session reports to."""
        turns = list(self._shares)
        before = sum(self._shares[other] for other in turns[: turns.index(turn)])

        def report(progress: StageProgress) -> None:
            if progress.stage in COSTLY_STAGES:
                fraction = min(before + self._shares[turn] * progress.fraction, 1.0)
                self.of_all(StageProgress(progress.stage, fraction))
            elif turn is turns[-1]:
                self.of_all(progress)
            else:  # the group is not so far
                self.of_all(self._latest)

        return report

    def of_all(self, progress: StageProgress) -> None:
        if progress.stage == self._latest.stage:  # `finish` is a session behind
            progress = max(progress, self._latest, key=lambda made: made.fraction)
        self._latest = progress
        self._on_progress(progress)


def _check_output(session: Session, batch: Batch) -> None:
    """Raises OutputNotWritable where that can be known before hours are spent."""
    prepare_output(batch.out)
    if shutil.disk_usage(batch.out).free < ROOM:
        raise OutputNotWritable("The disk is full; free some space or choose another with --out.")
    result = session.output(batch.out, Format.JSON)
    tried = result.with_name(f".{result.name}")
    try:
        tried.touch(mode=0o600)
        tried.unlink()
    except OSError as error:
        raise OutputNotWritable(
            f"The result cannot be called after the recording ({error.strerror}); "
            "give the recording a shorter or simpler name."
        ) from None
    if any(session.output(batch.out, format).is_dir() for format in Format):
        raise OutputNotWritable("There is a folder where the result should be written.")


def finished_transcript(session: Session, batch: Batch) -> Transcript | None:
    """The transcript of an earlier run, if this run would make the same."""
    path = session.output(batch.out, Format.JSON)
    try:
        made_at = path.stat().st_mtime
        if any(recording.stat().st_mtime > made_at for recording in session.recordings):
            return None
        sizes = [recording.stat().st_size for recording in session.recordings]
        transcript = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    made_with = transcript.made_with
    same = (
        made_with.whisper_sha256 == batch.whisper.sha256
        and made_with.diarisation_sha256 == batch.diarisation.sha256
        and made_with.options == batch.options.as_dict()
        and [source.n_bytes for source in transcript.sources] == sizes
    )
    return transcript if same else None


def _write(
    transcript: Transcript, session: Session, batch: Batch, *, missing_only: bool = False
) -> tuple[Path, ...]:
    """The JSON comes last: where it is, the others are."""
    formats = sorted({*batch.formats, Format.JSON}, key=lambda f: (f == Format.JSON, f))
    paths = {format: session.output(batch.out, format) for format in formats}
    try:
        write_all_whole(
            {
                path: FORMATS[format](transcript)
                for format, path in paths.items()
                if not (missing_only and path.exists())
            }
        )
    except OSError as error:
        raise OutputNotWritable(f"The result cannot be written ({error.strerror}).") from None
    return tuple(paths.values())
