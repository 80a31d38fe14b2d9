"""The residual-risk report as a document: what a person reads."""

import re
from dataclasses import fields, replace
from pathlib import Path

from models.deidentification.redaction import Redaction, redact
from models.deidentification.risk_report import Count, Remaining, RiskReport, Sample, examine
from service.domain.release_check import plain_text
from service.exports.risk_report import risk_report_docx
from tests.test_redaction import made

TEXT = "I met Eva and Siobhan there. She was the only GP in town, and they were in the paper."


def report(**changes):
    before = made(*[f" {word}" for word in TEXT.split()])
    redacted = redact(before, [Redaction("s0001", 6, 9, "P07")])
    whole = RiskReport(
        study="PEER",
        session="INT-07",
        release=2,
        transcript_version=3,
        context="repository",
        fieldscribe="1.0",
        stages=("default",),
        counts=(
            Count("PERSON", "accepted", "roster", 1),
            Count("PERSON", "rejected", "unknown_capitalised", 2),
            Count("DATE", "accepted", "person", 4),
        ),
        replaced={"PERSON": 1, "DATE": 4},
        entities_replaced=3,
        entities_of_study=12,
        dates="shift",
        reviewers={"researcher": 2},
        sample=Sample(20, 36, 2, 36 / 38, 0.83, 0.99, True),
        remaining=examine(before, redacted),
        has_model=True,
        common_names_left=1,
        audio="masked",
    )
    return replace(whole, **changes)


def read(**changes):
    return " ".join(plain_text(risk_report_docx(report(**changes))).split())


def test_it_says_what_was_replaced_and_by_whom():
    text = read()

    assert "Residual-risk report: PEER, INT-07, release 2" in text
    assert "3 of the study's 12 people, places and organisations occur" in text
    assert "shifted by a secret number of days" in text
    assert "2 with the role researcher" in text
    assert "unknown capitalised" in text and "a reviewer, in the text" in text


def test_it_says_who_can_still_identify_people():
    text = read()

    assert "coded, not anonymous" in text
    assert "Anybody who holds that key can identify people" in text
    assert "still carries the voices" in text
    assert "a data repository with controlled access" in text
    assert "1 being the only one, or one of a few" in text
    assert "Siobhan (1)" in text


def test_it_says_what_the_second_reader_found():
    assert "2 were missing and were added" in read()
    assert "about 95% of all identifiers; with 95 % confidence between 83% and 99%" in read()
    assert "nobody knows how much the review missed" in read(sample=None)
    nothing = Sample(5, 0, 0, None, 0.0, 1.0, True)
    assert "the sample says nothing about the rest" in read(sample=nothing)
    own = Sample(5, 4, 0, 1.0, 0.5, 1.0, False)
    assert "Somebody who had also reviewed it read 5 segments" in read(sample=own)


def test_it_warns_about_text_without_capitals():
    before = made(*[f" {word}" for word in TEXT.lower().split()])
    remaining = examine(before, redact(before, []))

    assert "The text has no capitals" in read(remaining=remaining)
    assert "The text has no capitals" not in read()


def test_it_says_that_no_model_took_part():
    assert "No mention was found by a named-entity model" in read(has_model=False)
    assert "named-entity model" not in read()


def test_a_transcript_without_mentions_has_a_report():
    text = read(counts=(), replaced={}, reviewers={}, stages=())

    assert "Nothing was replaced: no mention was suggested" in text
    assert "de-identification by hand only" in text


def test_every_field_of_the_report_is_documented():
    page = Path("docs/reference/risk-report.md").read_text()
    documented = set(re.findall(r"`(\w+)`", page))

    for kind in (RiskReport, Remaining, Sample, Count):
        assert {one.name for one in fields(kind)} <= documented, kind
