"""`fieldscribe deposit`: releases for a data archive, with metadata and checksums."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.connection import connect
from service.commands.console import printable
from service.commands.options import StudyArgument, Yes
from service.commands.release import check_formats, save
from service.commands.transcript import confirm_overwriting


def deposit_command(
    study: StudyArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Zip file to write.", dir_okay=False)],
    title: Annotated[str, typer.Option(metavar="TEXT", help="Title of the data.")],
    creator: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="Who made the data: 'Doe, Jane'. Repeatable."),
    ],
    abstract: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Text file that describes the study.", dir_okay=False),
    ],
    rights: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Licence, or the archive's conditions of access."),
    ],
    keyword: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Repeatable.")] = None,
    funder: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Repeatable.")] = None,
    contact: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Whom the archive may ask.")
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT",
            help="Formats of the transcripts; repeatable. By default docx and txt.",
            callback=check_formats,
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """Save a study's releases as a deposit for a data archive.

    The zip file is a bag (BagIt 1.0) with the newest release of each transcript that was made for a
    repository or a publication, its residual-risk report, metadata (DDI-Codebook and Dublin Core),
    a README and checksums. It is not encrypted.
    """
    confirm_overwriting(out, yes=yes)
    try:
        described = abstract.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        raise typer.BadParameter("the abstract cannot be read as a text file in UTF-8") from None
    body = {
        "title": title,
        "creators": creator,
        "abstract": described,
        "rights": rights,
        "keywords": keyword or [],
        "funders": funder or [],
        "contact": contact,
        "formats": format or ["docx", "txt"],
    }
    with connect(as_json=False) as client:
        answer = client.request("POST", f"/v1/studies/{study}/deposit", json=body)
        save(out, answer.content)
    typer.echo(f"Saved {printable(str(out))}", err=True)
