"""Batch mode: recordings in, transcripts out, without the service.

The JSON of a transcript is what was computed; the other formats are views of it. A recording whose
JSON is there, newer than the recording and made with the same weights and options, is not
transcribed again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from models.audio import Recording, decode
from models.channels import Channels
from models.errors import SpeechError, Stopped
from models.pipeline import OnProgress, Pipeline, StageProgress, TranscribeOptions
from models.transcript import Transcript
from models.weights import PipelineWeights, WhisperWeights
from service.errors import OutputNotWritable, RecordingNotFound, SameName, ServiceError
from service.exports import FORMATS, Format
from service.exports.files import write_whole

MARK = "identified"  # part of every name: INT-07.identified.txt


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
        write_whole(folder / f".fieldscribe-{MARK}", "Identified transcripts. Keep them safe.\n")
    except OSError as error:
        raise OutputNotWritable(
            f"The output folder cannot be written to ({error.strerror}); choose another with --out."
        ) from None


def run(
    batch: Batch,
    load: Callable[[], Pipeline],
    on_start: Callable[[Session], None],
    on_progress: OnProgress,
) -> Iterator[Result]:
    """A result per session, as they are finished. A bad recording does not stop the others.

    Args:
        load: called once, when there is something to transcribe.
    """
    pipeline: Pipeline | None = None
    for session in batch.sessions:
        finished = _finished(session, batch)
        if finished:
            outputs = _write(finished, session, batch, missing_only=True)
            yield Result(session, "skipped", outputs, finished)
            continue
        pipeline = pipeline or load()
        on_start(session)
        started = time.monotonic()
        try:
            recordings = _decode(session, batch.options.channels, on_progress)
            transcript = pipeline.transcribe(recordings, batch.options, on_progress)
            outputs = _write(transcript, session, batch)
        except Stopped:
            raise
        except (SpeechError, ServiceError) as error:
            seconds = time.monotonic() - started
            yield Result(session, "failed", (), None, seconds, error.code, str(error))
            continue
        yield Result(session, "done", outputs, transcript, time.monotonic() - started)


def _decode(session: Session, channels: Channels, on_progress: OnProgress) -> list[Recording]:
    recordings = []
    for i, path in enumerate(session.recordings):
        on_progress(StageProgress("ingest", i / len(session.recordings)))
        with ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise RecordingNotFound(
                    f"The recording cannot be read ({error.strerror})."
                ) from None
            recordings.append(decode(file, split_channels=channels != Channels.MIX))
    on_progress(StageProgress("ingest", 1.0))
    return recordings


def _finished(session: Session, batch: Batch) -> Transcript | None:
    """The transcript of an earlier run, if this run would make the same."""
    path = session.output(batch.out, Format.JSON)
    try:
        made_at = path.stat().st_mtime
        if any(recording.stat().st_mtime > made_at for recording in session.recordings):
            return None
        sizes = [recording.stat().st_size for recording in session.recordings]
        transcript = Transcript.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
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
    paths = []
    formats = {*batch.formats, Format.JSON}
    for format in sorted(formats, key=lambda format: (format == Format.JSON, format)):
        path = session.output(batch.out, format)
        if not (missing_only and path.exists()):
            try:
                write_whole(path, FORMATS[format](transcript))
            except OSError as error:
                raise OutputNotWritable(
                    f"The result cannot be written ({error.strerror})."
                ) from None
        paths.append(path)
    return tuple(paths)
