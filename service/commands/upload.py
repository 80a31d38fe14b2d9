"""`fieldscribe upload`: upload recordings and submit them for transcription.

Refused
└── UnusableRecording

ServiceError
└── Misused
    └── RosterDiffers
"""

import json
import re
import sys
import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from service.commands.client import POLL_SECONDS, Client, Refused
from service.commands.connection import connect
from service.commands.console import WIDE, print_json, printable
from service.commands.lists import read_roster, read_vocabulary
from service.commands.local_files import LocalFiles
from service.commands.names import SESSION_CODE
from service.commands.options import (
    CHANNELS_HELP,
    AsJson,
    Files,
    Join,
    MixedLanguages,
    Parallel,
    Speakers,
    Translate,
    Vocabulary,
    language_option,
    parallel_channels,
    parse_speaker_bounds,
    requested_language,
    roster_option,
)
from service.commands.tus_client import FileNotReadable, UnfinishedUploads, UploadSource, upload
from service.commands.watch import FINAL, watch_job
from service.errors import Misused
from service.exports.text import clock

UNCHECKED_STATES = ("receiving", "checking")
DUPLICATE = "recording_duplicate"
OWN_PREFIXES = ("INT", "FG")
CODE_IN_NAME = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{1,8})[-_ ]?([0-9]{1,4})(?![0-9])")
NEXT_FREE = "the next free code"

Group = tuple[str | None, list[Path]]
"""Code of a session, if it has one, and the files of one job."""


class UnusableRecording(Refused):
    """The service checked a recording and refused it; raised in place of the API's 409."""

    def __init__(self, name: str, recording: dict[str, Any]) -> None:
        problem = {**recording["refusal"], "status": 409, "recording_id": recording["id"]}
        super().__init__(problem)
        self.name = name


class RosterDiffers(Misused):
    """The session already has a roster, and it differs from the one given."""

    code = "roster_differs"


