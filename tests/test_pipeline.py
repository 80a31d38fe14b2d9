"""The whole pipeline with the demo weights: slow, because nothing in it is a stand-in."""

import importlib
import itertools
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.audio.decode import decode
from models.audio.errors import NoSpeech
from models.diarisation.embedding import embed
from models.errors import Stopped, UnknownLanguage
from models.metrics import TimedText, diarisation_errors, time_errors, word_errors
from models.options import JobOptions, SpeakerCount
from models.pipeline import (
    COSTLY_STAGES,
    Pipeline,
    StageProgress,
    no_speech_message,
    reading_warnings,
    warn_of_recordings_without_words,
    whisper_options,
)
from models.results import pack_diarisation, unpack_diarisation
from models.roster import RosterEntry
from models.transcript import Source, Turn
from models.weights.catalogue import find_pipeline, find_whisper
from models.whisper_engine import LanguageGuess, WhisperOptions
from models.whisper_engine.linear import _QuantisedLinear
from scripts.make_interview import (
    Interview,
    make_interview,
    make_split_interview,
    recording_of,
    write_wav,
)
from tests.fakes import segment

TWO = JobOptions(speakers=SpeakerCount(2, 2))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(
        find_whisper("demo", Path()), find_pipeline("demo", Path()), torch.device("cpu")
    )


@pytest.fixture(scope="module")
def interview() -> Interview:
    return make_interview(810_001, seconds=15)


@pytest.fixture(scope="module")
def stages() -> list[StageProgress]:
    return []


@pytest.fixture(scope="module")
def transcript(pipeline, interview, stages):
    return pipeline.transcribe([recording_of(interview.samples)], TWO, stages.append)


def text_of(words):
    return " ".join(word.text.strip() for word in words)


def turns_of(interview: Interview) -> list[Turn]:
    return [Turn(u.start, u.end, u.speaker) for u in interview.utterances]


def test_the_words_are_right(interview, transcript):
    assert word_errors(text_of(interview.words), text_of(transcript.words)).rate <= 0.1


def test_the_speakers_are_right(interview, transcript):
    assert len(transcript.speakers) == 2
    assert diarisation_errors(turns_of(interview), transcript.turns).rate <= 0.1


def test_the_times_are_right(interview, transcript):
    reference = [TimedText(w.text, w.start, w.end) for w in interview.words]
    hypothesis = [TimedText(w.text, w.start, w.end) for w in transcript.words]

    assert time_errors(reference, hypothesis).rate <= 0.1


def test_every_segment_has_a_speaker(interview, transcript):
    assert list(dict.fromkeys(s.speaker for s in transcript.segments)) == [
        "SPEAKER_00",
        "SPEAKER_01",
    ]


def test_the_language_is_detected_and_its_probability_stored(transcript):
    assert transcript.language == "en"
    assert 0.5 < transcript.language_probability <= 1


def test_the_transcript_says_that_demo_weights_made_it(pipeline, transcript):
    assert any("demo weights" in warning for warning in transcript.warnings)
    assert transcript.made_with.whisper_sha256 == pipeline.whisper_weights.sha256
    assert transcript.made_with.options["speakers"] == "2"


@pytest.mark.slow
def test_both_models_compute_in_a_lower_precision_if_requested(interview, monkeypatch):
    trunks = []

    def record(*arguments, precision, **others):
        trunks.append(precision)
        return embed(*arguments, precision=precision, **others)

    monkeypatch.setattr("models.diarisation.diarisation.embed", record)
    monkeypatch.setattr("models.gates.has_bf16", lambda device: True)
    whisper, diarisation = find_whisper("demo", Path()), find_pipeline("demo", Path())
    pipeline = Pipeline(whisper, diarisation, torch.device("cpu"), "int8")
    found = pipeline.transcribe([recording_of(interview.samples)], TWO)

    assert isinstance(pipeline.engine.model.decoder.vocabulary, _QuantisedLinear)
    assert trunks == ["bf16"]
    assert found.made_with.options["precision"] == "int8"
    assert word_errors(text_of(interview.words), text_of(found.words)).rate <= 0.1


