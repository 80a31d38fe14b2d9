"""`fieldscribe session`: interviews and focus groups with their recordings."""

from typing import Any

import typer

from service.commands.connection import connect
from service.commands.console import (
    Row,
    confirm,
    print_json,
    print_table,
)
from service.commands.names import SessionName, find_session, study_codes
from service.commands.options import AsJson, Cursor, Limit, StudyOption, Yes
from service.exports.text import clock

app = typer.Typer(no_args_is_help=True, help="List, show and delete interviews and focus groups.")


@app.command("list")
def list_command(
    study: StudyOption = None, limit: Limit = 200, cursor: Cursor = None, as_json: AsJson = False
) -> None:
    """List sessions by study and code."""
    with connect(as_json) as client:
        page = client.list_some("/v1/sessions", limit=limit, cursor=cursor, study=study)
        studies = {} if as_json else study_codes(client)
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (
                studies.get(session["study_id"], ""),
                session["code"],
                session["kind"].replace("_", " "),
                describe_speakers(session),
                str(len(session["recordings"])),
            ),
            session["id"],
        )
        for session in page["items"]
    ]
    print_table(("study", "code", "kind", "speakers", "recordings"), rows, "id")


@app.command("show")
def show_command(session: SessionName, as_json: AsJson = False) -> None:
    """Show a session: who took part, its recordings and its jobs."""
    with connect(as_json) as client:
        found = find_session(client, session)
        if as_json:
            print_json(client.get(f"/v1/sessions/{found['id']}"))
            return
        jobs = list(client.list_all("/v1/jobs", session=found["id"]))
        recordings = [client.get(f"/v1/recordings/{id}") for id in found["recordings"]]
    typer.echo(f"Session {found['code']}: {found['kind'].replace('_', ' ')}, {found['id']}")
    typer.echo(f"speakers: {describe_speakers(found) or 'not known'}")
    for person in found["roster"]:
        typer.echo(f"  {person['code']} {person['role']}")
    for recording in recordings:
        length = "" if recording["duration"] is None else f", {clock(recording['duration'])}"
        typer.echo(f"recording: {recording['state']}{length}\n  {recording['id']}")
    for job in jobs:
        typer.echo(f"job: {job['status']}, {job['created_at'][:16].replace('T', ' ')} UTC")
        typer.echo(f"  {job['id']}")


@app.command("delete")
def delete_command(session: SessionName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a session for good, with everything made from it.

    Its recordings are deleted too.
    """
    with connect(as_json) as client:
        found = find_session(client, session)
        if not yes:
            n_recordings = len(found["recordings"])
            recordings = "1 recording" if n_recordings == 1 else f"{n_recordings} recordings"
            typer.echo(f"Session {found['code']}: {recordings}", err=True)
            confirm("Delete the session, its recordings and everything made from them?")
        deleted = client.delete(f"/v1/sessions/{found['id']}")
    print_json(deleted) if as_json else typer.echo("deleted")


def describe_speakers(session: dict[str, Any]) -> str:
    """`2`, `5-8`, or the number on the roster; empty if nothing is known."""
    low, high = session["speakers"]["min"], session["speakers"]["max"]
    if session["roster"]:
        return str(len(session["roster"]))
    if low == high:
        return "" if low is None else str(low)
    return f"{low or 1}-{high}" if high is not None else f"at least {low}"
