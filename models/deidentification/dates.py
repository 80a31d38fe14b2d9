"""Dates, years and ages as spoken."""

import re
from collections.abc import Sequence

from models.deidentification.numbers import TENS, UNITS, cardinal
from models.deidentification.occurrences import Span
from models.deidentification.tokens import Token
from models.deidentification.vocabulary import KIN, MONTHS, WEEKDAYS

ORDINALS = {
    word: i + 1
    for i, word in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
        " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
        " twentieth".split()
    )
} | {
    "thirtieth": 30,
    "fortieth": 40,
    "fiftieth": 50,
    "sixtieth": 60,
    "seventieth": 70,
    "eightieth": 80,
    "ninetieth": 90,
}
NUMERIC_DATE = re.compile(
    r"\b\d{1,2}\s?[/.-]\s?\d{1,2}\s?[/.-]\s?(?:\d{4}|\d{2})\b|\b(?:19|20)\d\d-\d\d-\d\d\b"
)
NUMERIC_ORDINAL = re.compile(r"(\d{1,2})(?:st|nd|rd|th)")
FULL_YEAR = re.compile(r"(?:19|20)\d\d")
FEASTS = (
    "christmas day|christmas eve|boxing day|new year's day|new year's eve|good friday|easter sunday"
    "|easter monday|easter saturday|melbourne cup day|cup day|australia day|invasion day|anzac day"
    "|mother's day|father's day|valentine's day|queen's birthday|king's birthday|labour day"
    "|show day|grand final day|easter|christmas|ramadan|eid|diwali|halloween|st patrick's day"
    "|ash wednesday|palm sunday|shrove tuesday|maundy thursday|all saints day|guy fawkes night"
    "|waitangi day|yom kippur|rosh hashanah|passover|hanukkah|vesak|nowruz"
    "|saint patrick's day|remembrance day|orthodox easter|chinese new year|lunar new year|cup eve"
).split("|")
FEAST_WORDS: dict[str, list[tuple[str, ...]]] = {}
for _name in FEASTS:
    _words = tuple(word.removesuffix("'s") for word in _name.split())
    FEAST_WORDS.setdefault(_words[0], []).append(_words)
VAGUE_FEASTS = frozenset(
    {("easter",), ("christmas",), ("ramadan",), ("eid",), ("diwali",), ("halloween",)}
)
BEFORE_A_YEAR = frozenset(
    "in since from until till around about by circa early late mid before after of back summer"
    " winter autumn spring year class ended started finished".split()
)
BEFORE_A_MONTH = frozenset(
    "in since last next this early late mid until till by of from around during every through"
    " and to end start beginning middle before after".split()
)
SEPARATORS = frozenset(("slash", "dash", "stroke"))
NOT_A_YEAR = frozenset(
    "percent per people years year kilos kilometres ks k's dollars bucks minutes hours days"
    " weeks months milligrams metres beds of cents degrees points times grand thousand hundred"
    " million cases pages and or odd something a other clients cars units mils".split()
)


def ordinal(tokens: Sequence[Token], i: int) -> tuple[int, int] | None:
    """An ordinal number at token i: its value and the index after it."""
    if i >= len(tokens):
        return None
    word = tokens[i].lower
    numeric = NUMERIC_ORDINAL.fullmatch(word)
    if numeric:
        return int(numeric[1]), i + 1
    if word in TENS and i + 1 < len(tokens) and tokens[i + 1].gap in (" ", "-"):
        unit = ORDINALS.get(tokens[i + 1].lower, 99)
        if unit < 10:
            return TENS[word] + unit, i + 2
    if word in ORDINALS:
        return ORDINALS[word], i + 1
    return None


