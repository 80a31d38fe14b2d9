"""Numbers as spoken: telephone, Medicare, tax file and other numbers, with their checksums."""

import re
from collections.abc import Sequence

from models.deidentification.occurrences import Span
from models.deidentification.tokens import Token

UNITS = {
    word: i for i, word in enumerate("zero one two three four five six seven eight nine".split())
}
UNITS |= {"oh": 0, "o": 0, "nought": 0, "naught": 0, "nil": 0}
TEENS = {
    word: i + 10
    for i, word in enumerate(
        "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
    )
}
TENS = {
    word: (i + 2) * 10
    for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())
}
REPEATS = {"double": 2, "triple": 3, "treble": 3}
FILLERS = frozenset("um uh er ah and then slash dash hyphen point space".split())
LETTER = re.compile(r"[A-Za-z]")
# Public numbers: helplines and the emergency number.
PUBLIC_NUMBERS = frozenset(
    "131114 000 112 1800551800 1300659467 1300224636 1300789978 1300364277 1800737732 1800650890"
    " 139276 1800184527 1800187263 131126 136150 132850 132011".split()
)
MIN_DIGITS = 6
KINDS = {
    "medicare": "medicare_number",
    "tax": "tax_file_number",
    "tfn": "tax_file_number",
    "crn": "centrelink_number",
    "centrelink": "centrelink_number",
    "ihi": "health_identifier",
    "healthcare": "health_identifier",
    "dva": "dva_number",
    "veterans": "dva_number",
    "licence": "licence_number",
    "license": "licence_number",
    "passport": "passport_number",
    "ur": "record_number",
    "urn": "record_number",
    "mrn": "record_number",
    "record": "record_number",
    "file": "record_number",
    "hospital": "record_number",
    "reference": "reference_number",
    "ref": "reference_number",
    "claim": "reference_number",
    "case": "reference_number",
    "account": "account_number",
    "bsb": "account_number",
    "card": "card_number",
    "rego": "registration",
    "plate": "registration",
    "plates": "registration",
    "registration": "registration",
    "postcode": "postcode",
    "pin": "code",
    "code": "code",
    "badge": "code",
    "number": "number",
    "phone": "phone_number",
    "mobile": "phone_number",
    "extension": "phone_number",
    "landline": "phone_number",
}


def cardinal(tokens: Sequence[Token], i: int) -> tuple[int, int] | None:
    """A number below 100 at token i: its value and the index after it."""
    if i >= len(tokens):
        return None
    word = tokens[i].lower
    if word.isdigit() and len(word) <= 2:
        return int(word), i + 1
    if word in TEENS:
        return TEENS[word], i + 1
    if word in TENS:
        if i + 1 < len(tokens) and tokens[i + 1].gap in (" ", "-"):
            unit = UNITS.get(tokens[i + 1].lower, 0)
            if unit:
                return TENS[word] + unit, i + 2
        return TENS[word], i + 1
    if word in UNITS and word not in ("o", "oh"):
        return UNITS[word], i + 1
    return None


def find_numbers(tokens: Sequence[Token], text: str) -> list[Span]:
    """Runs of digits and letters that are read out."""
    spans: list[Span] = []
    i = 0
    while i < len(tokens):
        if not _starts_run(tokens, i):
            i += 1
            continue
        end, code, n_units = _read_run(tokens, i)
        span = _classify(tokens, i, end, code, n_units, text) if end > i else None
        if span is not None:
            spans.append(span)
            i = end
        else:
            i += 1
    return spans


def _starts_run(tokens: Sequence[Token], i: int) -> bool:
    word = tokens[i].lower
    if word in UNITS or word in REPEATS or word in TENS or word in TEENS or word[0].isdigit():
        return True
    # up to three letters may come before the digits: "UR four four", "N X three", "Q S M, one one"
    for k in range(i, min(i + 4, len(tokens))):
        following = tokens[k].lower
        if k > i and (following in UNITS and following != "o" or following[0].isdigit()):
            return True
        if k > i and following in ("dash", "slash", "hyphen"):
            continue
        if not (len(following) == 1 and following.isalpha() or tokens[k].text.isupper()):
            return False
        if following in ("i", "a") and not tokens[k].text.isupper():
            return False
    return False


def _read_run(tokens: Sequence[Token], i: int) -> tuple[int, str, int]:
    """Read a run from token i: the index after it, its characters, and how many were spoken."""
    code = ""
    n_units = 0
    last = i
    j = i
    while j < len(tokens):
        token = tokens[j]
        word = token.lower
        if j > i and any(mark in token.gap for mark in ".?!\n;"):
            break
        following = tokens[j + 1].lower if j + 1 < len(tokens) else ""
        if word in REPEATS and (following in UNITS or len(following) == 1 and following.isalnum()):
            value = str(UNITS.get(following, following))
            code += value * REPEATS[word]
            n_units += 2
            j += 2
        elif word in UNITS and (word != "o" or code):
            code += str(UNITS[word])
            n_units += 1
            j += 1
        elif word.isdigit():
            code += word
            n_units += 1 if len(word) < 3 and j == i else len(word)
            j += 1
        elif word in TENS and (number := cardinal(tokens, j)):
            code += str(number[0])
            n_units += 1
            j = number[1]
        elif word in TEENS:
            code += str(TEENS[word])
            n_units += 1
            j += 1
        elif word == "hundred" and code in ("13", "18"):  # one three hundred
            code += "00"
            n_units += 1
            j += 1
        elif (
            (len(word) == 1 and word.isalpha() and (token.text.isupper() or code))
            or (token.text.isupper() and len(word) <= 3 and word.isalpha())
            or re.fullmatch(r"(?=.*\d)[a-z\d]{2,}", word)
        ):
            is_last = j + 1 == len(tokens) or tokens[j + 1].gap.strip() != ""
            if word in ("i", "a") and not (
                following in UNITS
                or following[:1].isdigit()
                or token.text == "A"
                and (is_last or len(following) == 1 and tokens[j + 1].text.isupper())
            ):
                break
            code += word.upper()
            n_units += len(word)
            j += 1
        elif (
            word in FILLERS
            and code
            and (
                following in UNITS
                or following in REPEATS
                or following[:1].isdigit()
                or word in ("slash", "dash", "hyphen")
                and len(following) == 1
            )
        ):
            j += 1
            continue
        else:
            break
        last = j
    return last, code, n_units


