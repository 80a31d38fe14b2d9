"""Finds names of people, places and organisations without a roster, by capitals and cues."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.deidentification import vocabulary as v
from models.deidentification.lexicons import Lexicons
from models.deidentification.numbers import TEENS, TENS, UNITS
from models.deidentification.occurrences import Span
from models.deidentification.tokens import ABBREVIATIONS, Token

NOBODY = (
    v.BRANDS | v.PROGRAMMES | v.COUNTRY | v.NATIONALITIES | v.RELIGIONS | v.MEDICINES | v.WEEKDAYS
)
NOBODY_WORDS = (
    v.NATIONALITIES | v.RELIGIONS | v.MEDICINES | v.WEEKDAYS | v.ACRONYMS | v.TRAINING | v.PEOPLES
    | v.INSTITUTIONS    | v.ADDRESS_FORMS | frozenset(v.MONTHS)
)  # fmt: skip
HEAD_MODIFIERS = frozenset(
    "high primary secondary community football cricket netball bowls swimming train railway bus"
    " caravan public mental health medical aged care shopping police fire country private boys"
    " girls hospital neighbourhood family women's men's youth catholic anglican uniting baptist war"
    " memorial".split()
)
LOWER_HEADS = frozenset(
    "hospital clinic school college university uni church prison jail pub hotel tavern cafe"
    " surgery pharmacy bridge jetty pier wharf plant factory mine shelter refuge hostel mosque"
    " temple gurdwara oval caravan foreshore lookout rsl tafe barracks abattoir meatworks"
    " courthouse cemetery office offices refinery campus branch depot headquarters smelter"
    " sawmill brewery dairy winery orchard farm shearing sheds shed shop store warehouse park"
    " market markets club centre station pool library hall unit ward".split()
)
NO_APOSTROPHES = str.maketrans("", "", "'’")
WORKPLACES = frozenset(
    "plant refinery factory mine smelter depot warehouse sawmill abattoir yard shipyard".split()
)
PERSON_BEFORE = v.KIN | v.NAMING | v.COMPANION
MAX_PHRASE = 8


@dataclass(frozen=True)
class _Context:
    before: str  # the word before the phrase, lower case; "" at the start of a clause
    before_that: str
    after: str
    begins_sentence: bool
    after_comma: bool


def find_names(
    tokens: Sequence[Token], lexicons: Lexicons, taken: Collection[int] = ()
) -> list[Span]:
    """Args:
    taken: indices of tokens that belong to a date, a number and the like.
    """
    spans = []
    i = 0
    while i < len(tokens):
        if i in taken or not _may_begin(tokens, i):
            i += 1
            continue
        end = _phrase_end(tokens, i, taken)
        spans += _classify(tokens, i, end, lexicons)
        i = end
    return spans


def _may_begin(tokens: Sequence[Token], i: int) -> bool:
    token = tokens[i]
    if not token.is_capitalised:
        return False
    following = tokens[i + 1].lower if i + 1 < len(tokens) else ""
    if token.lower == "our" and following == "lady":
        return True
    return not token.is_function_word and token.lower not in v.WEEKDAYS


def _phrase_end(tokens: Sequence[Token], i: int, taken: Collection[int]) -> int:
    end = i + 1
    while end < len(tokens) and end - i < MAX_PHRASE and end not in taken:
        token = tokens[end]
        before = tokens[end - 1]
        if before.full_end > before.end and not _holds_possessive(tokens, i, end):
            break  # Geoff's Holden
        if _continues(token, before):
            if token.is_capitalised and (not token.is_function_word or token.lower == "p"):
                end += 1
                continue
            if token.lower[0].isdigit() and before.lower in ("ward", "unit"):
                end += 1
                continue
            skip = _connector_end(tokens, end, taken)
            if skip:
                end = skip
                continue
        break
    return end


def _holds_possessive(tokens: Sequence[Token], i: int, end: int) -> bool:
    """Saint Vincent's Hospital, Our Lady's College: the possessive belongs to the name."""
    if tokens[i].lower in ("saint", "st", "our"):
        return True
    return (
        end < len(tokens)
        and tokens[end].is_capitalised
        and (tokens[end].lower in v.ORGANISATION_HEADS or tokens[end].lower in v.PLACE_HEADS)
    )


def _continues(token: Token, before: Token) -> bool:
    if token.gap in (" ", "-", " & ", "'", "’"):
        return True
    return token.gap == ". " and (before.lower in ABBREVIATIONS or len(before.lower) == 1)


def _connector_end(tokens: Sequence[Token], i: int, taken: Collection[int]) -> int | None:
    """The index after "of Hard" or "of the Valley" at token i, if a capital follows."""
    k = i
    while (
        k < len(tokens) and k - i < 2 and tokens[k].lower in v.CONNECTORS and tokens[k].gap == " "
    ):
        k += 1
    if k == i or k >= len(tokens) or k in taken:
        return None
    if tokens[i].lower == "and" or tokens[i].lower == "the":
        return None
    if tokens[i].lower == "for" and tokens[i - 1].lower not in (
        "centre",
        "center",
        "institute",
        "foundation",
    ):
        return None
    token = tokens[k]
    if token.is_capitalised and not token.is_function_word and token.gap == " ":
        return k + 1
    return None


def _classify(tokens: Sequence[Token], a: int, b: int, lexicons: Lexicons) -> list[Span]:
    """The span of the phrase [a, b), or none."""
    if _is_public(tokens[a:b]):
        return _workplace(tokens, a, b)
    if a and tokens[a].gap == "/" and len(tokens[a - 1].text) == 1:
        return []  # V/Line
    # Capitalised words at the edges that do not identify anybody are not part of a name.
    named = a > 0 and tokens[a - 1].lower in v.NAMING and tokens[a].gap == " "
    while a < b and _is_nobody(tokens[a]) and not named and not _is_needed(tokens, a, b, lexicons):
        a += 1
    while b > a and (
        _is_nobody(tokens[b - 1])
        and b - a > 1
        and tokens[b - 1].lower not in v.MONTHS
        and tokens[b - 1].lower not in v.ORGANISATION_HEADS
    ):
        b -= 1
    if a >= b:
        return []
    phrase = tokens[a:b]
    if len(phrase) == 1 and not named and _is_form_of_address(phrase[0]):
        return []
    words = [token.lower for token in phrase]
    bare = " ".join(words)
    if _is_public(phrase):
        return []
    if b < len(tokens) and tokens[b].lower in v.PUBLIC_TAILS and tokens[b].gap == " ":
        return []
    context = _context(tokens, a, b)
    found = _decide(phrase, words, bare, context, lexicons)
    if found is None:
        return []
    label, score, sure, rule = found
    around = [token.lower for token in tokens[max(0, a - 6) : b + 5]]
    if label == "PLACE" and any(word in v.SPORT for word in around):
        score, sure = min(score, 0.3), False  # a club, as likely as a place
    elif rule != "title" and any(
        token.lower in v.CULTURE for token in tokens[max(0, a - 3) : b + 2]
    ):
        score, sure = min(score, 0.45), False  # perhaps a public figure
    start, end = phrase[0].start, phrase[-1].end
    if (
        label == "ORGANISATION"
        and phrase[0].lower in ("saint", "st", "our")
        or (
            label == "ORGANISATION"
            and phrase[-1].full_end > phrase[-1].end
            and context.before == "at"
        )
    ):
        end = phrase[-1].full_end
    if label in ("ORGANISATION", "PLACE") and phrase[-1].full_end == phrase[-1].end:
        head_end = lower_head_end(tokens, b)
        if head_end:
            end = head_end
            if all(token.band in (0, 4) or token.lower in lexicons.places for token in phrase):
                score, sure = max(score, 0.8), True
    return [Span(start, end, label, score, "sure" if sure else "unsure", rule)]


def _workplace(tokens: Sequence[Token], a: int, b: int) -> list[Span]:
    """A brand's plant or mine is a place where few people work: the Ford plant."""
    if b >= len(tokens) or tokens[b].lower not in WORKPLACES or tokens[b].gap != " ":
        return []
    return [Span(tokens[a].start, tokens[b].end, "ORGANISATION", 0.5, "unsure", "workplace")]


