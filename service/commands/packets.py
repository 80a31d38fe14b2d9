"""`fieldscribe packets`: texts that participants check, and what they propose."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.commands.connection import connect
from service.commands.console import Row, print_json, print_table, printable
from service.commands.lists import read_text
from service.commands.names import JobName, find_finished_job
from service.commands.options import AsJson, StudyArgument, Yes, check_id
from service.commands.participants import Code, find_participant
from service.commands.release import save
from service.commands.transcript import TranscriptNotReady, confirm_overwriting
from service.errors import RosterNotReadable

MAX_BYTES = 200_000
PacketId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="As `list` shows it.", callback=check_id("fieldscribe packets list")
    ),
]

app = typer.Typer(no_args_is_help=True, help="Let participants check what they said.")


@app.command("make")
def make_command(
    study: StudyArgument,
    code: Code,
    job: JobName,
    wording: Annotated[
        Literal["codes", "own_words"],
        typer.Option(
            metavar="WORDING",
            help="codes, as in a release; or own_words, as it was said: only for an interview.",
        ),
    ] = "codes",
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text to check instead of the transcript."),
    ] = None,
    days: Annotated[int, typer.Option(metavar="DAYS", help="Until the link expires.")] = 14,
    as_json: AsJson = False,
) -> None:
    """Make a link behind which a participant checks what they said."""
    with connect(as_json) as client:
        found = client.get(f"/v1/jobs/{find_finished_job(client, job)}")
        if found["transcript_id"] is None:
            raise TranscriptNotReady(f"The job has no transcript: it is {found['status']}.")
        text = (
            None if summary is None else read_text(summary, "summary", RosterNotReadable, MAX_BYTES)
        )
        participant = find_participant(client, study, code)
        body = {
            "transcript_id": found["transcript_id"],
            "wording": wording,
            "summary": text,
            "days": days,
        }
        made = client.post(f"/v1/participants/{participant['id']}/packets", body)
    if as_json:
        print_json(made)
        return
    typer.echo(made["link"])
    typer.echo(
        f"It works until {made['packet']['expires_at'][:10]}, and is shown only now.", err=True
    )


@app.command("list")
def list_command(study: StudyArgument, code: Code, as_json: AsJson = False) -> None:
    """List what a participant was sent."""
    with connect(as_json) as client:
        participant = find_participant(client, study, code)
        found = client.get(f"/v1/participants/{participant['id']}/packets")
    if as_json:
        print_json(found)
        return
    rows = [
        Row(
            (
                each["kind"],
                each["wording"].replace("_", " "),
                each["created_at"][:10],
                each["expires_at"][:10],
                describe_state(each),
            ),
            each["id"],
        )
        for each in found["items"]
    ]
    print_table(("what", "wording", "made", "until", ""), rows, "packet")


def describe_state(packet: dict[str, Any]) -> str:
    for name in ("erased", "revoked", "answered", "opened"):
        if packet[f"{name}_at"]:
            return name
    return "not opened"


@app.command("get")
def get_command(
    packet: PacketId,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Word document to write.")],
    yes: Yes = False,
) -> None:
    """Save the text as a Word document, to send it yourself."""
    confirm_overwriting(out, yes=yes)
    with connect(as_json=False) as client:
        save(out, client.request("GET", f"/v1/packets/{packet}/docx").content)
    typer.echo(f"Saved {printable(str(out))}", err=True)


@app.command("answer")
def answer_command(packet: PacketId, as_json: AsJson = False) -> None:
    """Show what a participant proposes."""
    with connect(as_json) as client:
        found = client.get(f"/v1/packets/{packet}/answer")
    if as_json:
        print_json(found)
        return
    if found["answered_at"] is None:
        typer.echo("no answer yet")
        return
    for each in found["items"]:
        typer.echo(f"{each['segment']} ({each['state']})")
        typer.echo(f"  - {printable(each['before'])}")
        typer.echo(f"  + {printable(each['after'])}")
    if found["comment"]:
        typer.echo(f"comment: {printable(found['comment'])}")
    if not found["items"] and not found["comment"]:
        typer.echo("nothing is to be changed")


@app.command("accept")
def accept_command(
    packet: PacketId,
    segment: Annotated[str, typer.Argument(metavar="SEGMENT", help="Such as s0004.")],
    decline: Annotated[bool, typer.Option("--decline", help="Decline it instead.")] = False,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The segment's new text. Needed if the participant read it with codes.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accept a proposal as a correction, or decline it."""
    with connect(as_json) as client:
        body: dict[str, Any] = {"segment": segment, "accept": not decline}
        if text is not None:
            body["text"] = read_text(text, "text", RosterNotReadable, MAX_BYTES).strip()
        done = client.post(f"/v1/packets/{packet}/decisions", body)
    if as_json:
        print_json(done)
        return
    decided = done["decided"][segment]
    version = f", version {decided['version']}" if decided["version"] else ""
    typer.echo(f"{segment}: {decided['state']}{version}")


@app.command("revoke")
def revoke_command(packet: PacketId, as_json: AsJson = False) -> None:
    """End a packet's link."""
    with connect(as_json) as client:
        done = client.delete(f"/v1/packets/{packet}")
    print_json(done) if as_json else typer.echo("revoked")
