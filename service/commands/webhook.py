"""`fieldscribe webhook`: notify other programs about the jobs of a study."""

from typing import Annotated

import typer

from service.commands.client import drop_none
from service.commands.connection import connect
from service.commands.console import (
    Row,
    confirm,
    print_json,
    print_table,
)
from service.commands.options import AsJson, Cursor, Limit, StudyArgument, Yes, check_id

app = typer.Typer(
    no_args_is_help=True, help="Notify other programs when a study's jobs end (for admins)."
)
WebhookId = Annotated[
    str,
    typer.Argument(
        metavar="WEBHOOK",
        help="Id of the webhook.",
        callback=check_id("fieldscribe webhook list CODE"),
    ),
]


@app.command("create")
def create_command(
    code: StudyArgument,
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where to send events; the host must be allowed.")
    ],
    event: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EVENT",
            help="job.queued, job.started, job.succeeded, job.failed, job.cancelled, "
            "handoff.completed or handoff.failed; repeatable. By default, all ends of jobs.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send events of a study to an address. Prints the webhook's id and its secret.

    The secret is printed only once; the receiver verifies signatures with it.
    """
    with connect(as_json) as client:
        body = drop_none({"url": url, "events": event or None})
        webhook = client.post(f"/v1/studies/{code}/webhooks", body)
    if as_json:
        print_json(webhook)
    else:
        typer.echo(f"webhook {webhook['id']}\nsecret {webhook['secret']}")


@app.command("list")
def list_command(code: StudyArgument, as_json: AsJson = False) -> None:
    """List the webhooks of a study, without their secrets."""
    with connect(as_json) as client:
        webhooks = client.get(f"/v1/studies/{code}/webhooks")
    if as_json:
        print_json(webhooks)
        return
    rows = [
        Row(
            (each["url"], " ".join(each["events"]), "yes" if each["enabled"] else "no"),
            each["id"],
        )
        for each in webhooks["items"]
    ]
    print_table(("address", "events", "enabled"), rows, "webhook")


@app.command("ping")
def ping_command(code: StudyArgument, webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Send a test event. `fieldscribe webhook deliveries` shows whether it arrived."""
    with connect(as_json) as client:
        path = f"/v1/studies/{code}/webhooks/{webhook_id}/ping"
        delivery = client.request("POST", path, retry=False).json()
    print_json(delivery) if as_json else typer.echo(delivery["id"])


@app.command("deliveries")
def deliveries_command(
    code: StudyArgument,
    webhook_id: WebhookId,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List what was sent to a webhook and what is waiting.

    The newest comes first.
    """
    with connect(as_json) as client:
        path = f"/v1/studies/{code}/webhooks/{webhook_id}/deliveries"
        page = client.list_some(path, limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    rows = [
        Row(
            (
                each["created_at"][:16].replace("T", " "),
                each["event"],
                each["state"],
                str(each["attempts"]),
                " ".join(filter(None, (each["last_error"], str(each["last_status"] or "")))),
                each["next_attempt_at"][:16].replace("T", " ")
                if each["state"] == "pending"
                else "",
            ),
            each["id"],
        )
        for each in page["items"]
    ]
    titles = ("created (UTC)", "event", "state", "attempts", "answer", "next attempt")
    print_table(titles, rows, "delivery")


@app.command("delete")
def delete_command(
    code: StudyArgument, webhook_id: WebhookId, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Delete a webhook, its secret and its deliveries."""
    with connect(as_json) as client:
        if not yes:
            confirm("Delete the webhook?")
        deleted = client.delete(f"/v1/studies/{code}/webhooks/{webhook_id}")
    print_json(deleted) if as_json else typer.echo("deleted")
