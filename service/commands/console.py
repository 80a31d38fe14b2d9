"""What the commands of `fieldscribe` share: options, JSON, and errors as sentences."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer
from rich.console import Console
from rich.table import Table

from models.errors import OptionError, SpeechError
from models.languages import language_code
from models.roster import RosterEntry, read_line
from service.commands.client import Refused
from service.errors import Misused, RosterNotReadable, ServiceError, VocabularyNotReadable

MAX_LIST_BYTES = 1 << 20  # Whisper's prompt holds some two hundred words of a vocabulary
STAGE_LABELS = {
    "ingest": "reading",
    "segment": "finding speech",
    "transcribe": "transcribing",
    "align": "timing words",
    "diarise": "telling speakers apart",
    "attribute": "attributing words",
    "check": "checking",
}

TABLE_WIDTH = 120

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Translate = Annotated[bool, typer.Option("--translate", help="Into English, whatever is spoken.")]
MixedLanguages = Annotated[
    bool,
    typer.Option(
        "--mixed-languages", help="Stretches of 30 s may be in another language than the rest."
    ),
]


def default_weights_folder() -> Path:
    return platformdirs.user_data_path("fieldscribe") / "weights"


WeightsFolder = Annotated[
    Path,
    typer.Option(
        "--weights",
        envvar="FIELDSCRIBE_WEIGHTS",
        file_okay=False,
        default_factory=default_weights_folder,
        show_default="the user's data folder",
        help="Folder of the weights.",
    ),
]


def asked_language(name: str | None) -> str | None:
    """The API's code for what somebody typed; `auto`, and nothing, stay.

    Raises:
        UnknownLanguage
    """
    return name if name in (None, "auto") else language_code(name)


def shown(name: str) -> str:
    """A file name may hold anything, also what would command a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def print_table(table: Table) -> None:
    """A line for each row, also where it goes into a file or a narrow window."""
    for column in table.columns:
        column.no_wrap = True
    Console(width=max(Console().width, TABLE_WIDTH)).print(table)


@contextmanager
def errors_as_sentences(as_json: bool) -> Iterator[None]:
    """A named error becomes its sentence and an exit code: 2 for misuse, else 1; 130 for Ctrl-C."""
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
        typer.echo(f"{refusal.code}: {sentence(refusal.problem)}", err=True)
        raise typer.Exit(2 if refusal.status in (400, 422) else 1) from None


WANTED = {
    "study": "A study goes by its code (PEER) or its id: `fieldscribe study list` shows both.",
    "studies": "A study goes by its code (PEER) or its id: `fieldscribe study list` shows both.",
    "session": "A session goes by its code, INT-07 or FG-1, or by its id.",
    "code": "A code is written in capitals: PEER for a study, INT-07 or FG-1 for a session.",
    "model": "A model goes by its name: `fieldscribe models list` shows them.",
    "speakers": "The number of speakers is 1 to 20, or a range of these: 2-4.",
    "channels": "Channels are auto, mix or split.",
    "vocabulary": "A vocabulary has at most 500 lines, each of at most 100 characters.",
    "recordings": "A job has at most 100 recordings, each of them once.",
    "from": "The stage is ingest, segment, transcribe, align, diarise, attribute or check.",
    "status": "The status is queued, running, cancelling, waiting, succeeded, failed, cancelled or "
    "erased.",
    "role": "The role is researcher, coder, custodian, deidentifier, admin, owner or worker.",
    "expires_at": "The end is a time still to come, with its zone: 2031-12-31T23:59:59Z.",
}
"""What the fields of a request hold that commands make of their options."""


def sentence(problem: dict[str, Any]) -> str:
    """What was refused, and where a field of the request was: what it should have been."""
    fields = [field["where"] for field in problem.get("errors") or []]
    names = dict.fromkeys((where.split(".") + [""])[1] for where in fields)
    hints = [WANTED[name] for name in names if name in WANTED]
    if len(hints) == len(names) > 0:
        return " ".join(dict.fromkeys(hints))
    where = f" ({', '.join(fields)})" if fields else ""
    return f"{problem['detail']}{where}"


def id_of(list_command: str) -> Callable[[str], str]:
    """Of an argument: whether it is an id at all, which nobody types, is seen before it is sent."""

    def check(text: str) -> str:
        try:
            return str(uuid.UUID(text.strip()))
        except ValueError:
            raise typer.BadParameter(
                f"it is an id of 36 characters: `{list_command}` shows them"
            ) from None

    return check


def read_vocabulary(path: Path) -> tuple[str, ...]:
    return _lines(path, "vocabulary", VocabularyNotReadable)


def read_roster(path: Path) -> tuple[RosterEntry, ...]:
    """A person on each line, code and role.

    Raises:
        RosterNotReadable, BadRoster
    """
    return tuple(map(read_line, _lines(path, "roster", RosterNotReadable)))


def _lines(path: Path, what: str, not_readable: type[Misused]) -> tuple[str, ...]:
    """Those of the file that are not empty."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise not_readable(f"The {what} file cannot be read ({error.strerror}).") from None
    if len(content) > MAX_LIST_BYTES:
        raise not_readable(f"The {what} file is too large to be a {what}.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise not_readable(f"The {what} file is not UTF-8 text.") from None
    return tuple(line.strip() for line in lines if line.strip())


def speaker_bounds(text: str) -> dict[str, int]:
    """`6` or `2-4`, for the API."""
    low, dash, high = text.partition("-")
    try:
        return {"min": int(low), "max": int(high if dash else low)}
    except ValueError:
        raise typer.BadParameter("a number of speakers is written 6, a range 2-4") from None
