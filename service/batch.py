"""Batch mode: recordings in, transcripts out, without the service.

The JSON of a transcript is what was computed; the other formats are views of it. A recording whose
JSON is there, newer than the recording and made with the same weights and options, is not
transcribed again.
"""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from models.audio import Recording, decode
from models.channels import Channels
from models.errors import AudioError, OptionError, SpeechError, Stopped, WeightsError
from models.pipeline import OnProgress, Pipeline, StageProgress, TranscribeOptions
from models.transcript import Transcript
from models.weights import PipelineWeights, WhisperWeights
from service.errors import OutputNotWritable, RecordingNotFound, SameName, ServiceError
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
    on_start: Callable[[Session, float], None],
    on_progress: OnProgress,
) -> Iterator[Result]:
    """A result per session, as they are finished. A bad recording does not stop the others.

    Args:
        load: called once, when there is sound to transcribe.
        on_start: called with a session and its seconds of sound, once they are known.

    Raises:
        OptionError, WeightsError: every other session would fail with the same.
        Stopped
    """
    loaded = cache(load)
    for session in batch.sessions:
        started = time.monotonic()
        try:
            if transcript := finished_transcript(session, batch):
                outputs = _write(transcript, session, batch, missing_only=True)
                yield Result(session, "skipped", outputs, transcript)
                continue
            _check_output(session, batch)
            transcript, seconds = _transcribe(session, batch, loaded, on_start, on_progress)
            outputs = _write(transcript, session, batch)
        except (OptionError, WeightsError, Stopped):
            raise
        except (SpeechError, ServiceError) as error:
            seconds = time.monotonic() - started
            yield Result(session, "failed", (), None, seconds, error.code, str(error))
            continue
        yield Result(session, "done", outputs, transcript, seconds)


def _transcribe(
    session: Session,
    batch: Batch,
    loaded: Callable[[], Pipeline],
    on_start: Callable[[Session, float], None],
    on_progress: OnProgress,
) -> tuple[Transcript, float]:
    """And the seconds it took, without loading the models.

    A function of its own, because four hours of sound take a gigabyte: it is let go at the end.
    """
    started = time.monotonic()
    recordings = _decode(session, batch.options.channels, on_progress)
    decoding = time.monotonic() - started
    pipeline = loaded()
    on_start(session, sum(recording.duration for recording in recordings))
    started = time.monotonic()
    transcript = pipeline.transcribe(recordings, batch.options, on_progress)
    return transcript, decoding + time.monotonic() - started


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


@contextmanager
def open_recording(path: Path) -> Iterator[BinaryIO]:
    """Raises RecordingNotFound for what is no file too: a pipe would be waited for without end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RecordingNotFound(f"The recording cannot be read ({error.strerror}).") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RecordingNotFound(
            "This is a folder, a pipe or a device and no recording; name the files themselves."
        )
    with open(descriptor, "rb") as file:
        yield file


def _decode(session: Session, channels: Channels, on_progress: OnProgress) -> list[Recording]:
    recordings = []
    for i, path in enumerate(session.recordings):
        on_progress(StageProgress("ingest", i / len(session.recordings)))
        try:
            with open_recording(path) as file:
                recordings.append(decode(file, split_channels=channels != Channels.MIX))
        except (AudioError, RecordingNotFound) as error:
            if len(session.recordings) > 1:
                error.args = (f"Recording {i + 1} of {len(session.recordings)}: {error}",)
            raise
    on_progress(StageProgress("ingest", 1.0))
    return recordings


def finished_transcript(session: Session, batch: Batch) -> Transcript | None:
    """The transcript of an earlier run, if this run would make the same."""
    path = session.output(batch.out, Format.JSON)
    try:
        made_at = path.stat().st_mtime
        if any(recording.stat().st_mtime > made_at for recording in session.recordings):
            return None
        sizes = [recording.stat().st_size for recording in session.recordings]
        transcript = Transcript.from_json(path.read_text(encoding="utf-8"))
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
