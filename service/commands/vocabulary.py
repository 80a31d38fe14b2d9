"""`fieldscribe vocabulary`: the names and terms to expect in a study's recordings."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.connection import connect
from service.commands.console import print_json, printable
from service.commands.lists import read_vocabulary
from service.commands.options import AsJson, StudyArgument

app = typer.Typer(
    no_args_is_help=True, help="Show or replace the names and terms that a study expects."
)


@app.command("show")
def show_command(code: StudyArgument, as_json: AsJson = False) -> None:
    """Print the names and terms of a study, one per line."""
    with connect(as_json) as client:
        vocabulary = client.get(f"/v1/studies/{code}/vocabulary")
    if as_json:
        print_json(vocabulary)
        return
    for word in vocabulary["words"]:
        typer.echo(printable(word))


@app.command("set")
def set_command(
    code: StudyArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Text file of names and terms, one per line; an empty file removes them all.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Replace the names and terms that the study's jobs expect.

    Jobs that are already submitted keep theirs.
    """
    with connect(as_json) as client:
        words = list(read_vocabulary(file))
        path = f"/v1/studies/{code}/vocabulary"
        vocabulary = client.request("PUT", path, json={"words": words}).json()
    if as_json:
        print_json(vocabulary)
        return
    n = len(vocabulary["words"])
    typer.echo("1 word or phrase" if n == 1 else f"{n} words or phrases")
