"""Word documents: for reading, as NVivo's table, and with headings for auto-coding.

They are written as XML, without a library: eight hours of talk take a fraction of a second.

Sources: ECMA-376, part 1 (WordprocessingML). NVivo, "Import transcripts",
https://help-nv.qsrinternational.com/12/win/v12.1.90-d3ea61/Content/files/import-audio-video-transcripts.htm
(a table with a timespan, a content and a speaker column), and "Automatic coding in documents",
https://help-nv.qsrinternational.com/20/win/Content/coding/automatic-coding-documents.htm.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from models.transcript import Transcript
from service.exports.options import ExportOptions, Label, Timestamps
from service.exports.paragraphs import Paragraph, paragraphs, timestamp
from service.exports.text import header
from service.exports.wording import is_right_to_left, one_line

NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
COLUMNS = (2700, 1800, 5138)  # of NVivo's table, in twentieths of a point; together the text width
RIGHT_TO_LEFT_MARK = "\u200f"
# In headings, NVivo replaces these with ~, so that speakers of one name would get two codes.
RESERVED = str.maketrans('\\/:*?"<>|', "---------")


def reading_docx(transcript: Transcript, label: Label, options: ExportOptions) -> bytes:
    """For reading and for speaker coding: paragraphs that begin with a bold name and a colon.

    Each segment of a turn is a paragraph; only the first has the name.
    """
    body = [_info(transcript, label)]
    for each in paragraphs(transcript, options, stamp=_bracketed):
        name = f"{_plain_name(each.speaker)}:" if each.begins_turn else ""
        name = name and _run(name, bold=True, like=each.text)
        time = _time_run(each, options, space_before=bool(name))
        text = f" {each.text}" if name or time else each.text
        style = "Turn" if each.begins_turn else "Continued"
        body.append(_paragraph(name + time + _run(text, like=each.text), style, like=each.text))
    return _document(body, transcript.language, label, line_numbers=options.line_numbers)


def headings_docx(transcript: Transcript, label: Label, options: ExportOptions) -> bytes:
    """The speaker as Heading 1, then the text: for auto-coding by paragraph style."""
    body = [_info(transcript, label)]
    for each in paragraphs(transcript, options, stamp=_bracketed):
        if each.begins_turn:
            body.append(_paragraph(_run(each.speaker.translate(RESERVED)), "Heading1"))
        time = _time_run(each, options)
        text = f" {each.text}" if time else each.text
        body.append(_paragraph(time + _run(text, like=each.text), "Continued", like=each.text))
    return _document(body, transcript.language, label, line_numbers=options.line_numbers)


def nvivo_docx(transcript: Transcript, label: Label, options: ExportOptions) -> bytes:
    """NVivo's import table: Timespan, Speaker, Content. Nothing but the table is in the body."""
    rows = [
        (timespan(each.start, each.end), each.speaker, each.text)
        for each in sorted(paragraphs(transcript, options), key=lambda each: each.start)
    ]
    return table_docx(("Timespan", "Speaker", "Content"), rows, COLUMNS, transcript, label)


