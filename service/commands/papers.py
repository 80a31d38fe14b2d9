"""`fieldscribe papers`: papers about a study, written from what is recorded."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from service.commands.connection import connect
from service.commands.console import printable
from service.commands.options import StudyArgument, Yes
from service.commands.release import save
from service.commands.transcript import confirm_overwriting

Paper = Literal["methods", "data_management", "ethics", "participants"]


def papers_command(
    study: StudyArgument,
    paper: Annotated[
        Paper,
        typer.Argument(
            metavar="PAPER",
            help="methods, data_management, ethics (an annex for a committee) or participants "
            "(a text for the information sheet).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Save a Word document instead of printing.", dir_okay=False
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """Print a paper about a study, written from what is recorded.

    It says nothing that is not recorded: check what it lacks before you use it.
    """
    if out is not None:
        confirm_overwriting(out, yes=yes)
    with connect(as_json=False) as client:
        format = "txt" if out is None else "docx"
        answer = client.request("GET", f"/v1/studies/{study}/papers/{paper}?format={format}")
    if out is None:
        for line in answer.text.splitlines():
            typer.echo("\t".join(map(printable, line.split("\t"))))
    else:
        save(out, answer.content)
        typer.echo(f"Saved {printable(str(out))}", err=True)
