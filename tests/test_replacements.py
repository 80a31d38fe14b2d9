"""Dates, ages and numbers: what replaces them."""

import pytest

from models.deidentification.replacements import (
    SpokenDate,
    read_age,
    read_date,
    replace_age,
    replace_date,
    replacement_of,
)


@pytest.mark.parametrize(
    ("text", "day", "month", "year"),
    [
        ("the third of March eighty-six", 3, 3, 1986),
        ("the twenty-third of the sixth, ninety-eight", 23, 6, 1998),
        ("March the third, 1986", 3, 3, 1986),
        ("3/4/1986", 3, 4, 1986),
        ("3.4.86", 3, 4, 1986),
        ("1986-04-03", 3, 4, 1986),
        ("twelve eleven sixty-four", 12, 11, 1964),
        ("seventeen slash four slash twenty twenty", 17, 4, 2020),
        ("March 2012", None, 3, 2012),
        ("March eighty-six", None, 3, 1986),
        ("two thousand and seven", None, None, 2007),
        ("twenty sixteen", None, None, 2016),
        ("nineteen oh four", None, None, 1904),
        ("oh four", None, None, 2004),
        ("eighty-six", None, None, 1986),
        ("'98", None, None, 1998),
        ("Melbourne Cup day, ninety-eight", None, None, 1998),
        ("Easter Sunday", None, None, None),
        ("the third of March", 3, 3, None),
        ("Tuesday the twenty-third", 23, None, None),
    ],
)
def test_dates_are_read_as_they_are_spoken(text, day, month, year):
    assert read_date(text) == SpokenDate(day, month, year)


@pytest.mark.parametrize(
    ("text", "kept", "generalised"),
    [
        ("the third of March eighty-six", "[DATE: 1986]", "[DATE: mid 1980s]"),
        ("twenty twelve", "[DATE: 2012]", "[DATE: early 2010s]"),
        ("June 1999", "[DATE: 1999]", "[DATE: late 1990s]"),
        ("Easter Sunday", "[DATE]", "[DATE]"),
        ("the third of March", "[DATE]", "[DATE]"),
    ],
)
def test_a_study_keeps_the_year_or_the_part_of_the_decade(text, kept, generalised):
    assert replace_date(text, "keep_year") == kept
    assert replace_date(text, "generalise") == generalised


@pytest.mark.parametrize(
    ("text", "shifted"),
    [
        ("the third of March eighty-six", "[DATE: 12 June 1986]"),
        ("30/12/1999", "[DATE: 9 April 2000]"),
        ("March 2012", "[DATE: June 2012]"),
        ("twenty twelve", "[DATE: 2012]"),
        ("the third of March", "[DATE: 12 June]"),
        ("the thirty-first of June 2001", "[DATE: 2001]"),
        ("Easter Sunday", "[DATE]"),
    ],
)
def test_shifted_dates_stay_as_precise_as_they_were(text, shifted):
    assert replace_date(text, "shift", 101) == shifted


def test_without_an_offset_a_study_that_shifts_keeps_only_the_year():
    assert replace_date("the third of March eighty-six", "shift") == "[DATE: 1986]"


@pytest.mark.parametrize(
    ("text", "age", "shown"),
    [
        ("sixty-four", 64, "[AGE: 60s]"),
        ("64", 64, "[AGE: 60s]"),
        ("forty years old", 40, "[AGE: 40s]"),
        ("fiftieth", 50, "[AGE: 50s]"),
        ("sixteen", 16, "[AGE: 10 to 19]"),
        ("eight", 8, "[AGE: under 10]"),
        ("eleven months old", 0, "[AGE: under 10]"),
        ("ninety-three", 93, "[AGE: 90 or over]"),
        ("old", None, "[AGE]"),
    ],
)
def test_ages_become_decades(text, age, shown):
    assert read_age(text) == age
    assert replace_age(text) == shown


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("PHONE", "[PHONE]"),
        ("ORGANISATION", "[ORG]"),
        ("PERSON", "[PERSON]"),
        ("MEDICARE", "[MEDICARE]"),  # a label of another de-identifier
        ("DATE", "[DATE: 1986]"),
        ("AGE", "[AGE: 80s]"),
    ],
)
def test_everything_else_is_replaced_by_its_label(label, shown):
    assert replacement_of(label, "eighty-six") == shown
