"""Stored stage results are read back exactly."""

from dataclasses import replace

import numpy as np
import pytest

from models.diarisation.diarisation import Diarisation
from models.diarisation.segmentation import Segmentation
from models.results import (
    DecodedSession,
    pack_decoded,
    pack_diarisation,
    pack_segmentation,
    pack_words,
    unpack_decoded,
    unpack_diarisation,
    unpack_segmentation,
    unpack_words,
)
from models.transcript import Turn, Word
from models.whisper_engine import DecodedWindow
from models.windows import Window

RANDOM = np.random.default_rng(0)


def test_a_segmentation_is_read_back_exactly():
    activity = RANDOM.random((3, 5, 2), dtype=np.float32)
    segmentation = Segmentation(activity, 10.0, 1.0, 0.0619375, 0.016875, 1 / 3)

    unpacked = unpack_segmentation(pack_segmentation(segmentation))

    assert unpacked.activity.tobytes() == activity.tobytes()
    assert replace(unpacked, activity=activity) == segmentation


@pytest.mark.parametrize("probability", [None, 0.9])
def test_decoded_windows_are_read_back_exactly(probability):
    window = DecodedWindow(Window(0.1, 29.97), (50364, 7), " Grüße \ud83d", 0.2, -1 / 3, 0.1, 1.5)
    of_gap = replace(window, gap=Window(12.5, 16.0))
    decoded = DecodedSession("de", probability, (window, of_gap))

    assert unpack_decoded(pack_decoded(decoded)) == decoded


def test_words_are_read_back_exactly():
    words = (Word(" so", 0.1, 1 / 3, 2 / 3), Word("…", 0.4, 0.5, 1.0))

    assert unpack_words(pack_words(words)) == words
    assert unpack_words(pack_words(())) == ()


def test_a_diarisation_is_read_back_exactly_with_its_nans():
    embeddings = RANDOM.random((2, 3, 4), dtype=np.float32)
    embeddings[0, 1] = np.nan
    turns = (Turn(0.0, 1.5, "SPEAKER_00"), Turn(1.0, 2.5, "SPEAKER_01"))
    diarisation = Diarisation(turns, turns[:1], embeddings, True)

    unpacked = unpack_diarisation(pack_diarisation(diarisation))

    assert unpacked.embeddings.tobytes() == embeddings.tobytes()
    assert replace(unpacked, embeddings=embeddings) == diarisation


def test_the_speakers_voices_are_read_back_and_may_be_missing():
    """Results that an earlier version stored have none."""
    voices = {name: RANDOM.random(4, dtype=np.float32) for name in ("SPEAKER_01", "SPEAKER_00")}
    nothing = Diarisation((), (), np.empty((0, 3, 4), dtype=np.float32), sampled=False)

    unpacked = unpack_diarisation(pack_diarisation(replace(nothing, voices=voices))).voices
    assert {name: voice.tobytes() for name, voice in unpacked.items()} == {
        name: voice.tobytes() for name, voice in voices.items()
    }
    assert unpack_diarisation(pack_diarisation(nothing)).voices == {}
