"""Splitting channels, tested on rendered voices, mostly without weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.attribution import attribute
from models.channels import (
    Dominance,
    Timeline,
    distinct_channels,
    frame_levels,
    interleave,
    make_timeline,
    remove_bleed,
)
from models.diarisation.segmentation import SpeechRegion
from models.metrics import diarisation_parts
from models.options import Channels, JobOptions
from models.transcript import Flag, Segment, Turn, Word
from scripts.make_interview import Interview, make_split_interview, recording_of
from tests.fakes import segment, words

UNKNOWN = (None, None)


@pytest.fixture(scope="module")
def split() -> tuple[Interview, np.ndarray]:
    return make_split_interview(820_001, seconds=20, overlap=0.3)


def timeline(
    channels: np.ndarray,
    wanted: Channels = Channels.AUTO,
    speakers: tuple[int | None, int | None] = UNKNOWN,
) -> Timeline:
    return make_timeline([recording_of(channels.astype(np.float32))], wanted, speakers)


def alone(interview: Interview, speaker: str) -> list[tuple[float, float]]:
    """Words of this speaker during which the other is silent."""
    others = [u for u in interview.utterances if u.speaker != speaker]
    return [
        (word.start, word.end)
        for word in interview.words
        if word.speaker == speaker
        and all(word.end < u.start - 0.2 or word.start > u.end + 0.2 for u in others)
    ]


def level(samples: np.ndarray, spans: list[tuple[float, float]]) -> float:
    parts = [samples[round(a * 16_000) : round(b * 16_000)] for a, b in spans]
    return float(10 * np.log10(np.square(np.concatenate(parts)).mean() + 1e-12))


@pytest.mark.parametrize("bleed", [-10.0, -15.0, -30.0])
def test_channels_of_two_microphones_are_split_and_bleed_is_removed(bleed):
    interview, channels = make_split_interview(820_002, seconds=20, bleed=bleed)
    made = timeline(channels)
    heard = made.samples.reshape(2, -1)

    assert made.n_channels == 2
    for channel, speaker in enumerate(dict.fromkeys(u.speaker for u in interview.utterances)):
        own = alone(interview, speaker)
        assert level(heard[channel], own) == pytest.approx(level(channels[channel], own), abs=0.2)
        bleeding = level(channels[1 - channel], own)
        assert level(heard[1 - channel], own) < max(bleeding - 15, -60.0)  # the noise is at -60


def test_a_soft_word_during_the_others_sentence_is_kept(split):
    """A back-channel 10 dB below the main speaker, with bleed at -20 dB."""
    rng = np.random.default_rng(1)
    voices = rng.standard_normal((2, 20 * 16_000))
    seconds = np.arange(20 * 16_000) / 16_000
    voices[0] *= 0.1 * (seconds % 10 < 6)
    voices[1] *= 0.1 * ((seconds % 10 > 6.5) & (seconds % 10 < 9.5))
    said = (seconds > 3) & (seconds < 3.4)
    voices[1] += 0.03 * said * rng.standard_normal(len(said))
    channels = voices + 0.1 * voices[::-1] + 1e-4 * rng.standard_normal(voices.shape)
    heard = timeline(channels).samples.reshape(2, -1)

    assert level(heard[1], [(3.0, 3.4)]) == pytest.approx(level(channels[1], [(3.0, 3.4)]), abs=0.5)
    assert level(heard[1], [(4.0, 5.5)]) < level(channels[1], [(4.0, 5.5)]) - 30


def test_the_gain_of_a_microphone_does_not_matter(split):
    _, channels = split
    soft = channels * np.array([[0.1], [1.0]])

    assert Dominance.of(soft).is_separated
    assert np.mean(Dominance.of(soft).speaks == Dominance.of(channels).speaks) > 0.98


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.3, 0.0), (-1.0, 0.0), (1.0, 0.05)])
def test_dual_mono_is_one_channel(split, gain, offset):
    """At any gain and sign, and with an offset, as cheap sound cards add."""
    one = split[1][0]
    rng = np.random.default_rng(1)
    copy = gain * one + offset + 1e-4 * rng.standard_normal(len(one))

    assert distinct_channels(np.stack([one, copy])) == [0]
    made = timeline(np.stack([one, copy]), Channels.SPLIT)
    assert (made.n_channels, len(made.samples)) == (1, len(one))
    assert "Only one channel" in str(made.warning)


def test_an_empty_channel_is_left_out(split):
    one = split[1][1]

    assert distinct_channels(np.stack([1e-5 * one[::-1], one])) == [1]
    np.testing.assert_array_equal(timeline(np.stack([0 * one, one])).samples, one)


def test_a_stereo_recorder_on_the_table_is_not_split(split):
    interview, channels = split
    left, right = channels
    table = np.stack([left + 0.7 * right, 0.6 * left + np.roll(right, 10)])
    made = timeline(table)

    assert made.n_channels == 1 and made.warning is None
    np.testing.assert_allclose(made.samples, table.mean(axis=0), atol=1e-6)
    assert timeline(table, Channels.SPLIT).n_channels == 2


def test_splitting_copies_of_one_voice_warns_that_words_may_appear_twice(split):
    one = split[1][0]
    late, clipped = np.roll(one, 48), np.clip(4 * one, -0.5, 0.5)
    for copy in (late, clipped):
        made = timeline(np.stack([one, copy]), Channels.SPLIT)

        assert made.n_channels == 2
        assert "may appear twice" in str(made.warning)
    assert "twice" not in str(timeline(split[1], Channels.SPLIT).warning)


def test_an_offset_on_a_channel_does_not_hide_its_speaker(split):
    offset = split[1] + np.array([[0.05], [0.0]])

    made, clean = timeline(offset), timeline(split[1])
    assert made.n_channels == 2
    np.testing.assert_allclose(made.samples, clean.samples, atol=1e-3)


def test_two_channels_are_not_split_if_six_speakers_are_expected(split):
    assert timeline(split[1], speakers=(6, 6)).n_channels == 1
    assert timeline(split[1], speakers=(2, 4)).n_channels == 2


def test_mix_always_mixes_the_channels(split):
    made = timeline(split[1], Channels.MIX)

    np.testing.assert_allclose(made.samples, split[1].mean(axis=0), atol=1e-6)


def test_splitting_a_single_channel_gives_a_warning(split):
    assert "only one channel" in str(timeline(split[1][:1], Channels.SPLIT).warning)
    assert timeline(split[1][:1]).warning is None


def test_recordings_with_different_channels_are_mixed(split):
    parts = [recording_of(split[1]), recording_of(split[1][:1])]
    made = make_timeline(parts, Channels.AUTO, UNKNOWN)

    assert made.n_channels == 1
    assert made.starts == (0.0, split[1].shape[1] / 16_000)


@pytest.mark.parametrize("wanted", [Channels.AUTO, Channels.MIX])
def test_an_inverted_channel_does_not_silence_its_recording(split, wanted):
    """Next to a recording with other channels, both were added up and the sound cancelled out."""
    left, right = split[1]
    inverted, n = recording_of(np.stack([left, -left])), len(left)
    for others in (split[1], split[1][:1], np.stack([right, left, right])):
        made = make_timeline([inverted, recording_of(others)], wanted, (6, 6))

        assert made.n_channels == 1
        np.testing.assert_array_equal(made.samples[:n], left)
        np.testing.assert_allclose(made.samples[n:], others[:2].mean(axis=0), atol=1e-6)
    alone = make_timeline([inverted], wanted, UNKNOWN)
    np.testing.assert_array_equal(alone.samples, left)


def test_no_window_crosses_a_recording_or_a_channel():
    made = Timeline(np.zeros(2 * 30 * 16_000, dtype=np.float32), (0.0, 10.0), n_channels=2)

    assert made.duration == 30.0
    assert made.joints == (10.0, 30.0, 40.0)


def test_no_window_spans_the_turn_of_the_other_speaker():
    voices = tuple(SpeechRegion(a, b) for a, b in [(1.0, 3.0), (4.0, 5.0), (9.0, 12.0)])
    made = Timeline(np.zeros(2 * 30 * 16_000, np.float32), (0.0,), 2, voices=voices)

    assert made.joints == (7.0, 30.0)


def test_results_are_unfolded_to_the_time_of_their_channel():
    made = Timeline(np.zeros(2 * 30 * 16_000, dtype=np.float32), (0.0,), n_channels=2)
    regions = [SpeechRegion(1.0, 2.0), SpeechRegion(29.0, 31.0), SpeechRegion(32.0, 33.0)]

    assert made.turns(regions) == (
        Turn(0.0, 1.0, "SPEAKER_01"),
        Turn(1.0, 2.0, "SPEAKER_00"),
        Turn(2.0, 3.0, "SPEAKER_01"),
        Turn(29.0, 30.0, "SPEAKER_00"),
    )
    (unfolded,) = made.unfold([segment("SPEAKER_01", "At the clinic.", 32.0)])
    assert (unfolded.start, unfolded.words[0].start) == (2.0, 2.0)
    flags = made.unfold_flags([Flag("loop", 35.0, 36.0, {}), Flag("loop", 7.0, 8.0, {})])
    assert [flag.start for flag in flags] == [5.0, 7.0]


def test_phrases_are_ordered_by_their_start():
    first = Segment("A", 0.0, 9.0, (*words("I was there.", 0.0), *words("It was good.", 6.0)))
    second = segment("B", "Mm.", 3.0)

    assert [(s.speaker, s.text) for s in interleave([first, second])] == [
        ("A", "I was there."),
        ("B", "Mm."),
        ("A", "It was good."),
    ]


said = st.lists(
    st.tuples(
        st.sampled_from("AB"),
        st.lists(
            st.tuples(st.floats(0, 50), st.floats(0, 2), st.sampled_from([" so", " end."])),
            min_size=1,
            max_size=12,
        ),
    ),
    max_size=6,
)


@given(said)
def test_interleaving_neither_loses_duplicates_nor_reorders_words(drawn):
    segments, clock = [], {"A": 0.0, "B": 0.0}
    for speaker, own in drawn:
        made = []
        for pause, length, text in own:
            start = clock[speaker] + pause
            made.append(Word(text, start, start + length, 0.5))
            clock[speaker] = start + length
        segments.append(Segment(speaker, made[0].start, made[-1].end, tuple(made)))
    found = interleave(segments)

    for speaker in "AB":
        before, after = (
            [word for s in some if s.speaker == speaker for word in s.words]
            for some in (segments, found)
        )
        assert after == before


def test_long_channels_stay_in_single_precision():
    channels = np.random.default_rng(0).random((2, 61 * 16_000 + 5), dtype=np.float32)
    folded = remove_bleed(channels, Dominance.of(channels))

    assert frame_levels(channels).shape == (2, 3050)
    assert folded.dtype == np.float32


def audible_words(interview: Interview, made: Timeline) -> list[Word]:
    """Words, as their numbers, of which at least half is audible in a channel at their time."""
    found = []
    for channel, samples in enumerate(made.samples.reshape(made.n_channels, -1)):
        levels = frame_levels(samples[None])[0]
        begin = channel * made.duration
        for i, word in sorted(enumerate(interview.words), key=lambda pair: pair[1].start):
            first, last = round(word.start * 50), round(word.end * 50)
            if np.median(levels[first : last + 1]) > -50:
                found.append(Word(f" {i}", begin + word.start, begin + word.end, 0.9))
    return found


@pytest.mark.parametrize(("bleed", "overlap"), [(-10.0, 0.0), (-15.0, 0.3), (-25.0, 0.3)])
def test_each_word_is_audible_only_in_the_channel_of_its_speaker(bleed, overlap):
    interview, channels = make_split_interview(820_004, seconds=30, bleed=bleed, overlap=overlap)
    made = timeline(channels)
    regions = [SpeechRegion(0.0, 2 * made.duration)]
    segments = made.unfold(attribute(audible_words(interview, made), made.channels, regions))
    names = list(dict.fromkeys(u.speaker for u in interview.utterances))

    found = sorted((int(word.text), s.speaker) for s in segments for word in s.words)
    assert found == [
        (i, f"SPEAKER_{names.index(word.speaker):02d}") for i, word in enumerate(interview.words)
    ]
    bleeding = Timeline(channels.reshape(-1), (0.0,), n_channels=2)
    assert len(audible_words(interview, bleeding)) > len(found)


@pytest.mark.parametrize("phone", [False, True])
def test_speech_counts_only_where_the_level_shows_the_channels_own_voice(phone):
    interview, channels = make_split_interview(820_005, seconds=20, phone=phone)
    made = timeline(channels)
    everything = [SpeechRegion(0.0, 2 * made.duration)]
    names = list(dict.fromkeys(u.speaker for u in interview.utterances))
    reference = [
        Turn(u.start, u.end, f"SPEAKER_{names.index(u.speaker):02d}") for u in interview.utterances
    ]
    parts = diarisation_parts(reference, made.turns(made.own_speech(everything)), collar=0.6)

    assert parts["missed detection"].rate < 0.01
    assert parts["false alarm"].rate < 0.05
    assert parts["confusion"].rate == 0.0


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from models.pipeline import Pipeline
    from models.weights.catalogue import find_pipeline, find_whisper

    return Pipeline(
        find_whisper("demo", Path()), find_pipeline("demo", Path()), torch.device("cpu")
    )


def words_at_anothers_time(interview: Interview, segments: Sequence[Segment]) -> list[Word]:
    """Words in the middle of which their speaker is silent and the other one speaks."""
    names = list(dict.fromkeys(u.speaker for u in interview.utterances))

    def speaks(speaker: str | None, time: float, around: float) -> bool:
        return any(
            f"SPEAKER_{names.index(u.speaker):02d}" == speaker
            and u.start - around <= time <= u.end + around
            for u in interview.utterances
        )

    wrong = []
    for own in segments:
        (other,) = {"SPEAKER_00", "SPEAKER_01"} - {own.speaker}
        for word in own.words:
            middle = (word.start + word.end) / 2
            if speaks(other, middle, 0.0) and not speaks(own.speaker, middle, 0.3):
                wrong.append(word)
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "bleed", "overlap"), [(840_003, -15.0, 0.0), (840_003, -25.0, 0.3), (911, -20.0, 0.0)]
)
def test_no_word_of_a_split_interview_has_the_wrong_speaker(pipeline, seed, bleed, overlap):
    """The whole pipeline with the demo weights."""
    from models.metrics import Spoken, speaker_errors

    interview, channels = make_split_interview(seed, seconds=30, bleed=bleed, overlap=overlap)
    transcript = pipeline.transcribe([recording_of(channels)], JobOptions(language="en"))

    found = [Spoken(s.speaker, s.start, s.end, s.text) for s in transcript.segments]
    reference = [Spoken(u.speaker, u.start, u.end, u.text) for u in interview.utterances]
    wrong, nobody = speaker_errors(reference, found)
    assert (wrong.errors, nobody.errors) == (0, 0)
    assert words_at_anothers_time(interview, transcript.segments) == []
    assert wrong.total > 0.85 * len(interview.words)
    assert "few_words" not in {flag.kind for flag in transcript.flags}


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0.0, 0.2])
def test_no_word_of_a_telephone_interview_has_the_wrong_speaker(pipeline, overlap):
    """The demo Whisper was not trained on telephone sound, so only the times of words count."""

    interview, channels = make_split_interview(
        911, seconds=30, bleed=-20.0, overlap=overlap, phone=True
    )
    transcript = pipeline.transcribe([recording_of(channels)], JobOptions(language="en"))

    assert {segment.speaker for segment in transcript.segments} == {"SPEAKER_00", "SPEAKER_01"}
    assert words_at_anothers_time(interview, transcript.segments) == []
    assert len(transcript.words) > 0.5 * len(interview.words)


def test_no_sentence_spans_the_end_of_one_channel_and_the_start_of_the_next():
    """They are neighbours on the folded timeline: the speaker with fewer words lost one to the
    other, who then appeared to say it at the end of the recording."""
    two = Timeline(np.zeros(2 * 30 * 16_000, dtype=np.float32), (0.0,), n_channels=2)
    said = [
        Word(" Bye", 29.4, 29.8, 0.9),
        *words(" Hello, this is Mary.", start=30.2),
    ]
    regions = [SpeechRegion(29.4, 29.8), SpeechRegion(30.2, said[-1].end)]
    segments = two.unfold(attribute(said, two.channels, regions, certain=True))

    assert [(one.speaker, one.text.strip()) for one in segments] == [
        ("SPEAKER_01", "Hello, this is Mary."),
        ("SPEAKER_00", "Bye"),
    ]
    assert segments[0].start == pytest.approx(0.2)
    assert segments[1].start == pytest.approx(29.4)


def test_it_is_said_which_channel_a_speaker_has_if_the_second_one_speaks_first():
    from models.pipeline import warn_of_channel_order

    two = Timeline(np.zeros(2 * 16_000, dtype=np.float32), (0.0,), n_channels=2)
    swapped = {"SPEAKER_01": "SPEAKER_00", "SPEAKER_00": "SPEAKER_01"}

    assert warn_of_channel_order(two, {"SPEAKER_00": "SPEAKER_00"}) == []
    assert warn_of_channel_order(two, swapped) == [
        "The speakers are in the order in which they first speak: channel 1 is SPEAKER_01, "
        "channel 2 is SPEAKER_00."
    ]
