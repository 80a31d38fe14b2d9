"""`fieldscribe token | unseal`: who may use the service, and opening the vault."""

import sys
from typing import Annotated

import typer

from service.commands.client import drop_none
from service.commands.connection import connect
from service.commands.console import Row, print_json, print_table
from service.commands.names import study_codes
from service.commands.options import (
    AccessEnd,
    AccessStudies,
    AllStudies,
    AsJson,
    Cursor,
    Limit,
    check_id,
)

token_app = typer.Typer(no_args_is_help=True, help="Create, list and revoke access tokens.")


@token_app.command("create")
def create_token(
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE",
            help="researcher, coder, listener, custodian, deidentifier, admin, owner or worker.",
        ),
    ],
    study: AccessStudies = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What it is for: a machine or a purpose, such as upload-laptop."
        ),
    ] = None,
    all_studies: AllStudies = False,
    expires: AccessEnd = None,
    as_json: AsJson = False,
) -> None:
    """Create a token and print its secret.

    The secret is printed only this once: it cannot be looked up later.
    """
    with connect(as_json) as client:
        fields = {"role": role, "studies": study or [], "all_studies": all_studies}
        optional = drop_none({"name": name, "expires_at": expires or None})
        token = client.post("/v1/tokens", fields | optional)
    if token["warning"]:
        typer.echo(f"Warning: {token['warning']}.", err=True)
    print_json(token) if as_json else typer.echo(token["secret"])


@token_app.command("list")
def list_tokens(limit: Limit = 200, cursor: Cursor = None, as_json: AsJson = False) -> None:
    """List all tokens, newest first, without their secrets."""
    with connect(as_json) as client:
        page = client.list_some("/v1/tokens", limit=limit, cursor=cursor)
        codes = {} if as_json else study_codes(client)
    if as_json:
        print_json(page)
        return
    rows = []
    for token in page["items"]:
        present = [codes[id] for id in token["studies"] if id in codes]  # the others were erased
        studies = "all" if token["all_studies"] else " ".join(present) or "none"
        expires = "revoked" if token["revoked_at"] else (token["expires_at"] or "")[:10]
        cells = (
            token["display_name"] or token["name"] or "",
            token["role"],
            studies,
            token["created_at"][:10],
            (token["last_used_at"] or "never")[:16].replace("T", " "),
            expires,
        )
        rows.append(Row(cells, token["id"]))
    print_table(("name", "role", "studies", "created", "last use", "expires"), rows, "token")


@token_app.command("revoke")
def revoke_token(
    token_id: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN",
            help="Id of the token, as `fieldscribe token list` shows it.",
            callback=check_id("fieldscribe token list"),
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Revoke a token. It stops working at once."""
    with connect(as_json) as client:
        revoked = client.delete(f"/v1/tokens/{token_id}")
    print_json(revoked) if as_json else typer.echo("revoked")


def unseal_command(as_json: AsJson = False) -> None:
    """Open the vault with its passphrase.

    Asks for the passphrase, or reads it from standard input.
    """
    passphrase = read_passphrase(confirm=False)
    with connect(as_json) as client:
        client.post("/v1/unseal", {"passphrase": passphrase})
    print_json({"sealed": False}) if as_json else typer.echo("unsealed")


def read_passphrase(*, confirm: bool) -> str:
    """Prompt at a terminal, else read a line. Never an option: others can read command lines."""
    if sys.stdin.isatty():
        return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm))
    return sys.stdin.readline().rstrip("\n")
