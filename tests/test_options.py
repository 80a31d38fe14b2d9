"""The options of a job, and how the job's row and the transcript store them."""

import json

import pytest

from models.errors import BadRoster, UnknownLanguage
from models.options import Channels, JobOptions, SpeakerCount
from models.roster import RosterEntry

GROUP = (RosterEntry("I1", "interviewer"), RosterEntry("P07", "participant"))
CHOSEN = JobOptions(
    language="de",
    speakers=SpeakerCount(2, 3),
    channels=Channels.SPLIT,
    roster=GROUP,
    translate=True,
    mixed_languages=True,
)


def test_a_row_gives_back_the_options_that_were_stored():
    assert JobOptions.from_row(json.loads(json.dumps(CHOSEN.to_row()))) == CHOSEN


def test_the_row_has_the_keys_that_older_versions_read():
    assert CHOSEN.to_row() == {
        "language": "de",
        "speakers_min": 2,
        "speakers_max": 3,
        "channels": "split",
        "roster": [
            {"code": "I1", "role": "interviewer"},
            {"code": "P07", "role": "participant"},
        ],
        "translate": True,
        "mixed_languages": True,
    }


def test_options_that_are_missing_from_an_older_row_have_their_defaults():
    assert JobOptions.from_row({}) == JobOptions()


def test_the_vocabulary_never_enters_the_row():
    assert "Seroquel" not in json.dumps(JobOptions(vocabulary=("Seroquel",)).to_row())


def test_a_transcript_records_every_option_and_the_precision():
    assert JobOptions(vocabulary=("Seroquel",)).to_transcript("int8") == {
        "language": None,
        "speakers": "unknown",
        "vocabulary": ["Seroquel"],
        "channels": "auto",
        "roster": [],
        "translate": False,
        "mixed_languages": False,
        "precision": "int8",
    }


def test_a_language_is_kept_as_its_code():
    assert JobOptions(language="Dutch").language == "nl"


def test_options_that_make_no_sense_cannot_be_made():
    with pytest.raises(UnknownLanguage):
        JobOptions(language="klingon")
    with pytest.raises(BadRoster):
        JobOptions(roster=GROUP[:1] * 2)


@pytest.mark.parametrize("language", ["auto", "Auto", " AUTO "])
def test_auto_asks_for_the_language_to_be_detected(language):
    assert JobOptions(language=language).language is None
