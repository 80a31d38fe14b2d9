"""What `fieldscribe review` shows: groups of mentions, and passages with a span marked."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.commands.console import printable
from service.exports.text import clock

OPEN, CLOSE = "»", "«"  # around a span: »Tomasz«
WIDEST = 100  # columns; longer lines are hard to read
CONTEXT = 200  # characters on each side of a span
LABEL_WORDS = {
    "PERSON": "person",
    "PLACE": "place",
    "ORGANISATION": "organisation",
    "ADDRESS": "address",
    "DATE": "date",
    "AGE": "age",
    "PHONE": "phone number",
    "ID": "number or code",
    "EMAIL": "e-mail address",
    "WEB": "web address",
    "HANDLE": "name on social media",
    "OTHER": "other",
}


@dataclass(frozen=True)
class Passages:
    """The transcript's segments by id, with the names of their speakers."""

    segments: Mapping[str, Mapping[str, Any]]
    order: Mapping[str, int]

    @classmethod
    def of(cls, transcript: Mapping[str, Any]) -> "Passages":
        segments = {each["id"]: each for each in transcript["segments"]}
        return cls(segments, {id: i for i, id in enumerate(segments)})

    def text(self, id: str) -> str:
        text: str = self.segments[id]["text"]
        return text

    def words(self, id: str) -> list[str]:
        return [word["text"] for word in self.segments[id]["words"]]

    def around(self, id: str) -> list[str]:
        """The ids of a segment and its neighbours."""
        ids = list(self.order)
        i = self.order[id]
        return ids[max(0, i - 1) : i + 2]


def group_mentions(mentions: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Open suggestions, those that name the same together, in the order of the text."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in mentions:
        if each["state"] != "suggested":
            continue
        if each["entity_id"] and not each["choices"]:
            key = ("entity", each["entity_id"])
        elif each["hint"]:
            key = ("hint", each["hint"])
        else:
            key = (each["label"], each["text"].casefold())
        groups.setdefault(key, []).append(each)
    return list(groups.values())


def describe_group(
    group: Sequence[Mapping[str, Any]], entities: Mapping[str, Mapping[str, Any]]
) -> str:
    """`person P07 (Siobhan Gallagher): Shiv, Siobhan; 3 mentions`."""
    first = group[0]
    entity = entities.get(first["entity_id"] or "")
    kind = LABEL_WORDS.get(first["label"], first["label"])
    known = ""
    if entity is not None and not first["choices"]:
        names = ", ".join(entity["names"][:3])
        known = f" {entity['pseudonym'] or 'without a pseudonym yet'} ({names})"
    spelt = ", ".join(dict.fromkeys(each["text"] for each in group))
    n = f"{len(group)} mentions" if len(group) > 1 else "1 mention"
    return printable(f"{kind}{known}: {spelt}; {n}")


def describe_votes(mention: Mapping[str, Any]) -> str:
    """`sure: roster, spacy`."""
    rules = [each["rule"] or each["stage"] for each in mention["votes"]]
    listed = ", ".join(dict.fromkeys(rules))
    tier = mention["tier"]
    return printable(f"{tier}: {listed}" if tier else listed)


def passage_lines(
    passages: Passages, id: str, span: tuple[int, int] | None, width: int, note: str = ""
) -> Iterator[str]:
    """A segment with its time and speaker, the span between » and «, cut to what is near it."""
    segment = passages.segments[id]
    text = segment["text"]
    if span is None:
        shown = text
    else:
        start, end = span
        head, tail = text[:start], text[end:]
        if len(head) > CONTEXT:
            head = f"… {head[-CONTEXT:].partition(' ')[2]}"
        if len(tail) > CONTEXT:
            tail = f"{tail[:CONTEXT].rpartition(' ')[0]} …"
        shown = f"{head}{OPEN}{text[start:end]}{CLOSE}{tail}"
    speaker = segment["speaker"] or "nobody"
    yield from textwrap.wrap(
        printable(f"[{clock(segment['start'])}] {speaker}: {shown}{note}"),
        width=min(width, WIDEST),
        initial_indent="  ",
        subsequent_indent="    ",
    )


def numbered_words(words: Sequence[str], width: int, first: int = 0) -> Iterator[str]:
    """`1 My  2 name  3 is`, wrapped between words."""
    lines = "\n".join(
        f"{number} {printable(word.strip())}".replace(" ", "\u00a0")
        for number, word in enumerate(words, first + 1)
    )
    for line in textwrap.wrap(
        lines.replace("\n", "   "),
        width=min(width, WIDEST),
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    ):
        yield line.replace("\u00a0", " ")


def read_range(text: str, n_words: int) -> tuple[int, int] | None:
    """`3` or `3-5`, counted from 1, as [first, last); None if it is neither."""
    first, _, last = text.partition("-")
    if not (first.strip().isdecimal() and (not last or last.strip().isdecimal())):
        return None
    start, stop = int(first) - 1, int(last or first)
    return (start, stop) if 0 <= start < stop <= n_words else None


def describe_recall(estimate: Mapping[str, Any]) -> str:
    """What a blind sample says about a review, in a sentence or two."""
    found, missed = estimate["n_found"], estimate["n_missed"]
    if found + missed == 0:
        return f"The {estimate['n_segments']} segments read hold no identifier: read more of them."
    text = (
        f"In {estimate['n_segments']} segments, the review had found {found} of {found + missed} "
        f"identifiers: {estimate['recall']:.0%} (95 % interval {estimate['low']:.0%} to "
        f"{estimate['high']:.0%})."
    )
    if not estimate["is_independent"]:
        text += " The reader has also reviewed this transcript: let another person read a sample."
    return text
