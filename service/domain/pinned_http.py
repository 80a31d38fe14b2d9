"""A POST to an address that was checked: the name is resolved once, and that address is used.

A name that resolves to a public address when it is checked and to a private one when it is used
(DNS rebinding) would otherwise reach services inside the network. No redirects, no proxies.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 10.0  # s, for the whole exchange
NAT64 = ipaddress.ip_network("64:ff9b::/96")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Undeliverable(Exception):
    """`code`: unreachable, timed_out, bad_certificate or address_not_allowed."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def split_list(text: str) -> list[str]:
    return [each.strip().lower() for each in text.split(",") if each.strip()]


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    private_networks: Sequence[str],
    context: ssl.SSLContext | None = None,
) -> int:
    """Send and return the status of the answer, whose body is not read.

    Args:
        private_networks: that may be sent to although their addresses are private.

    Raises:
        Undeliverable
    """
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    address = resolve(host, port, private_networks, secure=secure)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _Pinned(
        host, port, address, (context or ssl.create_default_context()) if secure else None
    )
    timed_out = threading.Event()

    def end() -> None:
        timed_out.set()
        connection.shut()

    timer = threading.Timer(TIMEOUT, end)
    timer.daemon = True
    timer.start()
    try:
        connection.request("POST", path, body=body, headers=dict(headers))
        return connection.getresponse().status
    except ssl.SSLCertVerificationError:
        raise Undeliverable("bad_certificate") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = timed_out.is_set() or isinstance(error, TimeoutError)
        raise Undeliverable("timed_out" if late else "unreachable") from None
    finally:
        timer.cancel()
        connection.close()


def resolve(host: str, port: int, private_networks: Sequence[str], *, secure: bool) -> str:
    """The first address of a host that may be sent to.

    Raises:
        Undeliverable
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Undeliverable("unreachable") from None
    for *_, address in found:
        if may_send_to(str(address[0]), private_networks, secure=secure):
            return str(address[0])
    raise Undeliverable("address_not_allowed")


def may_send_to(address: str, private_networks: Sequence[str], *, secure: bool) -> bool:
    """Whether an address is public, or in a private network that is allowed.

    Without TLS only the latter.
    """
    try:
        ip = _embedded(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if any(ip in ipaddress.ip_network(network) for network in private_networks):
        return True
    return secure and ip.is_global and not ip.is_multicast


def _embedded(ip: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 address leads to, if it is of such a kind."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip.sixtofour:
            return ip.ipv4_mapped or ip.sixtofour or ip
        if ip.teredo:
            return ip.teredo[1]
        if ip in NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


class _Pinned(http.client.HTTPConnection):
    """Connects to `address`; the certificate must be that of `host`."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=TIMEOUT)
        self._address, self._context = address, context
        self._raw: socket.socket | None = None
        if context is not None:
            self.default_port = 443  # leaves the port out of the header `Host`

    def connect(self) -> None:
        self._raw = socket.create_connection((self._address, self.port), self.timeout)
        self.sock: Any = self._raw
        if self._context is not None:
            self.sock = self._context.wrap_socket(self._raw, server_hostname=self.host)

    def shut(self) -> None:
        """End the exchange, from another thread."""
        for each in (self.sock, self._raw):
            try:
                if each is not None:
                    each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
