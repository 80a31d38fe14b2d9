"""`fieldscribe upload | jobs | status | watch | transcript | cancel | rerun | delete`: the
researcher's commands. Each is a client of the API and no more.
"""

import json
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from service.commands.client import (
    Client,
    FileNotReadable,
    Refused,
    Source,
    Unfinished,
    follow,
    open_client,
    upload,
    wait_for_recording,
)
from service.commands.console import (
    STAGE_LABELS,
    AsJson,
    MixedLanguages,
    Translate,
    asked_language,
    errors_as_sentences,
    id_of,
    print_json,
    print_table,
    read_roster,
    read_vocabulary,
    shown,
    speaker_bounds,
)
from service.errors import Misused, OutputNotWritable
from service.exports import Format
from service.exports.files import write_whole
from service.exports.text import clock
from service.settings import read_settings

JobId = Annotated[
    str,
    typer.Argument(metavar="JOB", help="Id of a job.", callback=id_of("fieldscribe jobs")),
]


class TranscriptNotReady(Misused):
    """The job has no transcript: it has not ended yet, or not well."""

    code = "transcript_not_ready"


class RecordingOfNoUse(Refused):
    """It was looked at and refused; a job of it would be answered 409: exit code 1."""

    def __init__(self, name: str, recording: dict[str, Any]) -> None:
        problem = {**recording["refusal"], "status": 409, "recording_id": recording["id"]}
        super().__init__(problem)
        self.name = name


class RosterDiffers(Misused):
    """The session has another roster than the one that is given."""

    code = "roster_differs"


@contextmanager
def api(as_json: bool) -> Iterator[Client]:
    """A client; what it is refused becomes a sentence and an exit code."""
    with errors_as_sentences(as_json), open_client(read_settings()) as client:
        yield client


# --- upload ---------------------------------------------------------------------------------------


