"""The programs that a study can be exported for, and the files for each."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO

from models.speaker_names import show_names
from service.exports import LINE_FORMATS, SPECS, Format, render
from service.exports.lines import NumberedLine, read_lines, with_earlier_lines
from service.exports.options import ExportOptions, Label, Notation, ProjectProfile
from service.exports.qdpx import Source, write_project
from service.exports.wording import apply


class Program(StrEnum):
    NVIVO = "nvivo"
    MAXQDA = "maxqda"
    ATLAS = "atlas"
    QUALCODER = "qualcoder"
    WORD = "word"
    SUBTITLES = "subtitles"
    F4 = "f4"
    ELAN = "elan"
    PRAAT = "praat"
    CODING = "coding"  # line by line, on paper or in a spreadsheet


PROGRAM_FORMATS: dict[Program, tuple[Format, ...]] = {
    Program.NVIVO: (Format.NVIVO, Format.DOCX),
    Program.MAXQDA: (Format.MAXQDA,),
    Program.ATLAS: (Format.ATLAS,),
    Program.QUALCODER: (Format.QDPX,),
    Program.WORD: (Format.DOCX,),
    Program.SUBTITLES: (Format.VTT, Format.SRT),
    Program.F4: (Format.F4,),
    Program.ELAN: (Format.EAF,),
    Program.PRAAT: (Format.TEXTGRID,),
    Program.CODING: (Format.LINES, Format.LINES_CSV),
}
PROFILES = {
    Program.NVIVO: ProjectProfile.NVIVO,
    Program.MAXQDA: ProjectProfile.MAXQDA,
    Program.ATLAS: ProjectProfile.ATLAS,
    Program.QUALCODER: ProjectProfile.QUALCODER,
}


@dataclass(frozen=True)
class ExportFile:
    """A file to write: its name, and a function that writes it."""

    name: str
    session: str | None  # None: it holds all sessions
    format: Format
    write: Callable[[IO[bytes]], None]


def plan_files(
    sources: Sequence[Source],
    program: Program | None,
    formats: Iterable[Format],
    options: ExportOptions,
    earlier: Path | None = None,
) -> Iterator[ExportFile]:
    """The files of a study: one for each session and format, but one REFI-QDA project for all.

    Args:
        formats: replace the program's own, unless empty.
        earlier: a folder with numbered lines of earlier versions, whose numbers are kept.
    """
    if program in PROFILES:
        options = replace(options, project=PROFILES[program])
    for format in dict.fromkeys(formats or (PROGRAM_FORMATS[program] if program else ())):
        if format == Format.QDPX:
            yield _project(sources, options)
            continue
        for source in sources:
            name = f"{source.label.stem}.{SPECS[format].extension}"
            chosen = options
            if format in LINE_FORMATS:
                files = () if earlier is None else find_earlier_lines(source.label, earlier)
                chosen = with_earlier_lines(options, source.first, files)
            write = partial(_write, source, format, chosen)
            yield ExportFile(name, source.label.session, format, write)


def _write(source: Source, format: Format, options: ExportOptions, file: IO[bytes]) -> None:
    file.write(render(source.transcript, format, source.label, options))


def _project(sources: Sequence[Source], options: ExportOptions) -> ExportFile:
    first = sources[0].label
    name = f"{first.study or 'project'}.{first.status}.{SPECS[Format.QDPX].extension}"
    notation = options.notation or SPECS[Format.QDPX].notation or Notation.NOTES
    worded = [
        replace(source, transcript=apply(show_names(source.transcript), options, notation))
        for source in sources
    ]
    return ExportFile(name, None, Format.QDPX, lambda file: write_project(file, worded, options))


def find_earlier_lines(label: Label, folder: Path) -> Sequence[NumberedLine]:
    """The numbered lines in a folder of the newest version before this one, or else of this one.

    Raises:
        ValueError: the file with them is damaged.
    """
    pattern = re.compile(rf"{re.escape(label.session)}\.v(\d+)\.{label.status}\.lines\.csv")
    found: dict[int, Path] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := pattern.fullmatch(path.name):
            found[int(match[1])] = path
    version = label.version or 0
    before = [number for number in found if number < version]
    chosen = found.get(max(before) if before else version)
    return () if chosen is None else read_lines(chosen)
