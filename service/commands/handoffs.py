"""`fieldscribe handoffs`: how far de-identification has come with each transcript."""

from typing import Annotated

import typer

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
            help="List only those that are open, claimed, completed or failed; repeatable.",
        ),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List the transcripts that were handed to de-identification, newest first."""
    with connect(as_json) as client:
        page = client.list_some(
            "/v1/handoffs", limit=limit, cursor=cursor, study=study, status=status
        )
        studies = {} if as_json else study_codes(client)
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (
                studies.get(handoff["study_id"], ""),
                handoff["status"],
                handoff["failure_code"] or "",
                handoff["created_at"][:16].replace("T", " "),
                (handoff["finished_at"] or "")[:16].replace("T", " "),
            ),
            handoff["transcript_id"],
        )
        for handoff in page["items"]
    ]
    print_table(
        ("study", "status", "reason", "created (UTC)", "finished (UTC)"), rows, "transcript"
    )
