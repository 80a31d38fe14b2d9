"""`fieldscribe roster`: the names of a study, and the pseudonyms that stand for them.

Names are asked for or read from files: other users can read command lines.

ServiceError
└── Misused
    └── EntityUnknown
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar
from uuid import UUID

import typer

from service.commands.client import Client, drop_none
from service.commands.connection import connect
from service.commands.console import Row, confirm, print_json, print_table, printable
from service.commands.lists import read_text
from service.commands.options import AsJson, Cursor, Limit, StudyArgument, Yes
from service.commands.transcript import confirm_overwriting
from service.errors import Misused, OutputNotWritable, RosterNotReadable
from service.exports.files import write_whole

MAX_ROSTER_BYTES = 8 << 20
REASONS = "withdrawal, member_checking, duty_of_care, correction, audit, review, release or export"
NOTES = {
    "common_word": "a name is also a common word: check its mentions with care",
    "same_name": "another entry has one of the names: choose the right one at each mention",
    "name_differs": "the code had another name before: both names are kept",
    "pseudonym_in_use": "somebody has chosen one of the names as a pseudonym: choose another",
}

app = typer.Typer(
    no_args_is_help=True, help="The names of a study, and the pseudonyms that stand for them."
)
EntityArgument = Annotated[
    str, typer.Argument(metavar="ENTITY", help="Its pseudonym, such as P07 or PLACE-1, or its id.")
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="REASON", help=f"Why: {REASONS}.")]
Always = Annotated[
    bool | None,
    typer.Option("--always/--no-always", help="Replace its names in every transcript."),
]
Kind = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help="person, participant, interviewer, organisation, place, other, or allowed for a name "
        "that identifies nobody.",
    ),
]
Pseudonym = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="Such as P07, I1 or PLACE-1; by default, a random one."),
]
Descriptor = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Shown with the code: [PLACE-1: regional town]."),
]


class EntityUnknown(Misused):
    """The study has no entity with this pseudonym."""

    code: ClassVar[str] = "entity_unknown"


@app.command("import")
def import_command(
    code: StudyArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV file with the columns kind, code, name and aliases (separated by ';').",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Add the names in a CSV file to a study.

    Nothing is removed, and importing the same file again changes nothing.
    """
    with connect(as_json) as client:
        text = read_text(file, "roster", RosterNotReadable, MAX_ROSTER_BYTES)
        done = client.post(f"/v1/studies/{code}/roster", {"csv": text})
    if as_json:
        print_json(done)
        return
    typer.echo(f"{done['created']} new, {done['updated']} changed, {done['unchanged']} unchanged")
    for note in done["notes"]:
        typer.echo(f"entry {note['entry']}: {NOTES[note['code']]}", err=True)


@app.command("list")
def list_command(
    code: StudyArgument,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="List only this kind; repeatable."),
    ] = None,
    limit: Limit = 200,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List the pseudonyms of a study, without the names behind them."""
    with connect(as_json) as client:
        path = f"/v1/studies/{code}/entities"
        page = client.list_some(path, limit=limit, cursor=cursor, kind=kind)
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (
                entity["pseudonym"] or "(none yet)",
                entity["kind"],
                "yes" if entity["always"] else "",
                str(entity["mentions"]["accepted"]),
                str(entity["mentions"]["suggested"]),
                "erased" if entity["erased_at"] else "",
            ),
            entity["id"],
        )
        for entity in page["items"]
    ]
    print_table(("pseudonym", "kind", "always", "accepted", "open", ""), rows, "entity")


@app.command("add")
def add_command(
    code: StudyArgument,
    kind: Kind,
    pseudonym: Pseudonym = None,
    always: Always = None,
    descriptor: Descriptor = None,
    as_json: AsJson = False,
) -> None:
    """Add a person, an organisation or a place. Asks for its names."""
    with connect(as_json) as client:
        entity = {
            "kind": kind,
            "names": ask_names(),
            "pseudonym": pseudonym,
            "always": always,
            "descriptor": descriptor,
        }
        made = client.post(f"/v1/studies/{code}/entities", drop_none(entity))
    print_json(made) if as_json else typer.echo(made["id"])


@app.command("set")
def set_command(
    code: StudyArgument,
    entity: EntityArgument,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Its new kind.")
    ] = None,
    pseudonym: Pseudonym = None,
    always: Always = None,
    descriptor: Descriptor = None,
    chosen_name: Annotated[
        bool,
        typer.Option(
            "--chosen-name",
            help="Ask for a name to show in releases instead of the code.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Change an entity's kind, pseudonym or descriptor.

    Earlier releases that show the old one are then outdated.
    """
    with connect(as_json) as client:
        changes = drop_none(
            {"kind": kind, "pseudonym": pseudonym, "always": always, "descriptor": descriptor}
        )
        if chosen_name:
            changes["chosen_name"] = typer.prompt("Chosen name", err=True).strip()
        if not changes:
            raise typer.BadParameter("say what to change, for example --descriptor")
        found = find_entity(client, code, entity)
        path, headers = f"/v1/entities/{found['id']}", {"If-Match": f'"{found["version"]}"'}
        changed = client.request("PATCH", path, json=changes, headers=headers).json()
    print_json(changed) if as_json else typer.echo(changed["pseudonym"] or changed["id"])


