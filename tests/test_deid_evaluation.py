"""Floors of the de-identifier on passages and synthetic text, and the measures themselves."""

import importlib.util

import pytest

from models.deidentification.occurrences import Occurrence
from models.deidentification.sampling import wilson
from models.deidentification.spacy_model import find_installed_package, load_spacy
from scripts.deid_evaluation import (
    PASSAGES,
    Passage,
    parse_passage,
    read_passages,
    read_roster_file,
    run_detector,
    score_passages,
)
from scripts.deid_generator import CONDITIONS, Generator
from scripts.evaluate_deid import main, rate

AS_SPELT, MISSPELT, LOWER = CONDITIONS
ROSTER = read_roster_file(PASSAGES / "roster.csv")
SETS = ("development", "test", "second", "third", "fourth", "fifth", "sixth")
NATURAL = [passage for name in SETS for passage in read_passages(PASSAGES / f"{name}.txt")]


def recall_and_precision(passages, roster, detectors=()):
    found = run_detector(passages, roster, detectors)
    every = score_passages(passages, found, sure_only=False)
    sure = score_passages(passages, found, sure_only=True)
    return every, sure


def test_rules_alone_keep_their_floors_on_natural_passages():
    every, sure = recall_and_precision(NATURAL, ROSTER)
    assert every.recall >= 0.95
    assert every.false_per_1000 <= 8
    assert sure.recall >= 0.82
    assert sure.precision >= 0.96


def test_rules_and_model_keep_their_floors_on_natural_passages():
    package = find_installed_package()
    if package is None or importlib.util.find_spec("spacy") is None:
        pytest.skip("needs the packages of requirements/deid.txt")
    every, sure = recall_and_precision(NATURAL, ROSTER, [load_spacy(package)])
    assert every.recall >= 0.95
    assert every.false_per_1000 <= 10
    assert sure.recall >= 0.85
    assert sure.precision >= 0.96


def test_lower_case_keeps_its_floor_and_no_name_is_sure():
    lowered = [passage.lowered() for passage in NATURAL]
    every, sure = recall_and_precision(lowered, ROSTER)
    assert every.recall >= 0.72
    assert every.false_per_1000 <= 12
    assert sure.found["PERSON"] <= sure.gold["PERSON"] * 0.05  # those spelled out


@pytest.mark.parametrize(
    ("conditions", "floor"),
    [(AS_SPELT, 0.99), (MISSPELT, 0.97), (LOWER, 0.9)],
    ids=lambda value: getattr(value, "name", None),
)
def test_synthetic_text_keeps_its_floors(conditions, floor):
    generator = Generator(7, conditions)
    passages = generator.passages(2_000)
    every, _ = recall_and_precision(passages, generator.roster)
    assert every.recall >= floor
    assert every.false_per_1000 <= 2
    for label in ("PHONE", "ID", "DATE", "EMAIL", "AGE"):
        assert every.found[label] >= 0.99 * every.gold[label], label


def test_roster_names_as_spelt_are_found():
    generator = Generator(8, AS_SPELT)
    passages = [
        Passage(p.text, tuple(g for g in p.gold if g.on_roster)) for p in generator.passages(4_000)
    ]
    every, _ = recall_and_precision(passages, generator.roster)
    assert every.gold["PERSON"] > 20
    assert every.recall >= 0.97


def test_a_seed_always_gives_the_same_text():
    texts = [[p.text for p in Generator(3, MISSPELT).passages(300)] for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0] != [p.text for p in Generator(4, MISSPELT).passages(300)]


def test_marks_give_the_text_and_the_places_of_identifiers():
    passage = parse_passage("I met [[Shavon|PERSON|roster]] in [[Victoria|?]].")
    assert passage.text == "I met Shavon in Victoria."
    assert [(g.start, g.end, g.label, g.on_roster) for g in passage.gold] == [
        (6, 12, "PERSON", True),
        (16, 24, "?", False),
    ]


def span(start, end, tier="sure"):
    return Occurrence(0, "1", start, end, None, "PERSON", 1.0, tier, "test")


def test_an_identifier_is_found_only_if_all_of_its_content_is_covered():
    passage = parse_passage("at [[the Alfred Hospital|ORGANISATION]] then [[Victoria|?]]")
    whole = score_passages([passage], [[span(7, 22)]], sure_only=False)
    half = score_passages([passage], [[span(7, 13)]], sure_only=False)
    neither = score_passages([passage], [[span(28, 36)]], sure_only=False)
    assert (whole.recall, half.recall) == (1, 0)
    assert (neither.recall, neither.n_false) == (0, 0)  # `?` counts neither way
    assert score_passages([passage], [[span(7, 22, "unsure")]], sure_only=True).recall == 0
    assert score_passages([passage], [[span(0, 2)]], sure_only=False).n_false == 1


def test_intervals_hold_the_estimate():
    low, high = wilson(36, 53)
    assert (round(low, 2), round(high, 2)) == (0.55, 0.79)  # as in the research report
    assert wilson(0, 0) == (0.0, 1.0)
    assert rate([1, 0, 0], [100, 100, 100]).startswith("3.3 (0.0-")


def test_the_script_measures_your_own_passages(tmp_path, capsys):
    path = tmp_path / "mine.txt"
    path.write_text("I saw my brother [[Kieran|PERSON]] there.\n")
    main(["--passages", str(path), "--model", "none", "--show"])
    output = capsys.readouterr().out
    assert "mine, rules | 1 | 1.000" in output
    assert "PERSON 1/1" in output