def find_wards(tokens: Sequence[Token]) -> list[Span]:
    """A ward in lower case with its number: ward seven, ward 4B."""
    spans = []
    for token, following in pairwise(tokens):
        if token.lower == "ward" and following.gap == " ":
            number = following.lower in UNITS or following.lower in TEENS or following.lower in TENS
            if (
                number
                or following.lower[0].isdigit()
                or (len(following.text) == 1 and following.text.isupper() and following.text != "I")
            ):
                spans.append(Span(token.start, following.end, "ORGANISATION", 0.8, "sure", "ward"))
    return spans


def lower_head_end(tokens: Sequence[Token], b: int) -> int | None:
    """The end of a lower-case head that begins at token b: "plant", "caravan park"."""
    end = None
    for k in range(b, min(b + 3, len(tokens))):
        token = tokens[k]
        if token.gap != " " or token.is_capitalised:
            break
        if token.lower in LOWER_HEADS:
            end = token.end
        elif token.lower not in HEAD_MODIFIERS:
            break
    return end


def _is_form_of_address(token: Token) -> bool:
    return token.lower in v.TITLES or token.lower in v.INSTITUTIONS


def _is_public(phrase: Sequence[Token]) -> bool:
    """Whether the words are a brand, a national programme, a language and the like."""
    bare = " ".join(token.lower for token in phrase)
    written = " ".join(token.text.lower().replace("’", "'") for token in phrase)
    return bare in NOBODY or written in NOBODY or "the " + bare in v.PROGRAMMES


