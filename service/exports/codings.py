"""Codings of several people, read from REFI-QDA projects and compared.

The unit of comparison is a paragraph of the text. Sources are identified by their texts, because
programs give them other names and GUIDs.

ServiceError
├── ProjectUnreadable
└── TextsDiffer
"""

import re
import zipfile
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

from service.errors import Misused
from service.exports.qdpx import NAMESPACE, SPEAKERS

MAX_TEXT_BYTES = 64 << 20  # limit of an archive member; eight hours of talk take half a megabyte
NS = {"q": NAMESPACE}


class ProjectUnreadable(Misused):
    """A file is not a REFI-QDA project, or a part of it is missing."""

    code: ClassVar[str] = "project_unreadable"


class TextsDiffer(Misused):
    """The coders worked on different versions of a text."""

    code: ClassVar[str] = "texts_differ"


@dataclass(frozen=True)
class Coding:
    """A code on the characters [start, end) of a text."""

    code: str  # with the codes above it: Barriers > Stigma
    start: int
    end: int


@dataclass(frozen=True)
class CodedText:
    name: str
    text: str
    codings: tuple[Coding, ...]

    @cached_property
    def units(self) -> list[tuple[int, int]]:
        """The paragraphs that are not empty."""
        return [match.span() for match in re.finditer(r"[^\n]*\S[^\n]*", self.text)]

    @cached_property
    def codes_of_units(self) -> list[set[str]]:
        """A unit has a code if the coding covers half of it, or half of the coding lies in it."""
        found: list[set[str]] = [set() for _ in self.units]
        ends = [end for _, end in self.units]
        for coding in self.codings:
            for i in range(bisect_left(ends, coding.start + 1), len(self.units)):
                start, end = self.units[i]
                if start >= coding.end:
                    break
                shared = min(end, coding.end) - max(start, coding.start)
                if 2 * shared >= min(end - start, coding.end - coding.start):
                    found[i].add(coding.code)
        return found


@dataclass(frozen=True)
class CodedProject:
    coder: str
    texts: tuple[CodedText, ...]


def read_project(path: Path) -> CodedProject:
    """Read the codings of one person. The coder is named after the file.

    The codes that `fieldscribe export` gives to speakers are left out.

    Raises:
        ProjectUnreadable
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = ElementTree.fromstring(_read_member(archive, "project.qde"))
            texts = tuple(_texts(root, archive))
    except (OSError, zipfile.BadZipFile, ElementTree.ParseError, LookupError, ValueError) as error:
        raise ProjectUnreadable(
            f"{path.name} cannot be read as a REFI-QDA project ({type(error).__name__}): export it "
            "again as .qdpx from the program in which it was coded."
        ) from None
    return CodedProject(path.stem, texts)


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member by its name, ignoring case: NVivo writes `Sources`."""
    (info,) = [each for each in archive.infolist() if each.filename.lower() == name.lower()]
    with archive.open(info) as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError("a text is too large")
    return content


def _texts(root: ElementTree.Element, archive: zipfile.ZipFile) -> Iterator[CodedText]:
    codes = dict(_codes(root.findall("q:CodeBook/q:Codes/q:Code", NS), ()))
    origin = root.get("origin", "").lower()
    sources = root.find("q:Sources", NS)
    for source in sources if sources is not None else ():
        kind = source.tag.partition("}")[2]
        parts = [source] if kind == "TextSource" else source.findall("q:Transcript", NS)
        for part in parts:
            text, offsets = _normalise(_plain_text(part, archive), origin)
            codings = (
                Coding(codes[code], offsets(start), offsets(end))
                for start, end, code in _selections(part)
                if code in codes and end > start
            )
            name = part.get("name") or source.get("name") or ""
            yield CodedText(name, text, tuple(codings))


