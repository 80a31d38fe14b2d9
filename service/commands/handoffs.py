"""`fieldscribe handoffs`: the progress of de-identification for each transcript."""

from typing import Annotated, Any

import typer

from service.commands.client import Client, Refused
from service.commands.connection import connect
from service.commands.console import Row, print_json, print_table
from service.commands.names import study_codes
from service.commands.options import AsJson, Cursor, Limit, StudyOption


def handoffs_command(
    study: StudyOption = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS",
            help="List only hand-offs that are open, claimed, completed or failed; repeatable.",
        ),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List transcripts handed to de-identification, newest first."""
    with connect(as_json) as client:
        page = client.list_some(
            "/v1/handoffs", limit=limit, cursor=cursor, study=study, status=status
        )
        studies = {} if as_json else study_codes(client)
        sessions = {} if as_json else sessions_of_transcripts(client, study)
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (
                studies.get(handoff["study_id"], ""),
                sessions.get(handoff["transcript_id"], ""),
                _status(handoff),
                handoff["failure_code"] or "",
                handoff["created_at"][:16].replace("T", " "),
                (handoff["finished_at"] or "")[:16].replace("T", " "),
            ),
            handoff["transcript_id"],
        )
        for handoff in page["items"]
    ]
    print_table(
        ("study", "session", "status", "reason", "created (UTC)", "finished (UTC)"),
        rows,
        "transcript",
    )


def sessions_of_transcripts(client: Client, study: str | None) -> dict[str, str]:
    """The code of the session of each transcript, by id; empty for a de-identifier's token."""
    try:
        codes = {each["id"]: each["code"] for each in client.list_all("/v1/sessions", study=study)}
        jobs = list(client.list_all("/v1/jobs", study=study))
    except Refused as refused:
        if refused.code != "not_allowed":
            raise
        return {}
    return {job["transcript_id"]: codes.get(job["session_id"], "(none)") for job in jobs}


def _status(handoff: dict[str, Any]) -> str:
    """The status, with the stage if it is not the default one."""
    stage = handoff["stage"]
    return f"{handoff['status']} ({stage})" if stage != "default" else str(handoff["status"])