@app.command("alias")
def alias_command(
    code: StudyArgument,
    entity: EntityArgument,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove a spelling instead of adding one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add a spelling of an entity's name. Asks for it."""
    with connect(as_json) as client:
        found = find_entity(client, code, entity)
        name = typer.prompt("Name", err=True).strip()
        path = f"/v1/entities/{found['id']}/aliases{'/remove' if remove else ''}"
        done = client.post(path, {"name": name})
    if as_json:
        print_json(done)
    else:
        typer.echo("removed" if remove else "added" if done["added"] else "it had this name")


@app.command("merge")
def merge_command(
    code: StudyArgument,
    entity: EntityArgument,
    into: Annotated[
        str, typer.Argument(metavar="INTO", help="The entity that gets its names and mentions.")
    ],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Merge two entities, for example a nickname and a person."""
    with connect(as_json) as client:
        source, target = (find_entity(client, code, each) for each in (entity, into))
        if not yes:
            confirm("Its mentions get the other pseudonym; releases become outdated. Merge?")
        body = {"into": target["id"]}
        merged = client.post(f"/v1/entities/{source['id']}/merge", body)
    print_json(merged) if as_json else typer.echo(merged["pseudonym"] or merged["id"])


@app.command("split")
def split_command(
    code: StudyArgument,
    entity: EntityArgument,
    pseudonym: Pseudonym = None,
    as_json: AsJson = False,
) -> None:
    """Move names of an entity to a new entity. Asks for the names.

    Their mentions wait for a decision again.
    """
    with connect(as_json) as client:
        found = find_entity(client, code, entity)
        body = drop_none({"names": ask_names(), "pseudonym": pseudonym})
        made = client.post(f"/v1/entities/{found['id']}/split", body)
    print_json(made) if as_json else typer.echo(made["id"])


@app.command("erase")
def erase_command(
    code: StudyArgument, entity: EntityArgument, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Destroy the names behind a pseudonym for good.

    The pseudonym stays in releases, and nobody can find out whose it is.
    """
    with connect(as_json) as client:
        found = find_entity(client, code, entity)
        if not yes:
            confirm(f"Destroy the names behind {found['pseudonym'] or found['id']} for good?")
        erased = client.delete(f"/v1/entities/{found['id']}")
    print_json(erased) if as_json else typer.echo("erased")


@app.command("look-up")
def look_up_command(
    code: StudyArgument,
    entities: Annotated[
        list[str], typer.Argument(metavar="ENTITIES", help="Pseudonyms, such as P07, or ids.")
    ],
    reason: ReasonOption,
    as_json: AsJson = False,
) -> None:
    """Print who is behind pseudonyms (for custodians).

    Each look-up is recorded with its reason.
    """
    with connect(as_json) as client:
        ids = [each for each in entities if is_id(each)]
        codes = [each.upper() for each in entities if not is_id(each)]
        body = {"entities": ids, "pseudonyms": codes, "reason": reason}
        found = client.post(f"/v1/studies/{code}/look-ups", body)
    if as_json:
        print_json(found)
        return
    for entity in found["items"]:
        line = f"{entity['pseudonym'] or entity['id']}: "
        line += "; ".join(map(printable, entity["names"]))
        if entity["chosen_name"] is not None:
            line += f" (in releases: {printable(entity['chosen_name'])})"
        typer.echo(line)


@app.command("look-ups")
def look_ups_command(
    code: StudyArgument, limit: Limit = 50, cursor: Cursor = None, as_json: AsJson = False
) -> None:
    """List who has read names of a study, when and why."""
    with connect(as_json) as client:
        path = f"/v1/studies/{code}/look-ups"
        page = client.list_some(path, limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (row["at"][:16].replace("T", " "), row["reason"], row["token_id"]),
            row["entity_id"] or "all of them",
        )
        for row in page["items"]
    ]
    print_table(("at (UTC)", "reason", "token"), rows, "entity")


@app.command("export")
def export_command(
    code: StudyArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File for the table.")],
    reason: ReasonOption = "export",
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite an existing file without asking.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Save the names and pseudonyms, encrypted to the custodian's key.

    `age --decrypt` makes it a CSV file. `fieldscribe study set` sets the key.
    """
    with connect(as_json) as client:
        confirm_overwriting(out, yes=yes)
        path = f"/v1/studies/{code}/roster/export"
        content = client.request("POST", path, json={"reason": reason}).content
        try:
            write_whole(out, content)
        except OSError as error:
            raise OutputNotWritable(f"The file cannot be written ({error.strerror}).") from None
    print_json({"bytes": len(content)}) if as_json else typer.echo(f"saved {len(content)} bytes")


def find_entity(client: Client, study: str, name: str) -> dict[str, Any]:
    """
    Args:
        name: a pseudonym, or an id.

    Raises:
        EntityUnknown
    """
    if is_id(name):
        found: dict[str, Any] = client.get(f"/v1/entities/{name}")
        return found
    items = client.get(f"/v1/studies/{study}/entities", pseudonym=name.upper())["items"]
    if not items:
        raise EntityUnknown(
            "The study has no entity with this pseudonym: `fieldscribe roster list` shows them."
        )
    first: dict[str, Any] = items[0]
    return first


def is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def ask_names() -> Sequence[str]:
    """Ask for a name and its other spellings, separated by semicolons."""
    typed: str = typer.prompt("Name, and other spellings separated by ;", err=True)
    return [name.strip() for name in typed.split(";") if name.strip()]
