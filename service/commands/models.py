"""`fieldscribe models`: install and check model weights. Only `fetch` uses the network.

fetch    download from the publisher           list     show installed and available weights
export   write a bundle for another machine    verify   compare every byte with its checksum
import   install from a bundle
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from models.weights import catalogue, transfer
from models.weights.catalogue import KnownFile, KnownModel
from models.weights.errors import ModelMissing, UnknownModel, WeightsCorrupt
from service.commands.console import Row, print_json, print_table, report_errors
from service.commands.extras import require_packages
from service.commands.options import AsJson, WeightsFolder

app = typer.Typer(no_args_is_help=True, help="Download, check and move model weights.")


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAMES", help="Names, as `fieldscribe models list` shows them."),
]


@app.command()
def fetch(
    folder: WeightsFolder,
    names: Names = None,
    token_stdin: Annotated[
        bool,
        typer.Option("--token-stdin", help="Read a Hugging Face token from standard input."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Download weights.

    By default, those that suit this machine: 0.5 GB, or 1.7 GB with a GPU.
    """
    token = read_token() if token_stdin else None
    with report_errors(as_json):
        models = find_known(names or default_names())
        fetched = []
        with file_bars() as report:
            for model in models:
                if transfer.fetch(model, folder, token=token, report=report):
                    fetched.append(model.name)
    if as_json:
        print_json({"installed": [model.name for model in models], "fetched": fetched})
    for model in models:
        state = "installed" if model.name in fetched else "already installed"
        typer.echo(f"{model.name}: {state} (licence {model.licence})", err=as_json)


@app.command("list")
def list_(folder: WeightsFolder, as_json: AsJson = False) -> None:
    """List installed and available weights."""
    with report_errors(as_json):
        models = {
            model: catalogue.is_installed(model, folder) for model in catalogue.KNOWN.values()
        }
    if as_json:
        print_json(
            [
                {
                    "name": model.name,
                    "kind": model.kind,
                    "installed": installed,
                    "bytes": model.size,
                    "licence": model.licence,
                    "source": model.source,
                }
                for model, installed in models.items()
            ]
        )
        return
    rows = []
    for model, installed in models.items():
        size = f"{model.size / 1e6:,.0f} MB"
        cells = (model.name, model.kind, "yes" if installed else "", size, model.licence)
        rows.append(Row(cells))
    rows.append(Row((catalogue.DEMO, "both", "yes", "", "comes with fieldscribe")))
    print_table(("name", "kind", "installed", "size", "licence"), rows)


@app.command()
def verify(
    folder: WeightsFolder,
    names: Names = None,
    as_json: AsJson = False,
) -> None:
    """Check installed weights against the published checksums."""
    results = []
    with report_errors(as_json):
        for model in find_known(names) or all_installed(folder):
            try:
                catalogue.verify(model, folder)
                results.append({"name": model.name, "status": "ok"})
            except (ModelMissing, WeightsCorrupt) as error:
                results.append({"name": model.name, "status": error.code, "message": str(error)})
    if as_json:
        print_json(results)
    else:
        for result in results:
            typer.echo(": ".join(result.values()))
    if any(result["status"] != "ok" for result in results):
        raise typer.Exit(1)


@app.command()
def export(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="File to write.", dir_okay=False)
    ],
    folder: WeightsFolder,
    names: Names = None,
    as_json: AsJson = False,
) -> None:
    """Write installed weights to a bundle.

    The bundle is one file, to carry to a machine without a network.
    """
    with report_errors(as_json):
        models = find_known(names) or all_installed(folder)
        with file_bars() as report:
            transfer.export(models, folder, bundle, report=report)
    if as_json:
        exported = [model.name for model in models]
        print_json({"exported": exported, "bytes": bundle.stat().st_size})
    for model in models:
        typer.echo(f"{model.name}: exported (licence {model.licence})", err=as_json)


@app.command("import")
def import_(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="File that `export` wrote.", exists=True, dir_okay=False
        ),
    ],
    folder: WeightsFolder,
    as_json: AsJson = False,
) -> None:
    """Install the weights of a bundle."""
    with report_errors(as_json), file_bars() as report:
        models = transfer.import_bundle(bundle, folder, report=report)
    if as_json:
        print_json({"installed": [model.name for model in models]})
    for model in models:
        typer.echo(f"{model.name}: installed (licence {model.licence})", err=as_json)


def default_names() -> list[str]:
    """The models that suit this machine.

    Raises:
        PackagesMissing
    """
    require_packages("models fetch", "worker")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [catalogue.default_whisper(device), catalogue.DEFAULT_PIPELINE]


def find_known(names: Sequence[str] | None) -> list[KnownModel]:
    """The models of these names, in the order given, each once.

    Raises:
        UnknownModel
    """
    if catalogue.DEMO in (names or ()):
        raise UnknownModel("The demo weights are part of fieldscribe: they are always installed.")
    return list(dict.fromkeys(catalogue.find_model(name) for name in names or ()))


def all_installed(folder: Path) -> list[KnownModel]:
    """
    Raises:
        ModelMissing: there are none.
    """
    models = [model for model in catalogue.KNOWN.values() if catalogue.is_installed(model, folder)]
    if not models:
        raise ModelMissing("No weights are installed: run `fieldscribe models fetch`.")
    return models


def read_token() -> str:
    """Read one line of standard input, without echo at a terminal."""
    if sys.stdin.isatty():
        line = str(typer.prompt("Hugging Face token", hide_input=True, err=True))
    else:
        line = sys.stdin.readline(1000)
    token = line.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise typer.BadParameter("standard input does not hold a token", param_hint="--token-stdin")
    return token


@contextmanager
def file_bars() -> Iterator[transfer.Report]:
    """Show one progress bar per file on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:

        def report(file: KnownFile, n_bytes: int) -> None:
            if file.path not in tasks:
                tasks[file.path] = progress.add_task(file.path, total=file.size)
            progress.update(tasks[file.path], completed=n_bytes)

        yield report
