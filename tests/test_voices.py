"""Whose voice a stretch has."""

import numpy as np

from models.diarisation.voices import find_voices, recognise_speakers
from scripts.synthetic_diarisation import conversation

ALEX, BO = np.array([1.0, 0.0], dtype=np.float32), np.array([0.0, 1.0], dtype=np.float32)
VOICES = {"SPEAKER_00": ALEX, "SPEAKER_01": BO}


def recognise(
    *parts_of_bo: float,
    speaker: str = "SPEAKER_00",
    is_alone: bool = False,
    voices: dict[str, np.ndarray] = VOICES,
) -> list[str]:
    embeddings = np.stack([(1 - part) * ALEX + part * BO for part in parts_of_bo])
    n = len(parts_of_bo)
    return recognise_speakers(embeddings, [speaker] * n, [is_alone] * n, voices)


def test_a_stretch_belongs_to_another_speaker_only_if_it_clearly_has_their_voice():
    assert recognise(0.0, 0.4, 0.55, 0.75, 1.0) == [*["SPEAKER_00"] * 3, *["SPEAKER_01"] * 2]
    assert recognise(0.55, speaker="SPEAKER_01") == ["SPEAKER_01"]


def test_less_is_enough_for_a_sentence_between_pauses():
    """The first "Hello." of a telephone call was given to the person who had been called."""
    assert recognise(0.58) == ["SPEAKER_00"]
    assert recognise(0.58, is_alone=True) == ["SPEAKER_01"]


def test_voices_that_hardly_differ_are_not_told_apart_by_a_stretch():
    """The demo weights hear real people like this; two speakers may also be one person."""
    same = {"SPEAKER_00": ALEX, "SPEAKER_01": np.array([0.8, 0.6], dtype=np.float32)}

    assert recognise(0.6, voices=same) == ["SPEAKER_00"]


def test_a_speaker_without_a_voice_keeps_their_stretches():
    assert recognise(1.0, speaker="SPEAKER_02") == ["SPEAKER_02"]


def test_a_voice_is_the_mean_of_the_local_speakers_who_speak_alone():
    segmentation, embeddings = conversation(60, 2, 16)
    labels = np.zeros(embeddings.shape[:2], dtype=int)
    labels[:, 1] = 1
    voices = find_voices(
        segmentation, embeddings, labels, {0: "SPEAKER_01", 1: "SPEAKER_00", 2: "x"}
    )

    assert sorted(voices) == ["SPEAKER_00", "SPEAKER_01"]
    np.testing.assert_allclose([np.linalg.norm(v) for v in voices.values()], 1.0, rtol=1e-5)
    alone = (segmentation.n_speaking == 1)[:, :, None] * segmentation.activity
    directions = embeddings / np.linalg.norm(embeddings, axis=2, keepdims=True)
    mean = (alone.sum(axis=1)[:, :1] * directions[:, 0]).sum(axis=0)
    np.testing.assert_allclose(voices["SPEAKER_01"], mean / np.linalg.norm(mean), atol=1e-5)
