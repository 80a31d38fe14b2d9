"""`fieldscribe audit`: who read this, and is the audit trail whole?"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from service import audit_chain
from service.audit_chain import Head
from service.commands.connection import connect
from service.commands.console import Row, print_json, print_table, printable, report_errors
from service.commands.options import AsJson, Yes
from service.commands.release import save
from service.commands.transcript import confirm_overwriting
from service.errors import Misused

HEAD_HELP = "An earlier head, POSITION:HASH, that the trail must contain; repeatable."


class TrailNotReadable(Misused):
    """The file of the audit trail, or of its heads, cannot be read."""

    code: ClassVar[str] = "trail_not_readable"


def parse_time(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            "give a day such as 2031-01-07, or a time such as 2031-01-07T09:00, in UTC"
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).isoformat()


def parse_heads(texts: list[str] | None) -> list[str] | None:
    try:
        return texts and [str(Head.parse(text)) for text in texts]
    except ValueError:
        raise typer.BadParameter("a head is POSITION:HASH, such as 1207:9f86…") from None


def audit_command(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="Code of the study.")] = None,
    about: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="A session (INT-07), a participant (P07), the name of a token or account, or an "
            "id; by default everything.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="From this day or time (UTC).", callback=parse_time),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="Before this day or time (UTC).", callback=parse_time),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain of the whole trail.")
    ] = False,
    trail: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Check this exported trail, without the service.", dir_okay=False
        ),
    ] = None,
    head: Annotated[
        list[str] | None, typer.Option(metavar="HEAD", help=HEAD_HELP, callback=parse_heads)
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file of earlier heads, a line each.", dir_okay=False),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the whole trail as JSON lines.", dir_okay=False),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Say who read what, or check the audit trail.

    `fieldscribe audit PEER --about INT-07` answers: who read this?
    """
    if (study is not None) + (verify or trail is not None) + (export is not None) != 1:
        raise typer.BadParameter("give the code of a study, or --verify, or --export FILE")
    with report_errors(as_json):
        known = [*map(Head.parse, head or ()), *read_heads(heads)]
        if trail is not None:
            raise typer.Exit(check_file(trail, known, as_json=as_json))
    if export is not None:
        confirm_overwriting(export, yes=yes)
    with connect(as_json) as client:
        if study is not None:
            path = f"/v1/studies/{study}/audit"
            found = list(client.list_all(path, about=about, since=since, until=until))
            show(found, about, as_json=as_json)
        elif export is not None:
            save(export, client.request("GET", "/v1/audit/export").content)
            typer.echo(f"Saved {printable(str(export))}", err=True)
        else:
            checked = client.post("/v1/audit/verify", {"heads": list(map(str, known))})
            raise typer.Exit(report_check(checked, as_json=as_json))


# --- who read this --------------------------------------------------------------------------------


def show(found: Sequence[dict[str, Any]], about: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"items": found})
        return
    if not found:
        typer.echo("The trail has no entry about this.", err=True)
        return
    subject = "this study" if about is None else about
    readers = list(summarise([each for each in found if each["is_reading"]]))
    typer.echo(f"Who has read {printable(subject)}:" if readers else "Nobody has read it.")
    if readers:
        print_table(["who", "role", "times", "played", "first (UTC)", "last (UTC)"], readers)
    typer.echo("\nEverything that happened:")
    print_table(
        ["when (UTC)", "who", "role", "session", "what", "reason"],
        [
            Row(
                [
                    when(each["at"]),
                    each["who"],
                    each["role"] or "-",
                    each["session"] or "-",
                    each["what"],
                    each["reason"] or "-",
                ]
            )
            for each in found
        ],
    )


def summarise(readings: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """A row for each reader. Minutes that were played twice count once."""
    readers: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for each in readings:
        key = (str(each["token_id"]), each["who"], each["role"] or "-")
        readers.setdefault(key, []).append(each)
    for (_, who, role), own in readers.items():
        seconds = played_seconds(own)
        played = f"{seconds // 60} min {seconds % 60:02} s" if seconds else "-"
        yield Row([who, role, str(len(own)), played, when(own[0]["at"]), when(own[-1]["at"])])


def played_seconds(entries: Sequence[dict[str, Any]]) -> int:
    heard = {
        (each["objects"].get("recording"), second)
        for each in entries
        for start, end in each["detail"].get("seconds", ())
        for second in range(start, end)
    }
    return len(heard)


def when(at: str) -> str:
    return at[:16].replace("T", " ")


# --- is it whole ----------------------------------------------------------------------------------


def read_heads(path: Path | None) -> list[Head]:
    """
    Raises:
        TrailNotReadable
    """
    if path is None:
        return []
    try:
        return list(audit_chain.read_heads(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, KeyError):
        raise TrailNotReadable(
            "The file of heads cannot be read: give audit-heads.jsonl from the keys folder, or "
            "lines POSITION:HASH."
        ) from None


def check_file(path: Path, heads: Sequence[Head], *, as_json: bool) -> int:
    """
    Raises:
        TrailNotReadable
    """
    try:
        with path.open(encoding="utf-8") as file:
            checked = audit_chain.check(audit_chain.read_lines(file), heads)
    except (OSError, UnicodeDecodeError):
        raise TrailNotReadable(
            "The audit trail cannot be read: give a file of `fieldscribe audit --export`."
        ) from None
    view = {
        "entries": checked.entries,
        "head": None if checked.head is None else str(checked.head),
        "findings": [vars(each) for each in checked.findings],
        "notes": list(checked.notes),
    }
    return report_check(view, as_json=as_json)


def report_check(checked: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print_json(checked)
    else:
        for finding in checked["findings"]:
            typer.echo(printable(finding["message"]))
        for note in checked["notes"]:
            typer.echo(printable(note))
        if not checked["findings"]:
            typer.echo(f"The chain is whole: {checked['entries']} entries.")
            if checked["head"] is not None:
                typer.echo(f"Head: {checked['head']}")
    return 1 if checked["findings"] else 0
