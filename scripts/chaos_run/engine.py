"""An engine that loads no torch. Its results name the recordings that they were made from.

This reveals transcripts of the wrong recordings, or made from another job's results.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from models.transcript import MadeWith, Segment, Source, Transcript, Turn, Word
from service.domain.engine_job import EngineJob
from service.worker.protocol import Engine, OnProgress

STORED_STAGES = ("segment", "transcribe", "align", "diarise")
STAGES = ("ingest", *STORED_STAGES, "attribute", "check")
STAGE_SECONDS = 0.12
STEPS = 3  # reports of progress in a stage


def open_engine(weights: Path, precision: str | None) -> Engine:
    return NamingEngine()


def name_of(recording: bytes) -> str:
    """The word that stands for a recording in transcripts."""
    return hashlib.sha256(recording).hexdigest()


class NamingEngine:
    device = "cpu"

    def check(self) -> None:
        pass

    def load(self, job: EngineJob) -> dict[str, float] | None:
        return None

    def segment(
        self, job: EngineJob, recordings: Iterable[IO[bytes]], on_progress: OnProgress, results: Any
    ) -> "NamedSession":
        session = NamedSession([name_of(file.read()) for file in recordings], results)
        for stage in ("ingest", "segment"):
            run_stage(stage, [session], on_progress)
        return session

    def find_words(
        self, sessions: Sequence["NamedSession"], on_progress: OnProgress
    ) -> Sequence["NamedSession"]:
        for stage in ("transcribe", "align"):
            run_stage(stage, sessions, on_progress)
        return sessions

    def finish(self, session: "NamedSession", on_progress: OnProgress) -> Transcript:
        for stage in ("diarise", "attribute", "check"):
            run_stage(stage, [session], on_progress)
        return make_transcript(session.names)

    def unload(self) -> None:
        pass


@dataclass(frozen=True)
class NamedSession:
    names: list[str]
    results: Any


def run_stage(stage: str, sessions: Sequence[NamedSession], on_progress: OnProgress) -> None:
    """Run a stage of sessions that are in it together."""
    missing = []
    for session in sessions:
        content = f"{stage} of {' '.join(session.names)}".encode()
        if stage in STORED_STAGES and (found := session.results.load(stage)) is not None:
            assert found == content, "a result of other recordings"
        else:
            missing.append((session, content))
    if not missing:
        return
    for step in range(STEPS):
        on_progress(stage, step / STEPS)
        time.sleep(STAGE_SECONDS / STEPS)
    on_progress(stage, 1.0)
    for session, content in missing:
        if stage in STORED_STAGES:
            session.results.save(stage, content)


def make_transcript(names: list[str]) -> Transcript:
    words = tuple(Word(f" {name}", i, i + 1.0, 0.9) for i, name in enumerate(names))
    return Transcript(
        duration=float(len(names)),
        language="en",
        language_probability=None,
        speakers=("SPEAKER_00",),
        segments=(Segment("SPEAKER_00", 0.0, float(len(names)), words),),
        turns=(Turn(0.0, float(len(names)), "SPEAKER_00"),),
        overlaps=(),
        flags=(),
        sources=(Source(0.0, 1.0, "wav", "pcm_s16le", 16000, 1, 32_044),) * len(names),
        made_with=MadeWith("0", "stand-in", "0" * 64, "stand-in", "0" * 64, "cpu", {}, {}),
    )
