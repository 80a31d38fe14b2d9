import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.errors import OutOfMemory, UnknownLanguage
from scripts import evaluate
from scripts.evaluate import parse_options
from scripts.references import ManifestEntry
from tests.audio_files import tones, wav
from tests.fakes import FakePipeline


def entry(**options: str) -> ManifestEntry:
    return ManifestEntry(Path("INT-01.wav"), (Path("INT-01.stm"),), options)


@pytest.mark.parametrize("name", ["en", "EN", "English"])
def test_a_language_in_a_manifest_is_converted_to_its_code(name):
    """Other spellings used to be measured with the normaliser for languages other than English."""
    assert parse_options(entry(language=name)).language == "en"


def test_an_unknown_language_in_a_manifest_is_refused_before_transcription():
    with pytest.raises(UnknownLanguage):
        parse_options(entry(language="klingon"))


class PipelineWithLittleMemory(FakePipeline):
    """Runs out of memory on more than three seconds of audio."""

    whisper_weights = diarisation_weights = SimpleNamespace(name="fake", sha256="a" * 64)
    device, precision = "cpu", None

    def transcribe(self, recordings, options, on_progress=lambda progress: None):
        if recordings[0].duration > 3:
            raise OutOfMemory("a batch does not fit")
        return super().transcribe(recordings, options)


@pytest.fixture
def run_evaluation(tmp_path, monkeypatch):
    """Evaluate recordings, given by name and content; returns the message of the exit."""
    pytest.importorskip("matplotlib", reason="comes with scripts/evaluate")
    monkeypatch.setattr(evaluate, "Pipeline", lambda *_: PipelineWithLittleMemory())

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


def test_a_failing_recording_is_named_and_the_others_are_measured(run_evaluation, tmp_path):
    """A failure used to end the evaluation and discard hours of measurements."""
    short, long = wav(tones(300, seconds=2)), wav(tones(300, seconds=4))
    message = run_evaluation(first=short, second=long, third=short)

    assert message == "Not measured:\nsecond.wav: a batch does not fit"
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert [recording["name"] for recording in written["recordings"]] == ["first", "third"]


def test_if_every_recording_fails_no_table_is_written(run_evaluation, tmp_path):
    assert "only.wav" in run_evaluation(only=wav(tones(300, seconds=4)))
    assert not (tmp_path / "out").exists()


def test_an_unreadable_recording_is_named_before_the_evaluation_starts(run_evaluation, tmp_path):
    message = run_evaluation(first=wav(tones(300, seconds=2)), broken=b"junk" * 100)

    assert message.startswith("broken.wav: ")
    assert not (tmp_path / "out").exists()
