"""`fieldscribe open | invite`: signing in to the pages in a browser."""

import threading
import time
import webbrowser
from typing import Annotated

import typer

from service.commands.client import Refused, ServiceUnreachable, drop_none
from service.commands.connection import NoToken, connect, open_client
from service.commands.console import print_json
from service.commands.options import AccessEnd, AccessStudies, AllStudies, AsJson
from service.settings import BadSettings, Settings

STARTING = 120.0  # s


def open_command(
    print_link: Annotated[
        bool, typer.Option("--print", help="Print the link instead of opening the browser.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Open the pages in the browser, signed in.

    The link works once, within 15 minutes, and signs the browser in with your token.
    """
    with connect(as_json) as client:
        made = client.post("/v1/sign-in-links")
    if as_json:
        print_json(made)
    elif print_link or not webbrowser.open(made["link"]):
        typer.echo(made["link"])


def invite_command(
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE", help="researcher, coder, listener, custodian, admin or owner."
        ),
    ],
    study: AccessStudies = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The person's name, for the lists of accounts."),
    ] = None,
    all_studies: AllStudies = False,
    expires: AccessEnd = None,
    days: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS",
            help="Days that the link can be used, 1 by default; with single sign-on, days until "
            "the first sign-in, 14 by default.",
        ),
    ] = None,
    sign_on: Annotated[
        str | None,
        typer.Option(
            metavar="EMAIL",
            help="Let the person in through single sign-on, without a link: the e-mail address "
            "that the provider has verified.",
        ),
    ] = None,
    sign_on_subject: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="The same by the provider's identifier of the person, where it verifies no "
            "e-mail addresses.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a link with which a person signs in.

    The link works once. Send it to the person: it needs no account and no password. With
    --sign-on, the person signs in with their institution's account instead.
    """
    if sign_on is not None and sign_on_subject is not None:
        raise typer.BadParameter(
            "use --sign-on or --sign-on-subject, not both", param_hint="--sign-on"
        )
    person = drop_none({"email": sign_on, "subject": sign_on_subject})
    body = drop_none(
        {
            "role": role,
            "display_name": name,
            "studies": study or [],
            "all_studies": all_studies,
            "expires_at": expires,
            "days": days,
            "sign_on": person or None,
        }
    )
    with connect(as_json) as client:
        made = client.post("/v1/invitations", body)
    if as_json:
        print_json(made)
        return
    typer.echo(made["link"])
    until = made["expires_at"][:16].replace("T", " ")
    use = "The person signs in there, for the first time" if person else "Works once,"
    typer.echo(
        f"{use} until {until} UTC. To end the access: "
        f"fieldscribe token revoke {made['token']['id']}",
        err=True,
    )
    if made["token"]["warning"]:
        typer.echo(made["token"]["warning"], err=True)


def announce_pages(settings: Settings, *, with_link: bool) -> None:
    """Print where the pages are once the API answers, in a thread.

    Args:
        with_link: print a one-time link, which must not end up in a log that is kept.
    """
    threading.Thread(
        target=_announce, args=(settings, with_link), daemon=True, name="announcing the pages"
    ).start()


def _announce(settings: Settings, with_link: bool) -> None:
    # Not the service that the variables of a client may name.
    local = settings.model_copy(update={"url": None, "token": None})
    link = wait_for_link(local)
    if link is None:
        return  # the log says what is wrong
    if not with_link:
        address = local.public_url or local.local_url
        typer.echo(f"The pages are at {address}. To sign in: fieldscribe open --print")
        return
    typer.echo(
        f"\nOpen this link in your browser. It works once, within 15 minutes:\n\n    {link}\n\n"
        "Later, `fieldscribe open` signs you in again.\n"
    )


def wait_for_link(settings: Settings) -> str | None:
    """A link for the owner as soon as the API answers; None if it does not, or has no owner."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        try:
            with open_client(settings) as client:
                made = client.request("POST", "/v1/sign-in-links", retry=False).json()
            return str(made["link"])
        except (NoToken, ServiceUnreachable):
            time.sleep(0.5)
        except (BadSettings, Refused):
            return None
    return None
