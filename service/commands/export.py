"""`fieldscribe export`: write all transcripts of a study for one program.

ServiceError
└── Misused
    ├── NothingToExport
    ├── NotNumberedLines
    └── NotATranscript
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from models.languages import language_code
from models.speaker_names import show_names
from models.transcript import Transcript
from models.transcript_json import from_json
from service.batch.identity import KEY_FILE, FolderKeyMissing, identity_of, read_key
from service.commands.client import Client
from service.commands.connection import connect
from service.commands.console import (
    confirm,
    print_json,
    printable,
    report_errors,
)
from service.commands.names import study_codes
from service.commands.options import AsJson
from service.errors import Misused, OutputNotWritable
from service.exports import FORMAT_NAMES, LINE_FORMATS, ExportOptions, Format, Label
from service.exports.files import write_whole
from service.exports.options import Notation, Timestamps, Wording
from service.exports.parts import are_parallel
from service.exports.programs import (
    PROGRAM_FORMATS,
    ExportFile,
    Program,
    plan_files,
)
from service.exports.qdpx import Source
from service.exports.recordings import RecordingFolder

BATCH_FILE = re.compile(r"(.+)\.identified\.json")


class NothingToExport(Misused):
    """The study has no transcript yet, or the folder holds none."""

    code: ClassVar[str] = "nothing_to_export"


class NotNumberedLines(Misused):
    """The CSV file with the numbered lines of an earlier version is damaged."""

    code: ClassVar[str] = "not_numbered_lines"


class NotATranscript(Misused):
    """A JSON file of the folder is not a transcript of this version of Fieldscribe."""

    code: ClassVar[str] = "not_a_transcript"


def export_command(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the files.")],
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="Code of a study of the service.", show_default=False),
    ] = None,
    program: Annotated[
        Program | None,
        typer.Option(
            "--for",
            metavar="PROGRAM",
            help=f"Program to export for: {', '.join(list(Program)[:-1])} or {list(Program)[-1]}.",
        ),
    ] = None,
    format: Annotated[
        list[Format] | None,
        typer.Option(
            metavar="FORMAT",
            help=f"{FORMAT_NAMES}; repeatable. By default, the program's formats.",
        ),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Export the transcripts that `fieldscribe transcribe` wrote to this folder, "
            "not a study.",
        ),
    ] = None,
    releases: Annotated[
        bool,
        typer.Option(
            "--releases", help="Export the newest releases, which are de-identified, instead."
        ),
    ] = False,
    session: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Export only this session; repeatable."),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Leave out hesitations and false starts.")
    ] = False,
    timestamps: Annotated[
        Timestamps,
        typer.Option(metavar="WHERE", help="turn, minute (turns and every minute) or none."),
    ] = Timestamps.TURN,
    pauses: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, help="Mark pauses of at least this length."),
    ] = None,
    overlaps: Annotated[
        bool, typer.Option(help="Mark where people speak at the same time.")
    ] = True,
    notation: Annotated[
        Notation | None,
        typer.Option(
            metavar="NAME",
            help="Marks for pauses and overlaps: notes, jefferson or dresing-pehl. By default "
            "those that the program's users know.",
        ),
    ] = None,
    line_numbers: Annotated[bool, typer.Option(help="Number the lines of Word documents.")] = True,
    punctuation: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE", help="Write punctuation and quotation marks as this language does."
        ),
    ] = None,
    lines_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder with the numbered lines of earlier versions; their numbers are kept. By "
            "default, numbers come from the first version, or with --from, from the --out folder.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    recordings: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Include recordings from this folder in REFI-QDA projects, with sync points.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite existing files without asking.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the transcripts of a study for another program.

    Files are named by session and version. Without --releases they are identified: they hold
    everything that people said, including names.
    """
    if (study is None) == (batch is None):
        raise typer.BadParameter("give either a study or, with --from, a folder of transcripts")
    if releases and (study is None or recordings is not None):
        raise typer.BadParameter("--releases needs a study, and a release has no recordings")
    if program is None and not format:
        raise typer.BadParameter("say what to write, with --for PROGRAM or --format")
    with report_errors(as_json):
        options = ExportOptions(
            wording=Wording.CLEAN if clean else Wording.VERBATIM,
            timestamps=timestamps,
            pauses=pauses,
            overlaps=overlaps,
            notation=notation,
            line_numbers=line_numbers,
            punctuation=None if punctuation is None else language_code(punctuation),
        )
        formats = tuple(format or (PROGRAM_FORMATS[program] if program else ()))
        with_first = bool(set(formats) & set(LINE_FORMATS))
        if releases:
            found = list(_read_releases(study or "", as_json))
        else:
            found = list(
                _read_folder(batch) if batch else _read_study(study or "", as_json, with_first)
            )
        wanted = {code.strip().upper() for code in session or ()}
        sources = [each for each in found if not wanted or each.label.session.upper() in wanted]
        if not sources:
            raise NothingToExport(_say_what_is_missing(releases=releases, is_batch=bool(batch)))
        if recordings is not None:
            with _open_recordings(recordings, study, batch, as_json) as folder:
                sources = list(_add_recordings(sources, folder))
        earlier = lines_from or (None if batch is None else out)
        files = list(_plan(sources, program, formats, options, earlier))
        _confirm(files, out, yes=yes)
        _write(files, out)
    if as_json:
        print_json(
            [
                {"file": str(out / each.name), "session": each.session, "format": each.format}
                for each in files
            ]
        )
        return
    for each in files:
        typer.echo(printable(str(out / each.name)))
    if not releases:
        typer.echo("These files are identified: keep them where the recordings are.", err=True)


