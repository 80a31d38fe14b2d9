"""E-mail and web addresses, handles, street addresses and spelled-out names, as spoken."""

import re
from collections.abc import Sequence

from models.deidentification.lexicons import Lexicons
from models.deidentification.names import lower_head_end
from models.deidentification.numbers import REPEATS, TEENS, TENS, UNITS
from models.deidentification.occurrences import Span
from models.deidentification.tokens import Token
from models.deidentification.vocabulary import (
    ACRONYMS,
    ORGANISATION_HEADS,
    PLACE_HEADS,
    STREET_HEADS,
)

# Lengths are bounded; otherwise a long text without an end would take very long.
EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
WEB = re.compile(
    r"\b(?:https?://\S{1,500}[\w/]|www\.[\w.-]{1,200}\w"
    r"|(?<![\w.-])[a-z\d-]{1,63}(?:\.[a-z\d-]{1,63}){0,8}\.(?:com|org|net|edu|gov)(?:\.au)?(?:/[\w/.-]{0,200}\w)?)\b",
    re.IGNORECASE,
)
HANDLE = re.compile(r"(?<![\w.])@\w[\w.]*\w")
_SPOKEN = "|".join([*UNITS, *TEENS, *TENS, *REPEATS, "hundred"])
POST_OFFICE_BOX = re.compile(
    rf"\b(?:P\.?\s?O\.?|post office|locked)\s(?:box|bag)\s(?:\d+|(?:(?:{_SPOKEN})\s?)+)\b",
    re.IGNORECASE,
)
MAX_LOCAL_WORDS = 30
DOMAIN_ENDS = frozenset("com net org edu gov au nz uk info io me asn biz co id".split())
JOINERS = frozenset("dot underscore dash hyphen point".split())
NUMBER_WORDS = frozenset({*UNITS, *TEENS, *TENS, *REPEATS, "hundred", "and"})


def find_contacts(tokens: Sequence[Token], text: str) -> list[Span]:
    spans: list[Span] = []
    for pattern, label, rule in (
        (EMAIL, "EMAIL", "email"),
        (WEB, "WEB", "web"),
        (HANDLE, "HANDLE", "handle"),
    ):
        if label == "EMAIL" or "." in text or "@" in text:
            spans += [
                Span(match.start(), match.end(), label, 0.98, "sure", rule)
                for match in pattern.finditer(text)
            ]
    done = 0  # characters before this are in a span
    for i, token in enumerate(tokens):
        if token.start < done:
            continue
        if token.lower == "dot" and i + 1 < len(tokens) and tokens[i + 1].lower in DOMAIN_ENDS:
            span = _spoken_domain(tokens, i)
            if span:
                spans.append(span)
                done = span.end
        elif token.lower == "underscore" and i and i + 1 < len(tokens):
            spans.append(_spoken_handle(tokens, i))
            done = spans[-1].end
    return spans


def _spoken_domain(tokens: Sequence[Token], dot: int) -> Span | None:
    """The address around "dot com": an e-mail address if "at" comes before the domain."""
    end = dot + 2
    while (
        end + 1 < len(tokens)
        and tokens[end].lower == "dot"
        and tokens[end + 1].lower in DOMAIN_ENDS
    ):
        end += 2
    start = dot - 1
    if start < 0:
        return None
    while start >= 2 and dot - start < MAX_LOCAL_WORDS and tokens[start - 1].lower in JOINERS:
        start -= 2
    k = start
    while k > 0 and start - k < 4 and tokens[k - 1].lower != "at" and tokens[k - 1].lower != "www":
        k -= 1
    if k > 0 and tokens[k - 1].lower == "at" and start - k < 3:
        first = _local_part(tokens, k - 1)
        return Span(tokens[first].start, tokens[end - 1].end, "EMAIL", 0.97, "sure", "spoken_email")
    for k in range(start, max(-1, start - 6), -1):
        if tokens[k].lower == "www":
            start = k
            break
        if tokens[k].lower in ("site", "website", "page", "blog") and k < start:
            start = k + 1 + (tokens[k + 1].lower in ("is", "was", "called", "at"))
            break
    return Span(tokens[start].start, tokens[end - 1].end, "WEB", 0.95, "sure", "spoken_web")


def _local_part(tokens: Sequence[Token], at: int) -> int:
    """The first token of what comes before "at"."""
    i = at
    while i > 0 and at - i < MAX_LOCAL_WORDS:
        word = tokens[i - 1].lower
        if i < at and tokens[i].gap == "_":
            i -= 1
        elif word in JOINERS or word in NUMBER_WORDS - {"and"} or word.isdigit() or len(word) == 1:
            i -= 1
        elif (
            i == at
            or tokens[i].lower in JOINERS
            or (
                (tokens[i].lower in NUMBER_WORDS or tokens[i].lower.isdigit())
                and _only_numbers(tokens, i, at)
            )
        ):
            i -= 1
        else:
            break
    while i < at - 1 and tokens[i].lower in ("i", "a") and tokens[i + 1].lower not in JOINERS:
        i += 1
    return i


