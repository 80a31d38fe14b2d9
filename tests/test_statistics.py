import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadRoster
from models.options import JobOptions, SpeakerCount
from models.pipeline import warn_of_speaker_count
from models.roster import RosterEntry, parse_line
from models.statistics import Suggestion, compute_statistics, count_questions, sum_talk_times
from models.transcript import Overlap, Transcript, Turn
from models.transcript_json import from_json, to_json
from tests.fakes import made_with, segment, transcript

GROUP = tuple(RosterEntry(f"P{i:02d}", "participant" if i else "moderator") for i in range(6))


def group(**changes: Any) -> Transcript:
    values: dict[str, Any] = {
        "turns": (
            Turn(0.0, 4.0, "A"),
            Turn(4.0, 10.0, "B"),
            Turn(9.0, 10.0, "A"),
            Turn(12.0, 14.0, "C"),
        ),
        "overlaps": (Overlap(9.0, 10.0, ("A", "B")),),
        **changes,
    }
    return transcript(
        [
            segment("A", "Who begins? You?", 0.0),
            segment("B", "I was there.", 4.0),
            segment("B", "For a year.", 8.0),
            segment("A", "Since when?", 9.0),
            segment("C", "Was it?", 12.0),
            segment(None, "Thank you.", 30.0),
        ],
        speakers=("A", "B", "C"),
        **values,
    )


def test_each_speakers_time_turns_words_and_overlaps_are_counted():
    a, b, c = compute_statistics(group()).speakers

    assert (a.talk_time, b.talk_time, c.talk_time) == (5.0, 6.0, 2.0)
    assert (a.turns, b.turns, c.turns) == (2, 1, 1)
    assert (a.words, b.words, c.words) == (5, 6, 2)
    assert (a.questions, b.questions, c.questions) == (3, 0, 1)
    assert (a.overlaps, b.overlaps, c.overlaps) == (1, 1, 0)
    assert (a.overlap_time, c.overlap_time) == (1.0, 0.0)
    assert compute_statistics(group()).words_without_speaker == 2


@pytest.mark.parametrize("text", ["Who is it?", "谁？", "من هو؟", "ማን ነው፧"])
def test_questions_end_with_the_question_mark_of_their_script(text):
    assert count_questions(segment("A", text)) == 1


def test_words_without_a_speaker_do_not_end_a_turn():
    made = transcript([segment("A", "So."), segment(None, "Mm.", 1.0), segment("A", "Yes.", 2.0)])

    assert compute_statistics(made).speakers[0].turns == 1


def test_the_speaker_who_asks_most_questions_is_suggested_as_moderator_with_evidence():
    assert compute_statistics(group()).suggestions == (
        Suggestion(
            "A",
            "moderator",
            {
                "questions": 3,
                "share_of_questions": 0.75,
                "share_of_talk": 0.3846,
                "speaks_first": 1.0,
            },
        ),
    )


def test_the_suggested_role_has_the_rosters_name():
    roster = [{"code": "INT", "role": "interviewer"}, {"code": "P01", "role": "participant"}]
    made = group(made_with=made_with(options={"roster": roster}))

    assert compute_statistics(made).suggestions[0].role == "interviewer"


def test_capitals_and_spaces_in_a_rosters_role_are_ignored():
    roster = [{"code": "INT", "role": "Interviewer "}, {"code": "P01", "role": "participant"}]
    made = group(made_with=made_with(options={"roster": roster}))

    assert compute_statistics(made).suggestions[0].role == "interviewer"


def test_two_questions_or_equal_shares_suggest_nothing():
    few = transcript([segment("A", "Who? Me?"), segment("B", "You.", 4.0)])
    equal = transcript([segment("A", "Who? Me?"), segment("B", "You? Why?", 4.0)])

    assert compute_statistics(few).suggestions == ()
    assert compute_statistics(equal).suggestions == ()


def test_a_suggestion_changes_nothing_in_the_transcript():
    document = json.loads(to_json(group()))

    assert document["statistics"]["suggestions"][0]["speaker"] == "A"
    assert document["speakers"] == ["A", "B", "C"]
    assert {s["speaker"] for s in document["segments"]} == {"A", "B", "C", None}
    assert from_json(to_json(group())) == group()


