import numpy as np
import pytest

from models.segmentation import speech_regions
from tests.fakes import segmentation


def test_a_frame_is_speech_when_half_of_its_chunks_say_so():
    activity = np.zeros((3, 100, 2))  # chunks at 0, 1 and 2 s, frames of 0.1 s
    activity[0, 50:80, 0] = 1  # 5 to 8 s
    activity[1, 40:70, 1] = 1  # the same, another local speaker
    activity[2, 30:40, 0] = 1  # 5 to 6 s only: outvoted from 6 to 8 s
    activity[2, 95:, 0] = 1  # 11.5 to 12 s, seen by this chunk alone
    regions = speech_regions(segmentation(activity))

    times = [time for region in regions for time in (region.start, region.end)]
    assert times == pytest.approx([5.05, 8.05, 11.55, 12.0], abs=0.06)


def test_one_chunk_of_three_is_not_enough():
    activity = np.zeros((3, 100, 1))
    activity[1, 30:40, 0] = 1

    assert speech_regions(segmentation(activity)) == ()


def test_silence_has_no_speech():
    assert speech_regions(segmentation(np.zeros((2, 100, 3)))) == ()


def test_speech_from_the_very_start_starts_at_zero():
    activity = np.ones((1, 100, 1))
    regions = speech_regions(segmentation(activity))

    assert (regions[0].start, regions[0].end) == (0.0, 10.0)
