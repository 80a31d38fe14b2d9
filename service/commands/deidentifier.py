"""`fieldscribe deidentifier`: run the reference de-identification stage."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import report_errors
from service.commands.deidentify import NamedEntityModel
from service.settings import read_settings


def deidentifier_command(
    model: NamedEntityModel = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the model weights.")
    ] = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when no transcript is waiting.")
    ] = False,
) -> None:
    """Run one de-identifier.

    It proposes the identifying spans of finished transcripts. `serve` starts one. Its token needs
    the role deidentifier.
    """
    with report_errors(as_json=False):
        settings = read_settings(weights=weights, deidentifier_model=model)
        from service.deidentifier import process

        exit_code = process.main(settings, until_idle=until_idle)
    raise typer.Exit(exit_code)
