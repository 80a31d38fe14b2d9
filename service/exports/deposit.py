"""A deposit for a data archive: releases in a bag, with metadata, reports and checksums.

The bag is that of BagIt 1.0 (RFC 8493), in a zip file. The metadata is written twice, as
DDI-Codebook 2.5, which UK Data Service and CESSDA archives use, and as Dublin Core, which every
university repository reads.
"""

import hashlib
import io
import textwrap
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from xml.etree import ElementTree

from models.deidentification.participants import SMALL_CELL, SmallCell
from models.languages import LANGUAGES
from models.study_facts import StudyFacts
from service.exports.archive import EPOCH
from service.exports.papers import paper_docx, paper_text

DDI = "ddi:codebook:2_5"
DDI_SCHEMA = (
    "ddi:codebook:2_5 https://ddialliance.org/Specification/DDI-Codebook/2.5/XMLSchema/codebook.xsd"
)
SCHEMA_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
DC = "http://purl.org/dc/elements/1.1/"
OAI_DC = "http://www.openarchives.org/OAI/2.0/oai_dc/"
LINE = 79


@dataclass(frozen=True)
class Description:
    """What only the researcher knows about the data; the rest is recorded.

    `rights`: a licence, or the conditions under which the archive gives access.
    """

    title: str
    creators: tuple[str, ...]
    abstract: str
    rights: str
    keywords: tuple[str, ...] = ()
    funders: tuple[str, ...] = ()
    contact: str | None = None


@dataclass(frozen=True)
class DepositedRelease:
    """A release: the session's code and kind, and its files by name, without the report."""

    session: str
    kind: str | None
    created_on: date
    files: Mapping[str, bytes]
    report_name: str
    report: bytes
    language: str


def deposit_zip(
    description: Description,
    facts: StudyFacts,
    releases: Sequence[DepositedRelease],
    cells: Sequence[SmallCell],
) -> bytes:
    payload = {
        "README.txt": _readme(description, facts, releases).encode(),
        "metadata/ddi-codebook.xml": _ddi(description, facts, releases),
        "metadata/dublin-core.xml": _dublin_core(description, facts, releases),
        "reports/small-cells.txt": _small_cells(facts, cells).encode(),
        "documentation/methods.docx": paper_docx("methods", facts),
        "documentation/methods.txt": paper_text("methods", facts),
    }
    for release in releases:
        payload |= {f"transcripts/{name}": file for name, file in release.files.items()}
        payload[f"reports/{release.report_name}"] = release.report
    return _bag(f"{facts.study}-deposit", payload, description, facts)


# --- the bag --------------------------------------------------------------------------------------


def _bag(
    name: str, payload: Mapping[str, bytes], description: Description, facts: StudyFacts
) -> bytes:
    files = {f"data/{path}": content for path, content in payload.items()}
    n_bytes = sum(map(len, files.values()))
    about = {
        "Bagging-Date": f"{facts.at:%Y-%m-%d}",
        "Bag-Software-Agent": f"Fieldscribe {facts.fieldscribe}",
        "External-Description": description.title,
        "External-Identifier": facts.study,
        "Contact-Name": description.contact or description.creators[0],
        "Payload-Oxum": f"{n_bytes}.{len(files)}",
    }
    tags = {
        "bagit.txt": b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
        "bag-info.txt": "".join(_tag(key, value) for key, value in about.items()).encode(),
        "manifest-sha256.txt": _manifest(files),
    }
    tags["tagmanifest-sha256.txt"] = _manifest(tags)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, file in {**tags, **files}.items():
            info = zipfile.ZipInfo(f"{name}/{path}", date_time=EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, file)
    return content.getvalue()


