"""`fieldscribe masked-audio`: recordings in which the accepted mentions cannot be heard.

ServiceError
└── MaskingFailed
"""

import time
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, Literal

import typer

from service.commands.client import Client
from service.commands.connection import connect
from service.commands.console import (
    Row,
    confirm,
    print_json,
    print_table,
    printable,
    show_activity,
)
from service.commands.names import JobName, find_finished_job
from service.commands.options import AsJson, Cursor, Limit, StudyOption, Yes, check_id
from service.commands.transcript import TranscriptNotReady
from service.errors import OutputNotWritable, ServiceError
from service.exports.files import write_whole
from service.exports.text import clock

BLOCK_BYTES = 8 * 2**20  # of a download; each is requested again after an outage
POLL_EVERY = 1.0  # s
STILL_A_VOICE = "The voices are still the speakers' own: share it only with those who may hear them"

app = typer.Typer(
    no_args_is_help=True, help="Make, list, download or delete recordings with masked names."
)

MaskedAudioId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Id of masked audio.",
        callback=check_id("fieldscribe masked-audio list"),
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the files.")]


class MaskingFailed(ServiceError):
    """The masked audio of a recording could not be made."""

    code: ClassVar[str] = "masking_failed"


@app.command("make")
def make_command(
    job: JobName,
    style: Annotated[
        Literal["tone", "silence"], typer.Option(help="What is heard instead of the words.")
    ] = "tone",
    refuse_unsure: Annotated[
        bool,
        typer.Option(
            "--refuse-unsure",
            help="Make nothing if the time of a mention is uncertain. By default, more is masked "
            "there.",
        ),
    ] = False,
    untranscribed: Annotated[
        bool,
        typer.Option(
            "--untranscribed", help="Also mask speech without words, which nobody has reviewed."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Download the files to this folder when they are made."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite existing files without asking.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make masked audio of a transcript whose review is finished.

    It replaces what was made of the same recordings before.
    """
    with connect(as_json) as client:
        found = client.get(f"/v1/jobs/{find_finished_job(client, job)}")
        if found["transcript_id"] is None:
            raise TranscriptNotReady(f"The job has no transcript: it is {found['status']}.")
        body = {
            "style": style,
            "unsure": "refuse" if refuse_unsure else "widen",
            "untranscribed": untranscribed,
        }
        asked = client.post(f"/v1/transcripts/{found['transcript_id']}/masked-audio", body)["items"]
        with show_activity("masking"):
            made = [wait_for(client, each["id"]) for each in asked]
        if out is not None:
            download(client, made, out, yes=yes)
    if as_json:
        print_json({"items": made})
        return
    for each in made:
        typer.echo(describe(each))
    typer.echo(f"{STILL_A_VOICE}.", err=True)


@app.command("list")
def list_command(
    study: StudyOption = None, limit: Limit = 50, cursor: Cursor = None, as_json: AsJson = False
) -> None:
    """List masked audio, newest first."""
    with connect(as_json) as client:
        page = client.list_some("/v1/masked-audio", limit=limit, cursor=cursor, study=study)
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (
                each["study"],
                each["session"] or "(none)",
                str(each["position"] + 1),
                "outdated" if each["is_outdated"] else each["state"],
                f"{each['masked_seconds']:.0f} s",
                each["created_at"][:16].replace("T", " "),
            ),
            each["id"],
        )
        for each in page["items"]
    ]
    titles = ("study", "session", "recording", "state", "masked", "asked for (UTC)")
    print_table(titles, rows, "masked audio")


@app.command("show")
def show_command(masked_audio: MaskedAudioId, as_json: AsJson = False) -> None:
    """List every masked span, and why it is masked."""
    with connect(as_json) as client:
        shown = client.get(f"/v1/masked-audio/{masked_audio}")
    if as_json:
        print_json(shown)
        return
    rows = [
        Row(
            (
                clock(span["start"]),
                f"{span['end'] - span['start']:.1f} s",
                " ".join(span["reasons"]),
                " ".join(span["labels"]),
                " ".join(span["segments"]),
            )
        )
        for span in shown["spans"]
    ]
    print_table(("start", "length", "why", "labels", "segments"), rows)


@app.command("get")
def get_command(
    masked_audio: MaskedAudioId,
    out: Out,
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite existing files without asking.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Download masked audio as WAV. A listener's token is enough."""
    with connect(as_json) as client:
        found = client.get(f"/v1/masked-audio/{masked_audio}")
        (path,) = download(client, [found], out, yes=yes)
    print_json({"file": str(path)}) if as_json else typer.echo(printable(str(path)))


@app.command("delete")
def delete_command(masked_audio: MaskedAudioId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete masked audio, or stop making it."""
    with connect(as_json) as client:
        if not yes:
            confirm("Delete the masked audio?")
        deleted = client.delete(f"/v1/masked-audio/{masked_audio}")
    print_json(deleted) if as_json else typer.echo("deleted")


def wait_for(client: Client, id: str) -> dict[str, Any]:
    """
    Raises:
        MaskingFailed
    """
    waiting_for = None
    while True:
        view: dict[str, Any] = client.get(f"/v1/masked-audio/{id}")
        if view["state"] == "failed":
            raise MaskingFailed(f"A recording cannot be masked ({view['error']})")
        if view["state"] == "ready":
            return view
        if view["waiting_for"] not in (None, waiting_for):
            waiting_for = view["waiting_for"]
            typer.echo(f"It cannot be made yet ({waiting_for}); waiting.", err=True)
        time.sleep(POLL_EVERY)


def describe(view: dict[str, Any]) -> str:
    seconds = view["masked_seconds"]
    parts = [f"{file_name(view)}: {view['n_spans']} passages masked, {seconds:.1f} s"]
    if view["n_widened"]:
        parts.append(f"{view['n_widened']} wider than their words: listen to them")
    if view["n_unreviewed"]:
        parts.append(
            f"{view['n_unreviewed']} stretches of speech without words are not masked: listen to "
            "them, or add --untranscribed"
        )
    return "; ".join(parts)


def file_name(view: dict[str, Any]) -> str:
    """INT-07.masked.wav; INT-07.2.masked.wav for the second recording of the session."""
    code = view["session"] or view["id"][:8]
    number = f".{view['position'] + 1}" if view["position"] else ""
    return f"{code}{number}.masked.wav"


def download(client: Client, views: list[dict[str, Any]], out: Path, *, yes: bool) -> list[Path]:
    """
    Raises:
        OutputNotWritable, typer.Abort
    """
    files = {out / file_name(view): view for view in views}
    existing = [path.name for path in files if path.exists()]
    if existing and not yes:
        confirm(f"Overwrite {', '.join(existing)}?")
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, view in files.items():
            write_whole(path, lambda file, view=view: fetch(client, view, file))  # type: ignore[misc]
    except OSError as error:
        raise OutputNotWritable(
            f"The files cannot be written ({error.strerror}): choose another folder with --out."
        ) from None
    return list(files)


def fetch(client: Client, view: dict[str, Any], file: IO[bytes]) -> None:
    """Download in blocks, so that hours of audio need no memory and survive an outage."""
    for start in range(0, view["n_bytes"], BLOCK_BYTES):
        last = min(start + BLOCK_BYTES, view["n_bytes"]) - 1
        headers = {"Range": f"bytes={start}-{last}"}
        answer = client.request("GET", f"/v1/masked-audio/{view['id']}/audio", headers=headers)
        file.write(answer.content)