def _is_nobody(token: Token) -> bool:
    if token.lower in ("ward", "unit"):
        return False  # Ward 4B
    if token.lower in v.ACRONYMS and not token.text.isupper():
        return token.is_function_word
    return (token.lower in NOBODY_WORDS and token.lower not in v.TITLES) or token.is_function_word


def _is_needed(tokens: Sequence[Token], a: int, b: int, lexicons: Lexicons) -> bool:
    """Whether a word that usually identifies nobody belongs to a name: June, Our Lady."""
    if tokens[a].lower == "our":
        return True
    if tokens[a].lower in v.MONTHS and tokens[a].lower in lexicons.first_names:
        before = tokens[a - 1].lower if a else ""
        return b - a > 1 or before in v.KIN or before in v.NAMING
    if b - a > 1 and tokens[a].lower in v.NATIONALITIES | v.ADDRESS_FORMS:
        return any(token.lower in v.ORGANISATION_HEADS for token in tokens[a + 1 : b])
    return False


def _context(tokens: Sequence[Token], a: int, b: int) -> _Context:
    gap = tokens[a].gap
    near = a > 0 and gap.strip() in ("", "-", "(")
    if a > 0 and gap == ", " and tokens[a - 1].lower in v.KIN and b < len(tokens):
        near = tokens[b].gap.strip() == ","  # my ex, Darren,
    k = a - 1
    near_that = near and k > 0 and tokens[k].gap.strip() in ("", "-")
    after = tokens[b].lower if b < len(tokens) and tokens[b].gap.strip() == "" else ""
    return _Context(
        before=tokens[k].lower if near else "",
        before_that=tokens[k - 1].lower if near_that else "",
        after=after,
        begins_sentence=tokens[a].begins_sentence,
        after_comma=a > 0 and not near,
    )


Decision = tuple[str, float, bool, str]


