"""Changes of language, and a given language that is not the one spoken."""

import pytest

from models.audio.decode import decode
from models.diarisation.segmentation import SpeechRegion
from models.language_votes import find_language_changes, split_at_pauses, warn_of_other_language
from models.options import JobOptions
from models.whisper_engine import LanguageGuess


def speech(*edges):
    return [SpeechRegion(start, end) for start, end in edges]


def changes(regions, *votes):
    """The changes, if Whisper's guesses about the stretches are these."""
    return find_language_changes(regions, lambda stretches: [LanguageGuess(*v) for v in votes])


THREE = speech((0.0, 5.0), (6.0, 11.0), (12.0, 17.0))


def test_the_language_changes_in_the_middle_of_the_pause():
    assert changes(THREE, ("en", 0.99), ("es", 0.95), ("es", 0.9)) == (5.5,)


def test_an_unclear_stretch_is_kept_apart_and_one_that_sounds_like_its_neighbour_is_not():
    assert changes(THREE, ("en", 0.99), ("pt", 0.4), ("en", 0.99)) == (5.5, 11.5)
    assert changes(THREE, ("en", 0.99), ("en", 0.6), ("en", 0.99)) == ()


def test_speech_in_one_language_and_speech_without_pauses_is_not_cut():
    assert changes(THREE, ("en", 0.99), ("en", 0.95), ("en", 0.9)) == ()
    assert changes(speech((0.0, 5.0), (5.2, 9.0))) == ()


def test_a_short_answer_is_judged_together_with_its_nearest_neighbour():
    """Whisper took German "Ja, ja" alone for French."""
    regions = speech((0.0, 5.0), (5.8, 6.5), (9.0, 14.0))

    assert split_at_pauses(regions) == [list(regions[:2]), list(regions[2:])]


def test_a_clear_contradiction_of_the_given_language_is_a_warning():
    (warning,) = warn_of_other_language("en", LanguageGuess("de", 0.98))

    assert warning.startswith("WRONG LANGUAGE?") and "English" in warning and "German" in warning
    assert warn_of_other_language("en", LanguageGuess("de", 0.6)) == []
    assert warn_of_other_language("en", LanguageGuess("en", 0.98)) == []
    assert warn_of_other_language("hr", LanguageGuess("sr", 0.98)) == []


def transcribe(pipeline, path, options):
    with path.open("rb") as file:
        return pipeline.transcribe([decode(file)], options)


@pytest.mark.real
def test_german_heard_as_english_is_found_out(real_pipeline, real_recordings):
    path = real_recordings / "hard" / "german-as-en.flac"
    transcript = transcribe(real_pipeline, path, JobOptions(language="en"))

    assert transcript.warnings[0].startswith("WRONG LANGUAGE?")
    assert "German" in transcript.warnings[0]


@pytest.mark.real
def test_twenty_seconds_of_spanish_are_written_down_in_spanish(real_pipeline, real_recordings):
    """They became invented English: a window began with them and ended in English."""
    path = real_recordings / "hard" / "codeswitch.flac"
    transcript = transcribe(real_pipeline, path, JobOptions(mixed_languages=True))

    other = {
        flag.evidence["language"] for flag in transcript.flags if flag.kind == "other_language"
    }
    assert other == {"de", "es"} or other == {"en", "es"} or other == {"de", "en"}
    spanish = " ".join(word.text for word in transcript.words if 37 < word.start < 53).lower()
    assert {"que", "de", "la"} & set(spanish.replace(",", "").split())
    assert not {"the", "and", "of"} & set(spanish.replace(",", "").split())
