"""`fieldscribe import`: import a transcript made or corrected elsewhere as a new version."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.connection import connect
from service.commands.console import print_json, printable
from service.commands.names import check_name, find_finished_job
from service.commands.options import AsJson
from service.commands.transcript import TranscriptNotReady
from service.exports.text import clock
from service.imports import READERS, ImportedTurn, read_turns

# The header of our exports: `PEER, INT-07, version 3, identified`.
VERSION = re.compile(rb", version (\d{1,9}), identified")
HEADER_BYTES = 1 << 16
MAX_LISTED = 20
SHOWN = 60  # characters


def import_command(
    transcript: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help=f"A transcript: {', '.join(READERS)}. HTML is noScribe's.",
            show_default=False,
        ),
    ],
    session: Annotated[
        str,
        typer.Option(
            metavar="CODE",
            help="Session of the transcript, such as INT-07 or PEER/INT-07; or the id of a job.",
            callback=check_name("fieldscribe session list"),
        ),
    ],
    based_on: Annotated[
        int | None,
        typer.Option(
            "--based-on",
            metavar="VERSION",
            min=1,
            help="Version that the file was made from. By default the one in the file's header, "
            "else the newest.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import a transcript as a new version.

    It was corrected in another program, or made elsewhere. Its words are aligned with those of the
    session's transcript, so that they keep their times. What does not align is listed.
    """
    with connect(as_json) as client:
        turns = read_turns(transcript)
        job = client.get(f"/v1/jobs/{find_finished_job(client, session)}")
        if job["transcript_id"] is None:
            raise TranscriptNotReady(f"The job has no transcript: it is {job['status']}.")
        body = {
            "turns": [
                {"speaker": turn.speaker, "text": turn.text, "start": turn.start} for turn in turns
            ],
            "based_on": based_on or find_version(transcript),
        }
        url = f"/v1/transcripts/{job['transcript_id']}/import"
        done = client.request("POST", url, json=body, retry=False).json()
    if as_json:
        print_json(done)
    else:
        report(done, turns)


def find_version(path: Path) -> int | None:
    """The version in the header of one of our exports."""
    if path.suffix.lower() == ".docx":
        with zipfile.ZipFile(path) as archive, archive.open("word/document.xml") as file:
            head = file.read(HEADER_BYTES)
    else:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    match = VERSION.search(head)
    return int(match[1]) if match else None


def report(done: dict[str, Any], turns: Sequence[ImportedTurn]) -> None:
    changed = "1 segment" if done["changed"] == 1 else f"{done['changed']} segments"
    if not (done["changed"] or done["removed"]):
        typer.echo(f"The text changes nothing: the newest version is {done['version']}.")
    else:
        typer.echo(
            f"Imported as version {done['version']}: {done['matched']:.0%} of its words were "
            f"found, {changed} changed."
        )
    speakers = ", ".join(f"{name} = {label}" for name, label in done["speakers"].items())
    if speakers:
        typer.echo(printable(f"Speakers: {speakers}"))
    _list(
        "Not in the transcript, so their times are estimates",
        [
            (turns[i].start, f"{turns[i].speaker or '?'}: {turns[i].text}")
            for i in done["unmatched"]
        ],
    )
    _list(
        "Not in the file, so removed",
        [(one["start"], one["text"]) for one in done["removed"]],
    )
    _list(
        "Corrected in the service since the file was made, so not replaced",
        [(one["start"], one["text"]) for one in done["conflicts"]],
    )


def _list(title: str, passages: Sequence[tuple[float | None, str]]) -> None:
    if not passages:
        return
    typer.echo(f"{title}:")
    for start, text in passages[:MAX_LISTED]:
        time = "" if start is None else f"[{clock(start)}] "
        shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
        typer.echo(printable(f"  {time}{shown}"))
    if len(passages) > MAX_LISTED:
        typer.echo(f"  and {len(passages) - MAX_LISTED} more (--json lists all)")
