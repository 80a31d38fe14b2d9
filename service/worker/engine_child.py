"""The worker's engine child: holds the models, and the data keys of the current jobs only.

    python -m service.worker.engine_child PARENT ENGINE_MODULE VAULT WEIGHTS PRECISION \\
        IDLE_SECONDS ALLOW_WEAK_SANDBOX DEVICE

VAULT and WEIGHTS are folders; an empty PRECISION or DEVICE means the default. If the artefacts are
in a bucket, the first message on standard input says which, because arguments are not secret.

Decrypted recordings stay in memory. The process exits as soon as its standard input closes.
"""

import importlib
import io
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID, uuid4

from models.audio.ffmpeg_child import allow_weak_sandbox
from models.audio.memory_file import memory_file
from models.errors import SpeechError, Stopped
from models.transcript import Transcript
from models.transcript_json import to_json
from service.domain.engine_job import TRANSCRIPT, VOCABULARY, VOCABULARY_MISSING, EngineJob
from service.errors import ServiceError
from service.processes import disable_core_dumps, end_with_parent, log_to_stderr
from service.vault import ArtefactClass
from service.vault.bucket import BucketAddress, BucketObjects
from service.vault.errors import ArtefactMissing, DiskFull, StorageUnreachable
from service.vault.store import Artefact, Store
from service.vault.streaming import SEGMENT_SIZE
from service.worker.protocol import Engine

