"""`fieldscribe review`: a key for each mention, then the words that are left, then a sample."""

import json
import os
import pty
import re
import threading

import pytest
from typer.testing import CliRunner

from service.commands import review
from service.commands.main import app
from service.commands.review_text import (
    Passages,
    describe_recall,
    group_mentions,
    numbered_words,
    passage_lines,
    read_range,
)
from tests.api import connect_commands, open_api
from tests.deidentified import FOUND, N_SUGGESTED, accept_all, open_case, suggest


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def case(api):
    case = open_case(api.services)
    suggest(case)
    return case


@pytest.fixture
def run(api, case, monkeypatch):
    connect_commands(api, monkeypatch)

    def invoke(keys, *arguments, code=0):
        result = CliRunner().invoke(
            app, ["review", str(case.job_id), *map(str, arguments)], input=keys
        )
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return invoke


def states(case):
    texts = {segment.id: segment.text for segment in case.decided().transcript.segments}
    return {
        (each.segment, texts[each.segment][each.start : each.stop]): each.state
        for each in case.mentions()
    }


def test_entity_by_entity_every_mention_is_shown_in_its_context(case, run):
    shown = " ".join(run("q").stdout.split())

    assert "8 to go. person P07 (Siobhan Gallagher, Shiv): Siobhan Gallagher, Shiv, Siobhan;" in (
        shown
    )
    assert "SPEAKER_01: My name is »Siobhan Gallagher«, and I live in Coffs Harbour." in shown
    assert "sure: roster" in shown


def test_one_key_decides_on_one_mention(case, run):
    result = run("aarq")

    assert [states(case)[each] for each in (("s0002", "Siobhan Gallagher"), ("s0003", "Shiv"))] == [
        "accepted",
        "accepted",
    ]
    assert states(case)["s0006", "Siobhan"] == "rejected"
    assert "Siobhan Gallagher -> P07" in result.stdout
    assert f"3 decided now, {N_SUGGESTED - 3} open." in result.stderr


def test_the_pseudonym_that_an_acceptance_gives_is_shown(case, run):
    assert re.search(r"Coffs Harbour -> PLACE-\d+\n", run("Aaq").stdout)


def test_the_next_run_continues(case, run):
    run("A" + "q")
    again = " ".join(run("q").stdout.split())

    assert "»Siobhan Gallagher«" not in again
    assert "»Coffs Harbour«" in again


def test_a_capital_decides_on_every_mention_of_the_entity(case, run):
    run("Aq")

    accepted = [key for key, state in states(case).items() if state == "accepted"]
    assert sorted(accepted) == [
        ("s0002", "Siobhan Gallagher"),
        ("s0003", "Shiv"),
        ("s0006", "Siobhan"),
    ]


def test_a_decision_can_be_taken_back(case, run):
    run("AuqX")

    assert set(states(case).values()) == {"suggested"}


def test_a_new_person_can_be_chosen(api, case, run):
    result = run("ee\n" + "n" * 20)
    run("e" + "p\n" + "q")

    assert "p new person" in result.stdout
    decided = case.decided()
    (span,) = decided.spans
    assert span.entity_id != case.entities["Siobhan Gallagher"]


def test_other_words_can_be_chosen(case, run):
    run("w4-4\n" + "q")

    assert states(case)["s0002", "Siobhan Gallagher"] == "rejected"
    assert states(case)["s0002", "Siobhan"] == "accepted"


def test_the_whole_review_ends_with_words_that_nothing_suggested(case, run):
    keys = "A" * 8
    result = run(keys + "R" + "\n" * 5)

    assert "Woolgoolga (1)" in result.stdout
    assert case.decided().n_open == 0 or "open." in result.stderr


def test_a_word_that_nothing_suggested_is_added(case, run):
    accept_all(case)
    first = run("\n").stdout
    number = next(part.split()[0] for part in first.split("  ") if "Woolgoolga" in part)
    result = run(f"{number}\nl\n\n")

    assert "So was »Woolgoolga«." in result.stdout
    assert states(case)["s0007", "Woolgoolga"] == "accepted"
    assert "The review is finished." in result.stderr


def test_every_line_fits_80_columns(case, run):
    shown = run("?cwx" + "\n" + "ex\n" + "A" * 12 + "\n1\nqq")

    assert max(map(len, shown.output.splitlines())) <= 80


def test_ctrl_c_loses_nothing_and_says_how_to_go_on(case, run, monkeypatch):
    keys = iter("a")

    def interrupted():
        if (key := next(keys, None)) is None:
            raise KeyboardInterrupt
        return key

    monkeypatch.setattr(review, "read_key", interrupted)
    result = run("", code=130)

    assert states(case)["s0002", "Siobhan Gallagher"] == "accepted"
    assert f"1 decided now, {N_SUGGESTED - 1} open." in result.stderr
    assert f"fieldscribe review {case.job_id}" in result.stderr


def test_ctrl_c_is_read_from_a_terminal(monkeypatch):
    """Reading a key first discards what was typed before, so the key is pressed repeatedly."""
    master, slave = pty.openpty()
    done = threading.Event()

    def press():
        while not done.wait(0.05):
            os.write(master, b"\x03")

    with os.fdopen(slave) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        thread = threading.Thread(target=press)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                review.read_key()
        finally:
            done.set()
            thread.join()
    os.close(master)


