"""Synthetic interview passages with their identifiers, from a seed.

The sentences are templates, so the figures are for comparing versions of the rules, not for telling
how much of real speech is found: scripts/deid_passages/ is for that.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.deidentification.numbers import is_medicare, is_tax_file_number
from models.deidentification.occurrences import KnownEntity
from scripts.deid_evaluation import Gold, Passage

DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = ("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
ORDINALS = {1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 9: "ninth", 12: "twelfth"}

FIRST = (
    "Adriana Bilal Chantelle Dinesh Eamon Farzana Gareth Huong Ingrid Jelena Kwame Leilani Mirko"
    " Nerida Oluwaseun Pasquale Quentin Rukmini Sione Tegan Ulla Vikram Wiremu Xanthe Yasmin Zoltan"
    " Bronte Callista Declan Elspeth"
).split()
LAST = (
    "Abernethy Bianchi Christodoulou Dhaliwal Eriksson Fitzgibbon Gunawardena Hakimi Ivanovic"
    " Jayasuriya Kaloudis Lindqvist Mwangi Nakamura Obradovic Pham Rasmussen Stavropoulos Tuigamala"
    " Vandenberg Wickramasinghe Yilmaz Zielinski"
).split()
TOWNS = (
    "Bairnsdale Cootamundra Echuca Goulburn Horsham Inverell Kempsey Leongatha Moruya Narrandera"
    " Parkes Quirindi Stawell Tumut Warracknabeal Yarram"
).split()
ORGANISATIONS = (
    "{town} Base Hospital;{town} Community Health;{town} High School;Saint {first}'s Hospital"
    ";{last} House;{town} Family Practice;{last} Lodge;Our Lady of {town}"
).split(";")
STREETS = "Banksia Street;Wattle Grove;Gilmore Avenue;Nepean Highway;Rosella Crescent".split(";")

TEMPLATES = (
    "My name is {FULL} and I live in {TOWN}.",
    "So my sister {FIRST} took me to {ORG} that night.",
    "I saw Doctor {LAST} on {DATE}, and she was lovely.",
    "{ROSTER} said the same thing in the group, and I agreed.",
    "Then {ROSTER} rang, and we talked for an hour.",
    "I worked with {ROSTER} at {ORG} until {YEAR}.",
    "You can ring me on {PHONE} after five.",
    "They asked for my Medicare number, {MEDICARE}, and I had it on me.",
    "I gave them my tax file number {TFN} over the phone.",
    "My email is {EMAIL} if you want to send it.",
    "We were at {STREET} for about six years.",
    "I was {AGE} when they first took me in.",
    "We moved from {TOWN} to {TOWN} when I was a kid.",
    "My old boss, {FIRST}, ran the place in {TOWN}.",
)
FILLERS = (
    "Yeah, no, I suppose so.",
    "And how did that feel for you?",
    "It was just, like, everything at once, and I could not get out of bed for weeks.",
    "I was on fifty milligrams, and then they put it up to a hundred.",
    "I guess it was the grace of God, I do not know.",
    "Every Monday I would go for a walk, ten minutes, twenty minutes, and that helped.",
    "The bill came, and it was over two hundred dollars, which I did not have.",
    "Centrelink was no help, and the NDIS took a year.",
    "People say chin up, mark my words, it will pass.",
    "The nurse at the hospital was really kind, and she may have saved me.",
    "We used to get Maccas on a Friday and watch Netflix.",
)


@dataclass(frozen=True)
class Conditions:
    """`misspelt` is the share of roster names that are misspelt."""

    name: str
    misspelt: float = 0.0
    lower: bool = False


CONDITIONS = (
    Conditions("as spelt"),
    Conditions("4 in 10 names misspelt", misspelt=0.4),
    Conditions("lower case", misspelt=0.4, lower=True),
)


class Generator:
    def __init__(self, seed: int, conditions: Conditions) -> None:
        self._random = random.Random(seed)
        self._conditions = conditions
        names = [f"{first} {last}" for first, last in zip(FIRST, LAST, strict=False)]
        self._random.shuffle(names)
        self.roster = [KnownEntity(str(i), "person", name) for i, name in enumerate(names[:12])]

    def passages(self, n_words: int) -> list[Passage]:
        passages: list[Passage] = []
        while sum(len(passage.text.split()) for passage in passages) < n_words:
            sentences = [self._sentence() for _ in range(self._random.randint(2, 5))]
            passages.append(join(sentences, lower=self._conditions.lower))
        return passages

    def _sentence(self) -> Passage:
        if self._random.random() < 0.6:
            return Passage(self._random.choice(FILLERS), ())
        template = self._random.choice(TEMPLATES)
        text = ""
        gold = []
        end = 0
        for match in re.finditer(r"\{(\w+)\}", template):
            text += template[end : match.start()]
            label, value, on_roster, as_spelt = self._slot(match[1])
            gold.append(Gold(len(text), len(text) + len(value), label, on_roster, "", as_spelt))
            text += value
            end = match.end()
        return Passage(text + template[end:], tuple(gold))

    def _slot(self, slot: str) -> tuple[str, str, bool, bool]:
        """The label, the text, whether it is on the roster, and whether as the roster spells it."""
        choose = self._random.choice
        if slot == "ROSTER":
            name = choose(choose(self.roster).name.split())
            misspelt = self._random.random() < self._conditions.misspelt
            return "PERSON", self._misspell(name) if misspelt else name, True, not misspelt
        if slot == "ORG":
            place = {"town": choose(TOWNS), "first": choose(FIRST), "last": choose(LAST)}
            return "ORGANISATION", choose(ORGANISATIONS).format(**place), False, False
        fill: dict[str, Callable[[], tuple[str, str]]] = {
            "FULL": lambda: ("PERSON", f"{choose(FIRST)} {choose(LAST)}"),
            "FIRST": lambda: ("PERSON", choose(FIRST)),
            "LAST": lambda: ("PERSON", choose(LAST)),
            "TOWN": lambda: ("PLACE", choose(TOWNS)),
            "DATE": lambda: ("DATE", self._date()),
            "YEAR": lambda: ("DATE", self._year()),
            "PHONE": lambda: ("PHONE", self.spoken("04" + self._digits(8))),
            "MEDICARE": lambda: ("ID", self.spoken(self._valid(10, is_medicare))),
            "TFN": lambda: ("ID", self.spoken(self._valid(9, is_tax_file_number))),
            "EMAIL": lambda: ("EMAIL", self._email()),
            "STREET": lambda: ("ADDRESS", f"{self._random.randint(1, 200)} {choose(STREETS)}"),
            "AGE": lambda: ("AGE", cardinal(self._random.randint(16, 89))),
        }  # fmt: skip
        return *fill[slot](), False, False

    def spoken(self, digits: str) -> str:
        """Digits as people read them out: oh, double, triple."""
        words = []
        i = 0
        while i < len(digits):
            run = len(digits[i:]) - len(digits[i:].lstrip(digits[i]))
            word = (
                "oh" if digits[i] == "0" and self._random.random() < 0.5 else DIGITS[int(digits[i])]
            )
            if run >= 2 and self._random.random() < 0.7:
                length = 3 if run >= 3 else 2
                words += ["triple" if length == 3 else "double", word]
                i += length
            else:
                words.append(word)
                i += 1
        return " ".join(words)

    def _email(self) -> str:
        first, last = self._random.choice(FIRST), self._random.choice(LAST)
        return f"{first.lower()} dot {last.lower()} at gmail dot com"

    def _digits(self, n: int) -> str:
        return "".join(self._random.choice("0123456789") for _ in range(n))

    def _valid(self, n: int, is_valid: object) -> str:
        while not is_valid(digits := self._digits(n)):  # type: ignore[operator]
            pass
        return digits

    def _date(self) -> str:
        day = self._random.choice(list(ORDINALS))
        return f"the {ORDINALS[day]} of {self._random.choice(MONTHS)} {self._year()}"

    def _year(self) -> str:
        year = self._random.randint(1960, 2024)
        if year >= 2000:
            rest = f" and {cardinal(year - 2000)}" if year > 2000 else ""
            return f"two thousand{rest}"
        return f"nineteen {cardinal(year - 1900)}"

    def _misspell(self, name: str) -> str:
        """A small edit of a kind that recognisers make: a doubled, lost or swapped letter."""
        i = self._random.randrange(1, len(name) - 1)
        swaps = {"c": "k", "k": "c", "i": "y", "y": "i", "s": "z", "z": "s", "f": "ph", "v": "f"}
        if name[i] in swaps:
            return name[:i] + swaps[name[i]] + name[i + 1 :]
        if self._random.random() < 0.5:
            return name[:i] + name[i] * 2 + name[i + 1 :]
        return name[:i] + name[i + 1 :]


def cardinal(n: int) -> str:
    if n < 10:
        return DIGITS[n]
    if n < 20:
        return TEENS[n - 10]
    return TENS[n // 10 - 2] + (f"-{DIGITS[n % 10]}" if n % 10 else "")


def join(sentences: Sequence[Passage], *, lower: bool) -> Passage:
    text = ""
    gold: list[Gold] = []
    for sentence in sentences:
        text += " " if text else ""
        for g in sentence.gold:
            start, end = len(text) + g.start, len(text) + g.end
            gold.append(Gold(start, end, g.label, g.on_roster, g.entity, g.as_spelt))
        text += sentence.text
    return Passage(text.lower() if lower else text, tuple(gold))