def upload_command(
    files: Files,
    study: Annotated[
        str, typer.Option(metavar="CODE", help="Code of the study that the recordings belong to.")
    ],
    session: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="Code of the session, such as INT-07, that all the files belong to; created if "
            "it does not exist. By default from each file's name.",
        ),
    ] = None,
    join: Join = False,
    parallel: Parallel = False,
    language: Annotated[str | None, language_option("the study's")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="An installed Whisper model.")
    ] = None,
    speakers: Speakers = None,
    roster: Annotated[Path | None, roster_option(" For a new session.")] = None,
    channels: Annotated[str, typer.Option(metavar="auto|mix|split", help=CHANNELS_HELP)] = "auto",
    translate: Translate = False,
    mixed_languages: MixedLanguages = False,
    vocabulary: Vocabulary = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait until the transcripts are finished.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Submit a job even if the same command has already submitted one."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload recordings and transcribe them.

    Prints the id of each job. Without --session, the session comes from the file's name if it holds
    a code such as INT-07; otherwise you are asked. Files of one session become one job.

    After an interruption, run the same command again to resume. A recording that was uploaded
    before is not uploaded again.
    """
    if roster is not None and session is None:
        raise typer.BadParameter(
            "a roster belongs to a session: name one with --session", param_hint="--roster"
        )
    if parallel:
        channels = parallel_channels(files, channels, join=join)
    with connect(as_json) as client:
        options = {
            "language": requested_language(language),
            "model": model,
            "channels": channels,
            "translate": translate,
            "mixed_languages": mixed_languages,
            "speakers": None if speakers is None else parse_speaker_bounds(speakers),
            "vocabulary": None if vocabulary is None else list(read_vocabulary(vocabulary)),
        }
        people = () if roster is None else read_roster(roster)
        check_readable([UploadSource(path, study) for path in files])
        local = LocalFiles()
        if session is not None:
            ensure_session(client, study, session, [vars(entry) for entry in people])
        groups = group_files(client, local, study, session, files, join=join or parallel)
        unfinished = UnfinishedUploads()
        jobs, uploaded, n_refused = [], list[str](), 0
        titles: dict[str, str] = {}  # of jobs, by id
        for code, paths in groups:
            sources = [UploadSource(path, study, code) for path in paths]
            try:
                ids = upload_all(client, sources, unfinished, uploaded)
            except UnusableRecording as refused:
                if len(groups) == 1:
                    raise
                typer.echo(f"{printable(refused.name)}: {refused.code}: {refused}", err=True)
                n_refused += 1
                continue
            request: dict[str, Any] = {"recordings": ids}
            if code is not None:
                request |= {"study": study, "session": code}
            uploaded += ids
            job = submit_job(client, request | options, again=again)
            names = [printable(path.name) for path in paths]
            local.remember_job(job["id"], names)
            titles[job["id"]] = code or ", ".join(names)
            if job["status"] in FINAL:
                typer.echo(
                    f"Submitted before: the job has {job['status']}. --again submits another one.",
                    err=True,
                )
            jobs.append(job)
            if not as_json:
                typer.echo(job["id"])
        for code, paths in groups:
            for path in paths:
                unfinished.forget(UploadSource(path, study, code).key(client.url))
        if watch:
            jobs = [watch_job(client, job["id"], as_json, titles[job["id"]]) for job in jobs]
        if as_json:
            print_json(jobs)
    if n_refused or (watch and any(job["status"] != "succeeded" for job in jobs)):
        raise typer.Exit(1)


def group_files(
    client: Client,
    local: LocalFiles,
    study: str,
    session: str | None,
    files: Sequence[Path],
    *,
    join: bool,
) -> list[Group]:
    """The files of each job, with the session that they belong to; prints which.

    A session that is not named comes from the file's name, from an earlier upload of the same file,
    or from the person at the terminal. Files of the same session become one job.
    """
    if session is not None:
        return [(session, list(files))]
    used = [each["code"] for each in client.list_all("/v1/sessions", study=study)]
    codes = {path: session_in_name(path.stem, used) for path in files}
    for named in dict.fromkeys(filter(None, codes.values())):
        ensure_session(client, study, named, [])  # now, so that it is not the next free one
    if join:
        groups: list[Group] = [(_common_session(client, local, study, files, codes), list(files))]
    else:
        groups = []
        for path in files:
            code = codes[path] or local.session_of(study, path)
            code = code or ask_for_session(client, study, [path])
            same = [paths for each, paths in groups if code is not None and each == code]
            if same:
                same[0].append(path)
            else:
                groups.append((code, [path]))
    for code, paths in groups:
        names = ", ".join(printable(path.name) for path in paths)
        typer.echo(f"{names}: {'no session' if code is None else f'session {code}'}", err=True)
        if code is not None:
            for path in paths:
                local.remember_session(study, path, code)
    if any(code is None for code, _ in groups):
        typer.echo(
            "Without a session, a transcript has only an id: give one with --session INT-07, or in "
            "the file's name.",
            err=True,
        )
    return groups


def _common_session(
    client: Client,
    local: LocalFiles,
    study: str,
    files: Sequence[Path],
    codes: Mapping[Path, str | None],
) -> str | None:
    """The session of files that are joined."""
    named = set(codes.values())
    common = named.pop() if len(named) == 1 else None
    return common or local.session_of(study, files[0]) or ask_for_session(client, study, files)


def session_in_name(stem: str, used: Collection[str] = ()) -> str | None:
    """The session's code in the name of a file: INT-07 for `int_7 part 2` if that is a session.

    Args:
        used: codes of the study's sessions. Other letters than theirs, INT and FG do not count:
            they may be somebody's name.
    """
    known = {split_code(code): code for code in used}
    prefixes = {*OWN_PREFIXES, *(prefix for prefix, _ in known)}
    found = {
        known.get((match[1].upper(), int(match[2])), f"{match[1].upper()}-{match[2]}")
        for match in CODE_IN_NAME.finditer(stem)
        if match[1].upper() in prefixes
    }
    return found.pop() if len(found) == 1 else None


def split_code(code: str) -> tuple[str, int]:
    prefix, _, number = code.partition("-")
    return prefix, int(number)


def ask_for_session(client: Client, study: str, paths: Sequence[Path]) -> str | None:
    """Ask at the terminal which session files belong to; None without a terminal."""
    if not at_terminal():
        return None
    names = ", ".join(printable(path.name) for path in paths)
    while True:
        answer = typer.prompt(
            f"Session of {names} (such as INT-07; - for none)", default=NEXT_FREE, err=True
        ).strip()
        if answer == "-":
            return None
        if answer == NEXT_FREE:
            code: str = client.post("/v1/sessions", {"study": study})["code"]
            return code
        if re.fullmatch(SESSION_CODE, answer.upper()):
            ensure_session(client, study, answer.upper(), [])
            return str(answer.upper())
        typer.echo(
            "A session's code is capitals, a hyphen and a number, such as INT-07 or FG-1.", err=True
        )


def at_terminal() -> bool:
    return sys.stdin.isatty()


def check_readable(sources: Sequence[UploadSource]) -> None:
    """
    Raises:
        FileNotReadable: the name of the file has been printed.
    """
    for source in sources:
        try:
            source.open().close()
        except FileNotReadable:
            typer.echo(f"{printable(str(source.path))}:", err=True)
            raise


def submit_job(client: Client, fields: dict[str, Any], *, again: bool = False) -> dict[str, Any]:
    """Create a job, or return the one that the same command created earlier.

    Args:
        again: create one in any case.
    """
    body = {name: value for name, value in fields.items() if value is not None}
    identifying = {name: value for name, value in body.items() if name != "vocabulary"}
    key = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(identifying, sort_keys=True))
    job: dict[str, Any]
    try:
        job = client.post("/v1/jobs", body, key=str(uuid.uuid4() if again else key))
    except Refused as refusal:
        # Somebody deleted the earlier job, but not the recording; or its vocabulary was different.
        if refusal.code not in ("erased", "idempotency_key_reused") or again:
            raise
        job = client.post("/v1/jobs", body, key=str(uuid.uuid4()))
    return job


def ensure_session(client: Client, study: str, code: str, roster: Sequence[dict[str, str]]) -> None:
    """Create a session unless it exists.

    Raises:
        RosterDiffers: it exists with another roster.
    """
    if session_exists(client, study, code, roster):
        return
    kind = "focus_group" if code.startswith("FG") else "interview"
    fields = {"study": study, "code": code, "kind": kind, "roster": list(roster)}
    try:
        client.post("/v1/sessions", fields)
    except Refused as refused:
        # Another command may have created it just now.
        taken = refused.code == "session_code_taken"
        if not taken or not session_exists(client, study, code, roster):
            raise


def session_exists(client: Client, study: str, code: str, roster: Sequence[dict[str, str]]) -> bool:
    """
    Raises:
        RosterDiffers: it exists with another roster.
    """
    for existing in client.list_all("/v1/sessions", study=study):
        if code in (existing["code"], existing["id"]):
            if roster and existing["roster"] != list(roster):
                raise RosterDiffers("The session already exists with a different roster.")
            return True
    return False


class SpeedColumn(TransferSpeedColumn):
    """Transfer speed; blank, not rich's question mark, for a file that arrived in one part."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.finished_speed or task.speed else Text("")