def test_what_another_reviewer_has_decided_is_not_overwritten(api, case, run, monkeypatch):
    send = review.Screen.send

    def decide_first(self, mention, *arguments, **more):
        monkeypatch.setattr(review.Screen, "send", send)
        accept_all(case, reject=("Siobhan Gallagher",))
        return send(self, mention, *arguments, **more)

    monkeypatch.setattr(review.Screen, "send", decide_first)
    result = run("aq")

    assert "have changed since" in " ".join(result.stdout.split())
    assert states(case)["s0002", "Siobhan Gallagher"] == "rejected"


def test_json_prints_the_review_and_asks_nothing(case, run):
    view = json.loads(run("", "--json").stdout)

    assert (view["transcript_id"], view["n_open"]) == (str(case.transcript_id), N_SUGGESTED)


def test_before_the_hand_off_the_command_says_so(api, monkeypatch):
    connect_commands(api, monkeypatch)
    case = open_case(api.services)
    refused = CliRunner().invoke(app, ["review", str(case.job_id)])
    begun = CliRunner().invoke(app, ["review", str(case.job_id), "--begin"], input="q")

    assert (refused.exit_code, "review_not_ready: " in refused.stderr) == (1, True)
    assert (begun.exit_code, "»Siobhan Gallagher«" in begun.stdout) == (0, True)


def test_words_left_are_printed(case, run):
    result = run("", "--unsuggested")

    assert "Woolgoolga (1)" in result.stdout
    assert "Words left: capitalised" in result.stderr


def test_hand_offs_of_other_stages_are_listed_with_their_stage(api, case, run):
    token = api.token("deidentifier", str(case.study_id))
    assert api.post("/v1/handoffs/claim?stage=hospitals", token=token).status_code == 200
    listed = CliRunner().invoke(app, ["handoffs"]).stdout

    assert "claimed (hospitals)" in listed


# --- the blind sample -----------------------------------------------------------------------------


def test_a_second_reader_marks_identifiers_without_seeing_the_decisions(case, run):
    accept_all(case)
    marks = ["", "4-5 p, 10-11 l", "3 p, 10-12 o", "", "", "", "15 l"]
    result = run("\n".join(marks) + "\n", "--sample", "20")

    assert "»" not in result.output
    assert f"Found before: {len(FOUND)}. Missed, and added now: 1." in result.stdout
    assert "the review had found 11 of 12 identifiers: 92% (95 % interval 65% to 99%)" in (
        " ".join(result.stdout.split())
    )
    assert "let another person" not in result.stdout  # another token has decided
    assert states(case)["s0007", "Woolgoolga"] == "accepted"


def test_a_wrong_mark_is_asked_for_again(case, run):
    accept_all(case)
    result = run("99 p\n4 y\nhm\n" + "\n" * 7, "--sample", "20")

    assert result.stderr.count("Write words and a letter") == 3


def test_an_interrupted_sample_stores_nothing(api, case, run):
    accept_all(case)
    result = run("1 p\n", "--sample", "20", code=2)

    assert result.stderr.splitlines()[-1].startswith("sample_interrupted: ")
    assert case.decided().n_open == 0


def test_a_sample_of_an_open_review_is_refused(case, run):
    result = run("", "--sample", "5", code=1)

    assert "review_open: " in result.stderr


# --- text -----------------------------------------------------------------------------------------

LONG = "word " * 300
PASSAGES = Passages.of(
    {
        "segments": [
            {
                "id": "s0001",
                "speaker": "P07",
                "start": 83.0,
                "text": f"{LONG}Tomasz\x1b[2J {LONG}".strip(),
                "words": [],
            }
        ]
    }
)


def test_a_long_passage_is_cut_around_the_span_and_fits_80_columns():
    lines = list(passage_lines(PASSAGES, "s0001", (len(LONG), len(LONG) + 6), 80))

    assert lines[0].startswith("  [0:01:23] P07: … word")
    assert "»Tomasz«" in " ".join(lines) and lines[-1].endswith("…")
    assert max(map(len, lines)) <= 80 and len(lines) < 9
    assert "\x1b" not in "".join(lines)


def test_numbered_words_fit_80_columns():
    lines = list(numbered_words([" Good", " morning"] * 40, 80))

    assert "1 Good   2 morning   3 Good" in lines[0]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", (2, 3)), ("2-4", (1, 4)), ("0", None), ("5-4", None), ("9", None), ("a", None)],
)
def test_a_range_of_words_counts_from_one(text, expected):
    assert read_range(text, 8) == expected


def test_mentions_are_grouped_by_entity_then_hint_then_text():
    def mention(text, entity=None, hint=None, state="suggested"):
        return {
            "entity_id": entity,
            "choices": [],
            "hint": hint,
            "label": "PERSON",
            "text": text,
            "state": state,
        }

    groups = group_mentions(
        [
            mention("Shiv", "e1"),
            mention("Tomasz", hint="person-1"),
            mention("Siobhan", "e1"),
            mention("TOMASZ", hint="person-1"),
            mention("Ida"),
            mention("ida"),
            mention("Eva", state="accepted"),
        ]
    )

    assert [[each["text"] for each in group] for group in groups] == [
        ["Shiv", "Siobhan"],
        ["Tomasz", "TOMASZ"],
        ["Ida", "ida"],
    ]


def test_a_sample_that_the_reviewer_read_says_so():
    estimate = {
        "n_segments": 20,
        "n_found": 3,
        "n_missed": 1,
        "recall": 0.75,
        "low": 0.3,
        "high": 0.95,
        "is_independent": False,
    }

    assert describe_recall(estimate).endswith("let another person read a sample.")


def test_a_sample_without_identifiers_says_nothing_about_recall():
    text = describe_recall({"n_segments": 5, "n_found": 0, "n_missed": 0})

    assert text == "The 5 segments read hold no identifier: read more of them."
