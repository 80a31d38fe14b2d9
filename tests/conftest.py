"""Fixtures that every test shares."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_outbound_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing leaves the building: a connection to anywhere but loopback fails the test."""
    connect = socket.socket.connect

    def loopback_only(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host not in ("", "127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {host} was attempted")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", loopback_only)
    yield