def full_year(tokens: Sequence[Token], i: int) -> int | None:
    """The index after a year at token i: 1998, nineteen ninety-eight, twenty sixteen."""
    if i >= len(tokens):
        return None
    word = tokens[i].lower
    following = tokens[i + 1].lower if i + 1 < len(tokens) else ""
    if FULL_YEAR.fullmatch(word):
        return i + 1
    if i + 1 < len(tokens) and tokens[i + 1].gap not in (" ", "-"):
        return None
    if word in ("nineteen", "eighteen"):
        if following in ("oh", "o") and i + 2 < len(tokens) and tokens[i + 2].lower in UNITS:
            return i + 3
        number = cardinal(tokens, i + 1)
        return number[1] if number and number[0] >= 10 else None
    if word in ("two", "2") and following == "thousand":
        after = i + 3 if i + 2 < len(tokens) and tokens[i + 2].lower == "and" else i + 2
        number = cardinal(tokens, after)
        if number and number[0] < 50 and tokens[after].gap in (" ", "-"):
            return number[1]
        return i + 2
    if word == "twenty":
        if following in ("oh", "o") and i + 2 < len(tokens) and tokens[i + 2].lower in UNITS:
            return i + 3
        number = cardinal(tokens, i + 1)
        if number and 10 <= number[0] <= 39 and following not in UNITS:
            return number[1]
    return None


def short_year(tokens: Sequence[Token], i: int) -> int | None:
    """The index after a year of two digits at token i: eighty-six, 86, oh four."""
    if i >= len(tokens):
        return None
    word = tokens[i].lower
    if word in ("oh", "o") and i + 1 < len(tokens) and tokens[i + 1].lower in UNITS:
        return i + 2
    number = cardinal(tokens, i)
    apostrophe = tokens[i].gap.endswith(("'", "’"))
    if number and (number[0] >= 10 or apostrophe and len(word) == 2) and word not in UNITS:
        return number[1]
    return None


def year_after(tokens: Sequence[Token], i: int) -> int:
    """The index after a year at token i, of two or four digits; i if there is none."""
    if i < len(tokens) and (tokens[i].gap.strip() not in ("", ",", "'", "’", "-", ", '")):
        return i
    start = i + 1 if i < len(tokens) and tokens[i].lower in ("in", "of") else i
    found = full_year(tokens, start)
    if found is None and start == i:
        found = short_year(tokens, i)
        if found is not None and _next_lower(tokens, found) in NOT_A_YEAR - {
            "and",
            "or",
            "of",
            "a",
        }:
            found = None
    return found or i


def find_dates(tokens: Sequence[Token], text: str) -> list[Span]:
    spans = [
        Span(match.start(), match.end(), "DATE", 0.97, "sure", "numeric_date")
        for match in NUMERIC_DATE.finditer(text)
    ]
    i = 0
    while i < len(tokens):
        found = _date_at(tokens, i)
        if found is None:
            i += 1
            continue
        end, score, sure, rule = found
        spans.append(
            Span(
                tokens[i].start,
                tokens[end - 1].end,
                "DATE",
                score,
                "sure" if sure else "unsure",
                rule,
            )
        )
        i = end
    return spans


