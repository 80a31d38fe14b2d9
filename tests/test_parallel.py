"""Recordings made at the same time, one for each speaker."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from typer.testing import CliRunner

from models.audio.recording import SAMPLE_RATE
from models.channels import Timeline, make_timeline
from models.options import Channels
from models.parallel import align, lay_parallel
from models.pipeline import name_speakers, warn_of_recordings_without_words
from models.transcript import Source
from scripts.make_interview import Interview, make_split_interview, recording_of, write_wav
from service.commands.main import app
from tests.fakes import segment

SECONDS = 20


@pytest.fixture(scope="module")
def lapels() -> tuple[Interview, np.ndarray]:
    """Two people with a microphone each, which also hears the other."""
    return make_split_interview(820_002, seconds=SECONDS, bleed=-20.0)


def heard_by_another(samples: np.ndarray, start: float, gained: float = 0.0) -> np.ndarray:
    """The same sound in a recorder that started then and whose clock gains that much per second."""
    times = start + np.arange(len(samples)) / SAMPLE_RATE / (1 + gained)
    noise = 1e-3 * np.random.default_rng(1).standard_normal(len(samples))
    taken = np.interp(times * SAMPLE_RATE, np.arange(len(samples)), samples, left=0.0, right=0.0)
    return np.asarray(taken + noise, dtype=np.float32)


@pytest.mark.parametrize("start", [-4.321, 0.0, 3.217])
def test_recorders_that_hear_the_same_voices_are_aligned(lapels, start):
    first, other = lapels[1]
    found = align(first, heard_by_another(other, start))

    assert found.is_measured
    assert found.start == pytest.approx(start, abs=0.02)
    assert found.drift == 0.0


def test_the_drift_of_a_clock_is_measured():
    rng = np.random.default_rng(2)
    syllables = np.repeat(rng.uniform(0, 1, 6 * 60 * 5), SAMPLE_RATE // 5)
    sound = (0.1 * syllables * rng.standard_normal(len(syllables))).astype(np.float32)
    found = align(sound, heard_by_another(sound, 2.5, gained=2e-4))

    assert found.start == pytest.approx(2.5, abs=0.02)
    assert found.drift == pytest.approx(2e-4, abs=2e-5)


def test_recordings_without_common_sound_are_not_aligned(lapels):
    _, apart = make_split_interview(820_002, seconds=SECONDS, bleed=-90.0)

    assert not align(*apart).is_measured
    assert not align(lapels[1][0], make_split_interview(5, seconds=30)[1][1]).is_measured
    assert not align(lapels[1][0], lapels[1][1][: SAMPLE_RATE * 2]).is_measured


@pytest.mark.parametrize("start", [-2.5, 3.2])
def test_aligned_recordings_lie_on_one_timeline(lapels, start):
    first, other = lapels[1]
    late = heard_by_another(other, start)[: -5 * SAMPLE_RATE]
    laid = lay_parallel([recording_of(first), recording_of(late)])

    starts = [begin for begin, _ in laid.spans]
    assert starts == pytest.approx([max(0.0, -start), max(0.0, start)], abs=0.02)
    shift = round(starts[0] * SAMPLE_RATE)
    np.testing.assert_array_equal(laid.channels[0, shift : shift + len(first)], first)
    begin = round(starts[1] * SAMPLE_RATE)
    np.testing.assert_array_equal(laid.channels[1, begin : begin + len(late)], late)
    assert not laid.channels[1, :begin].any() and not laid.channels[1, begin + len(late) :].any()
    (told,) = laid.warnings
    assert told.startswith(f"Recording 2 started {abs(start):.1f}")
    assert ("before" if start < 0 else "after") in told


def test_a_clock_that_drifts_is_corrected_and_told():
    rng = np.random.default_rng(3)
    syllables = np.repeat(rng.uniform(0, 1, 5 * 60 * 5), SAMPLE_RATE // 5)
    sound = (0.1 * syllables * rng.standard_normal(len(syllables))).astype(np.float32)
    clicks = np.zeros_like(sound)
    clicks[60 * SAMPLE_RATE : 61 * SAMPLE_RATE] = clicks[240 * SAMPLE_RATE :][:SAMPLE_RATE] = 0.9
    fast = heard_by_another(sound + clicks, 1.0, gained=3e-4)
    laid = lay_parallel([recording_of(sound), recording_of(fast)])
    (told,) = [each for each in laid.warnings if "clock" in each]

    assert "recording 2 runs fast by 1.0" in told
    for begin in (60, 240):  # without the correction, 54 ms apart
        around = np.abs(laid.channels[1, (begin - 1) * SAMPLE_RATE : (begin + 2) * SAMPLE_RATE])
        assert np.argmax(around > 0.7) / SAMPLE_RATE == pytest.approx(1.0, abs=0.02)


def test_recordings_without_common_sound_start_together_and_it_is_told():
    _, apart = make_split_interview(820_002, seconds=SECONDS, bleed=-90.0)
    laid = lay_parallel([recording_of(apart[0]), recording_of(apart[1][: -3 * SAMPLE_RATE])])

    assert [begin for begin, _ in laid.spans] == [0.0, 0.0]
    assert "Recording 2 and recording 1 share no sound" in laid.warnings[0]
    assert "lengths differ by 3.0 s" in laid.warnings[0]


def make_parallel(*recordings: np.ndarray) -> Timeline:
    found = [recording_of(samples) for samples in recordings]
    return make_timeline(found, Channels.PARALLEL, (None, None))


def test_each_recording_is_a_speaker_and_bleed_is_removed(lapels):
    interview, (first, other) = lapels
    made = make_parallel(first, heard_by_another(other, 3.217))
    speakers = list(dict.fromkeys(u.speaker for u in interview.utterances))
    heard = made.samples.reshape(2, -1)

    def loudness(channel: int, speaker: str) -> float:
        parts = [
            heard[channel, round(u.start * SAMPLE_RATE) : round(u.end * SAMPLE_RATE)]
            for u in interview.utterances
            if u.speaker == speaker and u.start > 4.0
        ]
        return float(10 * np.log10(np.square(np.concatenate(parts)).mean()))

    assert (made.n_channels, made.parallel) == (2, (0, 1))
    for channel, speaker in enumerate(speakers):
        assert loudness(channel, speaker) > loudness(1 - channel, speaker) + 30


def test_no_window_ends_where_a_parallel_recording_starts():
    made = Timeline(
        np.zeros(60 * SAMPLE_RATE, np.float32), (0.0, 5.0), n_channels=2, parallel=(0, 1)
    )

    assert made.joints == (30.0,)


def test_stereo_files_are_one_speaker_each_and_silent_ones_are_left_out(lapels):
    first, other = lapels[1]
    made = make_parallel(np.stack([first, first]), 0 * first, other)

    assert made.parallel == (0, 2)
    assert "Recording 2 was left out" in str(made.warning)


def test_copies_of_one_recording_are_one_speaker(lapels):
    made = make_parallel(lapels[1][0], lapels[1][0])

    assert (made.n_channels, made.parallel) == (1, ())
    assert "Only one recording has its own voice" in str(made.warning)


def test_a_transcripts_sources_name_their_speakers():
    sources = [Source(start, 10.0, "wav", "pcm_s16le", 16_000, 1, 1) for start in (0.0, 2.0, 0.0)]
    timeline = Timeline(np.zeros(160, np.float32), (0.0, 2.0, 0.0), 2, parallel=(0, 2))
    named = name_speakers(
        sources, timeline, {"SPEAKER_00": "SPEAKER_01", "SPEAKER_01": "SPEAKER_00"}
    )

    assert [source.speaker for source in named] == ["SPEAKER_01", None, "SPEAKER_00"]
    spoken = [segment("SPEAKER_01", "nobody else is here")]
    (warning,) = warn_of_recordings_without_words(named, spoken, timeline.parallel)
    assert warning.startswith("Recording 3 of 3 has no words")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["transcribe", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        (1, [], "two files or more"),
        (2, ["--join"], "follow each other"),
        (2, ["--channels", "mix"], "leave out --channels"),
    ],
)
def test_options_that_contradict_parallel_are_refused(tmp_path, files, options, says):
    paths = [tmp_path / f"{i}.wav" for i in range(files)]
    code, output = run(*paths, "--out", tmp_path, "--parallel", *options)

    assert code == 2
    assert says in " ".join(output.replace("│", " ").split())


def test_two_lapel_recorders_become_one_transcript(tmp_path, lapels):
    """The second was switched on three seconds later. No word is written twice."""
    interview, (first, other) = lapels
    write_wav(tmp_path / "moderator.wav", first)
    write_wav(tmp_path / "guest.wav", heard_by_another(other, 3.217)[: -4 * SAMPLE_RATE])
    files = [tmp_path / name for name in ("moderator.wav", "guest.wav")]
    settings = ["--out", tmp_path / "out", "--model", "demo", "--language", "en", "--parallel"]
    code, output = run(*files, *settings)

    assert code == 0, output
    (path,) = (tmp_path / "out").glob("*.json")
    made = json.loads(path.read_text())
    assert made["made_with"]["options"]["channels"] == "parallel"
    assert [source["start"] for source in made["sources"]] == pytest.approx([0.0, 3.217], abs=0.02)
    assert sorted(source["speaker"] for source in made["sources"]) == made["speakers"]
    assert any("Recording 2 started 3.2" in warning for warning in made["warnings"])
    assert_each_word_once(interview, made)
    assert "already finished" in run(*files, *settings)[1]


def assert_each_word_once(interview: Interview, made: dict[str, Sequence[dict]]) -> None:  # type: ignore[type-arg]
    from models.metrics import Spoken, speaker_errors, word_errors

    reference = [Spoken(u.speaker, u.start, u.end, u.text) for u in interview.utterances]
    found = [
        Spoken(s["speaker"], s["start"], s["end"], "".join(w["text"] for w in s["words"]))
        for s in made["segments"]
    ]
    words = word_errors(" ".join(u.text for u in reference), " ".join(s.text for s in found))
    wrong, nobody = speaker_errors(reference, found)
    assert words.rate < 0.15
    assert (wrong.errors, nobody.errors) == (0, 0)
