from pathlib import Path

import numpy as np
import pytest
import torch

from models.diarisation.embedding import _Features, _masks
from models.diarisation.segmentation import _sincnet, cut_padded, find_speech_regions
from models.weights.catalogue import find_pipeline
from models.weights.pyannote import load_pipeline
from tests.fakes import segmentation


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(find_pipeline("demo", Path()), torch.device("cpu"))


@pytest.fixture(scope="module")
def span():
    noise = np.random.default_rng(0).standard_normal(13 * 16_000, dtype=np.float32)
    return torch.from_numpy(0.1 * noise + 0.02)


@torch.inference_mode()
@pytest.mark.parametrize("n_step", [16_000, 5_330, 5_328, 5_327])
def test_the_shared_convolution_equals_that_of_each_chunk(pipeline, span, n_step):
    sincnet = pipeline.segmentation.sincnet
    chunks = span.unfold(0, 160_000, n_step)[:, None]

    expected = sincnet(chunks)
    torch.testing.assert_close(
        _sincnet(sincnet, span, 160_000, n_step), expected, atol=2e-4, rtol=1e-4
    )


@torch.inference_mode()
@pytest.mark.parametrize("begins", [[0, 16_000, 48_000], [0, 16_080], [160, 5_328]])
def test_features_of_a_span_equal_those_of_each_chunk(pipeline, span, begins):
    model = pipeline.embedding
    chunks = torch.stack([span[begin : begin + 160_000] for begin in begins])[:, None]

    features = _Features(model, span, 160_000).select(begins)
    torch.testing.assert_close(features, model.compute_fbank(chunks), atol=1e-4, rtol=0)


def test_an_embedding_leaves_out_overlap_if_there_is_enough_speech_without():
    activity = np.zeros((1, 10, 2), dtype=np.float32)
    activity[0, :8, 0] = activity[0, 5:8, 1] = 1  # the second one is never alone

    first, second = _masks(activity, 3)[0].tolist()
    assert first == [1] * 5 + [0] * 5
    assert second == [0] * 5 + [1] * 3 + [0] * 2
    assert _masks(activity, 5)[0, 0].tolist() == [1] * 8 + [0] * 2
    assert _masks(activity, -1)[0, 0].tolist() == [1] * 8 + [0] * 2


def test_active_speakers_are_found_and_counted_per_frame():
    activity = np.zeros((2, 10, 3))
    activity[0, 3, 1] = activity[1, 3:5, 0] = activity[1, 4:6, 2] = 1
    found = segmentation(activity)

    assert found.is_active.tolist() == [[False, True, False], [True, False, True]]
    assert found.n_speaking[1].tolist() == [0, 0, 0, 1, 2, 1, 0, 0, 0, 0]


def test_samples_after_the_end_are_zero():
    assert cut_padded(np.ones(5, dtype=np.float32), 3, 7).tolist() == [1, 1, 0, 0]


def test_a_frame_is_speech_when_half_of_its_chunks_say_so():
    activity = np.zeros((3, 100, 2))  # chunks at 0, 1 and 2 s, frames of 0.1 s
    activity[0, 50:80, 0] = 1  # 5 to 8 s
    activity[1, 40:70, 1] = 1  # the same, another local speaker
    activity[2, 30:40, 0] = 1  # 5 to 6 s only: outvoted from 6 to 8 s
    activity[2, 95:, 0] = 1  # 11.5 to 12 s, covered by this chunk only
    regions = find_speech_regions(segmentation(activity))

    times = [time for region in regions for time in (region.start, region.end)]
    assert times == pytest.approx([5.05, 8.05, 11.55, 12.0], abs=0.06)


def test_one_chunk_of_three_is_not_enough():
    activity = np.zeros((3, 100, 1))
    activity[1, 30:40, 0] = 1

    assert find_speech_regions(segmentation(activity)) == ()


def test_silence_has_no_speech():
    assert find_speech_regions(segmentation(np.zeros((2, 100, 3)))) == ()


def test_speech_from_the_very_start_starts_at_zero():
    activity = np.ones((1, 100, 1))
    regions = find_speech_regions(segmentation(activity))

    assert (regions[0].start, regions[0].end) == (0.0, 10.0)