def _decide(
    phrase: Sequence[Token],
    words: list[str],
    bare: str,
    context: _Context,
    lexicons: Lexicons,
) -> Decision | None:
    content = [
        token
        for token in phrase
        if token.lower not in v.GENERIC
        and (token.lower not in v.CONNECTORS or token.is_capitalised)
        and token.lower not in v.NATIONALITIES
        and not (token.lower in v.TITLES and token is phrase[0] and len(phrase) > 1)
        and token.text[0].isalpha()
    ]
    rare = any(token.band == 0 for token in content)
    named = any(token.lower in lexicons.first_names for token in content)
    alone = len(phrase) == 1
    mid = not context.begins_sentence

    if words[0] in v.TITLES and len(phrase) > 1 and content:
        if rare or named or content[0].band >= 2 and words[-1] not in v.ORGANISATION_HEADS:
            return "PERSON", 0.95, rare or named, "title"
    if bare in v.STATES:
        return (
            ("PLACE", 0.3, False, "state")
            if mid and context.before in ("in", "from", "to")
            else None
        )
    inside = context.before in v.INSIDE or context.before == "from"
    if bare in lexicons.countries and bare not in lexicons.places and (inside or not named):
        return ("PLACE", 0.3, False, "country") if content and rare else None
    if bare in lexicons.world and bare not in lexicons.places and (inside or not named):
        return ("PLACE", 0.45, False, "world_city") if content and rare else None
    organisation = _organisation(phrase, words, content, context, lexicons)
    if organisation:
        return organisation
    place = _place(phrase, words, bare, content, context, lexicons)
    if place:
        return place
    if not content:
        return None
    person = _person(phrase, words, content, context, lexicons)
    if person:
        return person
    if alone:
        return _single(phrase[0], context, lexicons)
    if rare:
        label = "ORGANISATION" if context.before in ("the", "at") else "PERSON"
        surname = phrase[-1].lower in lexicons.surnames and all(t.band == 0 for t in phrase)
        known = (surname and context.before not in ("the", "at")) or all(
            token.lower in lexicons.surnames
            or token.lower in lexicons.first_names
            or token.lower in lexicons.places
            for token in content
        )
        return label, 0.7 if known else 0.45, known, "capitalised_phrase"
    if not mid or all(token.lower in v.JARGON or token.lower in v.TRAINING for token in content):
        return None
    placed = (
        context.before_that in v.PLACE_PREPOSITIONS
        if context.before == "the"
        else (context.before in v.PLACE_PREPOSITIONS)
    )
    if placed or any(token.band >= 3 for token in content):
        return "ORGANISATION", 0.45, False, "capitalised_phrase"
    return None


def _organisation(
    phrase: Sequence[Token],
    words: list[str],
    content: Sequence[Token],
    context: _Context,
    lexicons: Lexicons,
) -> Decision | None:
    last = words[-1]
    if words[0] in ("ward", "unit", "pod") and len(words) > 1:
        return "ORGANISATION", 0.85, True, "ward"
    if words[0] == "our" and len(words) > 1:
        return "ORGANISATION", 0.9, True, "saint"
    if words[0] in ("saint", "st") and len(words) > 1:
        possessive = any(token.full_end > token.end for token in phrase)
        if possessive or last in v.ORGANISATION_HEADS or context.before in ("at", "the"):
            return "ORGANISATION", 0.92, True, "saint"
        return "PLACE", 0.9, True, "saint"
    if last == "tafe" and len(words) > 1:
        return "ORGANISATION", 0.9, bool(content), "organisation_head"
    if words[0] == "royal" and len(words) > 1:
        sure = any(t.band == 0 or t.lower in lexicons.places for t in content)
        return (
            ("ORGANISATION", 0.9 if sure else 0.45, sure, "organisation_head") if content else None
        )
    if len(words) > 2 and words[0] in v.ORGANISATION_HEADS and words[1] == "of" and content:
        return "ORGANISATION", 0.9, True, "organisation_head"
    if len(words) > 1 and last in ("house", "lodge", "hall", "place") and context.before == "at":
        return "ORGANISATION", 0.7, bool(content), "organisation_head"
    if len(words) > 1 and last in v.ORGANISATION_HEADS and content:
        named = any(
            token.band != 1 or token.lower in lexicons.places or token.lower in lexicons.first_names
            for token in content
        )
        if not named:
            return (
                ("ORGANISATION", 0.5, False, "organisation_head")
                if not context.begins_sentence
                else None
            )
        sure = any(token.band in (0, 4) or token.lower in lexicons.places for token in content)
        return "ORGANISATION", 0.9, sure or len(content) > 1, "organisation_head"
    return None


