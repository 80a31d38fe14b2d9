"""Connecting to the service: its address, its certificate and our token.

ServiceError
└── Misused
    └── NoToken
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from service.commands.client import Client
from service.commands.console import report_errors
from service.errors import Misused
from service.settings import BadSettings, Settings, read_settings
from service.tls import trust_only


class NoToken(Misused):
    """There is no token, neither in FIELDSCRIBE_TOKEN nor in a file on this machine."""

    code: ClassVar[str] = "no_token"


@contextmanager
def connect(as_json: bool) -> Iterator[Client]:
    """A client for one command; errors end the command with a message and an exit code."""
    with report_errors(as_json), open_client(read_settings()) as client:
        yield client


@contextmanager
def open_client(settings: Settings) -> Iterator[Client]:
    """A client of the service at FIELDSCRIBE_URL, by default the one on this machine.

    Raises:
        NoToken, BadSettings
    """
    url = settings.url or settings.local_url
    tls = None if settings.url else trust_own_certificate(settings)
    client = Client(url.rstrip("/"), find_token(settings), tls=tls)
    try:
        yield client
    finally:
        client.close()


def trust_own_certificate(settings: Settings) -> ssl.SSLContext | None:
    """Trust only the certificate of the service on this machine, if it has one.

    Raises:
        BadSettings
    """
    if settings.tls_certificate is None:
        return None
    try:
        return trust_only(settings.tls_certificate)
    except OSError as error:
        raise BadSettings(f"tls_certificate: it cannot be read ({error.strerror})") from None


def find_token(settings: Settings) -> str:
    """The token in FIELDSCRIBE_TOKEN, else the owner's in the keys folder.

    Raises:
        NoToken
    """
    if settings.token:
        return settings.token.get_secret_value().strip()
    try:
        return settings.owner_token.read_text().strip()
    except OSError:
        raise NoToken(
            "No token was found: start `fieldscribe serve` on this machine, set FIELDSCRIBE_KEYS "
            "to the keys folder of the running service, or set FIELDSCRIBE_TOKEN to a token."
        ) from None