def _date_at(tokens: Sequence[Token], i: int) -> tuple[int, float, bool, str] | None:
    """A date at token i: the index after it, its score, whether it is sure, its rule."""
    word = tokens[i].lower
    before = tokens[i - 1].lower if i else ""
    if word == "the" or word in WEEKDAYS:
        k = i + 1
        if word != "the" and k < len(tokens) and tokens[k].lower == "the":
            k += 1
        found = _day_and_month(tokens, k)
        return (found, 0.97, True, "date") if found else None
    found = _day_and_month(tokens, i)
    if found:
        return found, 0.97, True, "date"
    if word in MONTHS:
        return _month(tokens, i, before)
    feast = _feast(tokens, i)
    if feast:
        end, vague = feast
        year = year_after(tokens, end)
        if year > end:
            return year, 0.9, True, "feast_and_year"
        return None if vague else (end, 0.5, False, "feast")
    end_of_slashes = _slashed(tokens, i) or _birth_date(tokens, i)
    if end_of_slashes:
        return end_of_slashes, 0.97, True, "date"
    end_of_year = full_year(tokens, i)
    if end_of_year:
        if FULL_YEAR.fullmatch(word) or word in ("nineteen", "twenty", "eighteen"):
            if word == "twenty" and before not in BEFORE_A_YEAR and end_of_year - i == 2:
                follows = _next_lower(tokens, end_of_year)
                return (end_of_year, 0.5, False, "year") if follows not in NOT_A_YEAR else None
            if _next_lower(tokens, end_of_year) in NOT_A_YEAR - {"and", "or", "of", "a"}:
                return None
            return end_of_year, 0.9, True, "year"
        if _next_lower(tokens, end_of_year) in NOT_A_YEAR - {"and", "or"}:
            return None
        if before in BEFORE_A_YEAR or end_of_year - i > 2:
            return end_of_year, 0.9, True, "year"
        return None
    if before in BEFORE_A_YEAR or tokens[i].gap.endswith(("'", "’")):
        return _lone_short_year(tokens, i, before)
    return None


def _slashed(tokens: Sequence[Token], i: int) -> int | None:
    """The index after "seventeen slash four slash twenty twenty" at token i."""
    day = cardinal(tokens, i)
    if day is None or not 1 <= day[0] <= 31 or _next_lower(tokens, day[1]) not in SEPARATORS:
        return None
    month = cardinal(tokens, day[1] + 1)
    if month is None or not 1 <= month[0] <= 12 or _next_lower(tokens, month[1]) not in SEPARATORS:
        return None
    end = year_after(tokens, month[1] + 1)
    return end if end > month[1] + 1 else None


def _birth_date(tokens: Sequence[Token], i: int) -> int | None:
    """The index after "twelve eleven sixty-four" at token i, after "born" or "birth"."""
    if not any(
        token.lower in ("born", "birth", "birthday", "dob") for token in tokens[max(0, i - 4) : i]
    ):
        return None
    day = cardinal(tokens, i)
    month = cardinal(tokens, day[1]) if day else None
    if day is None or month is None or not (1 <= day[0] <= 31 and 1 <= month[0] <= 12):
        return None
    end = year_after(tokens, month[1])
    return end if end > month[1] else None


def _lone_short_year(
    tokens: Sequence[Token], i: int, before: str
) -> tuple[int, float, bool, str] | None:
    """Two digits after a cue, such as "in eighty-six", "back in 98", "summer of sixty-nine"."""
    end = short_year(tokens, i)
    if end is None:
        return None
    number = cardinal(tokens, i)
    value = number[0] if number else 0
    after = _next_lower(tokens, end)
    marked = tokens[i].gap.endswith(("'", "’"))
    closes = end >= len(tokens) or tokens[end].gap.strip() != ""
    if after in NOT_A_YEAR or (value < 30 and number and not marked):
        return None
    strong = (
        marked
        or before in ("in", "since")
        or (
            before == "of"
            and i > 1
            and tokens[i - 2].lower in ("summer", "winter", "spring", "autumn", "class", "back")
        )
    )
    if not strong and not (closes and before in ("until", "till", "early", "late", "mid")):
        return None
    if number is None:
        return end, 0.8, True, "short_year"
    if before == "in" and not closes and after not in _AFTER_A_YEAR:
        return end, 0.5, False, "short_year"
    return end, 0.85, True, "short_year"


_AFTER_A_YEAR = frozenset(
    "when i we he she they it and before after that which with my the but".split()
)