def test_progress_names_the_stages_in_order_and_never_goes_back(stages):
    order = list(dict.fromkeys(progress.stage for progress in stages))

    assert order == ["segment", "transcribe", "align", "diarise", "attribute", "check"]
    for stage in order:
        fractions = [progress.fraction for progress in stages if progress.stage == stage]
        assert fractions == sorted(fractions)
        assert all(0 <= fraction <= 1 for fraction in fractions)


@pytest.mark.parametrize("stage", ["segment", "transcribe", "align", "diarise"])
def test_it_can_be_stopped_in_every_stage(pipeline, interview, stage):
    def stop(progress: StageProgress) -> None:
        if progress.stage == stage:
            raise Stopped

    with pytest.raises(Stopped):
        pipeline.transcribe([recording_of(interview.samples[: 12 * 16_000])], TWO, stop)


def test_a_session_of_two_recordings_is_one_timeline(pipeline, interview):
    samples = interview.samples
    middle = round((interview.utterances[1].end + interview.utterances[2].start) * 8000)
    parts = [recording_of(samples[:middle]), recording_of(samples[middle:])]
    joined = pipeline.transcribe(parts, TWO)

    assert joined.duration == pytest.approx(len(samples) / 16_000, abs=0.001)
    assert [source.start for source in joined.sources] == [0.0, round(middle / 16_000, 3)]
    assert joined.words[-1].end > middle / 16_000
    assert len(joined.speakers) == 2


def test_a_recording_without_speech_is_an_error_with_the_levels(pipeline, monkeypatch):
    monkeypatch.setattr("models.pipeline.find_speech_regions", lambda segmentation: ())
    noise = 0.02 * np.random.default_rng(1).standard_normal(12 * 16_000).astype(np.float32)
    with pytest.raises(NoSpeech, match="dBFS"):
        pipeline.transcribe([recording_of(noise)], TWO)


def test_the_message_about_missing_words_has_the_levels():
    half = np.full(16_000, 0.5, dtype=np.float32)

    assert "peak -6 dBFS" in no_speech_message(half, 0.0)
    assert "3.0 s of speech were found, but no words" in no_speech_message(half, 3.0)
    assert no_speech_message(half, 3.0, 7.0).startswith("In 7 s of audio")  # of two channels


def test_a_recording_of_a_session_without_words_is_named():
    sources = [Source(start, 10.0, "wav", "pcm_s16le", 16_000, 1, 1) for start in (0.0, 10.0, 20.0)]
    spoken = [segment("A", "before and"), segment("A", "after", 25.0)]

    (warning,) = warn_of_recordings_without_words(sources, spoken)
    assert warning.startswith("Recording 2 of 3 has no words")
    assert warn_of_recordings_without_words(sources[:1], spoken) == []


def test_everything_in_a_transcript_lies_within_the_recording(pipeline, transcript):
    """Turns ended after it: the last chunk is filled up with silence."""
    end = transcript.duration
    things = [*transcript.turns, *transcript.words, *transcript.flags, *transcript.segments]

    assert all(0.0 <= thing.start <= thing.end <= end for thing in things)


@pytest.mark.parametrize("stage", ["segmentation", "embedding"])
def test_the_transcript_has_a_warning_if_memory_ran_out_in_any_stage(
    pipeline, interview, transcript, monkeypatch, stage
):
    module = importlib.import_module(f"models.diarisation.{stage}")
    in_batches, n_steps = module.in_batches, itertools.count()

    def run_out_once(n, size, step, halvings):
        def step_or_not(first, last):
            if last - first > 1 and next(n_steps) == 0:
                raise torch.OutOfMemoryError("too many")
            step(first, last)

        in_batches(n, max(size, 2), step_or_not, halvings)

    monkeypatch.setattr(module, "in_batches", run_out_once)
    found = pipeline.transcribe([recording_of(interview.samples)], TWO)

    assert any("memory ran out" in warning for warning in found.warnings)
    assert not any("memory ran out" in warning for warning in transcript.warnings)
    assert found.segments == transcript.segments


def test_speech_without_words_is_decoded_again(pipeline, interview, transcript, monkeypatch):
    """Whisper sometimes ends a window's text early."""
    place, gaps = pipeline.engine._place_words, []

    def lose_the_end(result, *arguments):
        words = place(result, *arguments)
        if result.gap is None:
            return tuple(word for word in words if word.end < 7)
        gaps.append(result.gap)
        return words

    monkeypatch.setattr(pipeline.engine, "_place_words", lose_the_end)
    found = pipeline.transcribe([recording_of(interview.samples)], TWO)

    assert gaps
    assert word_errors(text_of(transcript.words), text_of(found.words)).rate <= 0.4  # else 0.7


