"""The `fieldscribe` command. Data goes to standard output, progress to standard error.

Exit codes: 0 done, 1 something failed, 2 misused, 130 interrupted.
"""

import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from models.options import Channels, JobOptions, SpeakerCount
from service.commands import (
    access,
    audit,
    backup,
    certificate,
    codings,
    deidentifier,
    deidentify,
    deposit,
    export,
    handoffs,
    import_,
    jobs,
    masked_audio,
    models,
    packets,
    papers,
    participants,
    recording,
    release,
    retention,
    review,
    roster,
    serve,
    session,
    sign_in,
    speakers,
    storage,
    study,
    transcript,
    upload,
    vocabulary,
    watch,
    webhook,
    withdraw,
)
from service.commands.console import Commands, print_json, printable, report_errors, show_activity
from service.commands.extras import require_packages
from service.commands.lists import read_roster, read_vocabulary
from service.commands.options import (
    CHANNELS_HELP,
    AsJson,
    DevicesOption,
    Files,
    Join,
    MixedLanguages,
    Parallel,
    PrecisionOption,
    ShardOption,
    Speakers,
    Translate,
    Vocabulary,
    WeightsFolder,
    language_option,
    parallel_channels,
    parse_shard,
    roster_option,
)
from service.exports import DEFAULT_FORMATS, FORMAT_NAMES, Format
from service.settings import read_settings

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its boxes leave half of 80 columns for the text
    pretty_exceptions_enable=False,  # its tracebacks show local variables
    help="Transcribe research interviews and focus groups on your own machines.",
)
app.add_typer(models.app, name="models")
app.add_typer(study.app, name="study")
app.add_typer(session.app, name="session")
app.add_typer(vocabulary.app, name="vocabulary")
app.add_typer(roster.app, name="roster")
app.add_typer(access.token_app, name="token")
app.add_typer(storage.app, name="storage")
app.add_typer(webhook.app, name="webhook")
app.add_typer(recording.app, name="recording")
app.add_typer(masked_audio.app, name="masked-audio")
app.add_typer(participants.app, name="participants")
app.add_typer(packets.app, name="packets")
app.add_typer(certificate.app, name="certificate")
app.add_typer(retention.app, name="retention")
for name, command in (
    ("serve", serve.serve_command),
    ("api", serve.api_command),
    ("worker", serve.worker_command),
    ("open", sign_in.open_command),
    ("invite", sign_in.invite_command),
    ("upload", upload.upload_command),
    ("jobs", jobs.jobs_command),
    ("status", watch.status_command),
    ("watch", watch.watch_command),
    ("transcript", transcript.transcript_command),
    ("speakers", speakers.speakers_command),
    ("import", import_.import_command),
    ("deidentify", deidentify.deidentify_command),
    ("deidentifier", deidentifier.deidentifier_command),
    ("release", release.release_command),
    ("releases", release.releases_command),
    ("archive", release.archive_command),
    ("papers", papers.papers_command),
    ("deposit", deposit.deposit_command),
    ("export", export.export_command),
    ("merge-codings", codings.merge_codings_command),
    ("move-codings", codings.move_codings_command),
    ("handoffs", handoffs.handoffs_command),
    ("review", review.review_command),
    ("cancel", jobs.cancel_command),
    ("rerun", jobs.rerun_command),
    ("delete", jobs.delete_command),
    ("audit", audit.audit_command),
    ("withdraw", withdraw.withdraw_command),
    ("withdrawals", withdraw.withdrawals_command),
    ("unseal", access.unseal_command),
    ("backup", backup.backup_command),
    ("restore", backup.restore_command),
):
    app.command(name)(command)


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fieldscribe {version('fieldscribe')}")
        raise typer.Exit


@app.callback()
def fieldscribe(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """Transcribe research interviews and focus groups on your own machines."""


@app.command()
def transcribe(
    files: Files,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the transcripts.")],
    weights: WeightsFolder,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A Whisper model, or the path of a checkpoint; by default large-v3-turbo on a "
            "GPU, else small.",
        ),
    ] = None,
    diarisation: Annotated[
        str | None,
        typer.Option(metavar="NAME|FOLDER", help="A pyannote pipeline, or the path of its folder."),
    ] = None,
    language: Annotated[str | None, language_option("it is detected")] = None,
    speakers: Speakers = None,
    roster: Annotated[Path | None, roster_option()] = None,
    vocabulary: Vocabulary = None,
    channels: Annotated[Literal["auto", "mix", "split"], typer.Option(help=CHANNELS_HELP)] = "auto",
    translate: Translate = False,
    mixed_languages: MixedLanguages = False,
    format: Annotated[
        list[Format] | None,
        typer.Option(
            metavar="FORMAT",
            help=f"{FORMAT_NAMES}; repeatable. By default {', '.join(DEFAULT_FORMATS)}. "
            "JSON is always written.",
        ),
    ] = None,
    join: Join = False,
    parallel: Parallel = False,
    precision: PrecisionOption = None,
    devices: DevicesOption = None,
    shard: ShardOption = None,
    as_json: AsJson = False,
) -> None:
    """Transcribe recordings without the service.

    Finished recordings are skipped: run the same command again after an interruption, or on
    several machines at once to share the work.
    """
    with report_errors(as_json):
        require_packages("transcribe", "worker")
        options = JobOptions(
            language=language,
            speakers=SpeakerCount() if speakers is None else SpeakerCount.parse(speakers),
            roster=() if roster is None else read_roster(roster),
            vocabulary=() if vocabulary is None else read_vocabulary(vocabulary),
            channels=Channels(
                parallel_channels(files, channels, join=join) if parallel else channels
            ),
            translate=translate,
            mixed_languages=mixed_languages,
        )
        with show_activity("starting"):
            # here, because it imports torch, which takes seconds
            from models.audio.ffmpeg_child import allow_weak_sandbox
            from service.commands import transcribe

        settings = read_settings(devices=devices)
        allow_weak_sandbox(settings.allow_weak_sandbox)
        exit_code = transcribe.transcribe(
            files=files,
            out=out,
            model=model,
            diarisation=diarisation,
            options=options,
            formats=tuple(format or DEFAULT_FORMATS),
            join=join or parallel,
            precision=precision,
            devices=settings.devices,
            weak_sandbox=settings.allow_weak_sandbox,
            shard=None if shard is None else parse_shard(shard),
            weights=weights,
            as_json=as_json,
        )
    raise typer.Exit(exit_code)


@app.command()
def doctor(
    weights: WeightsFolder,
    as_json: AsJson = False,
) -> None:
    """Check that this machine is ready.

    Prints a line for each check, and says how to fix any problem.
    """
    with report_errors(as_json):
        require_packages("doctor", "worker")
        from service import doctor as checks

        results = checks.examine(read_settings(weights=weights))
    if as_json:
        print_json([check.as_dict() for check in results])
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in results:
            mark = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]"}.get(
                check.status, "[red]problem[/]"
            )
            console.print(mark, escape(printable(f"{check.name}: {check.message}")))
    raise typer.Exit(1 if any(check.status == "problem" for check in results) else 0)


def main() -> None:
    quieten_libraries()
    app()


def quieten_libraries() -> None:
    """Hide libraries' warnings: developers turn them on with PYTHONWARNINGS."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # it warns if the home folder is missing
