"""Pseudonyms: random codes and names that say nothing about the entity they stand for."""

import random
import re
from collections.abc import Set

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
ENTITY_CODE = re.compile(r"(PERSON|ORG|PLACE|OTHER)-[1-9][0-9]{0,4}")


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


def bracket(pseudonym: str, descriptor: str | None = None) -> str:
    """Return a pseudonym as it stands in a text: a code of an entity in brackets.

    A descriptor keeps some of the meaning: `[PLACE-1: regional town]`. Codes of speakers, such as
    P07, and chosen names stand as they are.
    """
    if not is_entity_code(pseudonym):
        return pseudonym
    return f"[{pseudonym}: {descriptor}]" if descriptor else f"[{pseudonym}]"
