"""The arguments that the worker's engine passes to the pipeline."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from models.audio.memory_file import memory_file
from models.options import Channels, JobOptions, SpeakerCount
from models.roster import RosterEntry
from models.stage_results import NoStageResults
from models.weights.catalogue import find_pipeline, find_whisper
from scripts.stand_in.engine import StandInEngine
from service.domain.engine_job import VOCABULARY, VOCABULARY_MISSING, EngineJob
from service.domain.job_errors import WeightsChanged
from service.vault import ArtefactClass
from service.vault.store import Artefact, Store
from service.vault.streaming import KEY_SIZE, Key
from service.worker import pipeline_engine
from service.worker.engine_child import EngineChild
from service.worker.pipeline_engine import PipelineEngine
from tests.api import tone

OPTIONS = {
    "language": "de",
    "speakers_min": 2,
    "speakers_max": 3,
    "channels": "mix",
    "roster": [{"code": "I1", "role": "interviewer"}, {"code": "P07", "role": "participant"}],
}


def job(options: JobOptions) -> EngineJob:
    return EngineJob(
        uuid4(), uuid4(), (uuid4(),), options, None, "demo", "0" * 64, "demo", "0" * 64, {}
    )


def run_job(of: EngineJob, monkeypatch: pytest.MonkeyPatch) -> JobOptions:
    engine = PipelineEngine(Path(), None)
    given: list[JobOptions] = []

    def segment(recordings: object, options: JobOptions, *_: object) -> None:
        given.append(options)

    monkeypatch.setattr(engine, "_pipeline", SimpleNamespace(segment=segment))
    with memory_file(iter([tone()])) as file:
        engine.segment(of, iter([file]), lambda *_: None, NoStageResults())
    return given[0]


def test_all_options_of_a_job_reach_the_pipeline(monkeypatch):
    asked = replace(JobOptions.from_row(OPTIONS), vocabulary=("Seroquel",))

    assert run_job(job(asked), monkeypatch) == JobOptions(
        "de",
        SpeakerCount(2, 3),
        ("Seroquel",),
        Channels.MIX,
        (RosterEntry("I1", "interviewer"), RosterEntry("P07", "participant")),
    )


@pytest.mark.parametrize("changed", ["whisper_sha256", "diarisation_sha256"])
def test_a_job_is_refused_if_its_weights_have_changed(changed):
    pinned: dict[str, Any] = {
        "whisper_sha256": find_whisper("demo", Path()).sha256,
        "diarisation_sha256": find_pipeline("demo", Path()).sha256,
    }
    engine = PipelineEngine(Path(), None)

    with pytest.raises(WeightsChanged) as raised:
        engine.load(replace(job(JobOptions()), **{**pinned, changed: "0" * 64}))
    assert (raised.value.code, raised.value.retryable) == ("weights_changed", False)


def test_options_that_were_not_given_are_left_to_the_pipeline(monkeypatch):
    assert run_job(job(JobOptions.from_row({})), monkeypatch) == JobOptions()


def test_the_engine_child_adds_the_decrypted_vocabulary_to_the_options(tmp_path):
    store = Store(ArtefactClass.IDENTIFIED, tmp_path)
    key, sound = Key(b"k" * KEY_SIZE), Key(b"s" * KEY_SIZE)
    without = job(JobOptions(language="de"))
    (recording,) = without.recordings
    id = uuid4()
    of = replace(without, vocabulary_artefact_id=id, keys={without.id: key, recording: sound})
    vocabulary = of.artefact(VOCABULARY, id)
    for artefact, its_key, content in (
        (vocabulary, key, b"Seroquel\nBirkenau\n"),
        (Artefact(of.study_id, recording, "recording", recording), sound, b"sound"),
    ):
        with store.write(artefact, its_key) as file:
            file.write(content)
    given = []

    class Engine(StandInEngine):
        def segment(self, job, *others):
            given.append(job.options)
            return super().segment(job, *others)

    EngineChild(Engine(), store, io.StringIO(), 1.0).run([of])

    assert given == [JobOptions(language="de", vocabulary=("Seroquel", "Birkenau"))]


def test_a_recording_is_released_before_the_next_one_is_decrypted(tmp_path):
    """All of them stayed in memory for the whole job: 157 MB of three with 50 MB."""
    store = Store(ArtefactClass.IDENTIFIED, tmp_path)
    key = Key(b"k" * KEY_SIZE)
    single = job(JobOptions())
    ids = tuple(uuid4() for _ in range(3))
    of = replace(single, recordings=ids, keys=dict.fromkeys((single.id, *ids), key))
    for id in ids:
        with store.write(Artefact(of.study_id, id, "recording", id), key) as file:
            file.write(b"sound")
    taken: list[Any] = []

    class Engine(StandInEngine):
        def segment(self, job, recordings, *others):
            for file in recordings:
                assert all(earlier.closed for earlier in taken)
                assert file.read() == b"sound"
                taken.append(file)
            assert all(file.closed for file in taken)
            return super().segment(job, iter([io.BytesIO()]), *others)

    EngineChild(Engine(), store, io.StringIO(), 1.0).run([of])

    assert len(taken) == 3


def test_the_pipelines_engine_takes_recordings_one_by_one(monkeypatch):
    engine = PipelineEngine(Path(), None)
    of = replace(job(JobOptions()), recordings=(uuid4(), uuid4()))
    decoded: list[Any] = []

    def decode(file, **_):
        decoded.append(file)
        return file

    monkeypatch.setattr(pipeline_engine, "decode", decode)
    engine._pipeline = SimpleNamespace(segment=lambda recordings, *_: recordings)  # type: ignore[assignment]

    def recordings():
        for name in ("a", "b"):
            yield name
            assert decoded[-1] == name

    found: object = engine.segment(of, recordings(), lambda *_: None, NoStageResults())
    assert found == ["a", "b"]


def test_missing_results_and_a_missing_vocabulary_do_not_fail_a_job(tmp_path):
    """As after the restore of a backup during which they were replaced."""
    store = Store(ArtefactClass.IDENTIFIED, tmp_path)
    key = Key(b"k" * KEY_SIZE)
    single = job(JobOptions())
    (recording,) = single.recordings
    of = replace(
        single,
        vocabulary_artefact_id=uuid4(),
        stored={"segment": uuid4()},
        keys={single.id: key, recording: key},
    )
    with store.write(Artefact(of.study_id, recording, "recording", recording), key) as file:
        file.write(b"sound")
    messages = io.StringIO()

    EngineChild(StandInEngine(), store, messages, 1.0).run([of])

    events = [json.loads(line) for line in messages.getvalue().splitlines()]
    (done,) = (event for event in events if event["event"] == "done")
    assert done["warnings"] == [VOCABULARY_MISSING]
    saved = [event["stage"] for event in events if event["event"] == "saved"]
    assert saved == ["segment", "transcribe", "align", "diarise"]
    assert [event for event in events if event["event"] == "discarded"]
