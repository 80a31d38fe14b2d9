"""`fieldscribe retention`: how long data is kept, legal holds, destruction by two people."""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal

import typer

from service.commands.connection import connect
from service.commands.console import Commands, Row, confirm, print_json, print_table
from service.commands.options import AsJson, StudyArgument, Yes, check_id

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="How long data is kept, and its destruction.",
)
DataClass = Literal["identified", "deidentified", "linkage", "consent"]
Basis = Literal["publication", "completion", "last_contact"]
Reason = Literal[
    "legal_proceedings", "freedom_of_information", "complaint", "audit", "misconduct_inquiry"
]
ClassArgument = Annotated[
    DataClass,
    typer.Argument(metavar="CLASS", help="identified, deidentified, linkage or consent."),
]
DestructionId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Id of the request.",
        callback=check_id("fieldscribe retention show"),
    ),
]


def parse_day(text: str) -> str:
    if text == "none":
        return text
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise typer.BadParameter("give a day such as 2031-01-07, or none") from None


@app.command("show")
def show_command(study: StudyArgument, as_json: AsJson = False) -> None:
    """Show the rules of a study, what is due, holds and requests."""
    with connect(as_json) as client:
        found = client.get(f"/v1/studies/{study}/retention")
    if as_json:
        print_json(found)
        return
    typer.echo("\n".join(describe(found)) or "The study has no retention rules.")
    if found["destructions"]:
        typer.echo("")
        rows = [
            Row([each["data_class"], each["requested_at"][:10], progress(each)], each["id"])
            for each in found["destructions"]
        ]
        print_table(["destruction of", "asked for", "state"], rows, "id")


def describe(found: dict[str, Any]) -> Iterator[str]:
    """The lines on a study's retention, also for `fieldscribe study show`."""
    for rule in found["rules"]:
        words = {
            "no_date": f"no date of {rule['basis'].replace('_', ' ')} is set",
            "kept": f"kept until {rule['due_on']}",
            "due": f"DUE since {rule['due_on']}",
            "held": f"due since {rule['due_on']}, on legal hold",
            "destroyed": "destroyed",
        }
        yield (
            f"retention of {rule['data_class']}: {rule['years']} years from "
            f"{rule['basis'].replace('_', ' ')}, then {rule['at_end']}: {words[rule['state']]}"
        )
    for hold in found["holds"]:
        yield (
            f"legal hold since {hold['created_at'][:10]}: {hold['reason'].replace('_', ' ')} "
            f"({hold['id']})"
        )


def progress(each: dict[str, Any]) -> str:
    if each["finished_at"]:
        return f"destroyed {each['finished_at'][:10]}, certificate {each['certificate_id']}"
    if each["cancelled_at"]:
        return "cancelled"
    if each["confirmed_at"]:
        return "being destroyed"
    return f"waits for another person until {each['expires_at'][:10]}"


@app.command("set")
def set_command(
    study: StudyArgument,
    data_class: ClassArgument,
    after: Annotated[
        Basis,
        typer.Option(
            metavar="BASIS",
            help="What the years count from: publication, completion or last_contact.",
        ),
    ],
    years: Annotated[int, typer.Option(min=0, max=200, help="How long it is kept.")],
    then: Annotated[
        Literal["review", "destroy"],
        typer.Option(help="What the study has decided to do then."),
    ] = "review",
) -> None:
    """Set how long a class of data is kept."""
    with connect(as_json=False) as client:
        path = f"/v1/studies/{study}/retention/rules/{data_class}"
        body = {"basis": after, "years": years, "at_end": then}
        found = client.request("PUT", path, json=body).json()
    typer.echo("\n".join(describe(found)))


@app.command("unset")
def unset_command(study: StudyArgument, data_class: ClassArgument) -> None:
    """Remove the rule of a class."""
    with connect(as_json=False) as client:
        client.delete(f"/v1/studies/{study}/retention/rules/{data_class}")


@app.command("date")
def date_command(
    study: StudyArgument,
    basis: Annotated[
        Basis, typer.Argument(metavar="BASIS", help="publication, completion or last_contact.")
    ],
    on: Annotated[
        str,
        typer.Argument(
            metavar="DAY", help="Such as 2031-01-07; none removes it.", callback=parse_day
        ),
    ],
) -> None:
    """Set the day of publication, completion or last contact."""
    with connect(as_json=False) as client:
        path = f"/v1/studies/{study}/retention/dates/{basis}"
        body = {"on": None if on == "none" else on}
        found = client.request("PUT", path, json=body).json()
    typer.echo("\n".join(describe(found)))


@app.command("hold")
def hold_command(
    study: StudyArgument,
    reason: Annotated[
        Reason,
        typer.Option(
            help="legal_proceedings, freedom_of_information, complaint, audit or "
            "misconduct_inquiry."
        ),
    ],
) -> None:
    """Place a legal hold, which blocks destruction. Prints its id."""
    with connect(as_json=False) as client:
        hold = client.post(f"/v1/studies/{study}/holds", {"reason": reason})
    typer.echo(hold["id"])


@app.command("lift")
def lift_command(
    study: StudyArgument,
    hold: Annotated[
        str,
        typer.Argument(
            metavar="HOLD",
            help="Id of the hold.",
            callback=check_id("fieldscribe retention show"),
        ),
    ],
) -> None:
    """Lift a legal hold."""
    with connect(as_json=False) as client:
        client.delete(f"/v1/studies/{study}/holds/{hold}")


@app.command("destroy")
def destroy_command(study: StudyArgument, data_class: ClassArgument) -> None:
    """Ask for the destruction of a class that is due. Prints the request's id.

    Another person confirms it within a week, with `fieldscribe retention confirm`.
    """
    with connect(as_json=False) as client:
        made = client.post(f"/v1/studies/{study}/destructions", {"data_class": data_class})
    typer.echo(made["id"])
    typer.echo(f"Another person must confirm it by {made['expires_at'][:10]}.", err=True)


@app.command("confirm")
def confirm_command(destruction: DestructionId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Destroy what another person has asked for. Prints the certificate's id."""
    if not yes:
        confirm("This destroys the data of the request for ever. Destroy it?")
    with connect(as_json) as client:
        done = client.post(f"/v1/destructions/{destruction}/confirm")
    print_json(done) if as_json else typer.echo(done["certificate_id"])


@app.command("cancel")
def cancel_command(destruction: DestructionId) -> None:
    """Take a request for destruction back before it is confirmed."""
    with connect(as_json=False) as client:
        client.delete(f"/v1/destructions/{destruction}")
