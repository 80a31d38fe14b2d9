"""Pseudonyms: random codes and names that say nothing about the entity they stand for."""

import random
import re
from collections.abc import Iterable, Set

PREFIXES = {
    "participant": "P",
    "interviewer": "I",
    "person": "PERSON-",
    "organisation": "ORG-",
    "place": "PLACE-",
    "other": "OTHER-",
    "allowed": "OTHER-",
}
WIDTHS = {"participant": 2}  # digits, with zeros in front
PEOPLE = ("participant", "interviewer", "person")
ENTITY_CODE = re.compile(r"(PERSON|ORG|PLACE|OTHER)-[1-9][0-9]{0,4}")
WORD = re.compile(r"[^\W\d_]+")

# Short names for any gender that are neither English words nor places in the word lists. Chosen by
# hand; those that the US census of 1990 lists were checked against it.
NEUTRAL_NAMES = """
Addison Ainsley Alex Alexis Alva Arden Ariel Aubrey Auden Avery Bernie Blair Britt Carey
Charlie Cleo Dana Darcy Delaney Dominique Dorian Elisha Ellery Emerson Farley Frankie Gerry
Hadley Hollis Jackie Jamie Jessie Jo Jody Jude Jules Kai Kasey Keegan Kerry Kris Lennox Leslie
Lou Marley Marlowe Merle Merritt Morgan Nat Nicky Oakley Ollie Peyton Quinn Reese Remy Riley
Robbie Rory Rowan Sacha Sam Sammie Shay Shayne Shelby Shiloh Skyler Sloane Stevie Tate Taylor Teagan
Theo Tierney Tristan Val Wynn
""".split()


def is_entity_code(text: str) -> bool:
    """Return whether a text is a code that is shown in brackets, such as PLACE-1."""
    return ENTITY_CODE.fullmatch(text) is not None


def free_code(kind: str, used: Set[str]) -> str:
    """Return a random code that is not used: P07, I1, PERSON-3, PLACE-1, ORG-2.

    Random, so that the order of codes tells nothing about the order of names on a roster; from a
    range that is about twice as large as needed, so that codes stay short.
    """
    prefix, width = PREFIXES[kind], WIDTHS.get(kind, 1)

    def code(number: int) -> str:
        return f"{prefix}{number:0{width}}"

    top = 9 if width == 1 else 30
    while True:
        free = [name for number in range(1, top + 1) if (name := code(number)) not in used]
        if len(free) > top // 2:
            return random.SystemRandom().choice(free)
        top *= 2


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text in lower case, without single letters."""
    return frozenset(word for word in WORD.findall(text.casefold()) if len(word) > 1)


def neutral_names_in(texts: Iterable[str]) -> frozenset[str]:
    """Return the names of the list that occur as words in texts, in lower case."""
    listed = {name.lower() for name in NEUTRAL_NAMES}
    return frozenset(name for text in texts for name in words_of(text) & listed)


def bracket(pseudonym: str, descriptor: str | None = None) -> str:
    """Return a pseudonym as a text shows it: the code of an entity in brackets.

    A descriptor keeps some of the meaning: `[PLACE-1: regional town]`. Codes of speakers, such as
    P07, and chosen names stand as they are.
    """
    if not is_entity_code(pseudonym):
        return pseudonym
    return f"[{pseudonym}: {descriptor}]" if descriptor else f"[{pseudonym}]"