def _classify(
    tokens: Sequence[Token], i: int, end: int, code: str, n_units: int, text: str
) -> Span | None:
    digits = "".join(character for character in code if character.isdigit())
    while i < end and tokens[i].lower in ("double", "triple") and not digits:
        i += 1
    if len(digits) < 3 or digits in PUBLIC_NUMBERS:
        return None
    start, stop = tokens[i].start, tokens[end - 1].end
    if start and text[start - 1] == "+":
        start -= 1
    if i and tokens[i - 1].lower == "plus" and digits.startswith("61"):
        start = tokens[i - 1].start
    following = text[stop : stop + 12].lstrip().lower()
    if text[max(0, start - 1) : start] == "$" or following.startswith(
        (
            "percent",
            "per cent",
            "%",
            "dollar",
            "milligram",
            "mg",
            "ml",
            "kilo",
            "grand",
            "hundred",
            "thousand",
            "million",
            "years",
            "people",
            "k ",
        )
    ):
        return None
    has_letters = len(digits) < len(code)
    cue = _cue(tokens, i)
    if not has_letters:
        known = checksummed(digits)
        if known is not None:
            return Span(start, stop, known[0], 0.97, "sure", known[1])
    long_enough = len(digits) >= MIN_DIGITS and n_units >= 4
    if _is_grouped_amount(text[start:stop]) and cue is None:
        return None
    if long_enough:
        if has_letters or cue or len(digits) >= 7:
            label = "PHONE" if cue == "phone_number" else "ID"
            return Span(start, stop, label, 0.9, "sure", cue or "spoken_number")
        return Span(start, stop, "ID", 0.6, "unsure", "spoken_number")
    if cue and len(digits) >= 4 and (n_units >= 3 or has_letters) and cue != "number":
        return Span(start, stop, "PHONE" if cue == "phone_number" else "ID", 0.85, "sure", cue)
    if cue and (len(digits) >= 4 and n_units >= 4 or has_letters and len(code) >= 5):
        return Span(start, stop, "ID", 0.6, "unsure", cue)
    if has_letters and len(code) >= 6 and n_units >= 5 and len(digits) >= 3:
        return Span(start, stop, "ID", 0.6, "unsure", "code")
    if len(digits) >= 4 and n_units >= 4 and not _counts(digits):
        return Span(start, stop, "ID", 0.4, "unsure", "spoken_number")
    return None


def _counts(digits: str) -> bool:
    return digits in "0123456789" or digits in "9876543210"


def _is_grouped_amount(text: str) -> bool:
    return re.fullmatch(r"\d{1,3}(,\d{3})+", text) is not None


def _cue(tokens: Sequence[Token], i: int) -> str | None:
    """The kind of number named by one of the eight words before it, the nearest first."""
    general = None
    for k in range(i - 1, max(-1, i - 9), -1):
        kind = KINDS.get(tokens[k].lower)
        if kind in ("number", "code"):
            general = general or kind
        elif kind:
            return kind
    if tokens[i].text.isupper():
        kind = KINDS.get(tokens[i].lower)
        if kind:
            return kind
    return general


def checksummed(digits: str) -> tuple[str, str] | None:
    """The label and rule of a number whose checksum or prefix proves its kind."""
    if is_medicare(digits):
        return "ID", "medicare_number"
    if is_health_identifier(digits):
        return "ID", "health_identifier"
    if is_tax_file_number(digits):
        return "ID", "tax_file_number"
    if len(digits) == 10 and digits[:2] in ("04", "02", "03", "07", "08"):
        return "PHONE", "phone_number"
    if len(digits) == 11 and digits.startswith("61"):
        return "PHONE", "phone_number"
    if len(digits) == 10 and digits[:4] in ("1300", "1800"):
        return "PHONE", "phone_number"
    if len(digits) == 8 and digits[0] in "6789":
        return "PHONE", "local_phone_number"
    return None


def is_medicare(digits: str) -> bool:
    """Ten digits, or eleven with the person's number on the card."""
    return (
        len(digits) in (10, 11)
        and digits[0] in "23456"
        and sum(int(d) * w for d, w in zip(digits[:8], (1, 3, 7, 9, 1, 3, 7, 9), strict=True)) % 10
        == int(digits[8])
    )


def is_tax_file_number(digits: str) -> bool:
    weights = (1, 4, 3, 7, 5, 8, 6, 9, 10)
    return (
        len(digits) == 9 and sum(int(d) * w for d, w in zip(digits, weights, strict=True)) % 11 == 0
    )


def is_health_identifier(digits: str) -> bool:
    """Sixteen digits from 800360, with a Luhn check digit."""
    if len(digits) != 16 or not digits.startswith("80036"):
        return False
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(digits)]
    return sum(d // 10 + d % 10 for d in doubled) % 10 == 0
