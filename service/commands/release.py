"""`fieldscribe release`, `releases` and `archive`: make, list and hand over releases."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.commands.client import Client
from service.commands.connection import connect
from service.commands.console import Row, confirm, print_json, print_table, printable
from service.commands.names import JobName, find_finished_job
from service.commands.options import (
    AsJson,
    Cursor,
    Limit,
    StudyArgument,
    Yes,
    check_id,
    check_study,
)
from service.commands.transcript import TranscriptNotReady, confirm_overwriting
from service.errors import OutputNotWritable
from service.exports import FORMAT_NAMES, Format
from service.exports.files import write_whole

REASONS = {
    "newer_release": "newer release",
    "transcript_changed": "transcript corrected",
    "review_changed": "review changed",
    "entity_changed": "pseudonym changed",
}
Context = Literal["team", "member_checking", "repository", "publication"]
MIN_PASSWORD = 12  # characters
RELEASE_FORMATS = (*map(str, Format), "report")


def check_optional_study(text: str | None) -> str | None:
    return None if text is None else check_study(text)


def check_optional_id(text: str | None) -> str | None:
    return None if text is None else check_id("fieldscribe releases")(text)


def check_formats(formats: list[str] | None) -> list[str] | None:
    for format in formats or ():
        if format not in RELEASE_FORMATS:
            raise typer.BadParameter(f"the formats are {', '.join(RELEASE_FORMATS)}")
    return formats


def release_command(
    job: JobName,
    context: Annotated[
        Context,
        typer.Option(
            "--for",
            metavar="READERS",
            help="team, member_checking, repository or publication; the report says so.",
        ),
    ] = "team",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the residual-risk report, a Word document."),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Release the de-identified transcript of a job.

    Every suggestion must be decided on: see `fieldscribe review`. A release is never changed.
    """
    with connect(as_json) as client:
        found = client.get(f"/v1/jobs/{find_finished_job(client, job)}")
        if found["transcript_id"] is None:
            raise TranscriptNotReady(f"The job has no transcript: it is {found['status']}.")
        if report is not None:
            confirm_overwriting(report, yes=yes)
        path = f"/v1/transcripts/{found['transcript_id']}/releases"
        made = client.request("POST", path, retry=False, json={"context": context}).json()
        risks = client.get(f"/v1/releases/{made['id']}/report")
        if report is not None:
            file = client.request("GET", f"/v1/releases/{made['id']}/files/report")
            save(report, file.content)
    if as_json:
        print_json({**made, "report": risks})
        return
    typer.echo(f"{made['session']}: release {made['number']}")
    for line in describe_risks(risks):
        typer.echo(line)


def describe_risks(report: dict[str, Any]) -> list[str]:
    """Lines of text: the most important numbers of a report."""
    left = report["remaining"]
    replaced = ", ".join(f"{n} {label}" for label, n in report["replaced"].items())
    suggested = ", ".join(f"{n} {label}" for label, n in left["suggestions"].items())
    words = ", ".join(word["text"] for word in left["unknown_words"][:8])
    indirect = sum(left["indirect"].values())
    sample = report["sample"]
    lines = [
        f"  replaced: {replaced or 'nothing'}",
        f"  still suggested by the rules: {suggested or 'nothing'}",
        f"  capitalised words in no dictionary: {left['n_unknown_words']}"
        + (f" ({printable(words)})" if words else ""),
        f"  indirect identifiers: {indirect}, at most {left['densest_indirect']} in 500 words",
        "  second reader: none"
        if sample is None
        else f"  second reader: {sample['missed']} missed in {sample['segments']} segments",
    ]
    if not left["is_cased"]:
        lines.append("  the text has no capitals, so many names are missed: read all of it")
    return lines


def releases_command(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="Code of a study.", callback=check_optional_study),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="CODE", help="List only this session's.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Search the study's releases for its names; list nothing."),
    ] = False,
    withdraw: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Destroy this release; list nothing.",
            callback=check_optional_id,
        ),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """List releases, newest first, and why some are outdated."""
    if check and study is None:
        raise typer.BadParameter("name the study to check")
    with connect(as_json) as client:
        if withdraw is not None:
            withdraw_release(client, withdraw, yes=yes)
            return
        if check:
            checked = client.request("POST", f"/v1/studies/{study}/release-check").json()
        else:
            page = client.list_some(
                "/v1/releases", limit=limit, cursor=cursor, study=study, session=session
            )
    if check:
        print_check(checked, as_json)
        return
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (
                each["study"],
                each["session"],
                str(each["number"]),
                each["context"],
                each["created_at"][:10],
                describe_state(each),
            ),
            each["id"],
        )
        for each in page["items"]
    ]
    print_table(("study", "session", "number", "for", "made (UTC)", "outdated by"), rows, "release")


def describe_state(release: dict[str, Any]) -> str:
    """Why a release is outdated; for a coder, only whether there is a newer one."""
    reasons = release["outdated"]
    if reasons is None:
        reasons = [] if release["is_newest"] else ["newer_release"]
    return ", ".join(REASONS.get(reason, reason) for reason in reasons)


def withdraw_release(client: Client, id: str, *, yes: bool) -> None:
    found = client.get(f"/v1/releases/{id}")
    if not yes:
        confirm(
            f"This destroys release {found['number']} of {found['session']}. Copies that were "
            "handed out remain. Continue?"
        )
    client.request("DELETE", f"/v1/releases/{id}")
    typer.echo(f"destroyed: release {found['number']} of {found['session']}")


def print_check(checked: dict[str, Any], as_json: bool) -> None:
    """
    Raises:
        typer.Exit: a name was found.
    """
    found = checked["found"]
    if as_json:
        print_json(checked)
    elif not found:
        typer.echo(
            f"{checked['files']} files of {checked['releases']} releases: no name of the study"
        )
    else:
        rows = [
            Row(
                (each["format"], str(each["n"]), "perhaps" if each["is_doubtful"] else "yes"),
                f"{each['release_id']}, entity {each['entity_id']}",
            )
            for each in found
        ]
        print_table(("format", "places", "a name"), rows, "release")
    if any(not each["is_doubtful"] for each in found):
        raise typer.Exit(1)


def archive_command(
    study: StudyArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.", dir_okay=False)],
    format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT",
            help=f"{FORMAT_NAMES}; or report. Repeatable. By default docx and report.",
            callback=check_formats,
        ),
    ] = None,
    recipient: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Encrypt with age for the holder of this public key, age1..., instead of a "
            "password; repeatable.",
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """Save a study's newest releases in an encrypted archive.

    It is a zip file with a password (AES-256), or an age file. The password is asked for, or read
    from the first line of standard input.
    """
    confirm_overwriting(out, yes=yes)
    body: dict[str, Any] = {"formats": format or ["docx", "report"]}
    if recipient:
        body["recipients"] = recipient
    else:
        body["password"] = read_password()
    with connect(as_json=False) as client:
        answer = client.request("POST", f"/v1/studies/{study}/release-archive", json=body)
        save(out, answer.content)
    typer.echo(f"Saved {printable(str(out))}", err=True)


def read_password() -> str:
    """
    Raises:
        typer.BadParameter: it is too short.
    """
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    if len(password) < MIN_PASSWORD:
        raise typer.BadParameter(f"a password has at least {MIN_PASSWORD} characters")
    return password


def save(path: Path, content: bytes) -> None:
    """
    Raises:
        OutputNotWritable
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise OutputNotWritable(f"The file cannot be written ({error.strerror}).") from None
