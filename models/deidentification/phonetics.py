"""Decides whether two words may be spellings of one name, by edits and sound.

`sound_keys` follows the idea of Metaphone (consonants only, in classes that recognisers confuse),
and maps spellings of Irish, Polish, Chinese, Māori and Aboriginal names to English ones.
"""

import re
import unicodedata
from functools import lru_cache

_STARTS = (
    ("ng", "n"),
    ("kn", "n"),
    ("wr", "r"),
    ("gn", "n"),
    ("pn", "n"),
    ("ps", "s"),
    ("tsch", "x"),
    ("rh", "r"),
    ("dz", "j"),
)
_SPELLINGS = (
    ("sch", "x"), ("tch", "x"), ("szcz", "x"), ("cz", "x"), ("sz", "x"), ("zh", "x"), ("tj", "x"),
    ("dj", "x"), ("ch", "x"), ("sh", "x"), ("sio", "xo"), ("sia", "xa"), ("tio", "xo"),
    ("bh", "v"), ("mh", "v"), ("ph", "f"), ("th", "t"), ("dh", "d"), ("ck", "k"), ("q", "k"),
    ("ough", "o"), ("augh", "a"), ("eigh", "a"), ("igh", "i"), ("gh", "g"), ("dg", "x"),
    ("j", "x"),
)  # fmt: skip
_CLASSES = str.maketrans("dbvzg", "tpfsk")


@lru_cache(maxsize=50_000)
def plain(word: str) -> str:
    """Lower case, without accents, letters only."""
    lowered = unicodedata.normalize("NFKD", word.lower())
    return "".join(character for character in lowered if "a" <= character <= "z")


@lru_cache(maxsize=50_000)
def sound_keys(word: str) -> frozenset[str]:
    letters = plain(word)
    if not letters:
        return frozenset()
    variants = {letters}
    if letters.startswith(("x", "z", "c", "j", "g")):
        variants.add("x" + letters[1:])
    if "ch" in letters:
        variants.add(letters.replace("ch", "k"))
    return frozenset(_skeleton(variant) for variant in variants)


def _skeleton(letters: str) -> str:
    for spelling, sound in _STARTS:
        if letters.startswith(spelling):
            letters = sound + letters[len(spelling) :]
            break
    for spelling, sound in _SPELLINGS:
        letters = letters.replace(spelling, sound)
    letters = re.sub(r"c(?=[eiy])", "s", letters).replace("c", "k")
    letters = re.sub(r"(?<=[a-z])x(?=[aeiou]|$)", "x", letters)
    first = "a" if letters[0] in "aeiouyhw" else ""
    consonants = re.sub(r"[aeiouyhw]", "", letters).translate(_CLASSES)
    return first + re.sub(r"(.)\1+", r"\1", consonants)


def edits(a: str, b: str, limit: int) -> int:
    """Optimal string alignment distance; `limit` + 1 if it is greater than `limit`."""
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, above = row, before
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)


def similarity(a: str, b: str) -> float:
    """1 for equal words, 0 for words with no letter in common at the same place."""
    longest = max(len(a), len(b), 1)
    return 1 - edits(a, b, longest) / longest


def deletions(word: str) -> set[str]:
    return {word} | {word[:i] + word[i + 1 :] for i in range(len(word))}


@lru_cache(maxsize=100_000)
def may_be_spellings(a: str, b: str) -> float:
    """How likely it is that two plain words spell one name: 0, or 0.5 to 1."""
    if a == b:
        return 1.0
    shortest = min(len(a), len(b))
    if shortest < 3:
        return 0.0
    allowed = 2 if shortest >= 7 else 1 if shortest >= 4 else 0
    distance = edits(a, b, 3)
    same_sound = not sound_keys(a).isdisjoint(sound_keys(b))
    if distance <= allowed:
        if shortest == 4 and not same_sound:
            return 0.0  # Mark and Mary, Jane and June
        return 0.9 if same_sound else 0.75 if a[0] == b[0] else 0.5
    n_consonants = min(len(key) for key in sound_keys(a))
    if same_sound and similarity(a, b) >= (0.25 if n_consonants >= 3 else 0.5):
        return 0.7
    return 0.0
