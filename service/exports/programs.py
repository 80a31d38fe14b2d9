"""The programs that a study is exported for, and the files that each of them gets."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO

from service.exports import SPECS, Format, render
from service.exports.options import ExportOptions, Notation, ProjectProfile
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
}
PROFILES = {
    Program.NVIVO: ProjectProfile.NVIVO,
    Program.MAXQDA: ProjectProfile.MAXQDA,
    Program.ATLAS: ProjectProfile.ATLAS,
    Program.QUALCODER: ProjectProfile.QUALCODER,
}


@dataclass(frozen=True)
class ExportFile:
    """A file to write: what it is called, and a function that writes it."""

    name: str
    session: str | None  # None: it holds all sessions
    format: Format
    write: Callable[[IO[bytes]], None]


def plan_files(
    sources: Sequence[Source],
    program: Program | None,
    formats: Iterable[Format],
    options: ExportOptions,
) -> Iterator[ExportFile]:
    """The files of a study: one for each session and format, but one REFI-QDA project for all.

    Args:
        formats: if there are any, instead of those of the program.
    """
    if program in PROFILES:
        options = replace(options, project=PROFILES[program])
    for format in dict.fromkeys(formats or (PROGRAM_FORMATS[program] if program else ())):
        if format == Format.QDPX:
            yield _project(sources, options)
            continue
        for source in sources:
            name = f"{source.label.stem}.{SPECS[format].extension}"
            write = partial(_write, source, format, options)
            yield ExportFile(name, source.label.session, format, write)


def _write(source: Source, format: Format, options: ExportOptions, file: IO[bytes]) -> None:
    file.write(render(source.transcript, format, source.label, options))


def _project(sources: Sequence[Source], options: ExportOptions) -> ExportFile:
    first = sources[0].label
    name = f"{first.study or 'project'}.{first.status}.{SPECS[Format.QDPX].extension}"
    notation = options.notation or SPECS[Format.QDPX].notation or Notation.NOTES
    worded = [
        replace(source, transcript=apply(source.transcript, options, notation))
        for source in sources
    ]
    return ExportFile(name, None, Format.QDPX, lambda file: write_project(file, worded, options))


def find_recording(source: Source, folder: Path) -> Path | None:
    """The recording of a transcript, told by its size; None unless there is exactly one.

    Batch mode's transcripts hold the checksum of each recording; then this must fit too.
    """
    recordings = source.transcript.sources
    if len(recordings) != 1:
        return None
    n_bytes, sha256 = recordings[0].n_bytes, recordings[0].sha256
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    found = [path for path in files if path.stat().st_size == n_bytes]
    if sha256 is not None:
        found = [path for path in found if _sha256(path) == sha256]
    return found[0] if len(found) == 1 else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
