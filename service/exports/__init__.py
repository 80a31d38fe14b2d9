"""Formats of a transcript. All are rendered from the same `Transcript`.

May import the plain data of `models`. `batch`, `commands`, `api` and scripts may import it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from models.speaker_names import show_names
from models.transcript import Transcript
from models.transcript_json import to_json
from service.exports import wording
from service.exports.captions import srt, vtt
from service.exports.docx import headings_docx, nvivo_docx, reading_docx
from service.exports.lines import lines_csv, lines_docx
from service.exports.options import ExportOptions, Label, Notation
from service.exports.qda_texts import atlas, maxqda
from service.exports.qdpx import qdpx
from service.exports.table import csv_table
from service.exports.text import statistics, txt
from service.exports.tiers import eaf, textgrid

__all__ = [
    "BINARY_FORMATS",
    "DEFAULT_FORMATS",
    "FORMAT_NAMES",
    "LINE_FORMATS",
    "SPECS",
    "ExportOptions",
    "Format",
    "Label",
    "render",
]

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
TEXT = "text/plain; charset=utf-8"


class Format(StrEnum):
    JSON = "json"
    TXT = "txt"
    STATISTICS = "statistics"
    VTT = "vtt"
    SRT = "srt"
    CSV = "csv"
    DOCX = "docx"
    NVIVO = "nvivo"
    HEADINGS = "headings"
    MAXQDA = "maxqda"
    ATLAS = "atlas"
    F4 = "f4"
    QDPX = "qdpx"
    EAF = "eaf"
    TEXTGRID = "textgrid"
    LINES = "lines"
    LINES_CSV = "lines-csv"


@dataclass(frozen=True)
class FormatSpec:
    """One format.

    `extension`: of its files, after the session's name. `notation`: for pauses and overlaps; None
    if the format shows them in its own way, or not at all.
    """

    extension: str
    media_type: str
    write: Callable[[Transcript, Label, ExportOptions], str | bytes]
    notation: Notation | None = None


SPECS: dict[Format, FormatSpec] = {
    Format.JSON: FormatSpec("json", "application/json", lambda made, *_: to_json(made)),
    Format.TXT: FormatSpec("txt", TEXT, txt, Notation.NOTES),
    Format.STATISTICS: FormatSpec("statistics.txt", TEXT, statistics),
    Format.VTT: FormatSpec("vtt", "text/vtt; charset=utf-8", vtt),
    Format.SRT: FormatSpec("srt", "application/x-subrip; charset=utf-8", srt),
    Format.CSV: FormatSpec("csv", "text/csv; charset=utf-8", csv_table, Notation.NOTES),
    Format.DOCX: FormatSpec("docx", DOCX, reading_docx, Notation.JEFFERSON),
    Format.NVIVO: FormatSpec("nvivo.docx", DOCX, nvivo_docx, Notation.JEFFERSON),
    Format.HEADINGS: FormatSpec("headings.docx", DOCX, headings_docx, Notation.JEFFERSON),
    Format.MAXQDA: FormatSpec("maxqda.txt", TEXT, maxqda, Notation.DRESING_PEHL),
    Format.ATLAS: FormatSpec("atlas.txt", TEXT, atlas, Notation.JEFFERSON),
    Format.F4: FormatSpec("f4.txt", TEXT, maxqda, Notation.DRESING_PEHL),
    Format.QDPX: FormatSpec("qdpx", "application/zip", qdpx, Notation.JEFFERSON),
    Format.EAF: FormatSpec("eaf", "text/xml; charset=utf-8", eaf),
    Format.TEXTGRID: FormatSpec("TextGrid", TEXT, textgrid),
    Format.LINES: FormatSpec("lines.docx", DOCX, lines_docx),
    Format.LINES_CSV: FormatSpec("lines.csv", "text/csv; charset=utf-8", lines_csv),
}
DEFAULT_FORMATS = (Format.JSON, Format.TXT, Format.STATISTICS, Format.VTT, Format.SRT)
FORMAT_NAMES = f"{', '.join(list(Format)[:-1])} or {list(Format)[-1]}"  # for helps
BINARY_FORMATS = tuple(
    format for format, spec in SPECS.items() if spec.media_type in (DOCX, "application/zip")
)
LINE_FORMATS = (Format.LINES, Format.LINES_CSV)
_RAW = (Format.JSON, Format.STATISTICS)  # unaffected by options


def render(
    transcript: Transcript,
    format: Format,
    label: Label,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - it is frozen
) -> bytes:
    """The file of a transcript in one format."""
    spec = SPECS[format]
    if format != Format.JSON:
        transcript = show_names(transcript)
        label = replace(label, roles={**transcript.roles, **label.roles})
    if format not in _RAW:
        notation = options.notation or spec.notation
        wanted = options
        if spec.notation is None or notation is None:
            wanted = replace(options, pauses=None, overlaps=False)
        transcript = wording.apply(transcript, wanted, notation or Notation.NOTES)
    written = spec.write(transcript, label, options)
    # Surrogates, which JSON may hold and UTF-8 may not, become question marks.
    return written.encode("utf-8", "replace") if isinstance(written, str) else written
