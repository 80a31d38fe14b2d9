"""Moves codings to another version of the same texts: from identified transcripts to releases.

Paragraphs are matched by their times, and the words of a paragraph with those of its counterpart. A
coding that begins or ends within replaced words then covers the whole replacement.

ServiceError
└── NoSuchTexts
"""

import io
import re
import zipfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from service.errors import Misused
from service.exports.codings import NS, CodedProject, Coding, ProjectUnreadable
from service.exports.qdpx import COLOURS, NAMESPACE, derive_guid

STAMP = re.compile(r"\[\d+:\d\d:\d\d\]")
TOKEN = re.compile(r"\w+|[^\w\s]|\s+")
QDE = "project.qde"
XSI = "http://www.w3.org/2001/XMLSchema-instance"


class NoSuchTexts(Misused):
    """The two projects have no session in common."""

    code: ClassVar[str] = "no_such_texts"


@dataclass(frozen=True)
class MovedText:
    """How many of a session's codings were moved. The others are on paragraphs that are gone."""

    session: str
    codings: int
    moved: int


def move_codings(coded: CodedProject, new: Path) -> tuple[bytes, tuple[MovedText, ...]]:
    """Add the codings of one project to another one, which `fieldscribe export` has written.

    Returns:
        The new project with the codings, and counts for each session that both have.

    Raises:
        ProjectUnreadable, NoSuchTexts
    """
    try:
        with zipfile.ZipFile(new) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        root = ElementTree.fromstring(members[QDE])
        sources = {
            session_of(source.get("name", "")): (source, _read_text(source, members))
            for source in root.iterfind("q:Sources/q:TextSource", NS)
        }
    except (OSError, zipfile.BadZipFile, ElementTree.ParseError, LookupError, ValueError):
        raise ProjectUnreadable(
            f"{new.name} cannot be read as a REFI-QDA project: export it again with `fieldscribe "
            "export --releases --format qdpx`."
        ) from None
    codes = _Codes(root)
    counts = []
    for text in coded.texts:
        found = sources.get(session_of(text.name))
        if found is None:
            continue
        source, new_text = found
        move = TextMover(text.text, new_text.replace("\r\n", "\n"))
        moved = [one for one in map(move, text.codings) if one is not None]
        for number, coding in enumerate(moved):
            _add(source, coding, codes, new_text, number)
        counts.append(MovedText(session_of(text.name), len(text.codings), len(moved)))
    if not counts:
        raise NoSuchTexts(
            "The two projects have no session in common: sessions are recognised by the beginning "
            "of the texts' names, such as INT-07."
        )
    members[QDE] = _serialise(root)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue(), tuple(counts)


def session_of(name: str) -> str:
    """`INT-07.v3.identified` is of INT-07."""
    return name.partition(".")[0]


class TextMover:
    """Moves codings from one text to another."""

    def __init__(self, old: str, new: str) -> None:
        self._new = new
        self._old_lines, new_lines = list(_lines(old)), list(_lines(new))
        self._starts = [start for start, _ in self._old_lines]
        self._matched = {
            i: (new_lines[j][0], _align(self._old_lines[i][1], new_lines[j][1]))
            for i, j in _match([t for _, t in self._old_lines], [t for _, t in new_lines])
        }

    def __call__(self, coding: Coding) -> Coding | None:
        """The coding in the new text; None if nothing is left of what it covers."""
        first = bisect_right(self._starts, coding.start) - 1
        last = bisect_right(self._starts, coding.end - 1) - 1
        lines = [i for i in range(max(first, 0), last + 1) if i in self._matched]
        if not lines:
            return None
        start = self._place(lines[0], coding.start, at_end=False)
        end = self._place(lines[-1], coding.end, at_end=True)
        return Coding(coding.code, start, end) if start < end else None

    def _place(self, line: int, offset: int, *, at_end: bool) -> int:
        begin, blocks = self._matched[line]
        old_begin, text = self._old_lines[line]
        inside = min(max(offset - old_begin, 0), len(text))
        for old_start, old_end, new_start, new_end, is_equal in blocks:
            # An end belongs to the block before it, and a start to the block after it.
            if old_start < inside <= old_end if at_end else old_start <= inside < old_end:
                if is_equal:
                    return begin + new_start + inside - old_start
                return begin + (new_end if at_end else new_start)
        return begin + (blocks[-1][3] if blocks and inside else 0)


