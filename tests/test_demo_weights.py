"""The promises of models/demo/MODEL_CARD.md about the demo weights."""

import lzma
from pathlib import Path

import pytest
import torch
import whisper

from models.audio.decode import decode
from models.metrics import ErrorRate, Spoken, speaker_errors
from models.options import JobOptions, SpeakerCount
from models.pipeline import Pipeline
from models.weights.catalogue import DEMO_FOLDER, find_pipeline, find_whisper
from scripts.evaluate import FIRST_SEED, KINDS, NO_WEIGHTS_FOLDER, measure
from scripts.references import read_stm

DEMO = Path(__file__).parents[1] / "demo"


def test_all_demo_weights_together_are_under_12_mb():
    files = [path for path in DEMO_FOLDER.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) < 12_000_000
    assert (DEMO_FOLDER / "MODEL_CARD.md") in files


def test_openai_whisper_loads_the_demo_whisper(tmp_path):
    plain = tmp_path / "demo.pt"
    plain.write_bytes(lzma.decompress((DEMO_FOLDER / "whisper.pt.xz").read_bytes()))
    model = whisper.load_model(str(plain))

    assert model.is_multilingual
    assert model.dims.n_audio_state == 128


def test_the_demo_embedding_is_pyannotes_wespeaker_with_eight_channels():
    from models.weights.pyannote import load_pipeline

    pipeline = load_pipeline(find_pipeline("demo", NO_WEIGHTS_FOLDER), torch.device("cpu"))
    model = pipeline.embedding

    assert type(model).__name__ == "WeSpeakerResNet34"
    assert model.resnet.conv1.out_channels == 8


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(
        find_whisper("demo", NO_WEIGHTS_FOLDER),
        find_pipeline("demo", NO_WEIGHTS_FOLDER),
        torch.device("cpu"),
    )


@pytest.mark.slow
def test_word_errors_and_times_of_interviews_are_within_the_bounds(pipeline):
    measured = [measure(pipeline, KINDS[0], FIRST_SEED + i, 60.0) for i in range(3)]

    assert sum((m.words for m in measured), ErrorRate(0, 0)).rate <= 0.05
    assert sum((m.times for m in measured), ErrorRate(0, 0)).rate <= 0.10


@pytest.mark.slow
def test_speaker_errors_of_interviews_are_within_the_bounds(pipeline):
    """Three newly rendered recordings of a minute each: new sentences by the known voices."""
    measured = [measure(pipeline, KINDS[0], FIRST_SEED + i, 60.0) for i in range(3)]

    assert sum((m.turns for m in measured), ErrorRate(0, 0)).rate <= 0.10


@pytest.mark.slow
def test_speaker_errors_of_focus_groups_are_within_the_bounds(pipeline):
    group = KINDS[2]
    measured = [measure(pipeline, group, FIRST_SEED + 100 + i, 60.0) for i in range(2)]

    assert [m.speakers_found for m in measured] == [6, 6]
    assert sum((m.turns for m in measured), ErrorRate(0, 0)).rate <= 0.20


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_speakers"), [("interview", 2), ("focus-group", 6)])
def test_every_word_of_the_demo_recordings_has_the_right_speaker(pipeline, name, n_speakers):
    """As scripts/demo shows them."""
    with (DEMO / f"{name}.flac").open("rb") as file:
        recording = decode(file, split_channels=True)
    options = JobOptions(speakers=SpeakerCount(n_speakers, n_speakers))
    transcript = pipeline.transcribe([recording], options)

    reference = read_stm(DEMO / f"{name}.stm", name).utterances
    found = [Spoken(s.speaker, s.start, s.end, s.text) for s in transcript.segments]
    wrong, nobody = speaker_errors(reference, found)
    assert len(transcript.speakers) == n_speakers
    assert wrong.total >= 130
    assert (wrong.errors, nobody.errors) == (0, 0)
    assert transcript.flags == ()
