import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from models.audio.recording import SAMPLE_RATE
from scripts.make_interview import make_interview


@pytest.fixture(scope="module")
def group():
    return make_interview(5, seconds=30, n_speakers=6)


def test_the_same_arguments_give_the_same_recording(tmp_path):
    """In new processes, because espeak-ng keeps state from one sentence to the next."""
    made = []
    for seed, out in (("5", "a"), ("5", "b"), ("6", "c")):
        command = [sys.executable, "-m", "scripts.make_interview", "interview", "--seconds", "5"]
        subprocess.run([*command, "--seed", seed, "--out", str(tmp_path / out)], check=True)
        made.append((tmp_path / out / f"interview-{seed}.wav").read_bytes())

    assert made[0] == made[1] != made[2]


def test_everybody_in_a_focus_group_speaks(group):
    assert len({utterance.speaker for utterance in group.utterances}) == 6


def test_without_overlap_nobody_interrupts(group):
    assert all(a.end <= b.start for a, b in pairwise(group.utterances))


@pytest.mark.parametrize("n_speakers", [2, 4])
def test_with_overlap_speakers_interrupt_others_but_never_themselves(n_speakers):
    """A voice's next sentence used to start before its last one had ended."""
    talk = make_interview(5, seconds=60, n_speakers=n_speakers, overlap=0.5)
    together = [
        (a.speaker, b.speaker)
        for i, a in enumerate(talk.utterances)
        for b in talk.utterances[i + 1 :]
        if a.end > b.start
    ]

    assert together
    assert all(a != b for a, b in together)


def test_every_word_lies_where_there_is_audio(group):
    for word in group.words:
        part = group.samples[round(word.start * SAMPLE_RATE) : round(word.end * SAMPLE_RATE)]
        assert np.abs(part).max() > 0.02, word


def test_words_are_in_order_inside_their_utterances(group):
    for utterance in group.utterances:
        assert all(a.end <= b.start + 1e-6 for a, b in pairwise(utterance.words))
        assert utterance.start <= utterance.words[0].start
        assert utterance.words[-1].end <= utterance.end + 0.001


def test_references_name_speaker_time_and_text(group):
    first = group.utterances[0]

    assert group.stm("FG-1").startswith(f"FG-1 1 {first.speaker} {first.start:.3f} ")
    assert group.rttm("FG-1").startswith(f"SPEAKER FG-1 1 {first.start:.3f} ")
    assert group.ctm("FG-1").startswith(f"FG-1 1 {first.start:.3f} ")
    assert group.stm("FG-1").count("\n") == len(group.utterances)