def upload_all(
    client: Client,
    sources: Sequence[UploadSource],
    unfinished: UnfinishedUploads,
    uploaded: Sequence[str] = (),
) -> list[str]:
    """Upload recordings and wait until each has been checked; returns their ids.

    Args:
        uploaded: ids of this command's earlier recordings: of two files with the same content, the
            second is not taken for the first.

    Raises:
        Refused: by the API.
        UnusableRecording: the check refused one.
    """
    ids: list[str] = []
    found: set[TaskID] = set()
    console = Console(stderr=True)
    name_column = TextColumn(
        "{task.description}", markup=False, table_column=Column(overflow="fold")
    )
    wide = console.width >= WIDE
    columns: list[ProgressColumn] = [
        name_column,
        *([BarColumn(20)] if wide else []),
        DownloadColumn(),
    ]
    columns += [SpeedColumn()] if wide else []
    with Progress(*columns, console=console) as progress:
        for source in sources:
            size = source.path.stat().st_size if source.path.exists() else None
            name = printable(source.path.name)
            task = progress.add_task(name, total=size)

            def update(n_bytes: int, task: TaskID = task) -> None:
                progress.update(task, completed=n_bytes)

            send = partial(
                upload,
                client,
                source,
                unfinished,
                update,
                other_than=[*uploaded, *ids],
                on_found=partial(found.add, task),
            )
            id = send()
            progress.update(task, description=f"{name}: checking")
            recording = wait_for_recording(client, id)
            if is_duplicate(recording):  # another command uploaded it at the same time
                unfinished.forget(source.key(client.url))
                id = send()
                recording = wait_for_recording(client, id)
            if recording["state"] == "refused":
                unfinished.forget(source.key(client.url))
                progress.console.print(
                    f"Recording {id} is kept for now; to check it again, run:\n"
                    f"fieldscribe recording retry {id}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
                raise UnusableRecording(source.path.name, recording)
            length = clock(recording["duration"])
            before = ", uploaded before" if task in found else ""
            progress.update(task, description=f"{name}: {length} of audio{before}")
            ids.append(id)
    return ids


def is_duplicate(recording: dict[str, Any]) -> bool:
    return recording["refusal"] is not None and recording["refusal"]["code"] == DUPLICATE


def wait_for_recording(client: Client, recording_id: str) -> dict[str, Any]:
    """Wait until the service has checked a recording: its state is `ready` or `refused`."""
    while True:
        recording: dict[str, Any] = client.get(f"/v1/recordings/{recording_id}", wait=POLL_SECONDS)
        if recording["state"] not in UNCHECKED_STATES:
            return recording
