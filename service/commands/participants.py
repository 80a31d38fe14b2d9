"""`fieldscribe participants`: who takes part, consents, approvals and small cells.

Names and contacts are read from files: other users can read command lines.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.client import Client
from service.commands.connection import connect
from service.commands.console import Row, print_json, print_table, printable
from service.commands.lists import read_text
from service.commands.options import AsJson, StudyArgument
from service.commands.roster import REASONS
from service.errors import Misused, RosterNotReadable

MAX_BYTES = 4 << 20
SCOPES = "recording, transcription, quotation, sharing, future_use, recontact"

app = typer.Typer(no_args_is_help=True, help="Who takes part in a study, and with which consent.")
Code = Annotated[str, typer.Argument(metavar="CODE", help="Of the participant, such as P07.")]


@app.command("import")
def import_command(
    study: StudyArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV file with the column code, and any of name, aliases, contact, sessions, "
            "consent_version, consent_date, consent_scopes and the study's attributes.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Add the participants in a CSV file to a study.

    Nothing is removed, and importing the same file again changes nothing.
    """
    with connect(as_json) as client:
        text = read_text(file, "list of participants", RosterNotReadable, MAX_BYTES)
        done = client.post(f"/v1/studies/{study}/participants/import", {"csv": text})
    if as_json:
        print_json(done)
        return
    typer.echo(
        f"{done['created']} new, {done['updated']} changed, {done['unchanged']} unchanged, "
        f"{done['consents']} new consents"
    )
    print_cells(done["small_cells"])


@app.command("list")
def list_command(study: StudyArgument, as_json: AsJson = False) -> None:
    """List participants by code, without names."""
    with connect(as_json) as client:
        found = client.get(f"/v1/studies/{study}/participants")
    if as_json:
        print_json(found)
        return
    rows = [
        Row(
            (
                each["code"],
                " ".join(each["sessions"]) or "(none)",
                describe_consent(each),
                describe_state(each),
            ),
            each["id"],
        )
        for each in found["items"]
    ]
    print_table(("code", "sessions", "consent", ""), rows, "participant")


def describe_consent(participant: dict[str, Any]) -> str:
    if not participant["consents"]:
        return "none"
    newest = participant["consents"][0]
    return ", ".join(newest["scopes"]).replace("_", " ") or "ended"


def describe_state(participant: dict[str, Any]) -> str:
    if participant["erased_at"]:
        return "erased"
    return "withdrawn" if participant["withdrawn_at"] else ""


@app.command("show")
def show_command(study: StudyArgument, code: Code, as_json: AsJson = False) -> None:
    """Show the sessions and consents of a participant."""
    with connect(as_json) as client:
        found = find_participant(client, study, code)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['code']}: {' '.join(found['sessions']) or 'in no session'}")
    for consent in found["consents"]:
        scopes = ", ".join(consent["scopes"]).replace("_", " ") or "nothing any more"
        typer.echo(f"  {consent['given_on']}, sheet {consent['sheet_version']}: {scopes}")
    if not found["consents"]:
        typer.echo("  no consent is recorded")
    if state := describe_state(found):
        typer.echo(f"  {state}")