def _say_what_is_missing(*, releases: bool, is_batch: bool) -> str:
    if releases:
        return "There is no release to export: `fieldscribe releases` lists them."
    if is_batch:
        return "The folder holds no transcript: give the --out folder of `fieldscribe transcribe`."
    return "There is no transcript to export: `fieldscribe jobs` shows which jobs have ended."


def _plan(
    sources: Sequence[Source],
    program: Program | None,
    formats: Sequence[Format],
    options: ExportOptions,
    earlier: Path | None,
) -> Iterator[ExportFile]:
    """
    Raises:
        NotNumberedLines
    """
    try:
        yield from plan_files(sources, program, formats, options, earlier)
    except (OSError, ValueError, LookupError):
        raise NotNumberedLines(
            "The numbered lines of an earlier version cannot be read: restore the file "
            "NAME.lines.csv as it was exported, or move it away to number the lines afresh."
        ) from None


def _read_study(study: str, as_json: bool, with_first: bool) -> Iterator[Source]:
    """The newest transcript of each session, in the order of their codes.

    Args:
        with_first: also read the first version of each.
    """
    with connect(as_json) as client:
        codes = {each["id"]: each["code"] for each in client.list_all("/v1/sessions", study=study)}
        newest: dict[str, tuple[str, str]] = {}
        for job in client.list_all("/v1/jobs", study=study):  # newest first
            code = codes.get(job["session_id"]) or f"JOB-{job['id'][:8]}"
            if job["transcript_id"] is not None:
                newest.setdefault(code, (job["transcript_id"], job["study_id"]))
        studies = study_codes(client)
        for code in sorted(set(codes.values()) - newest.keys()):
            typer.echo(f"{code} has no transcript yet and is left out.", err=True)
        for code, (transcript_id, study_id) in sorted(newest.items()):
            path = f"/v1/transcripts/{transcript_id}"
            source = _source(_read(client, path), code, studies.get(study_id))
            if with_first and source.transcript.version > 1:
                versions = [each["version"] for each in client.get(f"{path}/versions")["items"]]
                source = replace(source, first=_read(client, path, version=min(versions)))
            yield source