def test_the_options_for_language_and_translation_reach_whisper():
    options = JobOptions(language="Dutch", translate=True, mixed_languages=True)

    assert whisper_options(options) == WhisperOptions(
        "nl", (), "translate", language_per_window=True
    )
    recorded = options.to_transcript(precision=None)
    assert recorded["translate"] is recorded["mixed_languages"] is True


def test_a_given_language_that_is_not_heard_is_warned_of_first(pipeline, interview, monkeypatch):
    """Twenty seconds of German became invented English without a word."""
    monkeypatch.setattr(pipeline.engine, "detect_language", lambda *_: LanguageGuess("de", 0.97))
    own = MemoryResults()
    options = replace(TWO, language="en")
    found = pipeline.transcribe([recording_of(interview.samples)], options, results=own)
    again = pipeline.transcribe([recording_of(interview.samples)], options, results=own)

    assert found.warnings[0].startswith("WRONG LANGUAGE?")
    assert again == found


def test_no_window_crosses_a_change_of_language(pipeline, interview, monkeypatch):
    def alternate(samples, windows, maximum):
        return [LanguageGuess(("en", "de")[i % 2], 0.95) for i in range(len(windows))]

    monkeypatch.setattr(pipeline.engine, "guess_languages", alternate)
    decode, cut = pipeline.engine.decode, []

    def note_windows(requests, *arguments):
        cut.extend(requests[0].windows)
        return decode(requests, *arguments)

    monkeypatch.setattr(pipeline.engine, "decode", note_windows)
    options = replace(TWO, mixed_languages=True)
    session = pipeline.segment([recording_of(interview.samples)], options, lambda _: None)
    pipeline.find_words([session], lambda _: None)

    assert len(session.windows) == 1 < len(cut)
    assert all(one.end <= other.start for one, other in itertools.pairwise(cut))


def test_an_unknown_language_is_refused_before_anything_is_computed(pipeline, interview):
    def never(progress: StageProgress) -> None:
        raise AssertionError("something was computed")

    with pytest.raises(UnknownLanguage):
        pipeline.transcribe(
            [recording_of(interview.samples)], JobOptions(language="klingon"), never
        )


@pytest.mark.slow
def test_a_short_trial_estimates_how_long_each_stage_takes(pipeline):
    rates = pipeline.measure_speed()

    assert set(rates) == {"segment", "transcribe", "align", "diarise"}
    assert rates.pop("align") == 0.0  # it is part of transcribing
    assert all(rate > 0 for rate in rates.values())


