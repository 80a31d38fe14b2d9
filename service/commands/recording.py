"""`fieldscribe recording show | retry | delete`: one uploaded recording."""

from typing import Annotated, Any

import typer

from service.commands.connection import connect
from service.commands.console import print_json, printable
from service.commands.options import AsJson, RecordingId
from service.commands.upload import wait_for_recording
from service.exports.text import clock

app = typer.Typer(no_args_is_help=True, help="Show, check again or delete a recording.")


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
def delete_command(
    recording_id: RecordingId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a recording for good, with every transcript made from it."""
    with connect(as_json=False) as client:
        if not yes:
            typer.echo(describe(client.get(f"/v1/recordings/{recording_id}")), err=True)
            typer.confirm(
                "Delete the recording and everything that was made from it?", abort=True, err=True
            )
        client.delete(f"/v1/recordings/{recording_id}")
    typer.echo("deleted")


def describe(recording: dict[str, Any]) -> str:
    """Lines of text: state, length, the reason of a refusal, and until when the audio is kept."""
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
