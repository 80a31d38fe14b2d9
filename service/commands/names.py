"""Jobs and sessions by the code of the session, `INT-07`, or with its study, `PEER/INT-07`.

ServiceError
└── Misused
    ├── NameAmbiguous
    └── SessionWithoutJob
"""

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar

import typer

from service.commands.client import Client
from service.errors import Misused, SessionNotFound

STUDY_CODE = r"[A-Z][A-Z0-9]{0,11}(-[A-Z0-9]{1,11}){0,2}"
SESSION_CODE = r"[A-Z]{1,8}-[0-9]{1,4}"
NAME = re.compile(f"(?:({STUDY_CODE})/)?({SESSION_CODE})")


class NameAmbiguous(Misused):
    """The name matches several sessions or jobs."""

    code: ClassVar[str] = "name_ambiguous"


class SessionWithoutJob(Misused):
    """The session has no job yet."""

    code: ClassVar[str] = "session_without_job"


def check_name(list_command: str) -> Callable[[str], str]:
    """A callback that refuses anything but an id or a session's code, before it is sent."""

    def check(text: str) -> str:
        text = text.strip()
        if NAME.fullmatch(text.upper()):
            return text.upper()
        try:
            return str(uuid.UUID(text))
        except ValueError:
            raise typer.BadParameter(
                "this is neither the code of a session, such as INT-07, nor an id of 36 "
                f"characters; `{list_command}` shows them"
            ) from None

    return check


JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="Code of a session, such as INT-07 or PEER/INT-07, for its newest job; or the id of "
        "a job.",
        callback=check_name("fieldscribe jobs"),
    ),
]
SessionName = Annotated[
    str,
    typer.Argument(
        metavar="SESSION",
        help="Code of a session, such as INT-07 or PEER/INT-07; or its id.",
        callback=check_name("fieldscribe session list"),
    ),
]


def study_codes(client: Client) -> dict[str, str]:
    """The codes of the caller's studies, by id."""
    return {study["id"]: study["code"] for study in client.list_all("/v1/studies")}


def find_session(client: Client, name: str) -> dict[str, Any]:
    """
    Args:
        name: as `check_name` returns it.

    Raises:
        SessionNotFound, NameAmbiguous
    """
    match = NAME.fullmatch(name)
    if match is None:
        session: dict[str, Any] = client.get(f"/v1/sessions/{name}")
        return session
    study, code = match[1], match[match.lastindex or 0]
    found = [each for each in client.list_all("/v1/sessions", study=study) if each["code"] == code]
    if not found:
        raise SessionNotFound(
            f"None of your sessions has the code {code}: `fieldscribe session list` shows them."
        )
    if len(found) > 1:
        codes = study_codes(client)
        names = sorted(f"{codes.get(each['study_id'], '?')}/{code}" for each in found)
        raise NameAmbiguous(f"Several studies have a session {code}: write {' or '.join(names)}.")
    return found[0]


def find_job(client: Client, name: str) -> str:
    """The id of a job: of the newest one if a session is named.

    Raises:
        SessionNotFound, NameAmbiguous, SessionWithoutJob
    """
    if NAME.fullmatch(name) is None:
        return name
    newest: str = next(_jobs_of(client, name))["id"]
    return newest


def find_only_job(client: Client, name: str) -> str:
    """The id of a job to delete; a session with several jobs is ambiguous.

    Raises:
        SessionNotFound, NameAmbiguous, SessionWithoutJob
    """
    if NAME.fullmatch(name) is None:
        return name
    ids = [job["id"] for job in _jobs_of(client, name)]
    if len(ids) > 1:
        raise NameAmbiguous(f"{name} has {len(ids)} jobs: name one by its id: {', '.join(ids)}.")
    return str(ids[0])


def find_finished_job(client: Client, name: str) -> str:
    """The id of a job: of the newest one with a transcript if a session is named, else the newest.

    Raises:
        SessionNotFound, NameAmbiguous, SessionWithoutJob
    """
    if NAME.fullmatch(name) is None:
        return name
    newest, *_ = jobs = list(_jobs_of(client, name))
    finished = next((job for job in jobs if job["transcript_id"] is not None), newest)
    if finished is not newest:
        typer.echo(
            f"{name}: this is the transcript of {finished['created_at'][:10]}; a newer job is "
            f"{newest['status']}.",
            err=True,
        )
    id: str = finished["id"]
    return id


def _jobs_of(client: Client, name: str) -> Iterator[dict[str, Any]]:
    """The jobs of a session, newest first; at least one.

    Raises:
        SessionNotFound, NameAmbiguous, SessionWithoutJob
    """
    session = find_session(client, name)
    jobs = client.list_all("/v1/jobs", session=session["id"])
    first = next(jobs, None)
    if first is None:
        raise SessionWithoutJob(f"The session {name} has no job yet.")
    yield first
    yield from jobs
