"""A numbered document for line-by-line coding, in which a line keeps its number in every version.

A line is a sentence of a segment, or part of a long one. Numbers are 1, 2, 3 in the first version.
Later versions take them over by the segments' ids. An unchanged or changed line keeps its number, a
new line gets the number of the line before it and a letter, such as 57a, and the number of a
removed line is never reused.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import count
from pathlib import Path

from models.transcript import SENTENCE_ENDS, Transcript, join_continued, text_of
from service.exports.captions import width_of
from service.exports.docx import table_docx
from service.exports.options import ExportOptions, Label, Notation
from service.exports.paragraphs import UNKNOWN, timestamp
from service.exports.table import BYTE_ORDER_MARK
from service.exports.wording import apply, one_line

MAX_WIDTH = 72  # columns of a line
COLUMNS = ("line", "change", "segment", "start", "speaker", "text", "codes")
CLOSING = "\"'”’»)]"
WIDTHS = (800, 1500, 4838, 2500)  # of the document's columns, in twentieths of a point


@dataclass(frozen=True)
class NumberedLine:
    """`change`: since the earlier version: "", "new", "changed" or "removed"."""

    number: str
    segment: str
    start: float
    speaker: str
    text: str
    change: str = ""


def number_lines(
    transcript: Transcript, earlier: Sequence[NumberedLine] = ()
) -> list[NumberedLine]:
    """The lines of a transcript, with the numbers of an earlier version where there is one."""
    lines = list(_lines(transcript))
    if not earlier:
        return [NumberedLine(str(i), *line) for i, line in enumerate(lines, start=1)]
    kept = _match(lines, earlier)
    used = {line.number for line in earlier}
    numbered: list[NumberedLine] = []
    before = "0"
    for i, line in enumerate(lines):
        old = kept.get(i)
        if old is None:
            number, change = _next_number(before, used), "new"
            used.add(number)
        else:
            number = old.number
            change = "" if old.text == line[3] else "changed"
        numbered.append(NumberedLine(number, *line, change))
        before = number
    return list(_with_removed(numbered, earlier))


def with_earlier_lines(
    options: ExportOptions, first: Transcript | None, files: Sequence[NumberedLine] = ()
) -> ExportOptions:
    """The options, with the lines whose numbers are kept.

    Args:
        first: the first version, so that the numbers are the same whichever version is exported.
        files: lines that were exported before; they take precedence over `first`.
    """
    if files or first is None:
        return replace(options, earlier_lines=files)
    plain = replace(options, overlaps=False, pauses=None)
    return replace(options, earlier_lines=number_lines(apply(first, plain, Notation.NOTES)))


Line = tuple[str, float, str, str]
"""Segment, start, speaker, text"""


def _lines(transcript: Transcript) -> Iterator[Line]:
    for position, segment in enumerate(transcript.segments, start=1):
        id = segment.id or f"s{position:04d}"
        speaker = one_line(segment.speaker or UNKNOWN)
        own: list[tuple[float, str]] = []
        for group in join_continued(segment.words):
            text = text_of(group)
            lead = " " if group[0].text[:1].isspace() else ""
            fits = own and width_of(own[-1][1] + lead + text) <= MAX_WIDTH
            if own and fits and not own[-1][1].rstrip(CLOSING).endswith(SENTENCE_ENDS):
                own[-1] = (own[-1][0], own[-1][1] + lead + text)
            elif text:
                own.append((group[0].start, text))
        for start, text in own:
            if shown := one_line(text):
                yield id, start, speaker, shown


def _match(lines: Sequence[Line], earlier: Sequence[NumberedLine]) -> dict[int, NumberedLine]:
    """The earlier line that each line continues, by its index."""
    old_by_segment: dict[str, list[NumberedLine]] = {}
    for old in earlier:
        if old.change != "removed":
            old_by_segment.setdefault(old.segment, []).append(old)
    new_by_segment: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        new_by_segment.setdefault(line[0], []).append(i)
    found: dict[int, NumberedLine] = {}
    changed: dict[int, NumberedLine] = {}
    for segment, indexes in new_by_segment.items():
        old_lines = old_by_segment.get(segment, [])
        old_texts, texts = [old.text for old in old_lines], [lines[i][3] for i in indexes]
        matcher = SequenceMatcher(None, old_texts, texts, autojunk=False)
        for kind, a, b, c, d in matcher.get_opcodes():
            pairs = zip(old_lines[a:b], indexes[c:d], strict=False)
            (found if kind == "equal" else changed).update((i, old) for old, i in pairs)
    # Splitting and merging segments moves lines to another one.
    taken = {old.number for old in found.values()}
    moved: dict[str, list[NumberedLine]] = {}
    for old in earlier:
        if old.change != "removed" and old.number not in taken:
            moved.setdefault(old.text, []).append(old)
    for i, line in enumerate(lines):
        if i not in found and (candidates := moved.get(line[3])):
            found[i] = candidates.pop(0)
            taken.add(found[i].number)
    for i, old in changed.items():
        if i not in found and old.number not in taken:
            found[i] = old
            taken.add(old.number)
    return found


def _next_number(before: str, used: set[str]) -> str:
    """`57a` after 57 or 57c, or the next letter that no line has or had."""
    base = before.rstrip("abcdefghijklmnopqrstuvwxyz")
    return next(number for i in count() if (number := f"{base}{_letters(i)}") not in used)


def _letters(i: int) -> str:
    """a to z, then aa, ab, ..."""
    text = ""
    while i >= 0:
        text = chr(ord("a") + i % 26) + text
        i = i // 26 - 1
    return text


def _with_removed(
    numbered: Sequence[NumberedLine], earlier: Sequence[NumberedLine]
) -> Iterator[NumberedLine]:
    """The lines, with removed lines in their old places."""
    present = {line.number for line in numbered}
    removed_after: dict[str, list[NumberedLine]] = {}
    before = ""
    for old in earlier:
        if old.number in present:
            before = old.number
        else:
            gone = NumberedLine(old.number, old.segment, old.start, old.speaker, "", "removed")
            removed_after.setdefault(before, []).append(gone)
    yield from removed_after.get("", [])
    for line in numbered:
        yield line
        yield from removed_after.get(line.number, [])


# --- formats --------------------------------------------------------------------------------------


def lines_csv(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """The lines with an empty column for codes; the next version is numbered from this file."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for each in number_lines(transcript, options.earlier_lines):
        place = (each.number, each.change, each.segment, f"{each.start:.3f}")
        writer.writerow((*place, each.speaker, each.text, ""))
    return BYTE_ORDER_MARK + file.getvalue()


