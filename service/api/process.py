"""The process of the API: `fieldscribe api`. It loads no models."""

import logging
import signal
import socket
import time
from typing import ClassVar

import uvicorn

from service.database.engine import migrate, open_engine
from service.errors import ServiceError
from service.processes import (
    disable_core_dumps,
    end_with_parent,
    log_to_stderr,
    raise_open_file_limit,
)
from service.services import create_root_keys, database_url
from service.settings import Settings

GRACE = 5  # s that open requests have when the API stops
LEFTOVERS = 5.0  # s in which the API of a `serve` that was killed lets go of the port

LOSING_KEYS = (
    "New root keys were made in %s. Whoever loses them loses every recording and transcript, for "
    "ever: keep two copies away from this machine, with two people (docs/administrator/vault.md)."
)

log = logging.getLogger(__name__)


class PortTaken(ServiceError):
    """The API cannot listen on its port: another program does."""

    code: ClassVar[str] = "port_taken"


def main(settings: Settings, *, parent: int | None = None) -> int:
    """
    Args:
        parent: process id of the `serve` that this process belongs to.
    """
    disable_core_dumps()
    raise_open_file_limit()
    if parent is not None:
        end_with_parent(signal.SIGKILL, parent)
    log_to_stderr()
    prepare(settings)
    if parent is None:
        require_port(settings)
    from service.api.app import create_app

    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        proxy_headers=settings.behind_proxy,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE,
    )
    return 0


def prepare(settings: Settings, passphrase: str | None = None) -> None:
    """What the first start makes, and every start makes sure of: root keys and the schema."""
    if create_root_keys(settings, passphrase):
        log.warning(LOSING_KEYS, settings.root_keys)
    engine = open_engine(database_url(settings))
    try:
        migrate(engine)
    finally:
        engine.dispose()


def require_port(settings: Settings) -> None:
    """Before the start, so that nothing is started again and again in vain.

    Raises:
        PortTaken
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    end = time.monotonic() + LEFTOVERS
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, settings.port))
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise PortTaken(
                        f"The service cannot listen on port {settings.port} ({error.strerror}): "
                        "stop the program that does, or set FIELDSCRIBE_PORT to another port, for "
                        "the commands as well"
                    ) from error
        time.sleep(0.2)