FORMATS = {
    "phone band": ["-ar", "8000", "-c:a", "pcm_alaw", "phone.wav"],
    "stereo": ["-ac", "2", "stereo.wav"],
    "variable rate": ["-c:a", "libmp3lame", "-q:a", "5", "variable.mp3"],
    "video": ["-c:a", "aac", "-b:a", "64k", "-shortest", "video.mp4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_other_kinds_of_recordings_go_through_the_pipeline(pipeline, interview, tmp_path, kind):
    write_wav(tmp_path / "in.wav", interview.samples)
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5"] if kind == "video" else []
    *options, name = FORMATS[kind]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", "in.wav", *picture, *options, name],
        cwd=tmp_path,
        check=True,
    )
    with (tmp_path / name).open("rb") as file:
        recording = decode(file)
    found = pipeline.transcribe([recording], TWO)

    assert found.duration == pytest.approx(len(interview.samples) / 16_000, abs=0.15)
    assert len(found.speakers) == 2
    assert found.words


@pytest.mark.slow
def test_a_real_conversation_goes_through_the_whole_pipeline(pipeline):
    """pyannote.audio's 30 s telephone call. The demo weights know none of its words or voices."""
    import pyannote.audio

    path = Path(pyannote.audio.__file__).parent / "sample" / "sample.wav"
    with path.open("rb") as file:
        transcript = pipeline.transcribe([decode(file)], TWO)

    assert transcript.duration == pytest.approx(30.0, abs=0.1)
    assert transcript.words and transcript.turns
    assert all(0 <= word.start <= word.end <= 30.0 for word in transcript.words)


class MemoryResults:
    """Stage results in memory. Those of the stages in `missing` are not found."""

    def __init__(self):
        self.results, self.missing, self.saved = {}, set(), []

    def load(self, stage):
        return None if stage in self.missing else self.results.get(stage)

    def save(self, stage, data):
        self.results[stage] = data
        self.saved.append(stage)

    def discard(self):
        self.results = {}


@pytest.fixture(scope="module")
def stored(pipeline, interview, transcript):
    stored = MemoryResults()
    made = pipeline.transcribe([recording_of(interview.samples)], TWO, results=stored)
    assert made == transcript
    return stored


@pytest.mark.parametrize("n_done", range(5))
def test_a_job_resumes_after_the_stages_that_have_stored_results(
    pipeline, interview, transcript, stored, n_done
):
    stored.missing, stored.saved = set(COSTLY_STAGES[n_done:]), []
    reported: list[StageProgress] = []

    made = pipeline.transcribe(
        [recording_of(interview.samples)], TWO, reported.append, results=stored
    )

    assert made == transcript
    assert stored.saved == list(COSTLY_STAGES[n_done:])
    assert not {progress.stage for progress in reported} & set(COSTLY_STAGES[:n_done])


def test_embeddings_of_an_earlier_diarisation_are_reused_for_another_number_of_speakers(
    pipeline, interview, transcript, stored, monkeypatch
):
    """No model runs: the session is clustered again and the same words are attributed anew."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model ran again")

    monkeypatch.setattr("models.diarisation.diarisation.embed", never)
    monkeypatch.setattr("models.pipeline.segment", never)
    monkeypatch.setattr(pipeline.engine, "decode", never)
    stored.missing = {"diarise"}
    stored.results["embeddings"] = stored.results["diarise"]
    one = JobOptions(speakers=SpeakerCount(1, 1))

    made = pipeline.transcribe([recording_of(interview.samples)], one, results=stored)

    assert made.speakers == ("SPEAKER_00",)
    assert made.words == transcript.words


def test_the_transcript_has_the_warnings_of_the_reading_of_each_recording(
    pipeline, interview, stored
):
    silent = "Audio track 2 is silent and was left out."
    recording = replace(recording_of(interview.samples), warnings=(silent,))
    assert silent in pipeline.transcribe([recording], JobOptions(), results=stored).warnings
    assert reading_warnings([recording, recording]) == [
        f"Recording 1: {silent}",
        f"Recording 2: {silent}",
    ]


def test_the_transcript_has_the_warnings_about_its_speakers(pipeline, interview, stored):
    doubt = "SPEAKER_01 speaks for only 1.0 s in all and may not be a person."
    found = unpack_diarisation(stored.results["diarise"])
    results = MemoryResults()
    doubtful = pack_diarisation(replace(found, sampled=True, warnings=(doubt,)))
    results.results = {**stored.results, "diarise": doubtful}
    roster = tuple(RosterEntry(f"P{i}", "participant") for i in range(6))

    made = pipeline.transcribe(
        [recording_of(interview.samples)], JobOptions(roster=roster), results=results
    )

    assert doubt in made.warnings
    assert any("told apart by an even sample of it" in warning for warning in made.warnings)
    assert any("6 were expected by the roster" in warning for warning in made.warnings)


def test_results_of_split_channels_are_discarded_if_another_number_of_speakers_mixes_them(pipeline):
    """Each of two channels was one speaker, until the number of speakers was given as three."""
    _, channels = make_split_interview(810_002, seconds=8)
    three = JobOptions(language="en", speakers=SpeakerCount(3, 3))
    own = MemoryResults()
    pipeline.transcribe(
        [recording_of(channels)], replace(three, speakers=TWO.speakers), results=own
    )
    own.missing, own.saved = {"diarise"}, []
    own.results["embeddings"] = own.results["diarise"]

    mixed = pipeline.transcribe([recording_of(channels)], three, results=own)

    assert own.saved == list(COSTLY_STAGES)
    assert mixed == pipeline.transcribe([recording_of(channels)], three)
