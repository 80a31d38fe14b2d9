"""`fieldscribe withdraw`: remove the data of a participant, or one voice of a group."""

import time
from typing import Annotated, Any, ClassVar, Literal

import typer

from service.commands.certificate import print_certificate
from service.commands.client import Client
from service.commands.connection import connect
from service.commands.console import Row, print_json, print_table, printable, show_activity
from service.commands.options import AsJson, check_study
from service.errors import ServiceError

SCOPES = {
    "data": "remove everything",
    "identified": "remove identified data, keep de-identified releases",
    "participation": "keep all data, take no further part",
}
STEPS = {
    "ledger": "recording it",
    "voice": "silencing groups",
    "interviews": "erasing interviews",
    "mentions": "looking for mentions by others",
    "vocabulary": "clearing vocabularies",
    "releases": "making releases again",
    "search": "searching what is left",
    "names": "destroying names",
    "verify": "verifying",
}
POLL_EVERY = 1.0  # s
Scope = Literal["data", "identified", "participation"]
Reason = Literal["no_reason", "changed_mind", "privacy", "distress", "harm_feared", "other"]


class WithdrawalWaiting(ServiceError):
    """A step of the withdrawal cannot be done at present; the service tries it again."""

    code: ClassVar[str] = "withdrawal_waiting"


def withdraw_command(
    participant: Annotated[
        str, typer.Argument(metavar="CODE", help="Code of the participant, such as P07.")
    ],
    study: Annotated[
        str,
        typer.Option("--study", metavar="CODE", help="Code of the study.", callback=check_study),
    ],
    scope: Annotated[
        Scope,
        typer.Option(
            help="data removes everything; identified keeps de-identified releases; participation "
            "removes nothing."
        ),
    ],
    reason: Annotated[
        Reason | None,
        typer.Option(
            metavar="REASON",
            help="no_reason, changed_mind, privacy, distress, harm_feared or other.",
        ),
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="The participant's code again, instead of being asked."),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only show what exists; remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Withdraw a participant, and print the certificate.

    First shows what exists and who has downloaded what. Run the same command again after an
    interruption.
    """
    with connect(as_json) as client:
        found = client.get(f"/v1/studies/{study}/withdrawal-preview", participant=participant)
        if preview:
            if as_json:
                print_json(found)
            else:
                print_inventory(found)
            return
        if confirm is None:
            print_inventory(found, err=True)
            typer.echo(f"Scope: {SCOPES[scope]}.", err=True)
            confirm = typer.prompt(f"Type {participant} to withdraw", err=True, default="").strip()
        body = {
            "participant": participant,
            "scope": scope,
            "reason": reason,
            "confirmation": confirm,
        }
        made = client.request("POST", f"/v1/studies/{study}/withdrawals", json=body).json()
        done = wait(client, made)
        if as_json:
            print_json(done)
            return
        answer = client.request("GET", f"/v1/certificates/{done['certificate_id']}")
    print_certificate(answer.content)


def wait(client: Client, made: dict[str, Any]) -> dict[str, Any]:
    """
    Raises:
        WithdrawalWaiting
    """
    with show_activity("withdrawing") as activity:
        while made["state"] != "finished":
            if made["failure_code"] is not None:
                raise WithdrawalWaiting(
                    f"The next step cannot be done at present ({made['failure_code']}). The "
                    "service tries it again every 30 s: run the same command again to follow it."
                )
            left = [step for step in made["steps"] if step not in made["steps_done"]]
            activity.update(STEPS.get(left[0], left[0]) if left else "issuing the certificate")
            time.sleep(POLL_EVERY)
            made = client.get(f"/v1/withdrawals/{made['id']}")
    return made


def print_inventory(found: dict[str, Any], *, err: bool = False) -> None:
    def say(text: str) -> None:
        typer.echo(printable(text), err=err)

    say(f"{found['participant']} in {found['study']}:")
    for unit in found["units"]:
        kind = "group: only this voice leaves" if unit["is_group"] else "interview"
        say(
            f"  {unit['name']} ({kind}): {unit['n_recordings']} recordings, "
            f"{unit['n_transcripts']} transcripts in {unit['n_versions']} versions, "
            f"{unit['n_releases']} releases, {unit['n_masked_audio']} masked recordings, "
            f"{unit['n_handoffs']} hand-offs, {unit['n_running_jobs']} unfinished jobs"
        )
        for problem in unit["problems"]:
            say(f"    cannot be handled yet: {problem}")
    say(f"  names and contacts: {'yes' if found['has_names'] else 'no'}")
    say(f"  mentions by others, as far as known: {found['n_mentions']}")
    backup = found["last_backup_at"]
    say(f"  newest known backup: {backup[:16].replace('T', ' ') if backup else 'none'}")
    say(f"  passed on before: {len(found['passed_on'])}")
    for each in found["passed_on"]:
        say(f"    {each['at'][:16].replace('T', ' ')} {each['by']}: {each['what']} {each['id']}")
    for cost in found["costs"]:
        say(cost)


def withdrawals_command(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Code of the study.", callback=check_study)
    ],
    as_json: AsJson = False,
) -> None:
    """List the withdrawals of a study, newest first."""
    with connect(as_json) as client:
        found = client.get(f"/v1/studies/{study}/withdrawals")
    if as_json:
        print_json(found)
        return
    rows = [
        Row(
            [
                each["participant"],
                each["scope"],
                each["state"],
                each["requested_at"][:16].replace("T", " "),
                each["failure_code"] or "",
            ],
            each["certificate_id"] or "",
        )
        for each in found["items"]
    ]
    print_table(["who", "scope", "state", "requested (UTC)", "waits for"], rows, "certificate")
