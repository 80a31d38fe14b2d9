"""Limits on connections: headers that never end, many connections from one address."""

import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import uvicorn

from service.api.connections import MAX_HEADER_BYTES, ConnectionLimits, LimitedProtocol
from service.settings import Settings

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer(scope, receive, send):
    """Answers 200 at once, without reading the body."""
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def serve(limits):
    """Yields a function that connects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            answer,
            http=partial(LimitedProtocol, limits=limits),  # type: ignore[arg-type]
            lifespan="off",
            log_config=None,
            timeout_keep_alive=30,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with ExitStack() as stack:

            def connect():
                connection = socket.create_connection(listener.getsockname(), timeout=5)
                return stack.enter_context(connection)

            try:
                yield connect
            finally:
                server.should_exit = True
                thread.join()


def closed_after(connection, drip=b""):
    """The seconds until the service closes the connection, sending a byte now and then."""
    started = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() < started + 5:
        try:
            if drip:
                connection.sendall(drip)
            if not connection.recv(1024):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - started


def get(connection):
    connection.sendall(REQUEST)
    received = b""
    while not received.endswith(b"ok"):
        received += connection.recv(1024)
    return received


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nX-Slow: "])
def test_a_connection_whose_headers_never_end_is_closed(start):
    with serve(ConnectionLimits(header_seconds=0.5)) as connect:
        connection = connect()
        connection.sendall(start)

        assert 0.3 < closed_after(connection, drip=b"x" if start else b"") < 3


def test_the_next_requests_headers_have_to_end_too():
    """uvicorn's own timer for idle connections stops at the first byte."""
    with serve(ConnectionLimits(header_seconds=0.5)) as connect:
        connection = connect()
        for _ in range(3):
            get(connection)
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")

        assert closed_after(connection, drip=b"x") < 3


def test_a_connection_between_two_requests_stays_open():
    with serve(ConnectionLimits(header_seconds=0.3)) as connect:
        connection = connect()
        get(connection)
        time.sleep(0.8)

        assert b"200 OK" in get(connection)


def test_headers_have_a_size():
    with serve(ConnectionLimits(header_seconds=60)) as connect:
        connection = connect()
        connection.sendall(b"GET / HTTP/1.1\r\n")

        assert closed_after(connection, drip=b"X: " + b"x" * 8000 + b"\r\n") < 3
        assert MAX_HEADER_BYTES < 100_000


def test_the_rest_of_an_answered_requests_body_is_bounded(monkeypatch):
    monkeypatch.setattr("service.api.connections.LINGER_SECONDS", 0.5)
    with serve(ConnectionLimits(header_seconds=60)) as connect:
        connection = connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")

        assert closed_after(connection, drip=b"x") < 3


def test_a_large_body_that_was_not_read_does_not_hide_the_answer():
    with serve(ConnectionLimits()) as connect:
        connection = connect()
        body = b"x" * (4 * MAX_HEADER_BYTES)
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

        assert b"200 OK" in connection.recv(1024)
        assert b"200 OK" in get(connection)


def test_an_address_has_a_number_of_connections(caplog):
    limits = ConnectionLimits(max_per_address=3, exempt=())
    with serve(limits) as connect:
        kept = [connect() for _ in range(3)]
        assert all(b"200 OK" in get(each) for each in kept)

        assert closed_after(connect()) < 2
        assert "connections are refused: an address has 3" in caplog.text
        assert "127.0.0.1" not in caplog.text.replace("http://127.0.0.1", "")
        kept[0].close()
        time.sleep(0.3)
        assert b"200 OK" in get(connect())
    assert not limits.counts


def test_this_machine_and_a_proxy_have_no_limit():
    here = ConnectionLimits(max_per_address=0)
    proxy = ConnectionLimits.of(Settings(behind_proxy=True))

    assert here.admit("127.0.0.1")
    assert not here.admit("192.0.2.1")
    assert all(proxy.admit("192.0.2.1") for _ in range(1000))
