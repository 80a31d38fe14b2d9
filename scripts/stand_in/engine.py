"""An engine that loads no torch: each recording holds its instructions.

A recording is a JSON object. "seconds" is how long each stage takes. "die_in", "hang_in", "fail_in"
and "fault_in" name the stage that does so; the stage "wait_in" waits until the file "until" exists;
the stage "decoder_dies_in" fails once and creates that file; "discard" discards the stored results.
"die_on" names a GPU, a value of CUDA_VISIBLE_DEVICES, on which the engine dies in the stage
transcribe. A GPU fails its check while the file that STAND_IN_BROKEN names holds its number.
Any other recording finishes at once. Each step is appended to the file named by the variable
STAND_IN_LOG, as `<stage> <job> <pid>` and `end-<stage> <job> <pid>`.
"""

import json
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from models.audio.errors import DecoderKilled, SilentAudio
from models.transcript import MadeWith, Segment, Source, Transcript, Turn, Word
from service.domain.engine_job import EngineJob
from service.worker.protocol import Engine, OnProgress

STORED_STAGES = ("segment", "transcribe", "align", "diarise")
FAULT = "CUDA error: my name is Eva Muster"
STAGES = ("ingest", *STORED_STAGES, "attribute", "check")


def open_engine(weights: Path, precision: str | None) -> Engine:
    return StandInEngine()


class StandInEngine:
    loaded = False

    def __init__(self) -> None:
        self.device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu"

    def check(self) -> None:
        broken = os.environ.get("STAND_IN_BROKEN")
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        if broken and gpu and Path(broken).exists() and gpu in Path(broken).read_text().split():
            raise RuntimeError(f"GPU {gpu} is broken")

    def load(self, job: EngineJob) -> dict[str, float] | None:
        if self.loaded:
            return None
        self.loaded = True
        log_step("load", job)
        return dict.fromkeys(STORED_STAGES, 0.1)

    def segment(
        self, job: EngineJob, recordings: Iterable[IO[bytes]], on_progress: OnProgress, results: Any
    ) -> "StandInSession":
        contents = [file.read() for file in recordings]
        session = StandInSession(job, len(contents), read_instructions(contents[0]), results)
        if session.instructions.get("discard"):
            results.discard()
        for stage in ("ingest", "segment"):
            run_stage(stage, [session], on_progress)
        return session

    def find_words(
        self, sessions: Sequence["StandInSession"], on_progress: OnProgress
    ) -> Sequence["StandInSession"]:
        for stage in ("transcribe", "align"):
            run_stage(stage, sessions, on_progress)
        return sessions

    def finish(self, session: "StandInSession", on_progress: OnProgress) -> Transcript:
        for stage in ("diarise", "attribute", "check"):
            run_stage(stage, [session], on_progress)
        return make_transcript(session.n_recordings)

    def unload(self) -> None:
        if self.loaded:
            append_to_log("unload")
        self.loaded = False


@dataclass(frozen=True)
class StandInSession:
    job: EngineJob
    n_recordings: int
    instructions: dict[str, Any]
    results: Any


def run_stage(stage: str, sessions: Sequence[StandInSession], on_progress: OnProgress) -> None:
    """Run a stage of sessions that are in it together."""
    missing = []
    for session in sessions:
        if stage in STORED_STAGES and (found := session.results.load(stage)) is not None:
            assert found == f"result of {stage}".encode()
        else:
            missing.append(session)
            log_step(stage, session.job)
    for session in missing:
        follow(session.instructions, stage, on_progress)
    if missing:
        on_progress(stage, 1.0)
    for session in missing:
        if stage in STORED_STAGES:
            session.results.save(stage, f"result of {stage}".encode())
        log_step(f"end-{stage}", session.job)


def read_instructions(recording: bytes) -> dict[str, Any]:
    try:
        instructions: dict[str, Any] = json.loads(recording)
    except ValueError:
        return {}
    return instructions


def follow(instructions: dict[str, Any], stage: str, on_progress: OnProgress) -> None:
    if instructions.get("die_in") == stage:
        time.sleep(0.2)  # until the worker has read that the stage began
        os.kill(os.getpid(), signal.SIGKILL)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stage == "transcribe" and gpu and instructions.get("die_on") == gpu:
        os.kill(os.getpid(), signal.SIGKILL)
    if instructions.get("fail_in") == stage:
        raise SilentAudio("as instructed")
    if instructions.get("decoder_dies_in") == stage and not Path(instructions["until"]).exists():
        Path(instructions["until"]).touch()
        raise DecoderKilled("as instructed")
    if instructions.get("fault_in") == stage:
        raise RuntimeError(FAULT)
    seconds = instructions.get("seconds", 0)
    steps = max(1, round(seconds / 0.05))
    for i in range(steps):
        on_progress(stage, i / steps)
        time.sleep(seconds / steps)
    while instructions.get("hang_in") == stage:
        time.sleep(1)
    while instructions.get("wait_in") == stage and not Path(instructions["until"]).exists():
        on_progress(stage, 0.5)
        time.sleep(0.05)


def log_step(step: str, job: EngineJob) -> None:
    append_to_log(f"{step} {job.id} {os.getpid()}")


def append_to_log(line: str) -> None:
    if path := os.environ.get("STAND_IN_LOG"):
        with open(path, "a") as file:
            file.write(f"{line}\n")


def make_transcript(n_recordings: int) -> Transcript:
    words = (Word(" Hello", 0.0, 0.5, 0.9), Word(" there", 0.5, 1.0, 0.8))
    return Transcript(
        duration=10.0,
        language="en",
        language_probability=None,
        speakers=("SPEAKER_00",),
        segments=(Segment("SPEAKER_00", 0.0, 1.0, words),),
        turns=(Turn(0.0, 1.0, "SPEAKER_00"),),
        overlaps=(),
        flags=(),
        sources=(Source(0.0, 10.0, "wav", "pcm_s16le", 16000, 1, 320_044),) * n_recordings,
        made_with=MadeWith("0", "stand-in", "0" * 64, "stand-in", "0" * 64, "cpu", {}, {}),
    )
