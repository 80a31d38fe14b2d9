"""Limits on connections: a time for headers, their size, and a number per client address.

uvicorn closes a connection that is idle, but not one that sends a byte of its headers now and then.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import LOOPBACK, Settings

HEADER_SECONDS = 10.0
LINGER_SECONDS = 60.0  # for the rest of a body after the answer
MAX_HEADER_BYTES = 64 * 2**10
MAX_PER_ADDRESS = 256
LOG_EVERY = 60.0  # s

log = logging.getLogger(__name__)


@dataclass
class ConnectionLimits:
    """`max_per_address`: None behind a proxy, where every connection has the proxy's address."""

    max_per_address: int | None = MAX_PER_ADDRESS
    header_seconds: float = HEADER_SECONDS
    exempt: tuple[str, ...] = LOOPBACK
    counts: Counter[str] = field(default_factory=Counter)
    logged_at: float = float("-inf")

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        return cls(max_per_address=None if settings.behind_proxy else MAX_PER_ADDRESS)

    def admit(self, address: str) -> bool:
        """Count a connection, unless its address has too many."""
        limited = self.max_per_address is not None and address not in self.exempt
        if limited and self.counts[address] >= (self.max_per_address or 0):
            self._log()
            return False
        self.counts[address] += 1
        return True

    def release(self, address: str) -> None:
        self.counts[address] -= 1
        if self.counts[address] <= 0:
            del self.counts[address]

    def _log(self) -> None:
        if time.monotonic() > self.logged_at + LOG_EVERY:
            self.logged_at = time.monotonic()
            log.warning("connections are refused: an address has %s", self.max_per_address)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within `ConnectionLimits`.

    A timer runs while a request's headers are due, and while the rest of a body arrives whose
    request was already answered, perhaps refused.
    """

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._in_body = False
        self._n_header_bytes = 0
        self._address: str | None = None  # while it is counted

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self._limits.admit(address):
            transport.abort()
            return
        self._address = address
        self._start_timer(self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._address is not None:
            self._limits.release(self._address)
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            if self._timer is None:
                self._start_timer(self._limits.header_seconds)
            self._n_header_bytes += len(data)
        super().data_received(data)
        if not self._in_body and self._n_header_bytes > MAX_HEADER_BYTES:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_body, self._n_header_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self._timer is None and not self.transport.is_closing():
            self._start_timer(LINGER_SECONDS)

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