def _codes(
    elements: Iterable[ElementTree.Element], above: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """GUID and full name of every code."""
    for element in elements:
        names = (*above, " ".join(element.get("name", "").split()))
        if names[0] != SPEAKERS:
            yield element.get("guid", ""), " > ".join(names)
            yield from _codes(element.findall("q:Code", NS), names)


def _plain_text(part: ElementTree.Element, archive: zipfile.ZipFile) -> str:
    content = part.findtext("q:PlainTextContent", None, NS)
    if content is not None:
        return content
    path = part.get("plainTextPath", "")
    name = path.removeprefix("internal://")
    if not path.startswith("internal://") or "/" in name:
        raise ValueError("a text is not in the archive")
    return _read_member(archive, f"sources/{name}").decode("utf-8-sig")


def _selections(part: ElementTree.Element) -> Iterator[tuple[int, int, str]]:
    """Start, end and the GUID of the code, for every coding."""
    points = {
        point.get("guid"): int(point.get("position", "0"))
        for point in part.iterfind("q:SyncPoint", NS)
    }
    for element in part:
        kind = element.tag.partition("}")[2]
        if kind == "PlainTextSelection":
            start, end = int(element.get("startPosition", "")), int(element.get("endPosition", ""))
        elif kind == "TranscriptSelection":
            start, end = (points[element.get(f"{k}SyncPoint")] for k in ("from", "to"))
        else:
            continue
        for reference in element.iterfind("q:Coding/q:CodeRef", NS):
            yield start, end, reference.get("targetGUID", "")


class _Offsets:
    """Converts a program's offsets into offsets in the text with LF line ends."""

    def __init__(self, raw: str, origin: str) -> None:
        self._shifts: list[int] = []  # offsets after which one more unit is counted
        position = 0
        counts_line_ends_once = "atlas" in origin
        for character in raw:
            position += 1
            if character == "\r" and counts_line_ends_once:
                position -= 1
            elif character == "\r" or (character > "\uffff" and "nvivo" in origin):
                position += character != "\r"
                self._shifts.append(position)

    def __call__(self, offset: int) -> int:
        return offset - bisect_left(self._shifts, offset + 1)


def _normalise(raw: str, origin: str) -> tuple[str, _Offsets]:
    return raw.replace("\r\n", "\n"), _Offsets(raw, origin)


# --- comparison -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """A paragraph, and the codes that each coder who has its text gave it."""

    source: str
    number: int  # of the paragraph, from 1
    text: str
    codes: Mapping[str, set[str]]


@dataclass(frozen=True)
class Agreement:
    """The coders' agreement on one code. None: undefined, because nothing varies.

    `kappa`: Cohen's, the mean over the pairs of coders. `alpha`: Krippendorff's, nominal.
    """

    code: str
    coded: Mapping[str, int]  # units, by coder
    units: int
    agreed: float  # the share of units on which all agree
    kappa: float | None
    alpha: float | None


@dataclass(frozen=True)
class Comparison:
    coders: tuple[str, ...]
    units: tuple[Unit, ...]
    agreements: tuple[Agreement, ...] = field(default=())


def compare(projects: Sequence[CodedProject]) -> Comparison:
    """Compare the codings of several people, unit by unit.

    Raises:
        TextsDiffer
    """
    _require_same_texts(projects)
    by_text: dict[str, dict[str, CodedText]] = {}
    for project in projects:
        for coded in project.texts:
            by_text.setdefault(coded.text, {})[project.coder] = coded
    units = []
    for coded_by in by_text.values():
        first = next(iter(coded_by.values()))
        for i, (start, end) in enumerate(first.units):
            codes = {coder: coded.codes_of_units[i] for coder, coded in coded_by.items()}
            units.append(Unit(first.name, i + 1, first.text[start:end], codes))
    coders = tuple(project.coder for project in projects)
    used = {code for unit in units for codes in unit.codes.values() for code in codes}
    agreements = tuple(_agreement(code, coders, units) for code in sorted(used))
    return Comparison(coders, tuple(units), agreements)


def _require_same_texts(projects: Sequence[CodedProject]) -> None:
    """
    Raises:
        TextsDiffer: two coders have different texts under one name.
    """
    texts: dict[str, set[str]] = defaultdict(set)
    for project in projects:
        for coded in project.texts:
            texts[coded.name].add(coded.text)
    different = [name for name, found in texts.items() if len(found) > 1]
    if different:
        raise TextsDiffer(
            f"The coders have different texts of {', '.join(sorted(different))}: code the same "
            "version, or leave the source out."
        )


def _agreement(code: str, coders: Sequence[str], units: Sequence[Unit]) -> Agreement:
    compared = [unit for unit in units if len(unit.codes) > 1]
    decisions = [
        (coder, str(i), code in codes)
        for i, unit in enumerate(compared)
        for coder, codes in unit.codes.items()
    ]
    agreed = sum(len({code in codes for codes in unit.codes.values()}) == 1 for unit in compared)
    kappas = [
        kappa
        for pair in combinations(coders, 2)
        if (kappa := _kappa(pair, decisions, compared)) is not None
    ]
    return Agreement(
        code=code,
        coded={c: sum(code in unit.codes.get(c, ()) for unit in units) for c in coders},
        units=len(compared),
        agreed=agreed / len(compared) if compared else 0.0,
        kappa=sum(kappas) / len(kappas) if kappas else None,
        alpha=_alpha(decisions),
    )


Decision = tuple[str, str, bool]
"""Coder, unit, whether the coder gave the code"""


def _kappa(
    pair: tuple[str, str], decisions: Sequence[Decision], compared: Sequence[Unit]
) -> float | None:
    """Cohen's kappa; None if neither coder's decisions vary."""
    common = {str(i) for i, unit in enumerate(compared) if set(pair) <= unit.codes.keys()}
    own = [each for each in decisions if each[0] in pair and each[1] in common]
    if len({given for _, _, given in own}) < 2:
        return None
    return float(_task(own).kappa_pairwise(*pair))


def _alpha(decisions: Sequence[Decision]) -> float | None:
    if len({given for _, _, given in decisions}) < 2:
        return None
    return float(_task(decisions).alpha())


def _task(decisions: Sequence[Decision]) -> Any:
    from nltk.metrics.agreement import AnnotationTask  # only `fieldscribe[coding]` has it

    return AnnotationTask(data=list(decisions))