def upload_command(
    files: Annotated[list[Path], typer.Argument(help="Recordings: audio or video files.")],
    study: Annotated[str, typer.Option(help="Code of the study they belong to.")],
    session: Annotated[
        str | None,
        typer.Option(help="Code of the session, INT-07; made if there is none. All files are its."),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="The files are one session, in this order.")
    ] = False,
    language: Annotated[
        str | None, typer.Option(help="en, de, nl, ... or auto; the study's by default.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="An installed Whisper model.")] = None,
    speakers: Annotated[
        str | None, typer.Option(help="How many people speak: 2, or 5-8.", metavar="N|MIN-MAX")
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option(
            help="Who is in a new session, a code and a role on each line: P01 participant."
        ),
    ] = None,
    channels: Annotated[
        str, typer.Option(help="auto, mix, or split where each channel is one speaker.")
    ] = "auto",
    translate: Translate = False,
    mixed_languages: MixedLanguages = False,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Names and terms to expect, one on each line.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay until the transcripts are there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload recordings and have them transcribed; goes on where it was interrupted."""
    if roster is not None and session is None:
        raise typer.BadParameter("a roster is a session's: name one with --session")
    with api(as_json) as client:
        options = {
            "language": asked_language(language),
            "model": model,
            "channels": channels,
            "translate": translate,
            "mixed_languages": mixed_languages,
            "speakers": None if speakers is None else speaker_bounds(speakers),
            "vocabulary": None if vocabulary is None else list(read_vocabulary(vocabulary)),
        }
        sources = [Source(path, study, session) for path in files]
        for source in sources:  # before any of them is uploaded
            try:
                source.open().close()
            except FileNotReadable:
                typer.echo(f"{shown(str(source.path))}:", err=True)
                raise
        if session is not None:
            people = () if roster is None else read_roster(roster)
            make_session(client, study, session, [vars(entry) for entry in people])
        unfinished = Unfinished()
        together = join or session is not None
        jobs, n_refused = [], 0
        for of_one_job in [sources] if together else [[source] for source in sources]:
            try:
                ids = bring_all(client, of_one_job, unfinished)
            except RecordingOfNoUse as refused:
                if together or len(sources) == 1:
                    raise
                typer.echo(f"{shown(refused.name)}: {refused.code}: {refused}", err=True)
                n_refused += 1
                continue
            request: dict[str, Any] = {"recordings": ids}
            if session is not None:
                request |= {"study": study, "session": session}
            body = {name: value for name, value in (request | options).items() if value is not None}
            # The same command, after an interruption, gets the job that it has made already.
            asked = {name: value for name, value in body.items() if name != "vocabulary"}
            key = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(asked, sort_keys=True))
            jobs.append(client.post("/v1/jobs", body, key=str(key)))
            if not as_json:
                typer.echo(jobs[-1]["id"])
        for source in sources:
            unfinished.forget(source.key(client.url))
        if watch:
            jobs = [last(client, job["id"], as_json) for job in jobs]
        if as_json:
            print_json(jobs)
    if n_refused or (watch and any(job["status"] != "succeeded" for job in jobs)):
        raise typer.Exit(1)


def make_session(client: Client, study: str, code: str, roster: Sequence[dict[str, str]]) -> None:
    """Unless it is there.

    Raises:
        RosterDiffers: it is, with another roster.
    """
    sessions = client.get("/v1/sessions", study=study)["items"]
    for found in sessions:
        if code in (found["code"], found["id"]):
            if roster and found["roster"] != list(roster):
                raise RosterDiffers("The session is there already, with another roster.")
            return
    kind = "focus_group" if code.startswith("FG") else "interview"
    wish = {"study": study, "code": code, "kind": kind, "roster": list(roster)}
    client.post("/v1/sessions", wish)


class Speed(TransferSpeedColumn):
    """Nothing where rich shows a question mark: a file that arrived in one part has no speed."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.finished_speed or task.speed else Text("")


def bring_all(client: Client, sources: Sequence[Source], unfinished: Unfinished) -> list[str]:
    """
    Raises:
        Refused: by the service.
        RecordingOfNoUse: it has looked at one.
    """
    ids = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        Speed(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for source in sources:
            size = source.path.stat().st_size if source.path.exists() else None
            task = progress.add_task(source.path.name, total=size)

            def reached(n_bytes: int, task: TaskID = task) -> None:
                progress.update(task, completed=n_bytes)

            id = upload(client, source, unfinished, reached)
            progress.update(task, description=f"{source.path.name}: being checked")
            recording = wait_for_recording(client, id)
            if recording["state"] == "refused":
                unfinished.forget(source.key(client.url))
                raise RecordingOfNoUse(source.path.name, recording)
            length = clock(recording["duration"])
            progress.update(task, description=f"{source.path.name}: {length} of sound")
            ids.append(id)
    return ids


# --- looking at jobs ------------------------------------------------------------------------------


def jobs_command(
    study: Annotated[str | None, typer.Option(help="Only those of this study.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only these; may be given several times.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    with api(as_json) as client:
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
        studies, sessions = ({}, {}) if as_json else codes(client)
    if as_json:
        print_json(items)
        return
    table = Table("study", "session", "job", "status", "sound", "submitted (UTC)", box=None)
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


def codes(client: Client) -> tuple[dict[str, str], dict[str, str]]:
    """Of studies and of sessions, by id: what people know them by."""
    lists = [client.get(path)["items"] for path in ("/v1/studies", "/v1/sessions")]
    studies, sessions = ({one["id"]: one["code"] for one in items} for items in lists)
    return studies, sessions


def status_command(job_id: JobId, as_json: AsJson = False) -> None:
    """Show how far a job is, and what went wrong."""
    with api(as_json) as client:
        job = client.get(f"/v1/jobs/{job_id}")
    if as_json:
        print_json(job)
        return
    typer.echo("\n".join(described(job)))


def described(job: dict[str, Any]) -> Iterator[str]:
    yield f"{job['status']}{told_briefly(job)}"
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


def told_briefly(job: dict[str, Any]) -> str:
    if job["waiting_for"]:
        return f" for a {job['waiting_for']['reason']}: {job['waiting_for']['user_action']}"
    if job["status"] == "queued":
        return f", {job['queue']['position'] or 0} before it"
    if job["status"] != "running":
        return ""
    return f" {job['progress']['fraction']:.0%}{told_eta(job)}"


def told_eta(job: dict[str, Any]) -> str:
    eta = job["progress"]["eta_seconds"]
    if eta is None:
        return ""
    basis = {"history": "by earlier jobs", "self-test": "by a short trial"}
    between = f"{clock(eta['low'])} to {clock(eta['high'])}"
    return f", {between} to go {basis[job['progress']['basis']]}"


def watch_command(job_id: JobId, as_json: AsJson = False) -> None:
    """Follow a job until it has ended; the exit code is 0 if it succeeded."""
    with api(as_json) as client:
        job = last(client, job_id, as_json)
        if as_json:
            print_json(job)
    raise typer.Exit(0 if job["status"] == "succeeded" else 1)


def last(client: Client, job_id: str, as_json: bool) -> dict[str, Any]:
    """A job when it has ended, with a bar meanwhile."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    job: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(job_id[:8], total=1.0, note="")
        for job in follow(client, job_id):
            stage = STAGE_LABELS.get(job["stage"], "") if job["status"] == "running" else ""
            progress.update(
                task,
                description=stage or job["status"],
                completed=job["progress"]["fraction"],
                note=told_eta(job) if job["status"] == "running" else "",
            )
    if not as_json:
        typer.echo("\n".join(described(job)), err=True)
    return job


# --- results, and changes -------------------------------------------------------------------------


def transcript_command(
    job_id: JobId,
    format: Annotated[Format, typer.Option(help="json, txt, vtt or srt.")] = Format.TXT,
    out: Annotated[
        Path | None, typer.Option(help="A file to write; standard output by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the transcript of a job: identified, keep it safe."""
    with api(as_json) as client:
        job = client.get(f"/v1/jobs/{job_id}")
        if job["transcript_id"] is None:
            raise TranscriptNotReady(f"The job has no transcript: it is {job['status']}.")
        chosen = Format.JSON if as_json else format
        answer = client.request(
            "GET", f"/v1/transcripts/{job['transcript_id']}", params={"format": str(chosen)}
        )
        if out is None:
            sys.stdout.write(answer.text)
            return
        try:
            write_whole(out, answer.text)
        except OSError as error:
            raise OutputNotWritable(
                f"The transcript cannot be written ({error.strerror})."
            ) from None


def cancel_command(job_id: JobId, as_json: AsJson = False) -> None:
    """Stop a job; what it has finished is kept for a rerun."""
    with api(as_json) as client:
        job = client.request("POST", f"/v1/jobs/{job_id}/cancel").json()
    print_json(job) if as_json else typer.echo(job["status"])


def rerun_command(
    job_id: JobId,
    stage: Annotated[
        str,
        typer.Option(
            "--from",
            help="First stage done again: ingest, segment, transcribe, align, diarise, attribute "
            "or check.",
        ),
    ],
    speakers: Annotated[
        str | None, typer.Option(help="How many people speak: 2, or 5-8.", metavar="N|MIN-MAX")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a new job of an old one that begins with a stage; what came before it is kept."""
    with api(as_json) as client:
        body = {"from": stage}
        if speakers is not None:
            body["speakers"] = speaker_bounds(speakers)  # type: ignore[assignment]
        job = client.post(f"/v1/jobs/{job_id}/rerun", body, key=str(uuid.uuid4()))
    print_json(job) if as_json else typer.echo(job["id"])


def delete_command(
    job_id: JobId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what a job made, for ever; the recordings stay."""
    with api(as_json) as client:
        if not yes:
            job = client.get(f"/v1/jobs/{job_id}")
            typer.echo("\n".join(to_be_destroyed(client, job)), err=True)
            typer.confirm("Delete it?", abort=True, err=True)
        gone = client.delete(f"/v1/jobs/{job_id}")
    if as_json:
        print_json(gone)
        return
    n_kept = len(gone["recordings_kept"])
    kept = "1 recording stays" if n_kept == 1 else f"{n_kept} recordings stay"
    typer.echo(f"deleted: {', '.join(destroyed(gone))}; {kept}")


def to_be_destroyed(client: Client, job: dict[str, Any]) -> Iterator[str]:
    studies, sessions = codes(client)
    names = [studies.get(job["study_id"]), sessions.get(job["session_id"]), job["status"]]
    yield f"Job {job['id']}: {', '.join(name for name in names if name)}"
    yield (
        "Its transcript, the results of its stages, its vocabulary and what a de-identification "
        "stage handed in are destroyed, for ever. Its recordings stay, and so does what other jobs "
        "share with it."
    )


def destroyed(gone: dict[str, Any]) -> Iterator[str]:
    yield "the transcript" if gone["transcript"] else "no transcript"
    yield f"{gone['stage_results']} results of stages"
    if gone["vocabulary"]:
        yield "the vocabulary"
    if gone["occurrences"]:
        yield f"{gone['occurrences']} results of de-identification"
