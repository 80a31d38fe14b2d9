"""The `fieldscribe` command. Data goes to standard output, progress to standard error.

Exit codes: 0 done, 1 something failed, 2 misused, 130 interrupted.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from models.precision import Precision
from service.commands import access, backup, jobs, models, serve
from service.commands.console import (
    AsJson,
    MixedLanguages,
    Translate,
    WeightsFolder,
    errors_as_sentences,
    print_json,
)
from service.exports import Format
from service.settings import read_settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables
    help="Transcribes research interviews and focus groups, on this machine alone.",
)
app.add_typer(models.app, name="models")
app.add_typer(access.study_app, name="study")
app.add_typer(access.token_app, name="token")
for name, command in (
    ("serve", serve.serve_command),
    ("api", serve.api_command),
    ("worker", serve.worker_command),
    ("upload", jobs.upload_command),
    ("jobs", jobs.jobs_command),
    ("status", jobs.status_command),
    ("watch", jobs.watch_command),
    ("transcript", jobs.transcript_command),
    ("cancel", jobs.cancel_command),
    ("rerun", jobs.rerun_command),
    ("delete", jobs.delete_command),
    ("unseal", access.unseal_command),
    ("backup", backup.backup_command),
    ("restore", backup.restore_command),
):
    app.command(name)(command)


@app.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Recordings: audio or video files.")],
    out: Annotated[Path, typer.Option(help="Folder for the transcripts.")],
    weights: WeightsFolder,
    model: Annotated[
        str | None,
        typer.Option(
            help="A Whisper model or a checkpoint's path; on a GPU large-v3-turbo, else small."
        ),
    ] = None,
    diarisation: Annotated[
        str | None, typer.Option(help="A pyannote pipeline's name or folder.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="en, de, nl, ...; found from the recording by default.")
    ] = None,
    speakers: Annotated[
        str | None, typer.Option(help="How many people speak: 2, or 5-8.", metavar="N|MIN-MAX")
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option(help="Who was there, a code and a role on each line: P01 participant."),
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Names and terms to expect, one on each line.")
    ] = None,
    channels: Annotated[
        Literal["auto", "mix", "split"],
        typer.Option(
            help="Each channel is a speaker (split), or all are one sound (mix); auto looks."
        ),
    ] = "auto",
    translate: Translate = False,
    mixed_languages: MixedLanguages = False,
    format: Annotated[
        list[Format] | None,
        typer.Option(help="May be given several times; all by default. JSON is always written."),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="The files are one session, in this order.")
    ] = False,
    precision: Annotated[
        Precision | None,
        typer.Option(help="A lower one only with weights that scripts/evaluate measured it with."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Transcribe recordings into a folder; what is done already is skipped."""
    with errors_as_sentences(as_json):
        # imports torch, which `fieldscribe --help` does not need
        from service.commands import transcribe

        exit_code = transcribe.transcribe(
            files=files,
            out=out,
            model=model,
            diarisation=diarisation,
            language=language,
            speakers=speakers,
            roster=roster,
            vocabulary=vocabulary,
            channels=channels,
            translate=translate,
            mixed_languages=mixed_languages,
            formats=tuple(format or Format),
            join=join,
            precision=precision,
            weights=weights,
            as_json=as_json,
        )
    raise typer.Exit(exit_code)


@app.command()
def doctor(
    weights: WeightsFolder,
    as_json: AsJson = False,
) -> None:
    """Check what transcription and the service need here; a line each, with the remedy."""
    from service import doctor as checks

    with errors_as_sentences(as_json):
        results = checks.examine(read_settings(weights=weights))
    if as_json:
        print_json([check.as_dict() for check in results])
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in results:
            mark = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]"}.get(
                check.status, "[red]problem[/]"
            )
            console.print(f"{mark} {check.name}: {check.message}")
    raise typer.Exit(1 if any(check.status == "problem" for check in results) else 0)


def main() -> None:
    quieten_libraries()
    app()


def quieten_libraries() -> None:
    """Their warnings are for developers, who ask for them with PYTHONWARNINGS."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it misses a folder in the home
