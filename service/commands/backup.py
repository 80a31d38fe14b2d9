"""`fieldscribe backup | restore`: run on the service's machine, without its API."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import print_json, printable, report_errors
from service.commands.extras import require_packages
from service.commands.options import AsJson
from service.settings import read_settings


def backup_command(
    keys_to: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Folder for the keys, on another disk than OUT."),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            help="Folder for the database and the vault; without it, only keys are backed up.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Back up database, vault and keys.

    The keys are stored apart from the rest. The service may keep running.
    """
    with report_errors(as_json):
        require_packages("backup", "server")
        from service.backup import back_up

        archives = back_up(read_settings(), out, keys_to)
    if as_json:
        data = None if archives.data is None else str(archives.data)
        print_json({"data": data, "keys": str(archives.keys)})
        return
    if archives.data is not None:
        typer.echo(printable(str(archives.data)))
    typer.echo(printable(str(archives.keys)))


def restore_command(
    archive: Annotated[
        Path, typer.Argument(metavar="ARCHIVE", help="The fieldscribe-....tar of a backup.")
    ],
    keys_from: Annotated[
        Path,
        typer.Option(metavar="ARCHIVE", help="The newest fieldscribe-keys-....tar that exists."),
    ],
    as_json: AsJson = False,
) -> None:
    """Restore a backup into empty folders.

    Everything that was erased since the backup is erased again.
    """
    with report_errors(as_json):
        require_packages("restore", "server")
        from service.backup import restore

        restored = restore(read_settings(), archive, keys_from)
    if as_json:
        print_json(vars(restored))
        return
    typer.echo(
        f"restored {restored.artefacts} artefacts and {restored.keys} keys; "
        f"erased {restored.erased_again} items again that had been erased since the backup"
    )
    if restored.lost_audit_entries:
        typer.echo(
            f"{restored.lost_audit_entries} entries of the audit trail are lost, which were "
            "written after the backup; the trail says so"
        )
    for missing in restored.missing:
        typer.echo(f"not in the backup: {missing}")
