"""Replacement texts for dates, ages and other mentions that belong to no entity."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from models.deidentification.dates import FULL_YEAR, ordinal
from models.deidentification.lexicons import read_lexicons
from models.deidentification.numbers import UNITS, cardinal
from models.deidentification.tokens import Token, tokenise
from models.deidentification.vocabulary import MONTHS

DatePolicy = Literal["keep_year", "shift", "generalise"]
NAMES = {
    "PERSON": "[PERSON]",
    "PLACE": "[PLACE]",
    "ORGANISATION": "[ORG]",
    "ADDRESS": "[ADDRESS]",
    "PHONE": "[PHONE]",
    "ID": "[ID]",
    "EMAIL": "[EMAIL]",
    "WEB": "[WEB]",
    "HANDLE": "[HANDLE]",
}
OLDEST = 90  # years; HIPAA's Safe Harbor groups all higher ages
CENTURY_FROM = 30  # "oh four" is 2004 and "eighty-six" is 1986
NEVER_LEAP = 2001  # for a day and month without a year
MONTH_NAMES = (
    "January February March April May June July August September October November December"
).split()


def replacement_of(
    label: str, text: str, *, dates: DatePolicy = "keep_year", shift_days: int | None = None
) -> str:
    """Return the text that replaces a mention that belongs to no entity.

    Args:
        shift_days: added to each date of the participant's transcripts, if `dates` is `shift`.
    """
    if label == "DATE":
        return replace_date(text, dates, shift_days)
    if label == "AGE":
        return replace_age(text)
    return NAMES.get(label, f"[{label}]")


# --- dates ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpokenDate:
    """The parts of a date; None for a part that is not given."""

    day: int | None
    month: int | None
    year: int | None


def replace_date(text: str, policy: DatePolicy, shift_days: int | None = None) -> str:
    """Return `[DATE: 1986]`, `[DATE: mid 1980s]` or `[DATE: 14 June 1986]`.

    A date that does not say the year, or that cannot be read, becomes `[DATE]`, except that a
    shifted one keeps its day and month.
    """
    spoken = read_date(text)
    if policy == "shift" and shift_days is not None:
        said = _shift(spoken, shift_days)
    elif spoken.year is None:
        said = ""
    elif policy == "generalise":
        said = _part_of_decade(spoken.year)
    else:
        said = str(spoken.year)
    return f"[DATE: {said}]" if said else "[DATE]"


def _part_of_decade(year: int) -> str:
    digit = year % 10
    part = "early" if digit < 4 else "mid" if digit < 7 else "late"
    return f"{part} {year - digit}s"


def _shift(spoken: SpokenDate, days: int) -> str:
    """Return the shifted date, as precise as it was. A year alone is left as it is."""
    if spoken.month is None:
        return "" if spoken.year is None else str(spoken.year)
    try:
        exact = date(spoken.year or NEVER_LEAP, spoken.month, spoken.day or 15)
    except ValueError:  # 31 June
        return "" if spoken.year is None else str(spoken.year)
    shifted = exact + timedelta(days)
    parts = [
        str(shifted.day) if spoken.day else "",
        MONTH_NAMES[shifted.month - 1],
        str(shifted.year) if spoken.year else "",
    ]
    return " ".join(filter(None, parts))


def read_date(text: str) -> SpokenDate:
    """Read a date as spoken or written: the third of March eighty-six, 3/3/1986, back in 98."""
    tokens = tokenise(text, read_lexicons())
    month: int | None = None
    years: list[int] = []
    numbers: list[int] = []  # in order, with ordinals
    short: int | None = None
    has_ordinal = is_year_first = False
    i = 0
    while i < len(tokens):
        word = tokens[i].lower
        if word in MONTHS:
            month, i = MONTHS[word], i + 1
        elif year := _full_year(tokens, i):
            is_year_first = not numbers
            years.append(year[0])
            i = year[1]
        elif found := ordinal(tokens, i):
            has_ordinal = True
            numbers.append(found[0])
            i = found[1]
        elif word in ("oh", "o") and i + 1 < len(tokens) and tokens[i + 1].lower in UNITS:
            short, i = UNITS[tokens[i + 1].lower], i + 2
        elif found := cardinal(tokens, i):
            if tokens[i].gap.endswith(("'", "’")):
                short = found[0]
            else:
                numbers.append(found[0])
            i = found[1]
        else:
            i += 1
    if is_year_first and month is None and not has_ordinal:
        numbers.reverse()  # 1986-04-03
    return _understand(month, years[-1] if years else None, short, numbers, has_ordinal)


def _understand(
    month: int | None, year: int | None, short: int | None, numbers: list[int], has_ordinal: bool
) -> SpokenDate:
    numbers = list(numbers)
    day: int | None = None
    is_day_first = has_ordinal or len(numbers) > 1 or month is not None
    if numbers and is_day_first and 1 <= numbers[0] <= 31:
        day = numbers.pop(0)
    if month is None and day is not None and numbers and 1 <= numbers[0] <= 12:
        month = numbers.pop(0)
    if year is None and short is None and numbers and numbers[0] < 100:
        short = numbers.pop(0)
    if year is None and short is not None:
        year = short + (2000 if short < CENTURY_FROM else 1900)
    return SpokenDate(day, month, year)


def _full_year(tokens: Sequence[Token], i: int) -> tuple[int, int] | None:
    """A year with its century at token i: its value and the index after it."""
    word = tokens[i].lower
    if FULL_YEAR.fullmatch(word):
        return int(word), i + 1
    following = tokens[i + 1].lower if i + 1 < len(tokens) else ""
    if word in ("two", "2") and following == "thousand":
        after = i + 3 if i + 2 < len(tokens) and tokens[i + 2].lower == "and" else i + 2
        number = cardinal(tokens, after)
        return (2000 + number[0], number[1]) if number and number[0] < 50 else (2000, i + 2)
    century = {"eighteen": 1800, "nineteen": 1900, "twenty": 2000}.get(word)
    if century is None:
        return None
    if following in ("oh", "o") and i + 2 < len(tokens) and tokens[i + 2].lower in UNITS:
        return century + UNITS[tokens[i + 2].lower], i + 3
    number = cardinal(tokens, i + 1)
    if number is None or not 10 <= number[0] <= 99 or (century == 2000 and number[0] > 39):
        return None
    return century + number[0], number[1]


# --- ages -----------------------------------------------------------------------------------------


def replace_age(text: str) -> str:
    """Return the decade: `[AGE: 60s]`; `[AGE: 90 or over]` from 90."""
    age = read_age(text)
    if age is None:
        return "[AGE]"
    if age >= OLDEST:
        return f"[AGE: {OLDEST} or over]"
    if age < 20:
        return "[AGE: under 10]" if age < 10 else "[AGE: 10 to 19]"
    return f"[AGE: {age // 10 * 10}s]"


def read_age(text: str) -> int | None:
    """Return the age in years: sixty-four, 64, my fiftieth, eight months old (0)."""
    tokens = tokenise(text, read_lexicons())
    for i in range(len(tokens)):
        found = ordinal(tokens, i) or cardinal(tokens, i)
        if found:
            is_months = any(token.lower.startswith("month") for token in tokens[found[1] :])
            return 0 if is_months else found[0]
    return None
