"""What the commands of `fieldscribe` share: options, JSON, and errors as sentences."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from models.errors import OptionError, SpeechError
from service.errors import Misused, ServiceError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


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


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


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
