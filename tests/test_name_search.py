"""The last check: names of the study in a finished text."""

import unicodedata

import pytest

from models.deidentification.leaks import NameSearch

NAMES = {
    "eva": ["Eva Muster", "Evi"],
    "hope": ["Hope"],
    "group": ["the Collective"],
    "town": ["Coffs Harbour"],
}


def found(text, names=NAMES):
    return [(leak.entity, text[leak.start : leak.stop]) for leak in NameSearch(names).find(text)]


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("I met Eva Muster.", ["Eva Muster"]),
        ("i met eva muster there", ["eva muster"]),
        ("EVA  MUSTER", ["EVA  MUSTER"]),
        ("Evi's house, Evi’s dog", ["Evi", "Evi"]),
        ("Eva-Muster", ["Eva-Muster"]),
        ("Evita and Eva and Muster", []),
        ("In Coffs Harbour", ["Coffs Harbour"]),
        (
            "The Collective met, the Collective left, the collective mood",
            ["The Collective", "the Collective"],
        ),
        ("I hope so. Hope is what I need.", []),
        ("I asked Hope.", ["Hope"]),
        ("", []),
    ],
)
def test_names_are_found_in_any_case_but_common_words_only_as_they_are_written(text, leaks):
    assert [surface for _, surface in found(text)] == leaks


def test_a_name_that_is_a_common_word_is_doubtful():
    leaks = NameSearch(NAMES).find("I asked Hope and Evi.")

    assert [(leak.entity, leak.is_doubtful) for leak in leaks] == [("hope", True), ("eva", False)]


@pytest.mark.parametrize(
    "text", ["siobhán o'brien", "Siobhán O’Brien's", "siobha\u0301n o'brien"], ids=ascii
)
def test_accents_and_apostrophes_are_compared_by_what_they_look_like(text):
    names = {"one": ["Siobhán O’Brien"], "two": ["Siobha\u0301n O'Brien"]}

    assert {leak.entity for leak in NameSearch(names).find(text)} == {"one", "two"}


def test_names_of_one_letter_and_empty_names_are_not_searched():
    assert found("A b", {"x": ["A", "", "--"]}) == []


def test_a_name_with_a_contracted_verb_is_found():
    text = "Evi'll come, Evi’d rather not, Evi've"
    found = [leak.stop - leak.start for leak in NameSearch({"one": ["Evi"]}).find(text)]
    assert found == [3, 3, 3]


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("all the Gallaghers came", ["Gallaghers"]),
        ("two Joneses and the Joneses' dog", ["Joneses", "Joneses"]),
        ("Zoe and ZOË and zoe\u0308", ["Zoe", "ZOË", "zoë"]),
        ("Rene went", ["Rene"]),
        ("roses and wills", []),
        ("re the matter", []),
    ],
)
def test_plurals_and_spellings_without_accents_are_found(text, leaks):
    names = {"a": ["Gallagher"], "b": ["Jones"], "c": ["Zoë"], "d": ["René"]}
    words = {"e": ["Ros"], "f": ["Will"], "g": ["Ré"]}
    search = NameSearch({**names, **words})
    composed = unicodedata.normalize("NFC", text)

    assert [composed[leak.start : leak.stop] for leak in search.find(text)] == leaks


def test_names_in_scripts_without_spaces_are_found_within_the_text():
    search = NameSearch({"wang": ["王小明"], "one": ["王"], "somchai": ["สมชาย"]})

    assert [leak.entity for leak in search.find("我叫王小明住在北京")] == ["wang"]
    assert [leak.entity for leak in search.find("ผมชื่อสมชายครับ")] == ["somchai"]
