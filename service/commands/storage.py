"""`fieldscribe storage copy`: run on the service's machine, without its API."""

from enum import StrEnum
from typing import Annotated

import typer

from service.commands.console import print_json, report_errors
from service.commands.extras import require_packages
from service.commands.options import AsJson
from service.settings import read_settings

app = typer.Typer(help="Move the vault between a folder and S3-compatible storage.")


class Target(StrEnum):
    FOLDER = "folder"
    S3 = "s3"


@app.command("copy")
def copy_command(
    to: Annotated[Target, typer.Option("--to", help="Storage to copy to.")],
    as_json: AsJson = False,
) -> None:
    """Copy the vault to the other storage and compare checksums.

    It is copied from the storage in use, which FIELDSCRIBE_STORAGE names. Run it again after an
    interruption: artefacts that are there already are only compared.
    """
    with report_errors(as_json):
        require_packages("storage", "server")
        from service.storage import copy_vault

        copied = copy_vault(read_settings(), to.value)
    if as_json:
        print_json(vars(copied))
        return
    typer.echo(
        f"copied {copied.copied} artefacts ({copied.n_bytes} bytes) and read each of them back; "
        f"{copied.present} were there already"
    )
    typer.echo(f"To use them, stop the service, copy once more, and set FIELDSCRIBE_STORAGE={to}.")
