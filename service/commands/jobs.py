"""`fieldscribe jobs | cancel | rerun | delete`: list jobs, and act on one of them."""

import uuid
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from service.commands.client import Client
from service.commands.connection import connect
from service.commands.console import (
    Row,
    confirm,
    print_json,
    print_table,
)
from service.commands.local_files import LocalFiles
from service.commands.names import (
    JobName,
    check_name,
    find_job,
    find_only_job,
    find_session,
    study_codes,
)
from service.commands.options import (
    AsJson,
    Cursor,
    Limit,
    Speakers,
    StudyOption,
    Yes,
    parse_speaker_bounds,
)
from service.exports.text import clock


def jobs_command(
    study: StudyOption = None,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="SESSION",
            help="List only those of this session: INT-07, or PEER/INT-07.",
            callback=lambda name: name and check_name("fieldscribe session list")(name),
        ),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="List only those with this status; repeatable."),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    Names the files of jobs that were submitted with `fieldscribe upload` on this machine.
    """
    with connect(as_json) as client:
        if session is not None:
            name = session if study is None or "/" in session else f"{study}/{session}"
            session = find_session(client, name)["id"]
        page = client.list_some(
            "/v1/jobs", limit=limit, cursor=cursor, study=study, session=session, status=status
        )
        studies, sessions = ({}, {}) if as_json else study_and_session_codes(client)
    if as_json:
        print_json(page)
        return
    files = LocalFiles().of_jobs()
    rows = []
    for job in page["items"]:
        running = f" {job['fraction']:.0%}" if job["status"] == "running" else ""
        device = f" on {job['device']}" if running and job.get("device") else ""
        cells = [
            studies.get(job["study_id"], ""),
            sessions.get(job["session_id"], "(none)"),
            f"{job['status']}{running}{device}",
            clock(job["audio_seconds"] or 0.0),
            job["created_at"][:16].replace("T", " "),
            ", ".join(files.get(job["id"], [])),
        ]
        rows.append(Row(cells, job["id"]))
    titles = ["study", "session", "status", "duration", "submitted (UTC)", "file"]
    print_table(titles, rows, "job")


def study_and_session_codes(client: Client) -> tuple[dict[str, str], dict[str, str]]:
    """The codes of studies and those of sessions, each by id."""
    sessions = {each["id"]: each["code"] for each in client.list_all("/v1/sessions")}
    return study_codes(client), sessions


def cancel_command(job: JobName, as_json: AsJson = False) -> None:
    """Stop a job. Finished stages are kept for a rerun."""
    with connect(as_json) as client:
        path = f"/v1/jobs/{find_job(client, job)}/cancel"
        cancelled = client.request("POST", path).json()
    print_json(cancelled) if as_json else typer.echo(cancelled["status"])


def rerun_command(
    job: JobName,
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
        path = f"/v1/jobs/{find_job(client, job)}/rerun"
        new = client.post(path, body, key=str(uuid.uuid4()))
    print_json(new) if as_json else typer.echo(new["id"])


def delete_command(job: JobName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete the results of a job for good. Recordings are kept."""
    with connect(as_json) as client:
        id = find_only_job(client, job)
        if not yes:
            typer.echo("\n".join(describe_deletion(client, client.get(f"/v1/jobs/{id}"))), err=True)
            confirm("Delete them?")
        deleted = client.delete(f"/v1/jobs/{id}")
    LocalFiles().forget_job(id)
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
        "This destroys its transcript, stage results and vocabulary, the results of "
        "de-identification, and the releases of the transcript. They cannot be recovered. Its "
        "recordings are kept, and so is everything that other jobs share with it."
    )


def describe_deleted(deleted: dict[str, Any]) -> Iterator[str]:
    yield "the transcript" if deleted["transcript"] else "no transcript"
    yield f"{deleted['stage_results']} stage results"
    if deleted["vocabulary"]:
        yield "the vocabulary"
    if deleted["occurrences"]:
        results = "result" if deleted["occurrences"] == 1 else "results"
        yield f"{deleted['occurrences']} de-identification {results}"
    if deleted["releases"]:
        yield "1 release" if deleted["releases"] == 1 else f"{deleted['releases']} releases"