def _day_and_month(tokens: Sequence[Token], i: int) -> int | None:
    """The index after "third of March eighty-six" or "twenty-third of the sixth" at token i."""
    day = ordinal(tokens, i)
    if day is None or not 1 <= day[0] <= 31:
        number = cardinal(tokens, i)
        if number is None or not 1 <= number[0] <= 31 or number[1] >= len(tokens):
            return None
        word = tokens[number[1]]
        is_month = word.lower in MONTHS and word.is_capitalised and word.gap == " "
        if not is_month or (word.lower in ("may", "march") and not tokens[i].lower.isdigit()):
            return None
        return year_after(tokens, number[1] + 1)
    k = day[1]
    has_of = k < len(tokens) and tokens[k].lower == "of"
    if has_of:
        k += 1
    if k < len(tokens) and tokens[k].lower in MONTHS and tokens[k].gap.strip() in ("", ","):
        return year_after(tokens, k + 1)
    if has_of:
        k += k < len(tokens) and tokens[k].lower == "the"
        month = ordinal(tokens, k)
        if month and 1 <= month[0] <= 12:
            end = year_after(tokens, month[1])
            if tokens[i].lower != tokens[k].lower or end > month[1]:
                return end
        number = cardinal(tokens, k) if tokens[k - 1].lower == "of" else None
        if (
            number
            and 1 <= number[0] <= 12
            and day[0] > 3
            and year_after(tokens, number[1]) > number[1]
        ):
            return year_after(tokens, number[1])
    return None


def _month(tokens: Sequence[Token], i: int, before: str) -> tuple[int, float, bool, str] | None:
    word = tokens[i].lower
    k = i + 1
    if k < len(tokens) and tokens[k].lower == "the":
        k += 1
    day = ordinal(tokens, k) or (cardinal(tokens, k) if k == i + 1 else None)
    year = full_year(tokens, k + (k < len(tokens) and tokens[k].lower == "of"))
    if year and tokens[k].gap.strip() in ("", ","):
        return year, 0.97, True, "month_and_year"
    if day and 1 <= day[0] <= 31 and tokens[k].gap == " " and tokens[i].is_capitalised:
        if _next_lower(tokens, day[1]) not in NOT_A_YEAR or ordinal(tokens, k):
            return year_after(tokens, day[1]), 0.95, True, "date"
    if k < len(tokens) and tokens[k].lower == "of":
        k += 1
    short = short_year(tokens, k)
    if short and tokens[i].is_capitalised and tokens[k].gap.strip() in ("", ",", "'", "’"):
        return short, 0.9, True, "month_and_year"
    if word in ("may", "march") and not tokens[i].is_capitalised:
        return None
    if before in BEFORE_A_MONTH and (tokens[i].is_capitalised):
        return i + 1, 0.45, False, "month"
    return None


def _feast(tokens: Sequence[Token], i: int) -> tuple[int, bool] | None:
    for words in FEAST_WORDS.get(tokens[i].lower, ()):
        if tuple(token.lower for token in tokens[i : i + len(words)]) == words:
            return i + len(words), words in VAGUE_FEASTS
    return None


def _next_lower(tokens: Sequence[Token], i: int) -> str:
    """The next token in lower case; empty at the end of a clause."""
    if i >= len(tokens) or tokens[i].gap.strip() not in ("", "-"):
        return ""
    return tokens[i].lower


POSSESSIVES = frozenset("my your his her their our mum's dad's".split())
PERSON_IS = frozenset(
    "i'm she's he's i’m she’s he’s they're we're i am he she they is was were be being".split()
)
SUBJECTS = frozenset("i he she they who we".split()) | KIN
AFTER_AN_AGE = frozenset(
    "now then when at and but or so with in this next last on already before until yeah going"
    " though because that years year i i'd i'm he he'd she she'd we we'd they you me mum dad"
    " my".split()
)
SOFTENERS = frozenset(
    "only about just nearly almost around maybe like probably already barely over".split()
)


