"""Output that all commands share: JSON, tables, durations, and errors as one-line messages."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.status import Status
from typer.core import TyperGroup

from models.errors import OptionError, SpeechError
from service.commands.client import Refused
from service.errors import Misused, ServiceError

STAGE_LABELS = {
    "ingest": "reading",
    "segment": "finding speech",
    "transcribe": "transcribing",
    "align": "timing words",
    "diarise": "telling speakers apart",
    "attribute": "assigning words",
    "check": "checking",
    "wait": "waiting for other runs",
}

WIDE = 100  # columns of a terminal that has room for a progress bar
UsageError: Any = typer.BadParameter.__bases__[0]  # typer exports no name for it


def printable(name: str) -> str:
    """A name with escapes for what could control a terminal or is not UTF-8, such as `\\xfc`.

    Every name that is printed must go through this.
    """
    return "".join(map(_printable_character, name))


def _printable_character(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def confirm(question: str) -> None:
    """Ask at the terminal whether to go ahead. For commands that have the option --yes.

    Raises:
        typer.Abort: the answer was no, or there was none.
    """
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        if not sys.stdin.isatty():
            typer.echo(" There is no terminal to answer at: add --yes.", err=True)
        raise
    if not agreed:
        raise typer.Abort


class Commands(TyperGroup):
    """The commands of an app, whose usage errors cannot control the terminal.

    They quote arguments, and a shell's `*` may have put any file's name among these.
    """

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _printable_usage_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _printable_usage_errors():
            return super().invoke(ctx)


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # its message is the help, which has lines
            error.message = printable(error.message).removeprefix("Value error, ")
        raise


def describe_seconds(seconds: float) -> str:
    """A rough duration: `12 s`, `3 min`, `1 h 20 min`."""
    if seconds < 59.5:
        return f"{max(seconds, 1.0):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells, and an id that gets a separate line if needed."""

    cells: Sequence[str]
    id: str = ""


def print_table(titles: Sequence[str], rows: Iterable[Row], id_title: str = "") -> None:
    """Print a table that fits the terminal and cuts nothing.

    Into a file or a wide terminal, each row is one line and the id its last cell. In a terminal of
    80 columns the id has a line of its own, and in a narrower one every cell has.
    """
    lines = list(table_lines(titles, list(rows), id_title, terminal_width()))
    typer.echo("\n".join(lines))


def terminal_width() -> int | None:
    """Columns of the terminal that standard output goes to; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table_lines(
    titles: Sequence[str], rows: Sequence[Row], id_title: str, width: int | None
) -> Iterator[str]:
    titles = [*titles, *([id_title] if id_title else [])]
    whole = [[printable(cell) for cell in row.cells] + [row.id] * bool(id_title) for row in rows]
    without_id = [cells[:-1] for cells in whole] if id_title else whole
    if width is None or _table_width(titles, whole) <= width:
        yield from _aligned(titles, whole)
    elif id_title and _table_width(titles[:-1], without_id) <= width:
        header, *lines = _aligned(titles[:-1], without_id)
        yield header
        for line, row in zip(lines, rows, strict=True):
            yield line
            yield f"  {row.id}"
    else:
        for cells in whole:
            yield from (f"{title}: {cell}" for title, cell in zip(titles, cells, strict=True))
            yield ""


def _table_width(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(widths := _column_widths(titles, rows)) + 2 * (len(widths) - 1)


def _column_widths(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]


def _aligned(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = _column_widths(titles, rows)
    for cells in (titles, *rows):
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)
        )
        yield "  ".join(padded).rstrip()


def show_activity(activity: str) -> Status:
    """A context that shows what is being done, on standard error if that is a terminal."""
    return Console(stderr=True).status(activity)


@contextmanager
def report_errors(as_json: bool) -> Iterator[None]:
    """Print a known error as `code: message` and exit: 2 for misuse, 130 for Ctrl-C, else 1."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(130) from None
    except (SpeechError, ServiceError) as error:
        if as_json:
            print_json({"error": {"code": error.code, "message": str(error)}})
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, (OptionError, Misused)) else 1) from None
    except Refused as refusal:
        if as_json:
            print_json({"error": refusal.problem})
        typer.echo(f"{refusal.code}: {explain_problem(refusal.problem)}", err=True)
        raise typer.Exit(2 if refusal.status in (400, 422) else 1) from None


_STUDY_HINT = "A study is named by its code (PEER) or its id: `fieldscribe study list` shows both."
FIELD_HINTS = {
    "study": _STUDY_HINT,
    "studies": _STUDY_HINT,
    "session": "A session is named by its code, such as INT-07 or FG-1, or by its id.",
    "code": "A study's code is capitals and digits, such as PEER; a session's is capitals, a "
    "hyphen and a number, such as INT-07 or FG-1.",
    "model": "A model is named as `fieldscribe models list` shows it.",
    "speakers": "The number of speakers is 1 to 20, or a range within that: 2-4.",
    "channels": "Channels are auto, mix, split or parallel.",
    "passphrase": "The passphrase is missing or too long.",
    "roster": "Each line of a roster is a code such as P01 and a role: interviewer, participant, "
    "moderator, observer or other.",
    "vocabulary": "A vocabulary has at most 500 lines of at most 100 characters each.",
    "recordings": "A job has at most 100 recordings, each listed once.",
    "from": "The stage is ingest, segment, transcribe, align, diarise, attribute or check.",
    "status": "The status is queued, running, cancelling, waiting, succeeded, failed, cancelled or "
    "erased.",
    "role": "The role is researcher, coder, listener, custodian, deidentifier, admin, owner or "
    "worker.",
    "reason": "The reason is review, release, withdrawal, member_checking, duty_of_care, "
    "correction, audit or export.",
    "pseudonym": "A pseudonym is a code, such as P07, I1 or PLACE-1.",
    "pseudonyms": "A pseudonym is a code, such as P07, I1 or PLACE-1.",
    "kind": "The kind is participant, interviewer, person, organisation, place, other or allowed.",
    "deidentification": "Dates are keep_year, shift or generalise; names are codes or chosen; a "
    "custodian's key is a public key of age: age1...",
    "expires_at": "The expiry is a time in the future with its time zone: 2031-12-31T23:59:59Z.",
}
"""Valid values of the request fields that commands fill in from their options."""


def explain_problem(problem: dict[str, Any]) -> str:
    """The valid values of the fields that the API refused, else its own explanation."""
    fields = [field["where"] for field in problem.get("errors") or []]
    names = dict.fromkeys((where.split(".") + [""])[1] for where in fields)
    hints = [FIELD_HINTS[name] for name in names if name in FIELD_HINTS]
    if len(hints) == len(names) > 0:
        return " ".join(dict.fromkeys(hints))
    if fields:
        places = ", ".join(where.partition(".")[2] or where for where in fields)
        return f"The service refused these parts of the request: {places}."
    return str(problem["detail"])