def _read_releases(study: str, as_json: bool) -> Iterator[Source]:
    """The newest release of each session, in the order of their codes."""
    with connect(as_json) as client:
        newest: dict[str, dict[str, Any]] = {}
        for release in client.list_all("/v1/releases", study=study):  # newest first
            newest.setdefault(release["session"], release)
        for code, release in sorted(newest.items()):
            transcript = _read(client, f"/v1/releases/{release['id']}/files/json")
            label = Label(
                session=code,
                study=release["study"],
                release=release["number"],
                roles=transcript.roles,
            )
            yield Source(transcript, label, first=transcript)


def _read(client: Client, path: str, **parameters: Any) -> Transcript:
    return show_names(from_json(client.request("GET", path, params=parameters).text))


def _read_folder(folder: Path) -> Iterator[Source]:
    """
    Raises:
        NotATranscript
    """
    for path in sorted(folder.glob("*.json")):
        match = BATCH_FILE.fullmatch(path.name)
        if match is None:
            continue
        try:
            transcript = from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise NotATranscript(
                f"{printable(path.name)} cannot be read as a transcript: transcribe the recording "
                "again, or move the file away."
            ) from None
        yield _source(transcript, match[1], None)


def _source(transcript: Transcript, session: str, study: str | None) -> Source:
    named = show_names(transcript)
    label = Label(session=session, study=study, version=transcript.version, roles=named.roles)
    return Source(named, label)


def _add_recordings(sources: Sequence[Source], folder: RecordingFolder) -> Iterator[Source]:
    """Find the recordings of each session, and say why a session gets none."""
    for source in sources:
        recordings = source.transcript.sources
        if len(recordings) > 1 and are_parallel(recordings):
            reason = "its recordings were made at the same time, and a text can have one"
        else:
            matches = [folder.find(each) for each in recordings]
            paths = tuple(match.path for match in matches if match.path is not None)
            if len(paths) == len(matches):
                yield replace(source, recordings=paths)
                continue
            number = next(n for n, match in enumerate(matches, start=1) if match.path is None)
            which = (
                "its recording" if len(matches) == 1 else f"recording {number} of {len(matches)}"
            )
            reason = f"{which} is not in the folder"
            if others := matches[number - 1].others:
                reason += f" ({printable(others[0].name)} has the same size, but other content)"
        name = printable(source.label.session)
        typer.echo(f"{name}: the project holds only the text, because {reason}.", err=True)
        yield source


@contextmanager
def _open_recordings(
    folder: Path, study: str | None, batch: Path | None, as_json: bool
) -> Iterator[RecordingFolder]:
    """
    Raises:
        FolderKeyMissing
    """
    if batch is not None:
        key = read_key(batch)

        def identify_by_key(sha256: str) -> str:
            if key is None:
                raise FolderKeyMissing(
                    f"The file {KEY_FILE} is missing from the folder of transcripts, so recordings "
                    "are not recognised: copy it from the folder in which the transcripts were "
                    "made, or leave out --recordings."
                )
            return identity_of(sha256, key)

        yield RecordingFolder(folder, identify_by_key)
        return
    with connect(as_json) as client:

        def identify(sha256: str) -> str | None:
            body = {"study": study, "sha256": [sha256]}
            response = client.request("POST", "/v1/recordings/search", json=body)
            items = response.json()["items"]
            return items[0]["identity"] if items else None

        yield RecordingFolder(folder, identify)


def _confirm(files: Sequence[ExportFile], out: Path, *, yes: bool) -> None:
    """
    Raises:
        typer.Abort: files exist, and the answer was no.
    """
    existing = [each.name for each in files if (out / each.name).exists()]
    if existing and not yes:
        others = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        question = f"{printable(existing[0])}{others} exist already. Overwrite them?"
        confirm(question)


def _write(files: Sequence[ExportFile], out: Path) -> None:
    """
    Raises:
        OutputNotWritable
    """
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        for each in files:
            write_whole(out / each.name, each.write)
    except OSError as error:
        raise OutputNotWritable(
            f"The files cannot be written ({error.strerror}): choose another folder with --out."
        ) from None