Block = tuple[int, int, int, int, bool]
"""Characters of the old and the new line, and whether they are the same."""


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Where each paragraph begins, and its text."""
    for match in re.finditer(r"[^\n]*\S[^\n]*", text):
        yield match.start(), match[0]


def _match(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The paragraphs that belong together: at the same time, in order."""
    matcher = SequenceMatcher(None, _keys(old), _keys(new), autojunk=False)
    for block in matcher.get_matching_blocks():
        yield from ((block.a + k, block.b + k) for k in range(block.size))


def _keys(lines: Sequence[str]) -> list[str]:
    """The time of each paragraph. Without times, paragraphs are counted."""
    stamps = [STAMP.match(line) for line in lines]
    return [str(i) if stamp is None else stamp[0] for i, stamp in enumerate(stamps)]


def _align(old: str, new: str) -> list[Block]:
    old_tokens, new_tokens = TOKEN.findall(old), TOKEN.findall(new)
    old_ends, new_ends = _ends(old_tokens), _ends(new_tokens)
    matcher = SequenceMatcher(None, old_tokens, new_tokens, autojunk=False)
    return [
        (old_ends[a], old_ends[b], new_ends[c], new_ends[d], tag == "equal")
        for tag, a, b, c, d in matcher.get_opcodes()
    ]


def _ends(tokens: Sequence[str]) -> list[int]:
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token))
    return ends


# --- the project's XML ----------------------------------------------------------------------------


class _Codes:
    """The codes of a project; new ones are added with the codes above them."""

    def __init__(self, root: Element) -> None:
        self._top = root.find("q:CodeBook/q:Codes", NS)
        if self._top is None:
            raise ProjectUnreadable("The project has no code book: export it again.")
        self._known: dict[str, Element] = {}

    def guid(self, name: str) -> str:
        """Of the code with this full name: `Barriers > Stigma`."""
        return self._element(name).get("guid", "")

    def _element(self, name: str) -> Element:
        if name not in self._known:
            above, _, own = name.rpartition(" > ")
            parent = self._element(above) if above else self._top
            assert parent is not None
            self._known[name] = ElementTree.SubElement(
                parent,
                f"{{{NAMESPACE}}}Code",
                {
                    "guid": derive_guid("moved code", name),
                    "name": own,
                    "isCodable": "true",
                    "color": COLOURS[len(self._known) % len(COLOURS)],
                },
            )
        return self._known[name]


def _read_text(source: Element, members: dict[str, bytes]) -> str:
    name = source.get("plainTextPath", "").removeprefix("internal://")
    return members[f"sources/{name}"].decode("utf-8-sig")


def _add(source: Element, coding: Coding, codes: _Codes, text: str, number: int) -> None:
    made = {key: source.get(key, "") for key in ("creatingUser", "creationDateTime")}
    identity = source.get("guid", ""), str(number), coding.code
    # MAXQDA counts both characters of a line end.
    start, end = (
        at + ("\r\n" in text) * text.replace("\r\n", "\n")[:at].count("\n")
        for at in (coding.start, coding.end)
    )
    selection = ElementTree.SubElement(
        source,
        f"{{{NAMESPACE}}}PlainTextSelection",
        {
            "guid": derive_guid("moved selection", *identity),
            "name": coding.code,
            "startPosition": str(start),
            "endPosition": str(end),
            **made,
        },
    )
    child = ElementTree.SubElement(
        selection,
        f"{{{NAMESPACE}}}Coding",
        {"guid": derive_guid("moved coding", *identity), **made},
    )
    ElementTree.SubElement(
        child, f"{{{NAMESPACE}}}CodeRef", {"targetGUID": codes.guid(coding.code)}
    )


def _serialise(root: Element) -> bytes:
    ElementTree.register_namespace("", NAMESPACE)
    ElementTree.register_namespace("xsi", XSI)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content