def _place(
    phrase: Sequence[Token],
    words: list[str],
    bare: str,
    content: Sequence[Token],
    context: _Context,
    lexicons: Lexicons,
) -> Decision | None:
    preposition = context.before in v.PLACE_PREPOSITIONS
    moved = context.before_that in (
        "out",
        "over",
        "up",
        "down",
        "back",
        "moved",
        "live",
        "lived",
        "grew",
    )
    written = " ".join(token.text.lower() for token in phrase).translate(NO_APOSTROPHES)
    in_gazetteer = (
        bare in lexicons.places
        or written in lexicons.places
        or bare.replace("saint ", "st ") in lexicons.places
    )
    is_name = words[0] in lexicons.first_names
    if in_gazetteer:
        if len(phrase) > 1:
            return "PLACE", 0.92, True, "gazetteer"
        common = phrase[0].band in (1, 2, 3)
        if common and context.begins_sentence:
            return None
        if common:
            if preposition and context.before not in ("of", "out", "over", "up", "down", "off"):
                return "PLACE", 0.8, context.before in v.INSIDE or moved, "gazetteer"
            return None
        if context.before == "the":
            adjective = phrase[0].band == 0 and not is_name and context.after != ""
            return "PLACE", 0.75 if adjective else 0.6, adjective, "gazetteer"
        if is_name and not (preposition or moved):
            return None
        if context.begins_sentence and not preposition:
            return "PLACE", 0.5, False, "gazetteer"
        return "PLACE", 0.9, True, "gazetteer"
    if (
        len(words) > 1
        and words[0] in ("mount", "mt", "lake", "port", "cape", "point", "fort")
        and content
    ):
        return "PLACE", 0.9, True, "place_head"
    if len(words) > 1 and words[-1] in v.PLACE_HEADS and content:
        if words[0] in lexicons.first_names and words[-1] in lexicons.surnames and not preposition:
            return None
        return "PLACE", 0.85, any(token.band in (0, 3, 4) for token in content), "place_head"
    # a known place and a direction or a part of it: Ringwood East, North Fitzroy, Geelong West
    rest = [word for word in words if word not in v.GENERIC]
    if len(words) > 1 and rest and " ".join(rest) in lexicons.places and len(rest) < len(words):
        return "PLACE", 0.85, True, "gazetteer"
    return None


