"""The API process, `fieldscribe api`. It never loads models."""

import logging
import signal
import socket
import time
from functools import partial
from typing import ClassVar

import uvicorn

from service.database.engine import migrate, open_engine
from service.domain.sign_on import read_client_secret
from service.errors import ServiceError
from service.processes import (
    disable_core_dumps,
    end_with_parent,
    log_to_stderr,
    raise_open_file_limit,
    set_up_sandbox,
)
from service.services import check_root_keys, create_root_keys, database_url
from service.settings import Settings

GRACE = 5  # s that open requests get to finish when the API stops
LEFTOVERS = 5.0  # s until the API of a killed `serve` has freed the port

LOSING_KEYS = (
    "New root keys were created in %s. Without them every recording and transcript is lost for "
    "ever: keep two copies away from this machine, with two people (docs/administrator/vault.md)."
)

log = logging.getLogger(__name__)


class PortTaken(ServiceError):
    """Another program is listening on the API's port."""

    code: ClassVar[str] = "port_taken"


def main(settings: Settings, *, parent: int | None = None) -> int:
    """
    Args:
        parent: process id of the `serve` that started this process.
    """
    disable_core_dumps()
    raise_open_file_limit()
    if parent is not None:
        end_with_parent(signal.SIGKILL, parent)
    log_to_stderr()
    set_up_sandbox(settings.allow_weak_sandbox)
    prepare(settings)
    if parent is None:
        require_port(settings)
    from service.api.app import create_app
    from service.api.connections import ConnectionLimits, LimitedProtocol

    uvicorn.run(
        create_app(settings),
        http=partial(LimitedProtocol, limits=ConnectionLimits.of(settings)),  # type: ignore[arg-type]
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
    """Create root keys if there are none, and migrate the database."""
    check_root_keys(settings)
    read_client_secret(settings)  # a setting is wrong if it cannot be read
    if create_root_keys(settings, passphrase):
        log.warning(LOSING_KEYS, settings.root_keys)
    engine = open_engine(database_url(settings))
    try:
        migrate(engine)
    finally:
        engine.dispose()


def require_port(settings: Settings) -> None:
    """Check that the port is free, so that `serve` does not restart the API in vain.

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
                        "stop the program that uses it, or set FIELDSCRIBE_PORT to another port "
                        "here and wherever you run the commands"
                    ) from error
        time.sleep(0.2)
