"""What the engine of the service hands to the pipeline."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from models.audio.channels import Channels
from models.audio.memory_file import memory_file
from models.diarisation.diarisation import SpeakerCount
from models.pipeline import TranscribeOptions
from models.roster import RosterEntry
from models.stage_results import NoStageResults
from models.weights.catalogue import find_pipeline, find_whisper
from service.domain.engine_job import EngineJob
from service.domain.job_errors import WeightsChanged
from service.worker.pipeline_engine import PipelineEngine
from tests.api import tone

OPTIONS = {
    "language": "de",
    "speakers_min": 2,
    "speakers_max": 3,
    "channels": "mix",
    "roster": [{"code": "I1", "role": "interviewer"}, {"code": "P07", "role": "participant"}],
}


def job(**options: object) -> EngineJob:
    return EngineJob(
        uuid4(), uuid4(), (uuid4(),), options, None, "demo", "0" * 64, "demo", "0" * 64, {}
    )


def handed_over(of: EngineJob, monkeypatch: pytest.MonkeyPatch) -> TranscribeOptions:
    engine = PipelineEngine(Path(), None)
    given: list[TranscribeOptions] = []

    def transcribe(recordings: object, options: TranscribeOptions, *_: object) -> None:
        given.append(options)

    monkeypatch.setattr(engine, "_pipeline", SimpleNamespace(transcribe=transcribe))
    with memory_file(iter([tone()])) as file:
        engine.transcribe(of, [file], ["Seroquel"], lambda *_: None, NoStageResults())
    return given[0]


def test_all_that_was_asked_for_reaches_the_pipeline(monkeypatch):
    assert handed_over(job(**OPTIONS), monkeypatch) == TranscribeOptions(
        "de",
        SpeakerCount(2, 3),
        ("Seroquel",),
        Channels.MIX,
        (RosterEntry("I1", "interviewer"), RosterEntry("P07", "participant")),
    )


@pytest.mark.parametrize("changed", ["whisper_sha256", "diarisation_sha256"])
def test_a_job_is_not_done_with_other_weights_than_it_was_submitted_with(changed):
    pinned: dict[str, Any] = {
        "whisper_sha256": find_whisper("demo", Path()).sha256,
        "diarisation_sha256": find_pipeline("demo", Path()).sha256,
    }
    engine = PipelineEngine(Path(), None)

    with pytest.raises(WeightsChanged) as raised:
        engine.load(replace(job(), **{**pinned, changed: "0" * 64}))
    assert (raised.value.code, raised.value.retryable) == ("weights_changed", False)


def test_what_was_not_asked_for_is_found_from_the_recording(monkeypatch):
    assert handed_over(job(), monkeypatch) == TranscribeOptions(vocabulary=("Seroquel",))
