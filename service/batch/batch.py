"""Runs a batch: recordings in, transcripts out, without the service.

The JSON of a transcript is the result; the other formats are rendered from it. A session is not
transcribed again if its JSON exists and was made from the same recordings, byte for byte, with the
same weights and options. Several runs can share an output folder: each session is claimed by one of
them (claims.py). Recorders repeat names: a transcript of other recordings is never replaced
or taken for this session's; the new one gets another name. Nor is a file that a person has changed.
"""

import hashlib
import itertools
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from models.errors import OptionError, SpeechError, Stopped, WeightsError
from models.options import Channels, JobOptions
from models.pipeline import COSTLY_STAGES, OnProgress, Pipeline, StageProgress
from models.precision import Precision
from models.transcript import Transcript
from models.weights.catalogue import PipelineWeights, WhisperWeights
from service.batch.claims import BUSY, Claims, Failure
from service.batch.identity import ensure_key, identity_of
from service.batch.outputs import MARK, Earlier, Kept, Outputs, read_earlier, write_outputs
from service.batch.reading import MAX_HELD_SECONDS, Reader, open_recording
from service.errors import OutputNotWritable, RecordingNotFound, SameName, ServiceError
from service.exports import SPECS, Format, Label
from service.exports.files import remove_abandoned, write_whole

MIN_FREE_BYTES = 16 << 20  # many times the transcript of a day-long recording
QUICK_BYTES = 1 << 20  # of the beginning, and of the end, of a recording
ROUNDS = 2  # groups for each run that shares the folder, from the sessions that are left
WAIT_SECONDS = 0.5  # between looks at sessions that other runs have claimed


