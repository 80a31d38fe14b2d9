"""Text with speakers: `[00:01:02] P07: text`, `Anna (1:02): text`, `P07: text #00:01:02-3#`."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from models.speaker_names import is_code
from service.imports.turns import ImportedTurn

CLOCK = r"(?:\d{1,2}:)?\d{1,2}:\d{2}(?:[.,:-]\d{1,3})?"
TIME = re.compile(rf"[\[(#<{{]*({CLOCK})[\])#>}}]*")
LEADING_TIME = re.compile(rf"\s*[\[(#<{{]+({CLOCK})[\])#>}}]+\s*[-–]?\s*|\s*({CLOCK})\s+")
INNER_TIME = re.compile(rf"\s*[\[#]({CLOCK})[\]#]\s*")
NAMED = re.compile(
    r"@?\**([^\s:*][^:\n*]{0,59}?)\**\s*(?:[\[(]([\d:.,-]+)[\])])?\s*:\**(?=\s|$)\s*(.*)", re.S
)
MAX_NAME_WORDS = 4
OUR_HEADERS = ("IDENTIFIED. ", "RELEASE ")
UNKNOWN = "unknown"  # what exports call a segment without a speaker
# Marks that the exports add to what is said: notes of overlaps and pauses.
NOTES = re.compile(
    r"\s*\[(?:overlap with|pause of)[^\]]*\]|\s*\((?:\.{1,3}|\d+(?:\.\d+)?)\)(?=\s|$)"
)


def seconds(clock: str) -> float:
    """`1:02:03.4`, `02:03` or `00:01:02-3` in seconds."""
    whole, _, fraction = re.sub(r"[,-]", ".", clock).partition(".")
    total = 0.0
    for part in whole.split(":"):
        total = 60 * total + int(part)
    return total + (float(f"0.{fraction}") if fraction else 0.0)


def clean_text(text: str) -> str:
    """Return the spoken text on one line, without times and the marks of exports."""
    text = INNER_TIME.sub(" ", text)
    text = NOTES.sub("", text).replace("//", "")
    return " ".join(text.replace("\N{ZERO WIDTH SPACE}", "").split())


def read_text(text: str) -> list[ImportedTurn]:
    if text.startswith(OUR_HEADERS):
        _, _, text = text.partition("\n\n")
    return read_lines(text.split("\n"))


def read_lines(
    lines: Sequence[str], known: Iterable[str] = (), named: Sequence[bool | None] = ()
) -> list[ImportedTurn]:
    """Read paragraphs. One without a name continues the turn of the speaker before it.

    Args:
        known: names of speakers, besides those that the lines show.
        named: whether each line begins with a name, if that is known.
    """
    flags = named or [None] * len(lines)
    paragraphs = [
        (*_parse(line), flag) for line, flag in zip(lines, flags, strict=True) if line.strip()
    ]
    names = {UNKNOWN, *known, *_find_names(paragraphs)}
    turns, speaker = list[ImportedTurn](), None
    for start, name, said, whole, flag in paragraphs:
        words = whole
        if name is not None and (flag or (flag is None and name in names)):
            speaker, words = name, said
        if start is None and (first := INNER_TIME.match(words)) and first.end() < len(words):
            start = seconds(first[1])
        turns.append(ImportedTurn(speaker, clean_text(words), start))
    return turns


Paragraph = tuple[float | None, str | None, str, str, bool | None]


def _parse(line: str) -> tuple[float | None, str | None, str, str]:
    """Return the time before a line, its possible name, the text after that, and the whole text."""
    line = line.strip().lstrip("\ufeff")
    start = None
    if (time := LEADING_TIME.match(line)) is not None:
        start, line = seconds(time[1] or time[2]), line[time.end() :]
    match = NAMED.match(line)
    if match is None or len(match[1].split()) > MAX_NAME_WORDS:
        return start, None, "", line
    if match[2] and TIME.fullmatch(match[2]):
        start = seconds(match[2])
    return start, match[1].strip(), match[3], line


def _find_names(paragraphs: Sequence[Paragraph]) -> set[str]:
    """Return the names before colons: codes, those that recur, or all if each line has one.

    `There is one thing: I left.` has no name.
    """
    found = [name for _, name, *_, flag in paragraphs if flag is None]
    counts = Counter(name for name in found if name is not None)
    if None not in found:
        return set(counts)
    return {
        name
        for name, n in counts.items()
        if n > 1 or is_code(name) or re.fullmatch(r"[A-Z]+_?\d+", name)
    }
