"""The worker's engine child: holds the models, and the data keys of the current job only.

    python -m service.worker.engine_child PARENT ENGINE_MODULE VAULT WEIGHTS PRECISION \\
        IDLE_SECONDS ALLOW_WEAK_SANDBOX DEVICE

VAULT and WEIGHTS are folders; an empty PRECISION or DEVICE means the default.

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
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from models.audio.ffmpeg_child import allow_weak_sandbox
from models.audio.memory_file import memory_file
from models.errors import SpeechError, Stopped
from models.transcript_json import to_json
from service.domain.engine_job import TRANSCRIPT, VOCABULARY, VOCABULARY_MISSING, EngineJob
from service.errors import ServiceError
from service.processes import disable_core_dumps, end_with_parent, log_to_stderr
from service.vault import ArtefactClass
from service.vault.errors import ArtefactMissing, DiskFull
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
    """Runs the jobs that arrive on standard input, one at a time, and reports on `messages`."""

    def __init__(
        self, engine: Engine, store: Store, messages: io.TextIOBase, idle_seconds: float
    ) -> None:
        self._engine, self._store, self._messages = engine, store, messages
        self._idle_seconds = idle_seconds
        self._jobs: queue.Queue[EngineJob | None] = queue.Queue()  # None: check the device
        self._stop = threading.Event()

    def serve(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_seconds)
            except queue.Empty:
                self._engine.unload()
                continue
            if job is None:
                self._check()
            else:
                self._run(job)

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if message.get("stop"):
                self._stop.set()
            elif message.get("check"):
                self._jobs.put(None)
            else:
                self._stop.clear()
                self._jobs.put(EngineJob.from_message(message))
        os._exit(0)  # the worker is gone: nothing would read the main thread's result

    def _check(self) -> None:
        try:
            self._engine.check()
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the device is not usable
            log.error("the device fails its check: %s: %s", type(error).__name__, error)
            os._exit(1)
        self._send("checked", device=self._engine.device)

    def _run(self, job: EngineJob) -> None:
        try:
            self._send("done", **self._transcribe(job))
        except Stopped:
            self._send("stopped")
        except SpeechError as error:
            self._send("failed", code=error.code, retryable=error.retryable)
        except ServiceError as error:
            self._send("failed", code=error.code, retryable=isinstance(error, DiskFull))
        except Exception as error:  # noqa: BLE001
            # Its message is not logged, because it may quote anything. After a GPU fault this
            # process cannot be trusted: it exits, and the worker starts another.
            log.error(
                "job %s: %s\n%s",
                job.id,
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
            )
            self._send("failed", code="internal_error", retryable=True)
            os._exit(1)

    def _transcribe(self, job: EngineJob) -> dict[str, Any]:
        trial = self._engine.load(job)
        self._send("loaded", device=self._engine.device, trial=trial)
        warnings = []
        if job.vocabulary_artefact_id is not None:
            try:
                words = self._read(job, job.artefact(VOCABULARY, job.vocabulary_artefact_id))
                vocabulary = tuple(line for line in words.decode().splitlines() if line.strip())
                job = replace(job, options=replace(job.options, vocabulary=vocabulary))
            except ArtefactMissing:
                warnings.append(VOCABULARY_MISSING)
        results = JobResults(self, job)
        with closing(self._open_recordings(job, results)) as recordings:
            transcript = self._engine.transcribe(
                job,
                recordings,
                lambda stage, fraction: self._report_progress(results, stage, fraction),
                results,
            )
        transcript = replace(transcript, warnings=(*warnings, *transcript.warnings))
        artefact_id = uuid4()
        self._write(job, job.artefact(TRANSCRIPT, artefact_id), to_json(transcript).encode())
        return {
            "artefact_id": str(artefact_id),
            "speakers": list(transcript.speakers),
            "warnings": list(transcript.warnings),
            "audio_seconds": transcript.duration,
        }

    def _open_recordings(
        self, job: EngineJob, results: "JobResults"
    ) -> Generator[BinaryIO, None, None]:
        """Decrypt one recording at a time: all of them would take hundreds of megabytes."""
        for i, id in enumerate(job.recordings):
            self._report_progress(results, "ingest", i / len(job.recordings))
            artefact = Artefact(job.study_id, id, "recording", id)
            with self._store.open(artefact, job.keys[id]) as reader:
                file = memory_file(iter(lambda: reader.read(16 * SEGMENT_SIZE), b""))
            with file:
                yield file

    def _report_progress(self, results: "JobResults", stage: str, fraction: float) -> None:
        if self._stop.is_set():
            raise Stopped("The job was stopped")
        now = time.monotonic()
        if stage != results.stage:
            results.stage, results.started = stage, now
        elif now - results.reported < PROGRESS_INTERVAL and fraction < 1:
            return
        results.reported = now
        self._send("progress", stage=stage, fraction=fraction)

    def _read(self, job: EngineJob, artefact: Artefact) -> bytes:
        with self._store.open(artefact, job.keys[job.id]) as file:
            return file.read()

    def _write(self, job: EngineJob, artefact: Artefact, data: bytes) -> None:
        with self._store.write(artefact, job.keys[job.id]) as file:
            file.write(data)

    def _send(self, event: str, **fields: Any) -> None:
        self._messages.write(json.dumps({"event": event, **fields}) + "\n")


class JobResults:
    """One job's stage results, stored as artefacts, and the stage the job is in."""

    def __init__(self, child: EngineChild, job: EngineJob) -> None:
        self._child, self._job = child, job
        self.stage = ""
        self.started = self.reported = time.monotonic()

    def load(self, stage: str) -> bytes | None:
        id = self._job.stored.get(stage)
        if id is None:
            return None
        try:
            return self._child._read(self._job, self._job.stage_artefact(stage, id))
        except ArtefactMissing:  # for example after a restore: the stages run again
            log.warning("job %s: the result of %s is missing from the vault", self._job.id, stage)
            self.discard()
            return None

    def discard(self) -> None:
        self._job = replace(self._job, stored={})
        self._child._send("discarded")

    def save(self, stage: str, data: bytes) -> None:
        id = uuid4()
        seconds = time.monotonic() - self.started
        self._child._write(self._job, self._job.stage_artefact(stage, id), data)
        self._child._send("saved", stage=stage, artefact_id=str(id), seconds=round(seconds, 3))


if __name__ == "__main__":
    main(sys.argv[1:])