def find_ages(tokens: Sequence[Token]) -> list[Span]:
    spans = []
    i = 0
    while i < len(tokens):
        birthday = _birthday(tokens, i)
        if birthday:
            end, sure = birthday
            spans.append(
                Span(
                    tokens[i].start,
                    tokens[end - 1].end,
                    "AGE",
                    0.9 if sure else 0.45,
                    "sure" if sure else "unsure",
                    "birthday",
                )
            )
            i = end
            continue
        number = cardinal(tokens, i)
        if number is None or not 1 <= number[0] <= 115:
            i += 1
            continue
        value, end = number
        found = _age_rule(tokens, i, end, value)
        if found:
            score, sure, rule = found
            tier = "sure" if sure else "unsure"
            if rule == "years_old":
                end += 2  # forty years old, forty-year-old
            spans.append(Span(tokens[i].start, tokens[end - 1].end, "AGE", score, tier, rule))  # type: ignore[arg-type]
        i = end
    return spans


def _birthday(tokens: Sequence[Token], i: int) -> tuple[int, bool] | None:
    """The index after "my fiftieth", and whether "birthday" follows."""
    if i == 0 or (
        tokens[i - 1].lower not in POSSESSIVES and tokens[i - 1].full_end == tokens[i - 1].end
    ):
        return None
    found = ordinal(tokens, i)
    if found is None or found[0] < 10:
        return None
    if _next_lower(tokens, found[1]) == "birthday":
        return found[1], True
    return (found[1], False) if found[0] in (16, 18, 21, 30, 40, 50, 60, 70, 80, 90) else None


def _age_rule(
    tokens: Sequence[Token], i: int, end: int, value: int
) -> tuple[float, bool, str] | None:
    after = _next_lower(tokens, end)
    after_that = _next_lower(tokens, end + 1) if after else ""
    k = i - 1
    while k >= 0 and tokens[k].lower in SOFTENERS:
        k -= 1
    before = tokens[k].text.lower() if k >= 0 else ""
    earlier = tokens[k - 1].lower if k >= 1 else ""
    if after in ("years", "year", "yrs", "months") and after_that in ("old", "of"):
        if after_that == "old" or _next_lower(tokens, end + 2) == "age":
            return (0.95, True, "years_old") if after != "months" else (0.5, False, "months_old")
    if after in ("years", "year"):
        return None
    if before in ("aged", "age") or (before == "of" and earlier == "age"):
        return 0.95, True, "aged"
    if before in ("turned", "turning", "turns") and after not in ("degrees", "into"):
        return 0.9, True, "turned"
    closes = end >= len(tokens) or tokens[end].gap.strip() not in ("", "-")
    ends_clause = closes or after in AFTER_AN_AGE
    if (
        before in ("i'm", "she's", "he's", "they're", "i’m", "she’s", "he’s", "we're")
        and ends_clause
    ):
        return (0.9, True, "is_years") if value >= 3 else (0.5, False, "is_years")
    if (
        before in ("be", "been", "pushing", "becoming", "hit", "reached")
        and ends_clause
        and value > 12
    ):
        return 0.6, False, "is_years"
    if before in ("is", "was", "were", "am") and ends_clause and _is_person(tokens, k - 1):
        return (0.9, True, "is_years") if value >= 3 else (0.5, False, "is_years")
    is_possessive = k >= 0 and tokens[k].full_end > tokens[k].end
    if is_possessive and ends_clause and _is_person(tokens, k):
        return (0.9, True, "is_years") if value >= 3 else (0.5, False, "is_years")
    if before in ("at", "since") and closes and value > 12 and tokens[i].gap == " ":
        return 0.75, value < 70, "at_age"  # up to twelve, a time of day
    if before == "at" and after in ("when", "and", "i", "he", "she") and value > 12:
        return 0.7, False, "at_age"
    return None


def _is_person(tokens: Sequence[Token], k: int) -> bool:
    if k < 0:
        return False
    token = tokens[k]
    return token.lower in SUBJECTS or (
        token.is_capitalised and not token.begins_sentence and token.band == 0
    )
