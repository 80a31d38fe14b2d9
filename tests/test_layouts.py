"""Results kept from another layout of the channels are not used: channels folded, or mixed."""

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest

from models.audio import SAMPLE_RATE
from models.channels import Channels
from models.diarisation import SpeakerCount
from models.pipeline import TranscribeOptions
from models.results import pack_segmentation
from scripts.make_interview import recording_of
from service import pipeline_engine
from service.engine import EngineJob
from service.pipeline_engine import PipelineEngine, fits
from tests.fakes import segmentation, transcript

AUTO, MIX = TranscribeOptions(), TranscribeOptions(channels=Channels.MIX)
THREE = TranscribeOptions(speakers=SpeakerCount(3, 3))  # so that two channels are not the speakers
SECONDS = 12


def recording(n_channels):
    """Noise that goes from channel to channel every second, after a pause."""
    n = SECONDS * SAMPLE_RATE
    loud = np.random.default_rng(0).normal(0, 0.1, (n_channels, n))
    t = np.arange(n) / SAMPLE_RATE
    speaks = (t.astype(int) % n_channels == np.arange(n_channels)[:, None]) & (t % 1 < 0.8)
    return recording_of((loud * np.where(speaks, 1.0, 0.001)).astype(np.float32))


class Shelf:
    """Results of a job whose models heard so many seconds."""

    def __init__(self, seconds):
        found = replace(segmentation(np.zeros((1, 10, 3))), audio_duration=float(seconds))
        self.kept = {"segment": pack_segmentation(found), "transcribe": b"words"}

    def load(self, stage):
        return self.kept.get(stage)

    def save(self, stage, data):
        self.kept[stage] = data

    def discard(self):
        self.kept = {}


@pytest.mark.parametrize(
    ("n_channels", "options", "heard", "expected"),
    [
        (2, AUTO, 2 * SECONDS, True),
        (2, AUTO, SECONDS, False),
        (2, MIX, SECONDS, True),
        (2, MIX, 2 * SECONDS, False),
        (2, THREE, SECONDS, True),
        (2, THREE, 2 * SECONDS, False),
        (1, AUTO, SECONDS, True),
    ],
)
def test_what_is_kept_fits_if_the_models_would_hear_the_same(n_channels, options, heard, expected):
    assert fits(Shelf(heard), [recording(n_channels)], options) is expected


def test_without_its_segmentation_nothing_kept_is_used():
    shelf = Shelf(SECONDS)
    del shelf.kept["segment"]

    assert not fits(shelf, [recording(2)], MIX)


@pytest.mark.parametrize(("speakers", "used"), [((2, 2), True), ((3, 3), False)])
def test_a_rerun_with_other_speakers_keeps_results_unless_the_layout_flips(
    monkeypatch, tmp_path, speakers, used
):
    """Once the words of folded channels were laid on the timeline of their mix."""
    found = []

    class Pipeline:
        def transcribe(self, recordings, options, on_progress, kept):
            found.append(kept.load("transcribe"))
            return transcript([])

    monkeypatch.setattr(pipeline_engine, "decode", lambda file, **_: recording(2))
    engine = PipelineEngine(tmp_path)
    engine._pipeline = Pipeline()  # type: ignore[assignment]
    job = EngineJob(
        id=uuid4(),
        study_id=uuid4(),
        recordings=(uuid4(),),
        options={"speakers_min": speakers[0], "speakers_max": speakers[1], "channels": "auto"},
        vocabulary_artefact_id=None,
        whisper_model="demo",
        whisper_sha256="",
        diarisation_pipeline="demo",
        diarisation_sha256="",
        kept={"segment": uuid4(), "transcribe": uuid4()},
    )

    engine.transcribe(job, [None], (), lambda *_: None, Shelf(2 * SECONDS))  # type: ignore[list-item]

    assert found == [b"words" if used else None]
