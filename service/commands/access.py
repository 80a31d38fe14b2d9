"""`fieldscribe token | study | unseal`: who may use the service, its studies, opening the vault."""

import re
import sys
from typing import Annotated

import typer
from rich.table import Table

from service.commands.client import drop_none
from service.commands.connection import connect
from service.commands.console import print_json, print_table
from service.commands.options import AsJson, check_id, language_option, requested_language

token_app = typer.Typer(no_args_is_help=True, help="Create, list and revoke access tokens.")
study_app = typer.Typer(no_args_is_help=True, help="Create and list studies.")


@token_app.command("create")
def create_token(
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE",
            help="researcher, coder, custodian, deidentifier, admin, owner or worker.",
        ),
    ],
    study: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Code of a study it gives access to; repeatable."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What it is for: a machine or a purpose, such as upload-laptop."
        ),
    ] = None,
    all_studies: Annotated[
        bool,
        typer.Option("--all-studies", help="Give access to all studies, future ones included."),
    ] = False,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it stops working, such as 2031-12-31T23:59:59Z."),
    ] = None,
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
def list_tokens(as_json: AsJson = False) -> None:
    """List all tokens, without their secrets."""
    with connect(as_json) as client:
        items = client.get("/v1/tokens")["items"]
        codes = {study["id"]: study["code"] for study in client.get("/v1/studies")["items"]}
    if as_json:
        print_json(items)
        return
    table = Table("token", "name", "role", "studies", "created", "last use", "expires", box=None)
    for token in items:
        present = [codes[id] for id in token["studies"] if id in codes]  # the others were erased
        studies = "all" if token["all_studies"] else " ".join(present) or "none"
        expires = "revoked" if token["revoked_at"] else (token["expires_at"] or "")[:10]
        table.add_row(
            token["id"],
            token["name"] or "",
            token["role"],
            studies,
            token["created_at"][:10],
            (token["last_used_at"] or "never")[:16].replace("T", " "),
            expires,
        )
    print_table(table)


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


@study_app.command("create")
def create_study(
    code: Annotated[str, typer.Argument(metavar="CODE", help="Capitals and digits, such as PEER.")],
    language: Annotated[str | None, language_option("it is detected in each recording")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whisper model for its jobs; by default, the service's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a study and its encryption keys. Prints its id."""
    with connect(as_json) as client:
        fields = {"code": code, "language": requested_language(language), "model": model}
        study = client.post("/v1/studies", fields)
    print_json(study) if as_json else typer.echo(study["id"])


def check_code(text: str) -> str:
    """Refuse anything but a code, because it becomes part of the request's path."""
    if not re.fullmatch("[A-Za-z0-9-]+", text):
        raise typer.BadParameter("a study is named by its code, such as PEER")
    return text


@study_app.command("allow")
def allow_admins(
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="Code of the study.", callback=check_code)
    ],
    admins_may_create: Annotated[
        list[str] | None,
        typer.Option(
            "--admins-may-create",
            metavar="ROLE",
            help="researcher, deidentifier or custodian; repeatable. Without it, none.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Allow admins to create tokens that read a study's content.

    Needs an owner's token. Replaces what was allowed before.
    """
    with connect(as_json) as client:
        body = {"admins_may_create": admins_may_create or []}
        study = client.request("PATCH", f"/v1/studies/{code}", json=body).json()
    allowed = " ".join(study["admins_may_create"]) or "none"
    print_json(study) if as_json else typer.echo(allowed)


@study_app.command("list")
def list_studies(as_json: AsJson = False) -> None:
    """List the studies that your token gives access to."""
    with connect(as_json) as client:
        items = client.get("/v1/studies")["items"]
    if as_json:
        print_json(items)
        return
    table = Table("code", "language", "model", "id", box=None)
    for study in items:
        table.add_row(study["code"], study["language"] or "", study["model"] or "", study["id"])
    print_table(table)


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
