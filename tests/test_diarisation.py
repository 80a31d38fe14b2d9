from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoints import load_pipeline
from models.diarisation import BadSpeakerCount, SpeakerCount, diarise
from models.errors import Stopped
from models.segmentation import segment, speech_regions
from models.weights import find_pipeline
from scripts.make_interview import make_interview

TWO = SpeakerCount(2, 2)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(find_pipeline("demo", Path()), torch.device("cpu"))


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return make_interview(71, seconds=10).samples[: 14 * 16_000]


@pytest.fixture(scope="module")
def segmentation(pipeline, samples):
    return segment(pipeline, samples)


@pytest.fixture(scope="module")
def diarisation(pipeline, samples, segmentation):
    return diarise(pipeline, samples, segmentation, TWO)


def test_turns_are_those_of_the_stock_pipeline(pipeline, samples, diarisation):
    file = {"waveform": torch.from_numpy(samples)[None], "sample_rate": 16_000, "uri": "audio"}
    stock = pipeline.apply(file, num_speakers=2)

    for expected, turns in (
        (stock.speaker_diarization, diarisation.turns),
        (stock.exclusive_speaker_diarization, diarisation.exclusive_turns),
    ):
        assert [(t.start, t.end, t.speaker) for t in turns] == [
            (round(turn.start, 3), round(turn.end, 3), speaker)
            for turn, _, speaker in expected.itertracks(yield_label=True)
        ]
    assert len({turn.speaker for turn in diarisation.turns}) == 2


def test_embeddings_given_back_give_the_same_turns_without_computing_them(
    pipeline, samples, segmentation, diarisation, monkeypatch
):
    def never(*arguments, **options):
        raise AssertionError("embeddings were computed")

    monkeypatch.setattr(type(pipeline), "get_embeddings", never)
    again = diarise(pipeline, samples, segmentation, TWO, embeddings=diarisation.embeddings)

    assert again.turns == diarisation.turns
    assert again.exclusive_turns == diarisation.exclusive_turns


def test_another_number_of_speakers_from_the_same_embeddings(
    pipeline, samples, segmentation, diarisation
):
    one = diarise(
        pipeline, samples, segmentation, SpeakerCount(1, 1), embeddings=diarisation.embeddings
    )

    assert {turn.speaker for turn in one.turns} == {"SPEAKER_00"}


def test_exclusive_turns_never_overlap(diarisation):
    ordered = sorted(diarisation.exclusive_turns, key=lambda turn: turn.start)

    assert all(a.end <= b.start for a, b in zip(ordered, ordered[1:], strict=False))


def test_nothing_is_left_on_the_pipeline(pipeline, diarisation):
    assert "get_segmentations" not in pipeline.__dict__
    assert "filter_embeddings" not in pipeline.clustering.__dict__


def test_more_embeddings_than_the_limit_are_clustered_by_an_even_sample(
    pipeline, samples, segmentation, diarisation, monkeypatch
):
    monkeypatch.setattr("models.diarisation.MAX_CLUSTERED", 4)
    few = diarise(pipeline, samples, segmentation, TWO, embeddings=diarisation.embeddings)

    assert few.sampled and not diarisation.sampled
    assert len({turn.speaker for turn in few.turns}) == 2


def test_global_switches_are_left_as_they_were(pipeline, samples, segmentation, diarisation):
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        diarise(pipeline, samples, segmentation, TWO, embeddings=diarisation.embeddings)

        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_it_stops_between_batches_when_told(pipeline, samples, segmentation):
    def stop(fraction: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        diarise(pipeline, samples, segmentation, TWO, stop)
    with pytest.raises(Stopped):
        segment(pipeline, samples, stop)


def test_where_nobody_speaks_there_are_no_turns(pipeline, samples, segmentation):
    quiet = replace(segmentation, activity=np.zeros_like(segmentation.activity))
    nothing = diarise(pipeline, samples, quiet, SpeakerCount())

    assert nothing.turns == nothing.exclusive_turns == ()


def test_sound_shorter_than_a_chunk_is_understood(pipeline, samples):
    found = segment(pipeline, samples[: 4 * 16_000])

    assert found.activity.shape[0] == 1
    assert all(region.end <= 4.0 for region in speech_regions(found))


@pytest.mark.parametrize(
    ("text", "count"), [("6", SpeakerCount(6, 6)), ("2-4", SpeakerCount(2, 4))]
)
def test_a_number_of_speakers_is_exact_or_a_range(text, count):
    assert SpeakerCount.parse(text) == count
    assert str(count) == text


@pytest.mark.parametrize("text", ["0", "-1", "3-2", "21", "two", "2-", "", "1-99"])
def test_an_impossible_number_of_speakers_is_refused(text):
    with pytest.raises(BadSpeakerCount):
        SpeakerCount.parse(text)