def test_a_transcript_without_speakers_has_no_statistics():
    nobody = transcript([segment(None, "Thank you.")])

    assert compute_statistics(nobody).speakers == ()


@given(
    st.lists(
        st.builds(
            lambda start, length, who: Turn(start, start + length, who),
            st.integers(0, 50),
            st.integers(1, 20),
            st.sampled_from("AB"),
        ),
        max_size=10,
    )
)
def test_talk_time_counts_every_second_of_a_speaker_once(turns):
    times = sum_talk_times(turns)
    for speaker in "AB":
        seconds = {
            t
            for turn in turns
            if turn.speaker == speaker
            for t in range(int(turn.start), int(turn.end))
        }
        assert times.get(speaker, 0.0) == len(seconds)


def test_a_roster_determines_how_many_speakers_to_expect():
    assert JobOptions(roster=GROUP).expected_speakers == SpeakerCount(6, 6)
    range_given = JobOptions(roster=GROUP, speakers=SpeakerCount(5, 7))
    assert range_given.expected_speakers == SpeakerCount(5, 7)
    assert JobOptions().expected_speakers == SpeakerCount()
    assert JobOptions(roster=GROUP).by_roster
    assert not range_given.by_roster and not JobOptions().by_roster


@pytest.mark.parametrize("role", ["observer", "Observer", " OBSERVER "])
def test_an_observer_may_stay_silent(role):
    with_observer = (*GROUP, RosterEntry("O1", role))

    assert JobOptions(roster=with_observer).expected_speakers == SpeakerCount(6, 7)
    assert JobOptions(roster=with_observer[6:]).expected_speakers == SpeakerCount(1, 1)


def test_a_number_of_speakers_other_than_the_rosters_is_a_warning():
    options = JobOptions(roster=GROUP)

    assert warn_of_speaker_count(6, options) == []
    assert warn_of_speaker_count(5, options)[0].startswith(
        "5 speakers were found, but 6 were expected by the roster"
    )
    asked = JobOptions(speakers=SpeakerCount(2, 3))
    assert ", but 2-3 were expected:" in warn_of_speaker_count(4, asked)[0]
    assert warn_of_speaker_count(9, JobOptions()) == []


def test_no_number_is_said_to_be_expected_where_nobody_named_one():
    """It said that 0 speakers were found where "unknown" were expected by the roster."""
    (warning,) = warn_of_speaker_count(0, JobOptions())

    assert warning == "No speakers could be told apart: the words have no speaker."
    (warning,) = warn_of_speaker_count(0, JobOptions(speakers=SpeakerCount(2, 2)))
    assert warning.startswith("0 speakers were found, but 2 were expected:")


def test_a_requested_number_other_than_the_rosters_is_a_warning_even_if_it_is_found():
    options = JobOptions(roster=GROUP, speakers=SpeakerCount(5, 5))

    assert options.expected_speakers == SpeakerCount(5, 5)
    (warning,) = warn_of_speaker_count(5, options)
    assert warning.startswith("5 speakers were found, but 6 were expected by the roster")


@pytest.mark.parametrize(
    "roster",
    [
        [RosterEntry(f"P{i}", "participant") for i in range(13)],
        [RosterEntry("P1", "participant"), RosterEntry("P1", "moderator")],
        [RosterEntry("P1", "participant"), RosterEntry("P1 ", "moderator")],
        [RosterEntry(" ", "participant")],
        [RosterEntry("P1", "")],
        [RosterEntry("P" * 41, "participant")],
    ],
)
def test_an_invalid_roster_is_refused(roster):
    with pytest.raises(BadRoster):
        JobOptions(roster=tuple(roster))


def test_a_line_of_a_roster_is_a_code_and_a_role():
    assert parse_line(" P01   lived-experience worker\n") == RosterEntry(
        "P01", "lived-experience worker"
    )
    with pytest.raises(BadRoster, match="a code and a role"):
        parse_line("P01")


def test_the_roster_is_stored_with_the_transcript():
    kept = JobOptions(roster=GROUP[:1]).to_transcript(None)

    assert kept["roster"] == [{"code": "P00", "role": "moderator"}]
    assert json.loads(json.dumps(kept)) == kept
