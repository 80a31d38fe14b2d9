"""Clustering and turns against stock pyannote.audio, on generated conversations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.diarisation.reconstruction import (
    _track_names,
    build_turns,
    count_speakers,
    count_votes,
    select_active,
)
from models.options import SpeakerCount
from models.pyannote_guard import import_pyannote_audio
from scripts.synthetic_diarisation import (
    conversation,
    random_pipeline,
    stock_diarisation,
    stock_pipeline,
    variant,
)
from tests.diarising import diarise
from tests.fakes import segmentation as fake_segmentation

NOTHING = np.zeros(160, dtype=np.float32)
COUNTS: dict[str, tuple[SpeakerCount, dict[str, Any]]] = {
    "unknown": (SpeakerCount(), {}),
    "exact": (SpeakerCount(5, 5), {"num_speakers": 5}),
    "bounds": (SpeakerCount(2, 3), {"min_speakers": 2, "max_speakers": 3}),
    "one": (SpeakerCount(1, 1), {"num_speakers": 1}),
}
CLUSTERINGS = ("VBxClustering", "AgglomerativeClustering")


@pytest.fixture(scope="module")
def pipeline():
    import_pyannote_audio()  # before the models are made, because stock pyannote.audio gets them
    return random_pipeline()


def assert_same_as_stock(pipeline, found, counts="unknown"):
    segmentation, embeddings = found
    count, options = COUNTS[counts]
    ours = diarise(pipeline, NOTHING, segmentation, count, embeddings=embeddings)
    stock = stock_diarisation(
        stock_pipeline(pipeline),
        NOTHING,
        segmentation=segmentation,
        embeddings=embeddings,
        **options,
    )

    assert [(t.start, t.end, t.speaker) for t in ours.turns] == stock.turns
    assert [(t.start, t.end, t.speaker) for t in ours.exclusive_turns] == stock.exclusive_turns
    return ours


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("n_speakers", [2, 4, 12])
@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_turns_are_those_of_stock_pyannote(pipeline, clustering, n_speakers, counts):
    generated = conversation(90, n_speakers, 256, seed=n_speakers)
    found = assert_same_as_stock(variant(pipeline, clustering), generated, counts)

    assert len(found.turns) > 5


@pytest.mark.parametrize("min_duration_off", [0.0, 0.5])
def test_more_speakers_than_letters_are_numbered_and_ordered_as_by_stock_pyannote(
    pipeline, min_duration_off
):
    """It orders clusters and turns with the same times as text: 10 before 2, AA before B."""
    other = variant(pipeline, "AgglomerativeClustering", min_duration_off=min_duration_off)
    other = replace(other, parameters={**other.parameters, "min_cluster_size": 1})
    segmentation, _ = conversation(120, 40, 256)
    segmentation.activity[:, :, 1] = segmentation.activity[:, :, 0]  # always two at once
    own = 5 * np.random.default_rng(0).normal(size=(111, 3, 256))  # no two are the same person

    found = assert_same_as_stock(other, (segmentation, own.astype(np.float32)))

    assert len({turn.speaker for turn in found.turns}) > 30


@pytest.mark.slow
@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_turns_of_two_hours_are_those_of_stock_pyannote(pipeline, clustering, monkeypatch):
    monkeypatch.setattr("models.diarisation.clustering.MAX_CLUSTERED", 20_000)
    assert_same_as_stock(variant(pipeline, clustering), conversation(7200, 6, 256))


def test_speakers_are_counted_as_by_stock_pyannote(pipeline):
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    found, _ = conversation(900, 5, 2)
    chunks = SlidingWindow(duration=10.0, step=1.0)
    frames = SlidingWindow(duration=found.frame_duration, step=found.frame_step)
    stock = stock_pipeline(pipeline).speaker_count(
        SlidingWindowFeature(found.activity, chunks), frames, warm_up=(0.0, 0.0)
    )

    assert np.array_equal(count_speakers(found), stock.data[:, 0])


def test_track_names_are_those_of_pyannote():
    from pyannote.core.utils.generators import string_generator

    expected = string_generator()
    assert all(ours == next(expected) for ours, _ in zip(_track_names(), range(1000), strict=False))


def test_turns_with_the_same_times_are_ordered_as_by_stock_pyannote(pipeline):
    """They are ordered by the names of their tracks: Z after AA."""
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    found = fake_segmentation(np.ones((1, 20, 1)))
    active = np.zeros((30, 21), dtype=bool)
    active[:, 3:9] = True
    frames = SlidingWindow(duration=found.frame_duration, step=found.frame_step)
    discrete = SlidingWindowFeature(active.T.astype(float), frames)
    annotation = stock_pipeline(pipeline).to_annotation(discrete)
    stock = [label for _, _, label in annotation.itertracks(yield_label=True)]
    nothing = count_votes(found, np.zeros((1, 1), dtype=np.int32), np.zeros((1, 1)))
    names = {cluster: str(cluster) for cluster in range(30)}
    turns, _ = build_turns(active, names, nothing, found, 0.0)

    assert [int(turn.speaker) for turn in turns] == stock


def test_each_frame_has_the_counted_number_of_speakers_with_the_most_votes():
    votes = np.array([[3, 0, 9], [5, 1, 9], [4, 2, 9]])
    count = np.array([2, 1, 0])

    assert select_active(votes, count).T.tolist() == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]


def test_people_beyond_the_number_of_clusters_get_clusters_without_votes():
    active = select_active(np.array([[1, 1]]), np.array([1, 2]))

    assert active.tolist() == [[True, True], [False, True]]


def test_two_local_speakers_of_one_cluster_are_merged():
    activity = np.zeros((1, 10, 2))
    activity[0, 2:6, 0] = activity[0, 4:8, 1] = 1
    labels = np.zeros((1, 2), dtype=np.int32)
    found = count_votes(fake_segmentation(activity), labels, np.full((1, 2), 0.5))

    assert found.counts[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_certainty_is_the_mean_margin_over_the_chunks_votes():
    activity = np.zeros((2, 100, 2))  # chunks at 0 and 1 s, frames of 0.1 s
    activity[0, 10:30, 0] = activity[1, 0:10, 0] = 1  # 1 to 3 s, and 1 to 2 s
    activity[0, 50:60, 1] = 1  # somebody else
    labels = np.array([[0, 1], [0, -2]])
    margins = np.array([[0.2, 0.7], [0.6, np.nan]])
    segmentation = fake_segmentation(activity)
    found = count_votes(segmentation, labels, margins)
    turns, names = build_turns(found.counts > 0, None, found, segmentation, 0.0)

    assert [turn.certainty for turn in turns] == [
        pytest.approx((2 * 0.2 + 0.6) / 3, abs=1e-3),
        pytest.approx(0.7),
    ]
    assert names == {0: "SPEAKER_00", 1: "SPEAKER_01"}
