"""Random codes, the list of names, and the roster as CSV."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.deidentification.errors import BadEntityRoster
from models.deidentification.lexicons import read_lexicons
from models.deidentification.pseudonyms import (
    NEUTRAL_NAMES,
    bracket,
    free_code,
    neutral_names_in,
    words_of,
)
from models.deidentification.study_roster import (
    KINDS,
    RosterRow,
    check_row,
    format_study_roster,
    parse_study_roster,
    tidy,
)
from models.speaker_names import is_pseudonym

NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=30
).filter(lambda name: bool(tidy(name)) and ";" not in name and "\ufeff" not in name)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("participant", r"P\d\d"),
        ("interviewer", r"I\d"),
        ("person", r"PERSON-\d"),
        ("organisation", r"ORG-\d"),
        ("place", r"PLACE-\d"),
        ("other", r"OTHER-\d"),
    ],
)
def test_codes_are_short_and_name_the_kind(kind, form):
    assert re.fullmatch(form, free_code(kind, set()))


def test_codes_are_drawn_at_random_and_never_twice():
    used: set[str] = set()
    for _ in range(200):
        code = free_code("place", used)
        assert code not in used
        used.add(code)
    firsts = Counter(free_code("place", set()) for _ in range(200))

    assert len(firsts) > 4  # of 9
    assert max(int(code.removeprefix("PLACE-")) for code in used) < 1000


def test_only_codes_of_things_stand_in_brackets():
    assert bracket("PLACE-1", "regional town") == "[PLACE-1: regional town]"
    assert bracket("ORG-2") == "[ORG-2]"
    assert bracket("P07") == "P07"


def test_the_listed_names_are_distinct_and_no_words_or_places():
    lexicons = read_lexicons()

    assert len(NEUTRAL_NAMES) == len({name.lower() for name in NEUTRAL_NAMES}) >= 60
    for name in NEUTRAL_NAMES:
        assert is_pseudonym(name) and " " not in name
        assert name.lower() not in lexicons.band
        assert name.lower() not in lexicons.places | lexicons.world | lexicons.countries


def test_names_are_found_in_texts_as_whole_words():
    assert neutral_names_in(["Rowan's dog", "a rowantree", "QUINN"]) == {"rowan", "quinn"}
    assert words_of("O'Neil, J. Jo-Ann") == {"neil", "jo", "ann"}


def test_a_roster_is_read_with_any_separator_and_quoted_cells():
    expected = [RosterRow(1, "person", "P07", ("Eva Muster", "Evi", "Muster, Eva"))]
    for mark in ",;\t":
        cells = ["person", "P07", "Eva Muster", '"Evi; Muster, Eva"']
        text = "\ufeffKind,Code,Name,Aliases\r\n".replace(",", mark) + mark.join(cells) + "\r\n\r\n"
        assert parse_study_roster(text) == expected


def test_columns_may_be_in_any_order_and_rows_may_be_short():
    rows = parse_study_roster("name,kind,always\nCoffs,place,YES\nOrange,place\n")

    assert [(row.names, row.always) for row in rows] == [(("Coffs",), True), (("Orange",), False)]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "kind,code\nperson,P07\n", "\0", 'kind,name\nplace,"a']
)
def test_a_file_that_is_no_roster_is_refused_or_read_without_a_crash(text):
    try:
        rows = parse_study_roster(text)
    except BadEntityRoster as error:
        assert str(error).endswith(".")
    else:
        assert [row.names for row in rows] == [("a",)]


@given(
    st.lists(
        st.builds(
            RosterRow,
            st.just(1),
            st.sampled_from(KINDS),
            st.sampled_from([None, "P07", "PLACE-12"]),
            st.lists(NAMES, min_size=1, max_size=4).map(tuple),
            st.booleans(),
            st.sampled_from([None, "regional town"]),
            st.sampled_from([None, "Rowan"]),
        ),
        max_size=4,
    )
)
def test_a_roster_that_was_written_is_read_unchanged(rows):
    rows = [check_row(row) for row in rows]
    read = parse_study_roster(format_study_roster(rows))

    assert [row.names for row in read] == [row.names for row in rows]
    assert [(r.kind, r.code, r.always, r.descriptor, r.chosen_name) for r in read] == [
        (r.kind, r.code, r.always, r.descriptor, r.chosen_name) for r in rows
    ]