def _person(
    phrase: Sequence[Token],
    words: list[str],
    content: Sequence[Token],
    context: _Context,
    lexicons: Lexicons,
) -> Decision | None:
    first = phrase[0]
    first_name = first.lower in lexicons.first_names
    cue = (
        context.before in v.KIN
        or context.before in v.NAMING
        or context.after in v.SPEECH
        or context.before_that in v.NAMING
        or context.before_that in v.KIN
        and context.before in ("was", "is", "called", "named")
    )
    if len(phrase) > 1:
        surname = words[-1] in lexicons.surnames or words[-1] in lexicons.first_names
        if first_name and (first.band in (0, 4) or surname or phrase[-1].band == 0):
            if context.before in ("the",) and not surname:
                return "ORGANISATION", 0.75, True, "capitalised_phrase"
            return "PERSON", 0.93, True, "full_name"
        if cue and any(token.band in (0, 3, 4) for token in content):
            return "PERSON", 0.9, True, "cue"
        return None
    if context.before in ("the", "a", "an"):
        return None
    if first_name:
        if first.band == 0:
            if context.begins_sentence:
                return (
                    ("PERSON", 0.8, True, "first_name")
                    if cue or context.after in ("and", "from", "")
                    else ("PERSON", 0.6, False, "first_name")
                )
            return "PERSON", 0.88, True, "first_name"
        if context.begins_sentence:
            owns = first.full_end > first.end  # Rose's
            likely = (owns or context.after in v.SAYING) and (
                first.lower in lexicons.common_names or first.band > 2
            )
            return ("PERSON", 0.55, False, "first_name") if likely else None
        if cue or context.before in v.COMPANION:
            return "PERSON", 0.8, True, "first_name"
        return "PERSON", 0.5, False, "first_name"
    if (
        cue
        and not context.begins_sentence
        and context.before in v.KIN | v.NAMING
        and first.lower not in v.GENERIC
    ):
        return "PERSON", 0.8, first.band != 1, "cue"
    if (cue or context.before in v.MEETING) and first.band == 0 and not context.begins_sentence:
        return "PERSON", 0.8, True, "cue"
    return None


def _single(token: Token, context: _Context, lexicons: Lexicons) -> Decision | None:
    """Find single capitalised words, judged only by their neighbours and rarity."""
    word = token.lower
    if (
        len(word) < 2
        or word in v.ORGANISATION_HEADS
        and token.band == 1
        and context.before != "the"
    ):
        return None
    if token.text.endswith("s") and token.text[:-1].isupper() and len(token.text) > 2:
        return None  # PSOs
    if token.text.isupper() and len(token.text) <= 5:
        near = context.before_that if context.before == "the" else context.before
        if word in v.ACRONYMS or near not in (
            "at",
            "in",
            "from",
            "with",
            "for",
            "to",
            "by",
            "into",
        ):
            return None
        return "ORGANISATION", 0.35, False, "acronym"
    if context.before in ("a", "an"):
        return None
    if token.band == 0:
        if context.before == "the":
            inside = context.before_that in ("at", "in", "from", "to", "into", "outside", "near")
            return "ORGANISATION", 0.6 if inside else 0.45, False, "unknown_after_article"
        if context.before in v.PLACE_PREPOSITIONS and context.before not in ("of", "over", "up"):
            label = "ORGANISATION" if context.before == "at" else "PLACE"
            moved = context.before_that in v.MOTION
            stayed = context.before == "at" and context.before_that in v.STAYING
            sure = context.before in ("in", "near", "from", "outside", "around") or moved or stayed
            return label, 0.8 if sure else 0.55, sure, "unknown_after_preposition"
        if word in lexicons.surnames and not context.begins_sentence:
            return "PERSON", 0.8, True, "surname"
        if context.begins_sentence:
            if word in lexicons.surnames or context.after in v.SPEECH:
                return "PERSON", 0.5, False, "unknown_capitalised"
            if re.search(r"(.)\1\1", word) or len(word) < 3:
                return None  # Hmmm, Ohhh
            return "PERSON", 0.35, False, "unknown_capitalised"
        person = context.before in v.COMPANION or context.after in v.SPEECH
        return "PERSON", 0.65 if person else 0.55, False, "unknown_capitalised"
    if context.begins_sentence or context.after_comma and token.band < 3:
        return None
    if context.before == "the":
        return "ORGANISATION", 0.45, False, "capitalised_after_article"
    if word in v.JARGON:
        return None
    if context.before in ("at", "in", "from", "near"):
        return "PLACE", 0.4, False, "dictionary_capitalised"
    return "PERSON", 0.45, False, "dictionary_capitalised"
