"""`fieldscribe study`: studies, defaults for their jobs, and tokens that admins may create."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from models.weights.catalogue import DEMO
from service.commands import retention
from service.commands.client import Client, Refused, drop_none
from service.commands.connection import connect
from service.commands.console import Row, print_json, print_table
from service.commands.options import (
    AsJson,
    Cursor,
    Limit,
    StudyArgument,
    Yes,
    language_option,
    requested_language,
)

app = typer.Typer(no_args_is_help=True, help="Create, change, list and delete studies.")
SERVICE_DEFAULT = "default"  # as a model: the service's


@app.command("create")
def create_command(
    code: Annotated[str, typer.Argument(metavar="CODE", help="Capitals and digits, such as PEER.")],
    language: Annotated[str | None, language_option("it is detected in each recording")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whisper model for its jobs; by default, the service's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a study and its encryption keys. Prints its id."""
    with connect(as_json) as client:
        fields = {"code": code, "language": requested_language(language), "model": model}
        study = client.post("/v1/studies", fields)
        warn_of_missing_model(client, study)
    print_json(study) if as_json else typer.echo(study["id"])


@app.command("set")
def set_command(
    code: StudyArgument,
    language: Annotated[str | None, language_option("it stays as it is")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whisper model for its jobs, or `default` for the service's. Without this "
            "option, the model stays the same.",
        ),
    ] = None,
    dates: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="What releases show of dates: keep_year; shift, by a secret number of days for "
            "each participant; or generalise, such as 'early 2010s'.",
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="What releases show for people: codes, or chosen for names that are not "
            "gender-specific.",
        ),
    ] = None,
    custodian_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AGE1...",
            help="Public key of age to which the names behind pseudonyms are exported; "
            "repeatable. Replaces earlier ones.",
        ),
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Attribute of the participants, such as role; repeatable. Replaces earlier ones.",
        ),
    ] = None,
    consent_warns: Annotated[
        str | None,
        typer.Option(
            metavar="RULES",
            help="Rules of consent that only warn in this study: recording, release, export, "
            "approval, separated by commas; or none.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change the defaults of a study's jobs and its rules.

    Also how it is de-identified, and the attributes of its participants.
    """
    changes: dict[str, Any] = {}
    with connect(as_json) as client:
        if language is not None:
            changes["language"] = requested_language(language)
        if model is not None:
            changes["model"] = None if model == SERVICE_DEFAULT else model
        policy = drop_none({"dates": dates, "names": names, "custodian_keys": custodian_key})
        if policy:
            changes["deidentification"] = policy
        if attribute:
            changes["attributes"] = attribute
        if consent_warns is not None:
            chosen = consent_warns.split(",")
            changes["consent_warnings"] = [] if consent_warns == "none" else chosen
        if not changes:
            raise typer.BadParameter("say what to change, for example --language or --dates")
        study = client.request("PATCH", f"/v1/studies/{code}", json=changes).json()
        warn_of_missing_model(client, study)
    print_json(study) if as_json else typer.echo("\n".join(describe(study)))


@app.command("show")
def show_command(code: StudyArgument, as_json: AsJson = False) -> None:
    """Show the defaults of a study's jobs and how it is de-identified.

    Also which tokens admins may create for it.
    """
    with connect(as_json) as client:
        study = client.get(f"/v1/studies/{code}")
        warn_of_missing_model(client, study)
        lines = (
            []
            if as_json
            else [
                *describe(study),
                *consent_lines(client, code),
                *retention_lines(client, code),
            ]
        )
    print_json(study) if as_json else typer.echo("\n".join(lines))


def consent_lines(client: Client, code: str) -> Iterator[str]:
    """Whether consents and approvals are checked, for those who may read them."""
    try:
        people = client.get(f"/v1/studies/{code}/participants")["items"]
        approvals = client.get(f"/v1/studies/{code}/approvals")["items"]
    except Refused as refusal:
        if refusal.code != "not_allowed":
            raise
        return
    yield (
        f"participants: {len(people)}"
        if people
        else "participants: none, so consent is not checked"
    )
    today = datetime.now(UTC).date().isoformat()
    valid = [
        each
        for each in approvals
        if each["valid_from"] <= today <= (each["valid_until"] or "9999-12-31")
    ]
    if not approvals:
        yield "approvals: none, so they are not checked"
    elif not valid:
        yield "approvals: none is valid today, so uploads and jobs are refused"
    else:
        yield f"approvals valid today: {len(valid)}"


def retention_lines(client: Client, code: str) -> Iterator[str]:
    """What is due of the study's data, for those who may read it."""
    try:
        found = client.get(f"/v1/studies/{code}/retention")
    except Refused as refusal:
        if refusal.code != "not_allowed":
            raise
        return
    yield from retention.describe(found)


@app.command("delete")
def delete_command(code: StudyArgument, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a study for good, with everything in it.

    Its recordings, transcripts and other results are deleted too.
    """
    with connect(as_json) as client:
        if not yes:
            study = client.get(f"/v1/studies/{code}")
            typer.echo("\n".join(describe(study)), err=True)
            typed = typer.prompt(
                "This destroys every recording and transcript of the study. They cannot be "
                "recovered.\nType its code to delete it",
                err=True,
            )
            if typed != study["code"]:
                raise typer.Abort
        deleted = client.delete(f"/v1/studies/{code}")
    print_json(deleted) if as_json else typer.echo("deleted")


@app.command("allow")
def allow_command(
    code: StudyArgument,
    admins_may_create: Annotated[
        list[str] | None,
        typer.Option(
            "--admins-may-create",
            metavar="ROLE",
            help="researcher, listener, deidentifier or custodian; repeatable. Without it, none.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Allow admins to create tokens that read a study's content.

    Needs an owner's token. Replaces what was allowed before.
    """
    with connect(as_json) as client:
        body = {"admins_may_create": admins_may_create or []}
        study = client.request("PATCH", f"/v1/studies/{code}", json=body).json()
    allowed = " ".join(study["admins_may_create"]) or "none"
    print_json(study) if as_json else typer.echo(allowed)


@app.command("list")
def list_command(limit: Limit = 200, cursor: Cursor = None, as_json: AsJson = False) -> None:
    """List the studies that your token gives access to."""
    with connect(as_json) as client:
        page = client.list_some("/v1/studies", limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    titles = ("code", "language", "model", "vocabulary")
    print_table(titles, [Row(list(_cells(study)), study["id"]) for study in page["items"]], "id")


def _cells(study: dict[str, Any]) -> Iterator[str]:
    yield study["code"]
    yield study["language"] or "detected"
    yield study["model"] or SERVICE_DEFAULT
    yield "yes" if study["has_vocabulary"] else "no"


def describe(study: dict[str, Any]) -> Iterator[str]:
    yield f"Study {study['code']}: {study['id']}"
    yield f"language: {study['language'] or 'detected in each recording'}"
    yield f"model: {study['model'] or 'the default of the service'}"
    yield f"vocabulary: {'yes' if study['has_vocabulary'] else 'none'}"
    policy = study["deidentification"]
    yield f"dates: {policy['dates'].replace('_', ' ')}, people: {policy['names']}"
    if study["attributes"]:
        yield f"attributes of participants: {', '.join(study['attributes'])}"
    if study["consent_warnings"]:
        yield f"consent only warns for: {', '.join(study['consent_warnings'])}"
    yield f"custodian's keys: {' '.join(policy['custodian_keys']) or 'none'}"
    yield f"admins may create: {' '.join(study['admins_may_create']) or 'no tokens that read it'}"
    yield f"created: {study['created_at'][:10]}"


def warn_of_missing_model(client: Client, study: dict[str, Any]) -> None:
    """Warn that the study's jobs will fail, before somebody uploads hours of recordings."""
    models = client.get("/v1/models")["items"]
    installed = {model["name"] for model in models if model["kind"] == "whisper"}
    model = study["model"]
    if model is None and installed <= {DEMO}:
        what, fetch = "only the demo's Whisper model is installed", "fieldscribe models fetch"
    elif model is not None and model not in installed:
        what = f"the model {model} is not installed"
        fetch = f"fieldscribe models fetch {model}"
    else:
        return
    typer.echo(
        f"Warning: {what}, so jobs of the study will be refused: run `{fetch}` on the service's "
        "machine.",
        err=True,
    )
