"""`fieldscribe jobs | cancel | rerun | delete`: list jobs, and act on one of them."""

import uuid
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from service.commands.client import Client
from service.commands.connection import connect
from service.commands.console import print_json, print_table
from service.commands.options import AsJson, JobId, Speakers, parse_speaker_bounds
from service.exports.text import clock


def jobs_command(
    study: Annotated[
        str | None, typer.Option(metavar="CODE", help="Show only jobs of this study.")
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="Show only jobs with this status; repeatable."),
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many jobs to show at most.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with connect(as_json) as client:
        items: list[dict[str, Any]] = []
        cursor = None
        while len(items) < limit:
            page = client.get(
                "/v1/jobs", study=study, status=status, limit=min(200, limit), cursor=cursor
            )
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        items = items[:limit]
        studies, sessions = ({}, {}) if as_json else study_and_session_codes(client)
    if as_json:
        print_json(items)
        return
    table = Table("study", "session", "job", "status", "duration", "submitted (UTC)", box=None)
    for job in items:
        running = f" {job['fraction']:.0%}" if job["status"] == "running" else ""
        table.add_row(
            studies.get(job["study_id"], ""),
            sessions.get(job["session_id"], ""),
            job["id"],
            f"{job['status']}{running}",
            clock(job["audio_seconds"] or 0.0),
            job["created_at"][:16].replace("T", " "),
        )
    print_table(table)


def study_and_session_codes(client: Client) -> tuple[dict[str, str], dict[str, str]]:
    """The codes of studies and those of sessions, each by id."""
    lists = (client.get("/v1/studies")["items"], client.list_all("/v1/sessions"))
    studies, sessions = ({item["id"]: item["code"] for item in items} for items in lists)
    return studies, sessions


def cancel_command(job_id: JobId, as_json: AsJson = False) -> None:
    """Stop a job. Finished stages are kept for a rerun."""
    with connect(as_json) as client:
        job = client.request("POST", f"/v1/jobs/{job_id}/cancel").json()
    print_json(job) if as_json else typer.echo(job["status"])


def rerun_command(
    job_id: JobId,
    stage: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="First stage to run again: ingest, segment, transcribe, align, diarise, "
            "attribute or check.",
        ),
    ],
    speakers: Speakers = None,
    as_json: AsJson = False,
) -> None:
    """Start a new job from an existing one at a given stage.

    The results of the earlier stages are reused. Prints the id of the new job.
    """
    with connect(as_json) as client:
        body: dict[str, Any] = {"from": stage}
        if speakers is not None:
            body["speakers"] = parse_speaker_bounds(speakers)
        job = client.post(f"/v1/jobs/{job_id}/rerun", body, key=str(uuid.uuid4()))
    print_json(job) if as_json else typer.echo(job["id"])


def delete_command(
    job_id: JobId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the results of a job for good. Recordings are kept."""
    with connect(as_json) as client:
        if not yes:
            job = client.get(f"/v1/jobs/{job_id}")
            typer.echo("\n".join(describe_deletion(client, job)), err=True)
            typer.confirm("Delete them?", abort=True, err=True)
        deleted = client.delete(f"/v1/jobs/{job_id}")
    if as_json:
        print_json(deleted)
        return
    n_kept = len(deleted["recordings_kept"])
    kept = "1 recording kept" if n_kept == 1 else f"{n_kept} recordings kept"
    typer.echo(f"deleted: {', '.join(describe_deleted(deleted))}; {kept}")


def describe_deletion(client: Client, job: dict[str, Any]) -> Iterator[str]:
    """Lines of text: the job, and what deleting it destroys."""
    studies, sessions = study_and_session_codes(client)
    names = [studies.get(job["study_id"]), sessions.get(job["session_id"]), job["status"]]
    yield f"Job {job['id']}: {', '.join(name for name in names if name)}"
    yield (
        "This destroys its transcript, stage results and vocabulary, and the results of "
        "de-identification. They cannot be recovered. Its recordings are kept, and so is "
        "everything that other jobs share with it."
    )


def describe_deleted(deleted: dict[str, Any]) -> Iterator[str]:
    yield "the transcript" if deleted["transcript"] else "no transcript"
    yield f"{deleted['stage_results']} stage results"
    if deleted["vocabulary"]:
        yield "the vocabulary"
    if deleted["occurrences"]:
        results = "result" if deleted["occurrences"] == 1 else "results"
        yield f"{deleted['occurrences']} de-identification {results}"
