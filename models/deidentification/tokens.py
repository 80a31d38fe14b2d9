"""Text to tokens: their case, place in the sentence and frequency."""

import re
from dataclasses import dataclass, replace

from models.deidentification import vocabulary
from models.deidentification.lexicons import Lexicons

WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*")
SENTENCE_END = re.compile(r"[.?!…:\n\"“”]")
ABBREVIATIONS = frozenset("dr mr mrs ms st prof rev mt no".split())
CONTRACTED = ("n't", "'ll", "'ve", "'re", "'d", "'m")


@dataclass(frozen=True, slots=True)
class Token:
    """`lower` and `end` leave out a possessive ending; `full_end` is after it.

    `gap` is the text since the token before. `band` is 1 (common) to 4 (rare) for words that are
    written in lower case, else 0.
    """

    text: str
    lower: str
    start: int
    end: int
    full_end: int
    gap: str
    begins_sentence: bool
    is_capitalised: bool
    band: int

    @property
    def is_function_word(self) -> bool:
        return self.lower in vocabulary.FUNCTION


def tokenise(text: str, lexicons: Lexicons) -> list[Token]:
    tokens: list[Token] = []
    end = 0
    for match in WORD.finditer(text):
        word = match[0]
        start, full_end = match.span()
        base = _without_possessive(word)
        lower = base.lower().replace("’", "'")
        gap = text[end:start]
        begins = not tokens or (
            SENTENCE_END.search(gap) is not None and not _is_abbreviated(tokens[-1], gap)
        )
        band = lexicons.band.get(lower, 0)
        if not band and lower.endswith(CONTRACTED):
            band = 1
        tokens.append(
            Token(
                text=word,
                lower=lower,
                start=start,
                end=start + len(base),
                full_end=full_end,
                gap=gap,
                begins_sentence=begins,
                is_capitalised=word[0].isupper(),
                band=band,
            )
        )
        end = full_end
    return tokens


def _without_possessive(word: str) -> str:
    return word[:-2] if word[-2:].lower() in ("'s", "’s") and len(word) > 2 else word


def _is_abbreviated(before: Token, gap: str) -> bool:
    return gap == ". " and (
        before.lower in ABBREVIATIONS or (len(before.text) == 1 and before.text.isupper())
    )


def is_cased(text: str) -> bool:
    """Return whether the text has capitals where English writes them, and lower case elsewhere."""
    letters = sum(character.isalpha() for character in text)
    capitals = sum(character.isupper() for character in text)
    if letters == 0:
        return True
    if capitals > letters * 0.5 and letters > 20:
        return False
    # an English sentence has a capital about every 60 letters; "I" alone does not show care
    return capitals * 150 >= letters or letters < 40 and capitals > 0


def restore_capitals(tokens: list[Token], lexicons: Lexicons, known: frozenset[str]) -> list[Token]:
    """Guess which tokens of a text without capitals would be capitalised.

    Names and places that are not common words, words that are in no dictionary, and words after a
    title or a cue are capitalised. `known`: words of the roster.
    """
    guessed: list[Token] = []
    for i, token in enumerate(tokens):
        word, band = token.lower, token.band
        before = tokens[i - 1].lower if i else ""
        is_name = word in lexicons.first_names or (
            word in lexicons.surnames and i > 0 and guessed[i - 1].is_capitalised
        )
        is_place = word in lexicons.places or word in lexicons.world or word in lexicons.countries
        if not word.isalpha() and "'" not in word or len(word) < 2:
            capital = False
        elif word in known:
            capital = band in (0, 4) or before in vocabulary.KIN or band >= 2
        elif token.is_function_word or word in vocabulary.ADDRESS_FORMS or band == 1:
            capital = (
                is_name
                and before in (vocabulary.TITLES | vocabulary.NAMING)
                and not token.is_function_word
            )
        elif before in vocabulary.TITLES and band != 2:
            capital = True
        elif is_name and band in (0, 4):
            capital = True
        elif is_name and band >= 2:
            capital = before in vocabulary.KIN or before in vocabulary.NAMING
        elif is_place:
            capital = band in (0, 4) or (before in vocabulary.PLACE_PREPOSITIONS and band >= 2)
        else:
            capital = band == 0
        if not capital and i and guessed[-1].is_capitalised and token.gap.strip() == "":
            capital = word in vocabulary.ORGANISATION_HEADS or word in vocabulary.STREET_HEADS
        guessed.append(replace(token, is_capitalised=capital, begins_sentence=False))
    return guessed