def table_docx(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    widths: Sequence[int],
    transcript: Transcript,
    label: Label,
    *,
    with_info: bool = False,
) -> bytes:
    """A document with one table, whose header row is repeated on every page.

    Args:
        widths: of the columns, in twentieths of a point.
        with_info: begin with the lines about the transcript.
    """
    info = [_info(transcript, label)] if with_info else []
    body = [*info, _table(titles, rows, widths), _paragraph("", "Small")]
    return _document(body, transcript.language, label)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> str:
    shown = [_row(titles, widths, is_header=True), *(_row(row, widths) for row in rows)]
    grid = "".join(f'<w:gridCol w:w="{width}"/>' for width in widths)
    return (
        f'<w:tbl><w:tblPr><w:tblStyle w:val="Grid"/><w:tblW w:w="{sum(widths)}" w:type="dxa"/>'
        '<w:tblLayout w:type="fixed"/></w:tblPr>'
        f"<w:tblGrid>{grid}</w:tblGrid>{''.join(shown)}</w:tbl>"
    )


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Table:
    """Widths are of the columns, in twentieths of a point; together 9638, the text's width."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    widths: Sequence[int]


def report_docx(
    title: str, blocks: Iterable[Heading | Table | str], label: Label, language: str
) -> bytes:
    """A document about a transcript: headings, paragraphs and tables."""
    body = [_paragraph(_run(title), "Title")]
    for block in blocks:
        if isinstance(block, Heading):
            body.append(_paragraph(_run(block.text), "Heading1"))
        elif isinstance(block, Table):
            body += [_table(block.titles, block.rows, block.widths), _paragraph("", "Small")]
        else:
            body.append(_paragraph(_run(block), "Continued"))
    return _document(body, language, label)


def timespan(start: float, end: float) -> str:
    """`00:01:02.3-00:01:09.8`. NVivo measures tenths of a second; a span takes at least one."""
    later = max(end, start + 0.1)
    return f"{timestamp(start, 1)}-{timestamp(later, 1)}"


# --- paragraphs -----------------------------------------------------------------------------------


def _bracketed(seconds: float) -> str:
    return f"[{timestamp(seconds)}]"


def _plain_name(speaker: str) -> str:
    return speaker.replace(":", "-")


def _time_run(each: Paragraph, options: ExportOptions, *, space_before: bool = False) -> str:
    if options.timestamps == Timestamps.NONE:
        return ""
    text = f"{' ' * space_before}{_bracketed(each.start)}"
    if is_right_to_left(each.text):  # otherwise, the time stands before the name
        text = f"{RIGHT_TO_LEFT_MARK}{text}{RIGHT_TO_LEFT_MARK}"
    return _run(text, style="Time", like=each.text)


def _info(transcript: Transcript, label: Label) -> str:
    first, _, *others = header(transcript, label)
    title = _paragraph(_run(label.title), "Title")
    return title + "".join(_paragraph(_run(line), "Small") for line in (first, *others))


def _run(text: str, *, bold: bool = False, style: str = "", like: str = "") -> str:
    """Text of one kind. `like`: text whose direction it has."""
    properties = f'<w:rStyle w:val="{style}"/>' if style else ""
    properties += "<w:b/><w:bCs/>" if bold else ""
    properties += "<w:rtl/>" if is_right_to_left(like) else ""
    properties = f"<w:rPr>{properties}</w:rPr>" if properties else ""
    return f'<w:r>{properties}<w:t xml:space="preserve">{escape(text)}</w:t></w:r>'


def _paragraph(runs: str, style: str, *, like: str = "") -> str:
    bidi = "<w:bidi/>" if is_right_to_left(like) else ""
    return f'<w:p><w:pPr><w:pStyle w:val="{style}"/>{bidi}</w:pPr>{runs}</w:p>'


def _row(cells: Sequence[str], widths: Sequence[int], *, is_header: bool = False) -> str:
    columns = "".join(
        f'<w:tc><w:tcPr><w:tcW w:w="{width}" w:type="dxa"/></w:tcPr>'
        f"{_paragraph(_run(text, bold=is_header, like=text), 'Cell', like=text)}</w:tc>"
        for width, text in zip(widths, cells, strict=True)
    )
    properties = "<w:trPr><w:tblHeader/></w:trPr>" if is_header else ""
    return f"<w:tr>{properties}{columns}</w:tr>"


# --- the package ----------------------------------------------------------------------------------


def _document(
    body: Iterable[str],
    language: str,
    label: Label,
    *,
    line_numbers: bool = False,
) -> bytes:
    numbers = '<w:lnNumType w:countBy="1" w:restart="continuous"/>' if line_numbers else ""
    section = (
        '<w:sectPr><w:headerReference w:type="default" r:id="rId2"/>'
        '<w:footerReference w:type="default" r:id="rId3"/>'
        '<w:pgSz w:w="11906" w:h="16838"/>'
        '<w:pgMar w:top="1304" w:right="1134" w:bottom="1134" w:left="1134" w:header="567" '
        f'w:footer="567" w:gutter="0"/>{numbers}</w:sectPr>'
    )
    document = (
        f"{XML}<w:document {NAMESPACES}><w:body>{''.join(body)}{section}</w:body></w:document>"
    )
    parts = {
        "[Content_Types].xml": CONTENT_TYPES,
        "_rels/.rels": RELATIONSHIPS,
        "docProps/core.xml": _core_properties(label),
        "docProps/app.xml": APPLICATION,
        "word/_rels/document.xml.rels": DOCUMENT_RELATIONSHIPS,
        "word/document.xml": document,
        "word/styles.xml": STYLES.replace("LANGUAGE", escape(one_line(language))),
        "word/header1.xml": _page_header(label),
        "word/footer1.xml": FOOTER,
    }
    return zip_of(parts)


def zip_of(parts: Mapping[str, str | bytes]) -> bytes:
    """A zip file of these members, the same for the same content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _core_properties(label: Label) -> str:
    """Document properties: no names, and no dates, so that equal transcripts give equal files."""
    return (
        f"{XML}<cp:coreProperties "
        'xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{escape(one_line(label.title))}</dc:title>"
        f"<dc:subject>{label.subject}</dc:subject>"
        "<dc:creator>Fieldscribe</dc:creator>"
        "<cp:lastModifiedBy>Fieldscribe</cp:lastModifiedBy>"
        f"<cp:keywords>{label.status}</cp:keywords>"
        "</cp:coreProperties>"
    )


