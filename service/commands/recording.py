"""`fieldscribe recording`: uploaded recordings."""

from typing import Any

import typer

from service.commands.connection import connect
from service.commands.console import (
    Row,
    confirm,
    print_json,
    print_table,
    printable,
)
from service.commands.jobs import study_and_session_codes
from service.commands.options import AsJson, Cursor, Limit, RecordingId, StudyOption, Yes
from service.commands.upload import wait_for_recording
from service.exports.text import clock

app = typer.Typer(no_args_is_help=True, help="List, show, check again or delete recordings.")


@app.command("list")
def list_command(
    study: StudyOption = None, limit: Limit = 50, cursor: Cursor = None, as_json: AsJson = False
) -> None:
    """List recordings, newest first.

    Those without a session or a job are included.
    """
    with connect(as_json) as client:
        page = client.list_some("/v1/recordings", limit=limit, cursor=cursor, study=study)
        studies, sessions = ({}, {}) if as_json else study_and_session_codes(client)
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (
                studies.get(recording["study_id"], ""),
                sessions.get(recording["session_id"], "(none)"),
                recording["state"],
                "" if recording["duration"] is None else clock(recording["duration"]),
                recording["created_at"][:16].replace("T", " "),
            ),
            recording["id"],
        )
        for recording in page["items"]
    ]
    titles = ("study", "session", "state", "duration", "uploaded (UTC)")
    print_table(titles, rows, "recording")


@app.command("show")
def show_command(recording_id: RecordingId, as_json: AsJson = False) -> None:
    """Show the state of a recording, and why it was refused."""
    with connect(as_json) as client:
        recording = client.get(f"/v1/recordings/{recording_id}")
    print_json(recording) if as_json else typer.echo(describe(recording))


@app.command("retry")
def retry_command(recording_id: RecordingId, as_json: AsJson = False) -> None:
    """Check a refused recording again, for example after an update.

    The exit code is 1 if it is refused again.
    """
    with connect(as_json) as client:
        client.request("POST", f"/v1/recordings/{recording_id}/retry")
        recording = wait_for_recording(client, recording_id)
    print_json(recording) if as_json else typer.echo(describe(recording))
    if recording["state"] != "ready":
        raise typer.Exit(1)


@app.command("delete")
def delete_command(recording_id: RecordingId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a recording for good, with every transcript made from it."""
    with connect(as_json) as client:
        if not yes:
            typer.echo(describe(client.get(f"/v1/recordings/{recording_id}")), err=True)
            confirm("Delete the recording and everything made from it?")
        deleted = client.delete(f"/v1/recordings/{recording_id}")
    print_json(deleted) if as_json else typer.echo("deleted")


def describe(recording: dict[str, Any]) -> str:
    """Lines of text: state, length, reason for a refusal, and how long the audio is kept."""
    state = recording["state"]
    if recording["duration"] is not None:
        state += f", {clock(recording['duration'])} of audio"
    lines = [f"Recording {recording['id']}: {state}"]
    if reason := recording["refusal"] or recording["waiting_for"]:
        lines.append(f"{reason['code']}: {printable(reason['detail'])}")
    if recording["expires_at"] is not None:
        until = recording["expires_at"][:16].replace("T", " ")
        lines.append(f"The audio is kept until {until} UTC.")
    return "\n".join(lines)
