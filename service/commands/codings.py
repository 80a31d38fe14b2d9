"""`fieldscribe merge-codings` and `move-codings`: compare codings, and move them to a release."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import (
    Row,
    confirm,
    print_json,
    print_table,
    printable,
    report_errors,
)
from service.commands.extras import require_packages
from service.commands.options import AsJson
from service.errors import OutputNotWritable
from service.exports.codings import Agreement, Comparison, compare, read_project
from service.exports.files import write_all_whole, write_whole
from service.exports.moved_codings import move_codings
from service.exports.table import BYTE_ORDER_MARK

CODINGS, AGREEMENT = "codings.csv", "agreement.csv"


def merge_codings_command(
    projects: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES",
            help="REFI-QDA projects (.qdpx), one for each coder; coders are named after the files.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the tables.", file_okay=False)
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite existing tables without asking.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare how several people coded the same transcripts.

    Writes their codes side by side, and for each code Cohen's kappa and Krippendorff's alpha.
    """
    if len({path.stem for path in projects}) < max(2, len(projects)):
        raise typer.BadParameter("give two or more files with different names", param_hint="FILES")
    with report_errors(as_json):
        require_packages("merge-codings", "coding")
        comparison = compare(list(map(read_project, projects)))
        existing = [name for name in (CODINGS, AGREEMENT) if (out / name).exists()]
        if existing and not yes:
            question = f"{printable(str(out / existing[0]))} exists already. Overwrite it?"
            confirm(question)
        try:
            out.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_all_whole(
                {
                    out / CODINGS: _table(_side_by_side(comparison)),
                    out / AGREEMENT: _table(_agreements(comparison)),
                }
            )
        except OSError as error:
            raise OutputNotWritable(f"The tables cannot be written ({error.strerror}).") from None
    if as_json:
        print_json([asdict(each) for each in comparison.agreements])
        return
    titles = ("code", *map(printable, comparison.coders), "agreed", "kappa", "alpha")
    print_table(titles, [_row(each, comparison.coders) for each in comparison.agreements])
    n_units = len(comparison.units)
    typer.echo(f"{n_units} paragraphs; tables: {printable(str(out))}", err=True)


def move_codings_command(
    coded: Annotated[
        Path,
        typer.Argument(
            metavar="CODED",
            help="REFI-QDA project (.qdpx) with codings of an earlier version of the texts.",
            show_default=False,
        ),
    ],
    new: Annotated[
        Path,
        typer.Argument(
            metavar="NEW",
            help="Project to add them to: `fieldscribe export STUDY --releases --format qdpx`.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Project to write.", dir_okay=False)],
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite an existing file without asking.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Move codings to a release or another version.

    The names of codes are kept: check that none of them names somebody.
    """
    with report_errors(as_json):
        if out.exists() and not yes:
            confirm(f"{printable(str(out))} exists already. Overwrite it?")
        content, counts = move_codings(read_project(coded), new)
        try:
            write_whole(out, content)
        except OSError as error:
            raise OutputNotWritable(f"The file cannot be written ({error.strerror}).") from None
    if as_json:
        print_json([asdict(each) for each in counts])
        return
    for each in counts:
        typer.echo(f"{printable(each.session)}: {each.moved} of {each.codings} codings moved")
    typer.echo("The names of codes are kept: check that none of them names somebody.", err=True)


def _row(agreement: Agreement, coders: Sequence[str]) -> Row:
    measures = ("-" if m is None else f"{m:.2f}" for m in (agreement.kappa, agreement.alpha))
    counts = (str(agreement.coded[coder]) for coder in coders)
    return Row((agreement.code, *counts, f"{agreement.agreed:.0%}", *measures))


def _side_by_side(comparison: Comparison) -> Iterable[Sequence[str]]:
    """A row for each paragraph and each code that somebody gave it."""
    yield ("source", "paragraph", "text", "code", *comparison.coders, "agreed")
    for unit in comparison.units:
        for code in sorted(set().union(*unit.codes.values())):
            given = [
                "" if coder not in unit.codes else "1" if code in unit.codes[coder] else "0"
                for coder in comparison.coders
            ]
            agreed = "1" if len(set(filter(None, given))) == 1 else "0"
            yield (unit.source, str(unit.number), unit.text, code, *given, agreed)


def _agreements(comparison: Comparison) -> Iterable[Sequence[str]]:
    measures = ("paragraphs", "agreed", "cohens_kappa", "krippendorffs_alpha")
    yield ("code", *comparison.coders, *measures)
    for each in comparison.agreements:
        counts = (str(each.coded[coder]) for coder in comparison.coders)
        shown = ("" if m is None else f"{m:.4f}" for m in (each.kappa, each.alpha))
        yield (each.code, *counts, str(each.units), f"{each.agreed:.4f}", *shown)


def _table(rows: Iterable[Sequence[str]]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return BYTE_ORDER_MARK + file.getvalue()