def _page_header(label: Label) -> str:
    codes = one_line(", ".join(filter(None, (label.study, label.session))))
    version = "" if label.version is None else f", version {label.version}"
    runs = f"{_run(codes + version)}<w:r><w:tab/></w:r>{_run(label.marking, bold=True)}"
    return f"{XML}<w:hdr {NAMESPACES}>{_paragraph(runs, 'Header')}</w:hdr>"


def _field(code: str) -> str:
    return (
        '<w:r><w:fldChar w:fldCharType="begin"/></w:r>'
        f'<w:r><w:instrText xml:space="preserve"> {code} </w:instrText></w:r>'
        '<w:r><w:fldChar w:fldCharType="separate"/></w:r><w:r><w:t>1</w:t></w:r>'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    )


FOOTER = (
    f'{XML}<w:ftr {NAMESPACES}><w:p><w:pPr><w:pStyle w:val="Header"/></w:pPr>'
    f"<w:r><w:tab/></w:r>{_run('Page ')}{_field('PAGE')}{_run(' of ')}{_field('NUMPAGES')}"
    "</w:p></w:ftr>"
)
_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml"
CONTENT_TYPES = (
    f'{XML}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/word/document.xml" ContentType="{_WORD}.document.main+xml"/>'
    f'<Override PartName="/word/styles.xml" ContentType="{_WORD}.styles+xml"/>'
    f'<Override PartName="/word/header1.xml" ContentType="{_WORD}.header+xml"/>'
    f'<Override PartName="/word/footer1.xml" ContentType="{_WORD}.footer+xml"/>'
    '<Override PartName="/docProps/core.xml" '
    'ContentType="application/vnd.openxmlformats-package.core-properties+xml"/>'
    '<Override PartName="/docProps/app.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.extended-properties+xml"/>'
    "</Types>"
)
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONSHIPS = (
    f'{XML}<Relationships xmlns="{_PACKAGE}">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="word/document.xml"/>'
    f'<Relationship Id="rId2" Type="{_PACKAGE}/metadata/core-properties" '
    'Target="docProps/core.xml"/>'
    f'<Relationship Id="rId3" Type="{_OFFICE}/extended-properties" Target="docProps/app.xml"/>'
    "</Relationships>"
)
DOCUMENT_RELATIONSHIPS = (
    f'{XML}<Relationships xmlns="{_PACKAGE}">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/styles" Target="styles.xml"/>'
    f'<Relationship Id="rId2" Type="{_OFFICE}/header" Target="header1.xml"/>'
    f'<Relationship Id="rId3" Type="{_OFFICE}/footer" Target="footer1.xml"/>'
    "</Relationships>"
)
APPLICATION = (
    f"{XML}<Properties "
    'xmlns="http://schemas.openxmlformats.org/officeDocument/2006/extended-properties">'
    "<Application>Fieldscribe</Application></Properties>"
)