def lines_docx(transcript: Transcript, label: Label, options: ExportOptions) -> bytes:
    """A table with a row per line, and an empty column for codes."""
    rows = []
    previous = ""
    for each in number_lines(transcript, options.earlier_lines):
        speaker = "" if each.speaker == previous else f"{each.speaker} {timestamp(each.start)}"
        previous = each.speaker
        mark = {"": "", "new": " +", "changed": " ~", "removed": " -"}[each.change]
        text = "(removed)" if each.change == "removed" else each.text
        rows.append((f"{each.number}{mark}", speaker, text, ""))
    titles = ("Line", "Speaker", "Text", "Codes")
    return table_docx(titles, rows, WIDTHS, transcript, label, with_info=True)


def read_lines(path: Path) -> tuple[NumberedLine, ...]:
    """The lines of a CSV file that `lines_csv` wrote and a spreadsheet may have saved since.

    Raises:
        ValueError: it is another file.
    """
    text = path.read_text(encoding="utf-8-sig")
    delimiter = ";" if text.startswith("line;") else ","
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    if not set(COLUMNS[:-1]) <= set(rows.fieldnames or ()):
        raise ValueError("not a file of numbered lines")
    return tuple(map(_read_line, rows))


def _read_line(row: Mapping[str, str]) -> NumberedLine:
    start = float(row["start"].replace(",", "."))
    return NumberedLine(
        row["line"], row["segment"], start, row["speaker"], row["text"], row["change"]
    )