def _tag(key: str, value: str) -> str:
    """`Key: value`; a line that is continued begins with a space."""
    lines = textwrap.wrap(f"{key}: {_one_line(value)}", LINE, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _manifest(files: Mapping[str, bytes]) -> bytes:
    lines = (f"{hashlib.sha256(file).hexdigest()}  {path}\n" for path, file in files.items())
    return "".join(lines).encode()


# --- metadata -------------------------------------------------------------------------------------


def _ddi(
    description: Description, facts: StudyFacts, releases: Sequence[DepositedRelease]
) -> bytes:
    ElementTree.register_namespace("", DDI)
    ElementTree.register_namespace("xsi", SCHEMA_INSTANCE)
    root = ElementTree.Element(f"{{{DDI}}}codeBook", {"version": "2.5", XML_LANG: "en"})
    root.set(f"{{{SCHEMA_INSTANCE}}}schemaLocation", DDI_SCHEMA)

    def add(parent: ElementTree.Element, name: str, text: str = "", **attributes: str) -> None:
        _child(parent, name, attributes, text)

    study = _child(root, "stdyDscr")
    citation = _child(study, "citation")
    title = _child(citation, "titlStmt")
    _child(title, "titl", {XML_LANG: "en"}, description.title)
    add(title, "IDNo", facts.study)
    responsible = _child(citation, "rspStmt")
    for creator in description.creators:
        add(responsible, "AuthEnty", creator)
    production = _child(citation, "prodStmt")
    add(production, "prodDate", f"{facts.at:%Y-%m-%d}", date=f"{facts.at:%Y-%m-%d}")
    add(production, "software", "Fieldscribe", version=facts.fieldscribe)
    for funder in description.funders:
        add(production, "fundAg", funder)
    if description.contact:
        add(_child(citation, "distStmt"), "contact", description.contact)
    info = _child(study, "stdyInfo")
    subject = _child(info, "subject")
    for keyword in description.keywords:
        add(subject, "keyword", keyword)
    add(info, "abstract", description.abstract)
    summary = _child(info, "sumDscr")
    add(summary, "dataKind", "Text: de-identified transcripts of interviews and focus groups")
    collection = _child(_child(study, "method"), "dataColl")
    add(collection, "collMode", _kinds(releases))
    add(collection, "cleanOps", " ".join(_paragraphs(paper_text("methods", facts))))
    use = _child(_child(study, "dataAccs"), "useStmt")
    add(use, "restrctn", description.rights)
    for release in releases:
        for name, content in release.files.items():
            other = _child(
                root,
                "otherMat",
                {"type": "transcript", "level": "study", "URI": f"../transcripts/{name}"},
            )
            add(other, "labl", f"{release.session}, {len(content)} bytes")
    return _written(root)


def _dublin_core(
    description: Description, facts: StudyFacts, releases: Sequence[DepositedRelease]
) -> bytes:
    ElementTree.register_namespace("oai_dc", OAI_DC)
    ElementTree.register_namespace("dc", DC)
    root = ElementTree.Element(f"{{{OAI_DC}}}dc")
    languages = sorted({release.language for release in releases})
    values = [
        ("title", description.title),
        *(("creator", creator) for creator in description.creators),
        *(("subject", keyword) for keyword in description.keywords),
        ("description", description.abstract),
        *(("contributor", f"Funder: {funder}") for funder in description.funders),
        ("date", f"{facts.at:%Y-%m-%d}"),
        ("type", "Dataset"),
        ("format", "application/zip"),
        ("identifier", facts.study),
        *(("language", code) for code in languages),
        ("rights", description.rights),
    ]
    for name, value in values:
        ElementTree.SubElement(root, f"{{{DC}}}{name}").text = _allowed(value)
    return _written(root)


def _child(
    parent: ElementTree.Element,
    name: str,
    attributes: Mapping[str, str] | None = None,
    text: str = "",
) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{DDI}}}{name}", dict(attributes or {}))
    child.text = _allowed(text) or None
    return child


def _written(root: ElementTree.Element) -> bytes:
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
    return written + b"\n"


def _allowed(text: str) -> str:
    """The text without control characters, which XML cannot hold."""
    return "".join(character for character in text if character >= " " or character in "\n\t")


# --- the README -----------------------------------------------------------------------------------


def _readme(
    description: Description, facts: StudyFacts, releases: Sequence[DepositedRelease]
) -> str:
    names = [LANGUAGES.get(each.language, each.language).capitalize() for each in releases]
    parts = [
        description.title,
        "; ".join(description.creators),
        description.abstract,
        f"This deposit holds {_kinds(releases)}, de-identified: names, places and other passages "
        "that identify somebody were replaced by pseudonyms, and a person decided on each. The "
        "transcripts are coded, not anonymous. There is no audio.",
        f"Languages: {', '.join(dict.fromkeys(names))}. Rights: {description.rights}",
        "transcripts/     the transcripts, each in several formats with the same content\n"
        "reports/         a residual-risk report for each transcript: what was replaced, and what\n"
        "                 could still identify somebody; small-cells.txt: which\n"
        "                 combinations of attributes few participants share\n"
        "documentation/   how the transcripts were made\n"
        "metadata/        DDI-Codebook 2.5 and Dublin Core",
        "Check the files against manifest-sha256.txt, one folder up, for example with "
        "`sha256sum --check manifest-sha256.txt` there.",
        "\n".join(f"{release.session}: {', '.join(sorted(release.files))}" for release in releases),
    ]
    return "\n\n".join(_filled(part) for part in parts) + "\n"


def _small_cells(facts: StudyFacts, cells: Sequence[SmallCell]) -> str:
    """The combinations by number; their values are left out, since they are what identifies."""
    lines = [
        f"Combinations of attributes that fewer than {SMALL_CELL} of the study's "
        f"{facts.n_participants} participants share. The deposit holds no attributes; a table of "
        "participants that is published beside it should merge these."
    ]
    lines += [f"{', '.join(name for name, _ in cell.values)}: {cell.n}" for cell in cells]
    return "\n".join([*map(_filled, lines[:1]), "", *(lines[1:] or ["none"])]) + "\n"


def _filled(part: str) -> str:
    return part if "\n" in part else textwrap.fill(part, LINE, break_long_words=False)


def _kinds(releases: Iterable[DepositedRelease]) -> str:
    kinds = [release.kind for release in releases]
    interviews, groups = kinds.count("interview"), kinds.count("focus_group")
    other = len(kinds) - interviews - groups
    counted = [
        f"{n} {one if n == 1 else several}"
        for n, one, several in (
            (interviews, "interview", "interviews"),
            (groups, "focus group", "focus groups"),
            (other, "session", "sessions"),
        )
        if n
    ]
    return " and ".join(counted) or "no session"


def _paragraphs(text: bytes) -> list[str]:
    return [line for line in text.decode().splitlines() if line]


def _one_line(text: str) -> str:
    return " ".join(_allowed(text).split())