PROGRESS_INTERVAL = 0.2  # s

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    parent, module, vault, weights, precision, idle, allow_weak, device = arguments
    disable_core_dumps()
    end_with_parent(signal.SIGKILL, int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log_to_stderr()
    allow_weak_sandbox(allow_weak == "1")
    # Libraries print to standard output, so our messages get another descriptor.
    messages = open(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    store = Store(ArtefactClass.IDENTIFIED, Path(vault) / ArtefactClass.IDENTIFIED)
    engine: Engine = importlib.import_module(module).open_engine(Path(weights), precision or None)
    if device.startswith("cuda") and not engine.device.startswith("cuda"):
        sys.exit(f"{device} cannot be used: torch finds no GPU there")
    EngineChild(engine, store, messages, float(idle)).serve()


class EngineChild:
    """Runs the groups that arrive on standard input, one at a time, and reports on `messages`."""

    def __init__(
        self, engine: Engine, store: Store, messages: io.TextIOBase, idle_seconds: float
    ) -> None:
        self._engine, self._store, self._messages = engine, store, messages
        self._idle_seconds = idle_seconds
        # None: check the device
        self._groups: queue.Queue[Sequence[EngineJob] | None] = queue.Queue()
        self._stopping: set[UUID] = set()  # jobs; never cleared, because a stopped job ends
        self._must_yield = threading.Event()

    def serve(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            try:
                jobs = self._groups.get(timeout=self._idle_seconds)
            except queue.Empty:
                self._engine.unload()
                continue
            if jobs is None:
                self._check()
            else:
                self.run(jobs)

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if "stop" in message:
                self._stopping.add(UUID(message["stop"]))
            elif message.get("yield"):
                self._must_yield.set()
            elif message.get("check"):
                self._groups.put(None)
            elif bucket := message.get("bucket"):
                objects = BucketObjects(BucketAddress(**bucket), self._store.folder / "spool")
                self._store = Store(self._store.artefact_class, self._store.folder, objects)
            else:
                self._must_yield.clear()
                self._groups.put([EngineJob.from_message(job) for job in message["jobs"]])
        os._exit(0)  # the worker is gone: nothing would read the main thread's result

    def _check(self) -> None:
        try:
            self._engine.check()
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the device is not usable
            log.error("the device fails its check: %s: %s", type(error).__name__, error)
            os._exit(1)
        self.send("checked", device=self._engine.device)

    def run(self, jobs: Sequence[EngineJob]) -> None:
        """Transcribe the jobs of a group. The first is never handed back."""
        group = [ActiveJob(self, job) for job in jobs]
        with self.step(*group):
            trial = self._engine.load(jobs[0])
            for active in group:
                active.send("loaded", device=self._engine.device, trial=trial)
                trial = None
        for active in group:
            with self.step(active):
                self._yield_before(active, group)
                active.session = self._open(active)
        self._find_words([active for active in group if not active.has_ended])
        for active in group:
            with self.step(active):
                self._yield_before(active, group)
                active.check()
                active.finish(self._engine.finish(active.session, active.report))
            active.session = None  # its audio

    def _yield_before(self, active: "ActiveJob", group: Sequence["ActiveJob"]) -> None:
        if self._must_yield.is_set() and active is not group[0]:
            active.end("handed_back")

    def _open(self, active: "ActiveJob") -> Any:
        active.check()
        vocabulary = active.read_vocabulary()
        job = replace(active.job, options=replace(active.job.options, vocabulary=vocabulary))
        with closing(self._open_recordings(active)) as recordings:
            return self._engine.segment(job, recordings, active.report, active)

    def _open_recordings(self, active: "ActiveJob") -> Generator[BinaryIO, None, None]:
        """Decrypt one recording at a time: all of them would take hundreds of megabytes."""
        job = active.job
        for i, id in enumerate(job.recordings):
            active.report("ingest", i / len(job.recordings))
            artefact = Artefact(job.study_id, id, "recording", id)
            with self._store.open(artefact, job.keys[id]) as reader:
                file = memory_file(iter(lambda: reader.read(16 * SEGMENT_SIZE), b""))
            with file:
                yield file

    def _find_words(self, group: Sequence["ActiveJob"]) -> None:
        if not group:
            return
        total = sum(active.job.audio_seconds for active in group)
        for active in group:
            active.share = active.job.audio_seconds / total if total else 1 / len(group)

        def report(stage: str, fraction: float) -> None:
            for active in group:
                with self.step(active):
                    active.report(stage, fraction)
            if all(active.has_ended for active in group):
                raise Stopped("All jobs of the group have ended")

        with self.step(*group):
            sessions = self._engine.find_words([active.session for active in group], report)
            for active, session in zip(group, sessions, strict=True):
                active.session, active.share = session, 1.0

    @contextmanager
    def step(self, *jobs: "ActiveJob") -> Iterator[None]:
        """Turn an error into the end of these jobs, and of no others."""
        try:
            yield
        except Stopped:
            for active in jobs:
                active.end("stopped")
        except SpeechError as error:
            for active in jobs:
                active.end("failed", code=error.code, retryable=error.retryable)
        except ServiceError as error:
            passes = isinstance(error, DiskFull | StorageUnreachable)
            for active in jobs:
                active.end("failed", code=error.code, retryable=passes)
        except Exception as error:  # noqa: BLE001
            # Its message is not logged, because it may quote anything. After a GPU fault this
            # process cannot be trusted: it exits, and the worker starts another.
            log.error(
                "job %s: %s\n%s",
                ", ".join(str(active.job.id) for active in jobs),
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
            )
            for active in jobs:
                active.end("failed", code="internal_error", retryable=True)
            os._exit(1)

    def is_stopping(self, job: EngineJob) -> bool:
        return job.id in self._stopping

    def read(self, job: EngineJob, artefact: Artefact) -> bytes:
        with self._store.open(artefact, job.keys[job.id]) as file:
            return file.read()

    def write(self, job: EngineJob, artefact: Artefact, data: bytes) -> None:
        with self._store.write(artefact, job.keys[job.id]) as file:
            file.write(data)

    def send(self, event: str, **fields: Any) -> None:
        self._messages.write(json.dumps({"event": event, **fields}) + "\n")


class ActiveJob:
    """A job of the current group: its stage, and its stage results, stored as artefacts.

    Attributes:
        session: its audio and what is known of it.
        share: of the time of a stage that several jobs are in.
    """

    def __init__(self, child: EngineChild, job: EngineJob) -> None:
        self._child, self.job = child, job
        self.session: Any = None
        self.share = 1.0
        self.has_ended = False
        self._warnings: list[str] = []
        self._stage = ""
        self._started = self._reported = time.monotonic()

    def check(self) -> None:
        """
        Raises:
            Stopped: the job is to stop, or has ended.
        """
        if self.has_ended or self._child.is_stopping(self.job):
            raise Stopped("The job was stopped")

    def report(self, stage: str, fraction: float) -> None:
        """Report progress.

        Raises:
            Stopped: the job is to stop, or has ended.
        """
        self.check()
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started = stage, now
        elif now - self._reported < PROGRESS_INTERVAL and fraction < 1:
            return
        self._reported = now
        self.send("progress", stage=stage, fraction=fraction)

    def read_vocabulary(self) -> tuple[str, ...]:
        id = self.job.vocabulary_artefact_id
        if id is None:
            return self.job.options.vocabulary
        try:
            words = self._child.read(self.job, self.job.artefact(VOCABULARY, id))
        except ArtefactMissing:
            self._warnings.append(VOCABULARY_MISSING)
            return self.job.options.vocabulary
        return tuple(line for line in words.decode().splitlines() if line.strip())

    def load(self, stage: str) -> bytes | None:
        id = self.job.stored.get(stage)
        if id is None:
            return None
        with self._child.step(self):  # it may be in a stage with others
            try:
                return self._child.read(self.job, self.job.stage_artefact(stage, id))
            except ArtefactMissing:  # for example after a restore: the stages run again
                log.warning(
                    "job %s: the result of %s is missing from the vault", self.job.id, stage
                )
                self.discard()
        return None

    def discard(self) -> None:
        self.job = replace(self.job, stored={})
        self.send("discarded")

    def save(self, stage: str, data: bytes) -> None:
        if self.has_ended:
            return
        id = uuid4()
        seconds = (time.monotonic() - self._started) * self.share
        with self._child.step(self):  # it may be in a stage with others
            self._child.write(self.job, self.job.stage_artefact(stage, id), data)
            self.send("saved", stage=stage, artefact_id=str(id), seconds=round(seconds, 3))

    def finish(self, transcript: Transcript) -> None:
        """Store the transcript.

        Raises:
            Stopped: the job is to stop, or has ended.
        """
        self.check()
        transcript = replace(transcript, warnings=(*self._warnings, *transcript.warnings))
        id = uuid4()
        content = to_json(transcript).encode()
        self._child.write(self.job, self.job.artefact(TRANSCRIPT, id), content)
        self.end(
            "done",
            artefact_id=str(id),
            speakers=list(transcript.speakers),
            warnings=list(transcript.warnings),
            audio_seconds=transcript.duration,
        )

    def end(self, event: str, **fields: Any) -> None:
        """Send the last message about the job, once, and free its audio."""
        if not self.has_ended:
            self.has_ended, self.session = True, None
            self.send(event, **fields)

    def send(self, event: str, **fields: Any) -> None:
        self._child.send(event, job=str(self.job.id), **fields)


if __name__ == "__main__":
    main(sys.argv[1:])
