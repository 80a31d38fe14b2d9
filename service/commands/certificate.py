"""`fieldscribe certificate`: list, save, show and verify certificates."""

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from service.commands.connection import connect
from service.commands.console import (
    Commands,
    Row,
    print_json,
    print_table,
    printable,
    report_errors,
)
from service.commands.extras import require_packages
from service.commands.options import AsJson, StudyOption, Yes, check_id
from service.commands.release import save
from service.commands.transcript import confirm_overwriting
from service.errors import Misused
from service.exports.certificates import certificate_text

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Certificates of what was removed.",
)
CertificateId = Annotated[
    str,
    typer.Argument(
        metavar="CERTIFICATE",
        help="Id of a certificate.",
        callback=check_id("fieldscribe certificate list"),
    ),
]


class CertificateUnreadable(Misused):
    """The certificate's file does not exist or cannot be read."""

    code: ClassVar[str] = "certificate_unreadable"


@app.command("list")
def list_command(study: StudyOption = None, as_json: AsJson = False) -> None:
    """List certificates, newest first."""
    with connect(as_json) as client:
        found = client.get("/v1/certificates", study=study)
    if as_json:
        print_json(found)
        return
    rows = [
        Row(
            [
                each["kind"],
                each["subject"],
                each["created_at"][:16].replace("T", " "),
                "yes" if each["complete"] else "NO",
            ],
            each["id"],
        )
        for each in found["items"]
    ]
    print_table(["kind", "about", "issued (UTC)", "complete"], rows, "id")


@app.command("show")
def show_command(certificate: CertificateId) -> None:
    """Print a certificate."""
    with connect(as_json=False) as client:
        answer = client.request("GET", f"/v1/certificates/{certificate}")
    print_certificate(answer.content)


@app.command("save")
def save_command(
    certificate: CertificateId,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.", dir_okay=False)],
    format: Annotated[
        Literal["json", "pdf"] | None,
        typer.Option(help="json is signed; pdf is for reading. By default the file's ending."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Save a certificate as signed JSON or as PDF."""
    confirm_overwriting(out, yes=yes)
    chosen = format or ("pdf" if out.suffix.lower() == ".pdf" else "json")
    with connect(as_json=False) as client:
        answer = client.request("GET", f"/v1/certificates/{certificate}?format={chosen}")
        save(out, answer.content)
    typer.echo(f"Saved {printable(str(out))}", err=True)


@app.command("key")
def key_command(as_json: AsJson = False) -> None:
    """Print the public key of this installation's certificates."""
    with connect(as_json) as client:
        found = client.get("/v1/certificates/public-key")
    if as_json:
        print_json(found)
        return
    typer.echo(found["public_key"])
    typer.echo(f"fingerprint {found['fingerprint']}", err=True)


@app.command("verify")
def verify_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The JSON file of a certificate.")],
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Public key of the installation, from `fieldscribe certificate key`.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a certificate's signature and print it; needs no service.

    Without --key it says which key has signed: compare its fingerprint with the installation's.
    """
    with report_errors(as_json):
        require_packages("certificate verify", "server")
        from service import signing

        try:
            content = file.read_bytes()
        except OSError as error:
            raise CertificateUnreadable(
                f"The certificate cannot be read ({error.strerror})."
            ) from None
        verified = signing.verify(content, key)
        fingerprint = signing.fingerprint(verified.public_key)
    if as_json:
        print_json(
            {
                "trusted": key is not None,
                "public_key": verified.public_key,
                "fingerprint": fingerprint,
                "document": verified.document,
            }
        )
        return
    typer.echo(f"The signature is right. Signed with the key {fingerprint}", err=True)
    if key is None:
        typer.echo("Compare it with the installation's: `fieldscribe certificate key`", err=True)
    print_lines(certificate_text(verified.document))


def print_certificate(content: bytes) -> None:
    """
    Args:
        content: the signed JSON.
    """
    print_lines(certificate_text(json.loads(json.loads(content)["document"])))


def print_lines(text: str) -> None:
    for line in text.splitlines():
        typer.echo(printable(line))