def _only_numbers(tokens: Sequence[Token], i: int, at: int) -> bool:
    return all(token.lower in NUMBER_WORDS or token.lower.isdigit() for token in tokens[i:at])


def _spoken_handle(tokens: Sequence[Token], i: int) -> Span:
    """The name around "underscore" at token i."""
    start = i - 1
    while start >= 2 and i - start < MAX_LOCAL_WORDS and tokens[start - 1].lower in JOINERS:
        start -= 2
    end = i + 2
    while end + 1 < len(tokens) and tokens[end].lower in JOINERS:
        end += 2
    while (
        end < len(tokens)
        and tokens[end].gap.strip() in ("", "-")
        and (tokens[end].lower in NUMBER_WORDS - {"and"} or tokens[end].lower.isdigit())
    ):
        end += 1
    return Span(tokens[start].start, tokens[end - 1].end, "HANDLE", 0.9, "sure", "spoken_handle")


def find_streets(tokens: Sequence[Token]) -> list[Span]:
    """A street with a capital, and the number before it."""
    spans = []
    for i, token in enumerate(tokens):
        if token.lower not in STREET_HEADS or i == 0 or not token.is_capitalised:
            continue
        start = i
        while (
            start > 0
            and i - start < 3
            and _names_street(tokens[start - 1])
            and tokens[start].gap in (" ", "-")
        ):
            start -= 1
        if start == i or (
            tokens[start].begins_sentence and i - start == 1 and tokens[start].band == 1
        ):
            continue
        if len(token.lower) <= 2 and start == i - 1 and tokens[start].is_function_word:
            continue
        first = start
        while (
            first > 0
            and tokens[first].gap.strip() in ("", "-", ",", "/")
            and (
                tokens[first - 1].lower in NUMBER_WORDS
                or re.fullmatch(r"\d{1,4}[a-z]?", tokens[first - 1].lower)
                or (
                    first < start
                    and tokens[first - 1].lower
                    in (
                        "unit",
                        "flat",
                        "lot",
                        "slash",
                        "level",
                        "suite",
                        "apartment",
                        "shop",
                        "villa",
                        "number",
                    )
                )
            )
        ):
            first -= 1
        while first < start and tokens[first].lower in ("and", "double"):
            first += 1
        last = i + 1
        while last < len(tokens) and _extends_street(tokens[last]):
            last += 1
        head_end = lower_head_end(tokens, last) or tokens[last - 1].end
        spans.append(
            Span(
                tokens[first].start,
                head_end,
                "ADDRESS",
                0.95,
                "sure",
                "street_number" if first < start else "street",
            )
        )
    return spans


def find_boxes(tokens: Sequence[Token], text: str) -> list[Span]:
    """Post office boxes with their number."""
    return [
        Span(match.start(), match.end(), "ADDRESS", 0.95, "sure", "post_office_box")
        for match in POST_OFFICE_BOX.finditer(text)
    ]


def _extends_street(token: Token) -> bool:
    """Flinders Street Station, Kooyong Road Medical Centre."""
    return (
        token.is_capitalised
        and token.gap == " "
        and (token.lower in ORGANISATION_HEADS or token.lower in PLACE_HEADS)
    )


def _names_street(token: Token) -> bool:
    return token.is_capitalised and not token.is_function_word and token.text[0].isalpha()


def find_spelled(tokens: Sequence[Token], lexicons: Lexicons) -> list[Span]:
    """Names spelled out letter by letter: N-G-U-Y-E-T, or K, R, Z, double T."""
    spans = []
    i = 0
    while i < len(tokens):
        end = i
        letters = ""
        while end < len(tokens) and (
            end == i or tokens[end].gap.strip() in ("", "-", ",", ".", "–")
        ):
            word = tokens[end].lower
            if len(word) == 1 and word.isalpha():
                letters += word
                end += 1
            elif (
                word in ("double", "capital")
                and end + 1 < len(tokens)
                and len(tokens[end + 1].lower) == 1
            ):
                letters += tokens[end + 1].lower * (2 if word == "double" else 1)
                end += 2
            elif (
                letters
                and word in ("for", "as")
                and end + 1 < len(tokens)
                and end > i
                and len(letters) > 2
            ):
                break
            else:
                break
        if len(letters) >= 3 and letters not in ACRONYMS and letters not in _PLAIN:
            common = letters in lexicons.band and lexicons.band[letters] < 3
            sure = not common and (len(letters) >= 4 or _spelling_cue(tokens, i))
            spans.append(
                Span(
                    tokens[i].start,
                    tokens[end - 1].end,
                    "PERSON",
                    0.95 if sure else 0.5,
                    "sure" if sure else "unsure",
                    "spelled_out",
                )
            )
        i = max(end, i + 1)
    return spans


_PLAIN = frozenset({"abc", "xyz", "abcd", "aaa", "sos", "faq", "iii", "www"})


def _spelling_cue(tokens: Sequence[Token], i: int) -> bool:
    return any(
        token.lower in ("spelled", "spelt", "spell", "spelling")
        for token in tokens[max(0, i - 6) : i]
    )