@dataclass(frozen=True)
class SessionFiles:
    """One or more recordings, in order, that become one transcript."""

    name: str
    recordings: tuple[Path, ...]

    def base(self, folder: Path) -> Path:
        """The path of its files without their extensions."""
        return folder / f"{self.name}.{MARK}"

    def output(self, folder: Path, format: Format) -> Path:
        return folder / f"{self.name}.{MARK}.{SPECS[format].extension}"

    @property
    def sha256s(self) -> list[str]:
        """The SHA-256 of each recording.

        Raises:
            RecordingNotFound
        """
        return list(map(_sha256, self.recordings))

    @property
    def digest(self) -> str:
        """A checksum of each recording's size, beginning and end, cheap even for thousands.

        Raises:
            RecordingNotFound
        """
        return hashlib.sha256("".join(map(_quick_sha256, self.recordings)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open_recording(path) as file:
        status = os.fstat(file.fileno())
    return _sha256_of_version(path, status.st_ino, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of_version(path: Path, inode: int, n_bytes: int, modified_ns: int) -> str:
    with open_recording(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quick_sha256(path: Path) -> str:
    with open_recording(path) as file:
        status = os.fstat(file.fileno())
    return _quick_sha256_of_version(path, status.st_ino, status.st_size, status.st_mtime_ns)


@cache
def _quick_sha256_of_version(path: Path, inode: int, n_bytes: int, modified_ns: int) -> str:
    with open_recording(path) as file:
        content = hashlib.sha256(f"{n_bytes} ".encode() + file.read(QUICK_BYTES))
        file.seek(max(0, n_bytes - QUICK_BYTES))
        content.update(file.read(QUICK_BYTES))
    return content.hexdigest()


@dataclass(frozen=True)
class Result:
    session: SessionFiles
    status: str  # done, skipped, failed
    outputs: tuple[Path, ...] = ()
    transcript: Transcript | None = None
    seconds: float = 0.0  # of processing
    code: str | None = None
    message: str | None = None
    written_as: str | None = None  # if another transcript has the session's name
    edited: bool = False  # that transcript is this session's, and a person has changed it
    kept: tuple[Kept, ...] = ()  # files that a person has changed


@dataclass(frozen=True)
class Batch:
    """What to transcribe, how, and where to. `prepare_output` must have prepared `out`."""

    sessions: tuple[SessionFiles, ...]
    out: Path
    formats: tuple[Format, ...]
    options: JobOptions
    whisper: WhisperWeights
    diarisation: PipelineWeights
    precision: Precision | None = None  # of the models; None: the device's own


def group_into_sessions(files: Sequence[Path], *, join: bool) -> tuple[SessionFiles, ...]:
    """One session per file, or with `join` one session of all files, named after the first.

    Files whose names differ only in their suffix keep it, so that no result overwrites another.

    Raises:
        SameName
    """
    if join:
        return (SessionFiles(files[0].stem, tuple(files)),)
    unique = list(dict.fromkeys(files))
    stems = [file.stem for file in unique]
    names = [file.stem if stems.count(file.stem) == 1 else file.name for file in unique]
    for name in names:
        if names.count(name) > 1:
            raise SameName(
                "Two recordings have the same name, so one transcript would overwrite the other: "
                "run a separate command for each recording."
            )
    return tuple(SessionFiles(name, (file,)) for name, file in zip(names, unique, strict=True))


@dataclass(frozen=True)
class Shard:
    """One of several parts of a set of recordings. A recording's content decides its part."""

    number: int  # from 1
    count: int

    def __contains__(self, session: SessionFiles) -> bool:
        try:
            part = int(session.digest, 16) % self.count
        except RecordingNotFound:
            part = 0  # the first shard reports it
        return part == self.number - 1


def prepare_output(folder: Path) -> None:
    """Create the folder and its key, and test that it can be written to, before hours of work.

    Raises:
        OutputNotWritable, FolderKeyMissing
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_abandoned(folder)
        ensure_key(folder, lambda: any(map(_has_identity, folder.glob(f"*.{MARK}*.json"))))
        write_whole(folder / f".fieldscribe-{MARK}", "Identified transcripts. Keep them safe.\n")
    except FileExistsError:
        raise OutputNotWritable(
            "The output folder is a file or a device: name a folder with --out."
        ) from None
    except OSError as error:
        raise OutputNotWritable(
            f"The output folder cannot be written to ({error.strerror}): choose another with --out."
        ) from None


def _has_identity(path: Path) -> bool:
    earlier = read_earlier(path)
    return earlier is not None and any(each.identity for each in earlier.transcript.sources)


def find_results(batch: Batch) -> Iterator[Result]:
    """Yield the sessions that an earlier run has finished, and write their missing formats."""
    for session in batch.sessions:
        active = _ActiveSession(session)
        with active.step():
            _find_result(active, batch)
        if active.result is not None:
            yield active.timed_result


def run(
    batch: Batch,
    load: Callable[[], Pipeline],
    on_start: Callable[[Mapping[SessionFiles, float]], None],
    on_progress: OnProgress,
    *,
    is_dropped: Callable[[SessionFiles], bool] = lambda session: False,
    old_failures: Iterable[str] | None = None,
) -> Iterator[Result]:
    """Yield a result per session as each is finished. A failure does not stop the rest.

    Short sessions are transcribed in groups, whose windows are decoded together. Sessions that
    another run has claimed come last: they are skipped once it has finished them, and taken over if
    it has died.

    Args:
        load: called once, when there is a recording to transcribe.
        on_start: called with the sessions of a group and their durations in seconds.
        on_progress: called with the progress of the group; the stage `wait` means that other runs
            have all sessions that are left.
        is_dropped: whether a session needs no result any more.
        old_failures: see `Claims`.

    Raises:
        OptionError, WeightsError: every other session would fail in the same way.
        Stopped
    """
    load_once = cache(load)
    by_name = {session.name: session for session in batch.sessions}
    waiting = deque(batch.sessions)
    with (
        Claims(batch.out, old_failures) as claims,
        Reader(
            {name: session.recordings for name, session in by_name.items()},
            split_channels=batch.options.channels != Channels.MIX,
            is_wanted=lambda name: (
                not claims.is_busy(claim_name(by_name[name], batch))
                and find_finished(by_name[name], batch) is None
            ),
        ) as reader,
    ):
        shared = _Shared(batch, claims, reader, waiting, is_dropped)
        for group in _read_groups(shared, load_once, on_progress):
            if any(active.result is None for active in group):
                yield from _process(group, shared, load_once(), on_start, on_progress)
            else:
                yield from (_end(active, shared) for active in group)


@dataclass(frozen=True)
class _Shared:
    """What all steps of a run use."""

    batch: Batch
    claims: Claims
    reader: Reader
    waiting: deque[SessionFiles]  # sessions without a result, in the order of their turns
    is_dropped: Callable[[SessionFiles], bool]

    @property
    def most_sessions(self) -> int:
        """How many sessions a group may have, so that other runs get their part of what is left."""
        n_runs, n_left = self.claims.count_runs(), 1 + len(self.waiting)
        return n_left if n_runs == 1 else max(1, n_left // (ROUNDS * n_runs))


@dataclass(eq=False)
class _ActiveSession:
    """A session that is being processed.

    `state` holds its audio, a gigabyte per four hours, so nothing else may keep a reference to it.
    """

    session: SessionFiles
    state: Any = None  # its recordings, then the result of the latest step of the pipeline
    duration: float = 0.0  # s
    channel_seconds: float = 0.0  # all channels added up
    work_seconds: float = 0.0
    result: Result | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step, and turn an error of this session into its result."""
        started = time.monotonic()
        try:
            yield
        except (OptionError, WeightsError, Stopped):
            raise
        except (SpeechError, ServiceError) as error:
            self.fail(error)
        finally:
            self.work_seconds += time.monotonic() - started

    @property
    def timed_result(self) -> Result:
        assert self.result is not None
        return replace(self.result, seconds=self.work_seconds)

    def fail(self, error: SpeechError | ServiceError) -> None:
        self.state = None
        self.result = Result(self.session, "failed", (), None, 0.0, error.code, str(error))


def _read_groups(
    shared: _Shared, load_once: Callable[[], Pipeline], on_progress: OnProgress
) -> Iterator[list[_ActiveSession]]:
    """Group sessions, in order, until their audio fills the decoder; a long one is a group alone.

    Finished and failed sessions are separate groups unless a group has begun.
    """
    group: list[_ActiveSession] = []
    seconds_left = 0.0
    most = 1  # sessions of the group
    n_busy = 0  # sessions in a row that other runs have
    reader, waiting = shared.reader, shared.waiting

    def on_poll() -> None:
        on_progress(StageProgress("ingest", 1.0))

    while waiting or group:
        if n_busy >= len(waiting):
            if group:
                yield group
                group = []
            else:
                on_progress(StageProgress("wait", 0.0))
                time.sleep(WAIT_SECONDS)
            n_busy = 0
            continue
        session = waiting[0]
        if shared.is_dropped(session):
            reader.release(waiting.popleft().name)
            continue
        if shared.claims.is_busy(claim_name(session, shared.batch)):
            n_busy += 1
            reader.postpone(session.name)
            waiting.rotate(-1)
            continue
        if group and (
            len(group) >= most
            or seconds_left <= 0
            or not reader.fits(session.name, seconds_left, on_poll)
        ):
            yield group
            group = []
        waiting.popleft()
        active = _read(session, shared, on_progress)
        if active is None:
            n_busy += 1
            reader.postpone(session.name)
            waiting.append(session)
            continue
        n_busy = 0
        if active.result is not None and not group:
            yield [active]
            continue
        if not group:
            most = shared.most_sessions
            seconds_left = min(load_once().seconds_at_once, MAX_HELD_SECONDS / 2)
        seconds_left -= active.channel_seconds
        group.append(active)
        del active  # its audio must go when the group does


def _read(session: SessionFiles, shared: _Shared, on_progress: OnProgress) -> _ActiveSession | None:
    """Read a session, or find its result; None if another run has claimed it."""
    active, batch = _ActiveSession(session), shared.batch
    with active.step():
        if not _find_result(active, batch):
            claim = _claim(session, shared)
            if claim == BUSY:
                return None
            if isinstance(claim, Failure):
                active.result = Result(session, "failed", code=claim.code, message=claim.message)
            elif not _find_result(active, batch):  # another run may just have finished it
                _check_output(find_place(session, batch).session, batch)
                active.state = recordings = shared.reader.take(
                    session.name, lambda fraction: on_progress(StageProgress("ingest", fraction))
                )
                active.duration = sum(recording.duration for recording in recordings)
                active.channel_seconds = sum(len(r.samples) * r.duration for r in recordings)
    if active.result is not None:
        shared.reader.release(session.name)
    return active


def _find_result(active: _ActiveSession, batch: Batch) -> bool:
    """Skip a session whose transcript an earlier run has made, and write its missing formats."""
    place = find_place(active.session, batch)
    if place.finished is None:
        return False
    outputs = _write(place.finished, place, batch, missing_only=True)
    active.result = Result(
        active.session,
        "skipped",
        outputs.paths,
        place.finished,
        written_as=place.other_name(active.session),
        edited=place.edited,
        kept=outputs.kept,
    )
    return True


def claim_name(session: SessionFiles, batch: Batch) -> str:
    """What a session's claim is called: other recordings of the same name have another claim."""
    try:
        return f"{session.name}~{identity_of(session.digest, _read_key(batch.out))[:12]}"
    except RecordingNotFound:  # whoever reads it will say so
        return session.name


def _claim(session: SessionFiles, shared: _Shared) -> str | Failure:
    try:
        return shared.claims.take(claim_name(session, shared.batch))
    except OSError as error:
        raise _not_writable(error) from None


def _not_writable(error: OSError) -> OutputNotWritable:
    return OutputNotWritable(
        f"The output folder cannot be written to ({error.strerror}): choose another with --out."
    )


def _end(active: _ActiveSession, shared: _Shared) -> Result:
    """End a session's claim, which other runs wait for."""
    result, name = active.timed_result, claim_name(active.session, shared.batch)
    if result.status == "failed":
        shared.claims.fail(name, result.code or "", result.message or "")
    else:
        shared.claims.release(name)
    return result


def _process(
    group: Sequence[_ActiveSession],
    shared: _Shared,
    pipeline: Pipeline,
    on_start: Callable[[Mapping[SessionFiles, float]], None],
    on_progress: OnProgress,
) -> Iterator[Result]:
    pending = [active for active in group if active.result is None]
    on_start({active.session: active.duration for active in pending})
    progress = _GroupProgress(pending, on_progress)
    for active in pending:
        with active.step():
            active.state = pipeline.segment(
                active.state, shared.batch.options, progress.of_session(active)
            )
    _transcribe([active for active in pending if active.result is None], pipeline, progress)
    # One session behind: its speakers are clustered while the next session is embedded.
    previous: _ActiveSession | None = None
    for active in group:
        if active.result is None:
            with active.step():
                active.state = pipeline.diarise(active.state, progress.of_session(active))
        if previous:
            yield from _finish(previous, shared, pipeline, progress)
        previous = active
    if previous:
        yield from _finish(previous, shared, pipeline, progress)


def _transcribe(
    sessions: Sequence[_ActiveSession], pipeline: Pipeline, progress: "_GroupProgress"
) -> None:
    if not sessions:
        return
    started = time.monotonic()
    try:
        transcribed = pipeline.find_words([active.state for active in sessions], progress.update)
    except (OptionError, WeightsError, Stopped):
        raise
    except SpeechError as error:  # the device has no memory for a single window
        for active in sessions:
            active.fail(error)
        return
    seconds_per_second = (time.monotonic() - started) / sum(active.duration for active in sessions)
    for active, state in zip(sessions, transcribed, strict=True):
        active.state = state
        active.work_seconds += seconds_per_second * active.duration


def _finish(
    active: _ActiveSession,
    shared: _Shared,
    pipeline: Pipeline,
    progress: "_GroupProgress",
) -> Iterator[Result]:
    """Yield the result, unless another run took the session over while this one was frozen."""
    session, batch = active.session, shared.batch
    if active.result is None:
        with active.step():
            transcript = pipeline.finish(active.state, progress.of_session(active))
            if not shared.claims.still_holds(claim_name(session, batch)):
                active.state = None
                shared.claims.release(claim_name(session, batch))
                shared.reader.postpone(session.name)
                shared.waiting.append(session)
                return
            identities = _identify(session, batch.out)
            sources = zip(transcript.sources, identities, strict=True)
            transcript = replace(
                transcript, sources=tuple(replace(source, identity=i) for source, i in sources)
            )
            with shared.claims.alone(session.name):  # of other recordings with the same name
                place = find_place(session, batch)
                outputs = _write(transcript, place, batch)
            active.result = Result(
                session,
                "done",
                outputs.paths,
                transcript,
                written_as=place.other_name(session),
                edited=place.edited,
                kept=outputs.kept,
            )
    active.state = None
    shared.reader.release(session.name)
    yield _end(active, shared)


class _GroupProgress:
    """The progress of a group, computed from the progress of its sessions."""

    def __init__(self, sessions: Sequence[_ActiveSession], on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._latest = StageProgress("", 0.0)
        total = sum(active.duration for active in sessions)
        self._shares = {active: active.duration / total for active in sessions}

    def of_session(self, active: _ActiveSession) -> OnProgress:
        """A callback for a step that works on one session."""
        sessions = list(self._shares)
        before = sum(self._shares[other] for other in sessions[: sessions.index(active)])

        def report(progress: StageProgress) -> None:
            if progress.stage in COSTLY_STAGES:
                fraction = min(before + self._shares[active] * progress.fraction, 1.0)
                self.update(StageProgress(progress.stage, fraction))
            elif active is sessions[-1]:
                self.update(progress)
            else:  # other sessions of the group have not reached this stage
                self.update(self._latest)

        return report

    def update(self, progress: StageProgress) -> None:
        if progress.stage == self._latest.stage:  # never backwards: `finish` is a session behind
            progress = max(progress, self._latest, key=lambda each: each.fraction)
        self._latest = progress
        self._on_progress(progress)


def _check_output(session: SessionFiles, batch: Batch) -> None:
    """Test that the results can be written, before hours of work.

    Raises:
        OutputNotWritable
    """
    prepare_output(batch.out)
    if shutil.disk_usage(batch.out).free < MIN_FREE_BYTES:
        raise OutputNotWritable(
            "The disk is full: free some space, or choose another folder with --out."
        )
    result = session.output(batch.out, Format.JSON)
    trial = result.with_name(f".{result.name}")
    try:
        trial.touch(mode=0o600)
        trial.unlink()
    except OSError as error:
        raise OutputNotWritable(
            f"The transcript cannot be named after the recording ({error.strerror}): "
            "give the recording a shorter or simpler name."
        ) from None
    if any(session.output(batch.out, format).is_dir() for format in Format):
        raise OutputNotWritable(
            "A folder has the name of the transcript: move it, or choose another with --out."
        )


@dataclass(frozen=True)
class Place:
    """Where a session's transcript is or will be."""

    session: SessionFiles  # with the name under which it is written
    finished: Transcript | None = None  # of an earlier run, if this run would make the same one
    earlier: Earlier | None = None  # what is there now
    edited: bool = False  # a transcript that a person has changed has an earlier name

    def other_name(self, wanted: SessionFiles) -> str | None:
        return self.session.name if self.session != wanted else None


def find_place(session: SessionFiles, batch: Batch) -> Place:
    """The first of `NAME`, `NAME-2`, ... that this session may have.

    It has no transcript of other recordings, and none that a person has changed, unless this run
    would make the same one.
    """
    edited = False
    for number in itertools.count(1):
        named = replace(session, name=session.name if number == 1 else f"{session.name}-{number}")
        earlier = read_earlier(named.output(batch.out, Format.JSON))
        if earlier is None:
            return Place(named, edited=edited)
        try:
            same_recordings = _has_sources(earlier.transcript, session, batch.out)
        except RecordingNotFound:
            return Place(session)  # and reading it will fail
        if same_recordings:
            made_with = earlier.transcript.made_with
            same = (
                made_with.whisper_sha256 == batch.whisper.sha256
                and made_with.diarisation_sha256 == batch.diarisation.sha256
                and made_with.options == batch.options.to_transcript(batch.precision)
            )
            if same:
                return Place(named, earlier.transcript, earlier, edited)
            if not earlier.changed:
                return Place(named, None, earlier, edited)
            edited = True
    raise AssertionError("unreachable")


def _identify(session: SessionFiles, folder: Path) -> list[str]:
    """The keyed checksum of each recording.

    Raises:
        RecordingNotFound, FolderKeyMissing
    """
    return [identity_of(sha256, _read_key(folder)) for sha256 in session.sha256s]


def _read_key(folder: Path) -> bytes:
    return ensure_key(folder, lambda: True)


def _has_sources(transcript: Transcript, session: SessionFiles, folder: Path) -> bool:
    sources = transcript.sources
    if any(source.identity is None for source in sources):  # of an earlier version, or the service
        return [source.sha256 for source in sources] == session.sha256s
    return [source.identity for source in sources] == _identify(session, folder)


def find_finished(session: SessionFiles, batch: Batch) -> Transcript | None:
    """The transcript of an earlier run, if this run would make the same one."""
    return find_place(session, batch).finished


def _write(
    transcript: Transcript, place: Place, batch: Batch, *, missing_only: bool = False
) -> Outputs:
    """Write all formats. The JSON comes last: if it exists, so do the others."""
    session = place.session
    try:
        return write_outputs(
            transcript,
            session.base(batch.out),
            sorted(set(batch.formats)),
            Label(session=session.name),
            earlier=place.earlier,
            missing_only=missing_only,
        )
    except OSError as error:
        raise OutputNotWritable(f"The transcript cannot be written ({error.strerror}).") from None
