"""The promises of models/demo/MODEL_CARD.md about the demo weights."""

import lzma
from pathlib import Path
from typing import Any

import pytest
import torch
import whisper

from models.audio.decode import decode
from models.audio.recording import SAMPLE_RATE
from models.diarisation.diarisation import start_diarisation
from models.diarisation.segmentation import segment
from models.error_rates import ErrorRate
from models.metrics import Spoken, speaker_errors
from models.options import JobOptions, SpeakerCount
from models.pipeline import Pipeline
from models.pyannote_guard import import_pyannote_audio
from models.weights.catalogue import DEMO_FOLDER, find_pipeline, find_whisper
from models.weights.pyannote import load_pipeline
from scripts.evaluate import FIRST_SEED, KINDS, NO_WEIGHTS_FOLDER, measure
from scripts.references import read_stm
from scripts.stock_demo_pipeline import write_stock_pipeline

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


@pytest.mark.slow
def test_stock_pyannote_loads_the_demo_pipeline_and_finds_the_same_turns(tmp_path):
    """It ended in KeyError: 'specifications'. The copy has 32 channels, as pyannote's class has."""
    import_pyannote_audio()
    from pyannote.audio import Pipeline as StockPipeline

    folder = tmp_path / "pipeline"
    write_stock_pipeline(folder)
    stock: Any = StockPipeline.from_pretrained(folder)
    with (DEMO / "interview.flac").open("rb") as file:
        samples = decode(file).samples[0][: 30 * SAMPLE_RATE]
    found = stock({"waveform": torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE})

    models = load_pipeline(find_pipeline("demo", NO_WEIGHTS_FOLDER), torch.device("cpu"))
    own = start_diarisation(models, samples, segment(models, samples), SpeakerCount()).result()
    turns = [
        (round(turn.start, 3), round(turn.end, 3), speaker)
        for turn, _, speaker in found.speaker_diarization.itertracks(yield_label=True)
    ]
    assert turns == [(turn.start, turn.end, turn.speaker) for turn in own.turns]


def test_every_demo_checkpoint_has_the_keys_that_pyannote_requires():
    import_pyannote_audio()
    from pyannote.audio import Model

    assert type(Model.from_pretrained(DEMO_FOLDER / "pyannote" / "segmentation")).__name__
    path = DEMO_FOLDER / "pyannote" / "embedding" / "pytorch_model.bin"
    written = torch.load(path, weights_only=False)["pyannote.audio"]
    assert written["specifications"].resolution.name == "CHUNK"
