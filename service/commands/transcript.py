"""`fieldscribe transcript`: print or save the transcript of a job.

ServiceError
└── Misused
    └── TranscriptNotReady
"""

import re
import sys
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from service.commands.connection import connect
from service.commands.console import (
    confirm,
    printable,
    terminal_width,
)
from service.commands.names import JobName, find_finished_job
from service.commands.options import AsJson
from service.errors import Misused, OutputNotWritable
from service.exports import BINARY_FORMATS, FORMAT_NAMES, Format
from service.exports.files import write_whole


class TranscriptNotReady(Misused):
    """The job has no transcript: it has not ended yet, or it did not succeed."""

    code = "transcript_not_ready"


def transcript_command(
    job: JobName,
    format: Annotated[
        Format | None,
        typer.Option(metavar="FORMAT", help=f"{FORMAT_NAMES}. By default txt."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="File to write, or a folder for a file named after the session; by default, "
            "standard output.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite an existing file without asking.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the transcript of a job.

    The transcript is identified: it holds everything that people said, including names.
    """
    if as_json and format is not None:
        raise typer.BadParameter("--json already chooses the format: leave out --format or --json")
    if out is None and format in BINARY_FORMATS and terminal_width() is not None:
        raise typer.BadParameter(f"{format} is not text: name a file or a folder with --out")
    with connect(as_json) as client:
        found = client.get(f"/v1/jobs/{find_finished_job(client, job)}")
        if found["transcript_id"] is None:
            raise TranscriptNotReady(f"The job has no transcript: it is {found['status']}.")
        chosen = Format.JSON if as_json else format or Format.TXT
        response = client.request(
            "GET", f"/v1/transcripts/{found['transcript_id']}", params={"format": str(chosen)}
        )
        if out is None:
            sys.stdout.flush()
            sys.stdout.buffer.write(response.content)
            return
        path = out / file_name(response) if out.is_dir() else out
        confirm_overwriting(path, yes=yes)
        try:
            write_whole(path, response.content)
        except OSError as error:
            raise OutputNotWritable(
                f"The transcript cannot be written ({error.strerror})."
            ) from None
        typer.echo(f"Saved {printable(str(path))}", err=True)


def file_name(response: httpx2.Response) -> str:
    """The name that the service suggests, `INT-07.identified.txt`."""
    match = re.search(r'filename="([\w.-]+)"', response.headers.get("Content-Disposition", ""))
    return match[1].lstrip(".") if match else "transcript"


def confirm_overwriting(path: Path, *, yes: bool) -> None:
    """
    Raises:
        typer.Abort: the file exists, and the answer was no.
    """
    if path.exists() and not yes:
        question = f"{printable(str(path))} exists already. Overwrite it?"
        confirm(question)