@app.command("consent")
def consent_command(
    study: StudyArgument,
    code: Code,
    sheet: Annotated[str, typer.Option(metavar="VERSION", help="Of the information sheet.")],
    date: Annotated[str, typer.Option(metavar="DATE", help="When it was given: 2031-01-07.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE", help=f"{SCOPES}; repeatable. Without it, the consent has ended."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record what somebody consents to from now on.

    Jobs of their sessions that have not finished, and that it no longer covers, are cancelled.
    """
    with connect(as_json) as client:
        found = find_participant(client, study, code)
        body = {"sheet_version": sheet, "given_on": date, "scopes": scope or []}
        changed = client.post(f"/v1/participants/{found['id']}/consents", body)
    print_json(changed) if as_json else typer.echo(f"{code}: {describe_consent(changed)}")


@app.command("look-up")
def look_up_command(
    study: StudyArgument,
    code: Annotated[list[str], typer.Argument(metavar="CODE...", help="Such as P07.")],
    reason: Annotated[str, typer.Option(metavar="REASON", help=f"Why: {REASONS}.")],
    as_json: AsJson = False,
) -> None:
    """Show names, contacts and attributes.

    Needs a custodian's or an owner's token. The look-up is recorded with its reason.
    """
    with connect(as_json) as client:
        body = {"codes": code, "reason": reason}
        found = client.post(f"/v1/studies/{study}/participants/look-up", body)
    if as_json:
        print_json(found)
        return
    for each in found["items"]:
        typer.echo(f"{each['code']}: {printable('; '.join(each['names']) or 'no name')}")
        for contact in each["contacts"]:
            typer.echo(f"  {printable(contact)}")
        for name, value in each["attributes"].items():
            typer.echo(f"  {name}: {printable(value)}")


@app.command("small-cells")
def small_cells_command(study: StudyArgument, as_json: AsJson = False) -> None:
    """List attributes that few participants share.

    Readers who know the field may recognise these people: merge or leave out their attributes.
    """
    with connect(as_json) as client:
        found = client.get(f"/v1/studies/{study}/small-cells")
    if as_json:
        print_json(found)
    elif found["items"]:
        print_cells(found["items"])
    else:
        typer.echo("no combination of attributes is shared by fewer than five participants")


def print_cells(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        values = ", ".join(f"{name} {value}" for name, value in cell["attributes"].items())
        people = "person" if cell["n"] == 1 else "people"
        typer.echo(f"only {cell['n']} {people}: {printable(values)}", err=True)


@app.command("approvals")
def approvals_command(study: StudyArgument, as_json: AsJson = False) -> None:
    """List approvals by ethics committees."""
    with connect(as_json) as client:
        found = client.get(f"/v1/studies/{study}/approvals")
    if as_json:
        print_json(found)
        return
    rows = [
        Row(
            (
                printable(each["committee"]),
                printable(each["number"]),
                printable(each["site"] or "all sites"),
                each["valid_from"],
                each["valid_until"] or "open",
            ),
            each["id"],
        )
        for each in found["items"]
    ]
    print_table(("committee", "reference", "site", "from", "until"), rows, "approval")


@app.command("approve")
def approve_command(
    study: StudyArgument,
    committee: Annotated[str, typer.Option(metavar="NAME", help="Of the ethics committee.")],
    number: Annotated[str, typer.Option(metavar="TEXT", help="The committee's reference.")],
    valid_from: Annotated[
        str, typer.Option("--from", metavar="DATE", help="First day: 2031-01-01.")
    ],
    valid_until: Annotated[
        str | None, typer.Option("--until", metavar="DATE", help="Last day; by default, none.")
    ] = None,
    site: Annotated[str | None, typer.Option(metavar="NAME", help="By default, all sites.")] = None,
    as_json: AsJson = False,
) -> None:
    """Record an approval.

    From then on, uploads and jobs need one that is valid today.
    """
    with connect(as_json) as client:
        body = {
            "committee": committee,
            "number": number,
            "site": site,
            "valid_from": valid_from,
            "valid_until": valid_until,
        }
        made = client.post(f"/v1/studies/{study}/approvals", body)
    print_json(made) if as_json else typer.echo(made["id"])


@app.command("remove-approval")
def remove_approval_command(
    approval: Annotated[str, typer.Argument(metavar="ID", help="As `approvals` lists it.")],
    as_json: AsJson = False,
) -> None:
    """Remove an approval, recorded by mistake."""
    with connect(as_json) as client:
        done = client.delete(f"/v1/approvals/{approval}")
    print_json(done) if as_json else typer.echo("removed")


class ParticipantUnknown(Misused):
    """The study has no participant with this code."""

    code = "participant_unknown"


def find_participant(client: Client, study: str, code: str) -> dict[str, Any]:
    """
    Raises:
        ParticipantUnknown
    """
    found = client.get(f"/v1/studies/{study}/participants")["items"]
    for each in found:
        if each["code"] == code:
            participant: dict[str, Any] = each
            return participant
    raise ParticipantUnknown(f"The study has no participant {printable(code)}.")
