"""`fieldscribe status | watch`: the state of one job in words, now or until it ends."""

from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from service.commands.client import POLL_SECONDS, Client
from service.commands.connection import connect
from service.commands.console import STAGE_LABELS, WIDE, describe_seconds, print_json
from service.commands.names import JobName, find_job
from service.commands.options import AsJson

OUTAGE_LIMIT = 300.0  # s without an answer before a watched job is given up
FINAL = ("succeeded", "failed", "cancelled")
ETA_BASIS = {"history": "from earlier jobs", "self-test": "from a quick test"}


def status_command(job: JobName, as_json: AsJson = False) -> None:
    """Show the progress and the errors of a job."""
    with connect(as_json) as client:
        found = client.get(f"/v1/jobs/{find_job(client, job)}")
    print_json(found) if as_json else typer.echo("\n".join(describe_job(found)))


def watch_command(job: JobName, as_json: AsJson = False) -> None:
    """Follow a job until it ends. The exit code is 0 if the job succeeded."""
    with connect(as_json) as client:
        ended = watch_job(client, find_job(client, job), as_json)
        if as_json:
            print_json(ended)
    raise typer.Exit(0 if ended["status"] == "succeeded" else 1)


def watch_job(client: Client, job_id: str, as_json: bool, title: str = "") -> dict[str, Any]:
    """Show a progress bar until a job ends; returns the ended job.

    Ctrl-C stops the watching, not the job.

    Args:
        title: the job's name, if several are watched.
    """
    console = Console(stderr=True)
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", table_column=Column(overflow="fold")),
        TaskProgressColumn(),
    ]
    if console.width >= WIDE:
        columns[1:1] = [BarColumn(20)]
        columns += [TimeElapsedColumn()]
    columns += [TextColumn("{task.fields[note]}", table_column=Column(overflow="fold"))]
    job: dict[str, Any] = {}
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(job_id[:8], total=1.0, note="")
            for job in follow(client, job_id):
                stage = STAGE_LABELS.get(job["stage"], "") if job["status"] == "running" else ""
                progress.update(
                    task,
                    description=stage or job["status"],
                    completed=job["progress"]["fraction"],
                    note=describe_eta(job) if job["status"] == "running" else "",
                )
    except KeyboardInterrupt:
        typer.echo(
            f"Stopped watching; the job continues. `fieldscribe watch {job_id}` follows it again, "
            f"`fieldscribe cancel {job_id}` stops it.",
            err=True,
        )
        raise typer.Exit(130) from None
    if not as_json:
        status = "\n".join(describe_job(job))
        typer.echo(f"{title}: {status}" if title else status, err=True)
    return job


def follow(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """Yield a job now and after every change until it ends, even across a service restart."""
    etag: str | None = None
    while True:
        response = client.request(
            "GET",
            f"/v1/jobs/{job_id}",
            params={"wait": POLL_SECONDS} if etag else None,
            headers={"If-None-Match": etag} if etag else {},
            retry_for=OUTAGE_LIMIT,
        )
        if response.status_code == 304:
            continue
        etag = response.headers["ETag"]
        job: dict[str, Any] = response.json()
        yield job
        if job["status"] in FINAL:
            return


def describe_job(job: dict[str, Any]) -> Iterator[str]:
    """Lines of text: status, stages, warnings, errors, and the transcript's id."""
    yield f"{job['status']}{_status_detail(job)}"
    for stage in job["stages"]:
        took = "" if stage["seconds"] is None else f", {stage['seconds']:.1f} s"
        done = f" {stage['fraction']:.0%}" if stage["state"] == "running" else ""
        yield f"  {stage['name']:<11} {stage['state']}{done}{took}"
    for warning in job["warnings"]:
        yield f"warning: {warning}"
    for error in job["errors"]:
        stage = f" in {error['stage']}" if error["stage"] else ""
        yield f"attempt {error['attempt']}{stage}: {error['code']}: {error['title']}"
        yield f"  {error['user_action']}"
    if job["transcript_id"]:
        yield f"transcript {job['transcript_id']}"


def _status_detail(job: dict[str, Any]) -> str:
    """What follows the status: the reason for waiting, place in the queue, or progress."""
    if job["waiting_for"]:
        reason = "GPU" if job["waiting_for"]["reason"] == "card" else "person"
        return f" for a {reason}: {job['waiting_for']['user_action']}"
    if job["status"] == "queued":
        return f", position {(job['queue']['position'] or 0) + 1} in the queue"
    if job["status"] != "running":
        return ""
    return f" {job['progress']['fraction']:.0%}{describe_eta(job)}"


def describe_eta(job: dict[str, Any]) -> str:
    """`, 2 min to 5 min left (estimated from earlier jobs)`; empty if there is no estimate."""
    eta = job["progress"]["eta_seconds"]
    if eta is None:
        return ""
    low, high = describe_seconds(eta["low"]), describe_seconds(eta["high"])
    interval = low if low == high else f"{low} to {high}"
    return f", {interval} left (estimated {ETA_BASIS[job['progress']['basis']]})"
