"""`fieldscribe backup | restore`: on the machine of the service, without its API."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import AsJson, errors_as_sentences, print_json
from service.settings import read_settings


def backup_command(
    keys_to: Annotated[
        Path,
        typer.Option(help="Folder for the keys, on another disk than the rest."),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(help="Folder for the database and the vault; without it, only keys."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Back up the database and the vault, and the keys apart from them. The service may run."""
    from service.backup import back_up

    with errors_as_sentences(as_json):
        made = back_up(read_settings(), out, keys_to)
    if as_json:
        print_json({"data": None if made.data is None else str(made.data), "keys": str(made.keys)})
        return
    if made.data is not None:
        typer.echo(str(made.data))
    typer.echo(str(made.keys))


def restore_command(
    archive: Annotated[Path, typer.Argument(help="fieldscribe-....tar, as `backup` made it.")],
    keys_from: Annotated[Path, typer.Option(help="fieldscribe-keys-....tar; the newest there is.")],
    as_json: AsJson = False,
) -> None:
    """Restore a backup into empty folders; what was erased since then is erased again."""
    from service.backup import restore

    with errors_as_sentences(as_json):
        done = restore(read_settings(), archive, keys_from)
    if as_json:
        print_json(vars(done))
        return
    typer.echo(
        f"restored {done.artefacts} artefacts and {done.keys} keys; "
        f"{done.erased_again} things that had been erased since are gone again"
    )
