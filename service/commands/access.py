"""`fieldscribe token | study | unseal`: who may, what for, and opening the vault."""

import sys
from typing import Annotated

import typer
from rich.table import Table

from service.commands.console import AsJson, asked_language, id_of, print_json, print_table
from service.commands.jobs import api

token_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke tokens.")
study_app = typer.Typer(no_args_is_help=True, help="Make and list studies.")


@token_app.command("create")
def create_token(
    role: Annotated[
        str,
        typer.Option(help="researcher, coder, custodian, deidentifier, admin, owner or worker."),
    ],
    study: Annotated[
        list[str] | None, typer.Option(help="Code of a study; may be given several times.")
    ] = None,
    all_studies: Annotated[
        bool, typer.Option("--all-studies", help="Also those that are made later.")
    ] = False,
    expires: Annotated[
        str | None, typer.Option(help="End, as 2031-12-31T23:59:59Z.", metavar="TIME")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. Its secret is printed this once: nobody can look it up later."""
    with api(as_json) as client:
        body = {"role": role, "studies": study or [], "all_studies": all_studies}
        made = client.post("/v1/tokens", body | ({"expires_at": expires} if expires else {}))
    print_json(made) if as_json else typer.echo(made["secret"])


@token_app.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """Show all tokens, without their secrets."""
    with api(as_json) as client:
        items = client.get("/v1/tokens")["items"]
        codes = {study["id"]: study["code"] for study in client.get("/v1/studies")["items"]}
    if as_json:
        print_json(items)
        return
    table = Table("token", "role", "studies", "ends", box=None)
    for token in items:
        studies = (
            "all"
            if token["all_studies"]
            else " ".join(
                codes[id]
                for id in token["studies"]
                if id in codes  # else erased
            )
        )
        ends = "revoked" if token["revoked_at"] else (token["expires_at"] or "")[:10]
        table.add_row(token["id"], token["role"], studies, ends)
    print_table(table)


@token_app.command("revoke")
def revoke_token(
    token_id: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN",
            help="Id, as `list` shows it.",
            callback=id_of("fieldscribe token list"),
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Have a token refused from now on."""
    with api(as_json) as client:
        revoked = client.delete(f"/v1/tokens/{token_id}")
    print_json(revoked) if as_json else typer.echo("revoked")


@study_app.command("create")
def create_study(
    code: Annotated[str, typer.Argument(metavar="CODE", help="Capitals and digits: PEER.")],
    language: Annotated[
        str | None, typer.Option(help="Of its recordings: en, de, nl, ...; found by default.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whisper model of its jobs; the service's by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a study and its keys."""
    with api(as_json) as client:
        wish = {"code": code, "language": asked_language(language), "model": model}
        made = client.post("/v1/studies", wish)
    print_json(made) if as_json else typer.echo(made["id"])


@study_app.command("list")
def list_studies(as_json: AsJson = False) -> None:
    """Show the studies that your token may see."""
    with api(as_json) as client:
        items = client.get("/v1/studies")["items"]
    if as_json:
        print_json(items)
        return
    table = Table("code", "language", "model", "id", box=None)
    for study in items:
        table.add_row(study["code"], study["language"] or "", study["model"] or "", study["id"])
    print_table(table)


def unseal_command(as_json: AsJson = False) -> None:
    """Open the vault with its passphrase, which is asked for or read from standard input."""
    passphrase = read_passphrase(confirm=False)
    with api(as_json) as client:
        client.post("/v1/unseal", {"passphrase": passphrase})
    print_json({"sealed": False}) if as_json else typer.echo("unsealed")


def read_passphrase(*, confirm: bool) -> str:
    """Never an option: command lines are read by others."""
    if sys.stdin.isatty():
        return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm))
    return sys.stdin.readline().rstrip("\n")
