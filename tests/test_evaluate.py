import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.errors import OutOfMemory, UnknownLanguage
from scripts import evaluate
from scripts.evaluate import parse_options
from scripts.references import Entry
from tests.audio_files import tones, wav
from tests.fakes import FakePipeline


def entry(**options: str) -> Entry:
    return Entry(Path("INT-01.wav"), (Path("INT-01.stm"),), options)


@pytest.mark.parametrize("name", ["en", "EN", "English"])
def test_a_language_of_a_manifest_is_its_code(name):
    """Another spelling was measured with the normaliser of other languages than English."""
    assert parse_options(entry(language=name)).language == "en"


def test_an_unknown_language_of_a_manifest_is_refused_before_anything_is_transcribed():
    with pytest.raises(UnknownLanguage):
        parse_options(entry(language="klingon"))


class PipelineOfFewSeconds(FakePipeline):
    """Its memory is full after three seconds of sound."""

    whisper_weights = diarisation_weights = SimpleNamespace(name="fake", sha256="a" * 64)
    device, precision = "cpu", None

    def transcribe(self, recordings, options, on_progress=lambda progress: None):
        if recordings[0].duration > 3:
            raise OutOfMemory("a batch does not fit")
        return super().transcribe(recordings, options)


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """Evaluates recordings, named with their bytes; what main ended with."""
    pytest.importorskip("matplotlib", reason="comes with scripts/evaluate")
    monkeypatch.setattr(evaluate, "Pipeline", lambda *_: PipelineOfFewSeconds())

    def run(**recordings: bytes) -> str:
        (tmp_path / "all.stm").write_text("a 1 I 0.0 1.0 my name is Eva Muster\n")
        for name, content in recordings.items():
            (tmp_path / f"{name}.wav").write_bytes(content)
        lines = [f"{name}.wav all.stm\n" for name in recordings]
        (tmp_path / "list.txt").write_text("".join(lines))
        arguments = ["--manifest", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
        with pytest.raises(SystemExit) as ended:
            evaluate.main()
        return str(ended.value)

    return run


def test_a_recording_that_fails_is_named_and_the_others_are_measured(evaluated, tmp_path):
    """One ended the evaluation, and hours of measuring were lost."""
    short, long = wav(tones(300, seconds=2)), wav(tones(300, seconds=4))
    said = evaluated(first=short, second=long, third=short)

    assert said == "Not measured:\nsecond.wav: a batch does not fit"
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert [recording["name"] for recording in written["recordings"]] == ["first", "third"]


def test_where_every_recording_fails_no_table_is_written(evaluated, tmp_path):
    assert "only.wav" in evaluated(only=wav(tones(300, seconds=4)))
    assert not (tmp_path / "out").exists()


def test_a_recording_that_cannot_be_read_is_named_before_the_work_begins(evaluated, tmp_path):
    said = evaluated(first=wav(tones(300, seconds=2)), broken=b"junk" * 100)

    assert said.startswith("broken.wav: ")
    assert not (tmp_path / "out").exists()