def _style(id: str, name: str, paragraph: str = "", run: str = "", kind: str = "paragraph") -> str:
    based = '<w:basedOn w:val="Normal"/>' if kind == "paragraph" else ""
    paragraph = f"<w:pPr>{paragraph}</w:pPr>" if paragraph else ""
    run = f"<w:rPr>{run}</w:rPr>" if run else ""
    return (
        f'<w:style w:type="{kind}" w:styleId="{id}"><w:name w:val="{name}"/>{based}<w:qFormat/>'
        f"{paragraph}{run}</w:style>"
    )


_BORDERS = "".join(
    f'<w:{side} w:val="single" w:sz="4" w:space="0" w:color="808080"/>'
    for side in ("top", "left", "bottom", "right", "insideH", "insideV")
)
STYLES = (
    f"{XML}<w:styles {NAMESPACES}><w:docDefaults><w:rPrDefault><w:rPr>"
    '<w:rFonts w:ascii="Calibri" w:hAnsi="Calibri" w:cs="Arial"/><w:sz w:val="22"/>'
    '<w:szCs w:val="22"/><w:lang w:val="LANGUAGE" w:eastAsia="LANGUAGE" w:bidi="LANGUAGE"/>'
    '</w:rPr></w:rPrDefault><w:pPrDefault><w:pPr><w:spacing w:after="80" w:line="276" '
    'w:lineRule="auto"/></w:pPr></w:pPrDefault></w:docDefaults>'
    '<w:style w:type="paragraph" w:default="1" w:styleId="Normal"><w:name w:val="Normal"/>'
    "<w:qFormat/></w:style>"
    + _style("Turn", "Turn", '<w:spacing w:before="160"/>')
    + _style("Continued", "Continued")
    + _style(
        "Heading1",
        "heading 1",
        '<w:keepNext/><w:spacing w:before="200" w:after="40"/><w:outlineLvl w:val="0"/>',
        '<w:b/><w:bCs/><w:sz w:val="24"/><w:szCs w:val="24"/>',
    )
    + _style(
        "Title",
        "Title",
        '<w:suppressLineNumbers/><w:spacing w:after="120"/>',
        '<w:b/><w:bCs/><w:sz w:val="30"/><w:szCs w:val="30"/>',
    )
    + _style("Small", "Small", "<w:suppressLineNumbers/>", '<w:sz w:val="18"/><w:szCs w:val="18"/>')
    + _style("Cell", "Cell", '<w:spacing w:after="20" w:line="240" w:lineRule="auto"/>')
    + _style(
        "Header",
        "header",
        '<w:suppressLineNumbers/><w:tabs><w:tab w:val="right" w:pos="9638"/></w:tabs>'
        '<w:spacing w:after="0"/>',
        '<w:sz w:val="18"/><w:szCs w:val="18"/>',
    )
    + _style(
        "Time",
        "Time",
        run='<w:color w:val="595959"/><w:sz w:val="18"/><w:szCs w:val="18"/>',
        kind="character",
    )
    + '<w:style w:type="table" w:styleId="Grid"><w:name w:val="Table Grid"/><w:tblPr>'
    f"<w:tblBorders>{_BORDERS}</w:tblBorders><w:tblCellMar>"
    '<w:left w:w="85" w:type="dxa"/><w:right w:w="85" w:type="dxa"/></w:tblCellMar></w:tblPr>'
    "</w:style></w:styles>"
)
