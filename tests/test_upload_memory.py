"""The API as a separate process: memory during a long upload, and state after a kill."""

import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from service.database.engine import open_engine, open_sessions
from service.database.tables import Token
from service.domain.callers import hash_secret, new_secret
from service.services import create_root_keys
from service.settings import Settings

ROOT = Path(__file__).parent.parent
CEILING = 250 * 10**6  # bytes
OCTETS = {"Content-Type": "application/offset+octet-stream"}
MIB = 2**20

log = logging.getLogger(__name__)


class Process:
    """`fieldscribe api`."""

    def __init__(self, settings: Settings, token: str) -> None:
        self._settings, self._token = settings, token
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if "FIELDSCRIBE" not in name},
            **self._settings.model_copy(update={"port": self.port}).as_environment(),
            "PYTHONPATH": str(ROOT),
        }
        program = (
            "from service.api.process import main; from service.settings import read_settings;"
            "main(read_settings())"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE
        )
        end = time.monotonic() + 60
        while time.monotonic() < end and self._child.poll() is None:
            with contextlib.suppress(OSError):
                if self.request("GET", "/healthz")[0] == 200:
                    return
            time.sleep(0.1)
        raise AssertionError("the API does not answer")

    def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self._child.communicate()

    @property
    def peak(self) -> int:
        """Peak memory so far, in bytes."""
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def request(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            answered = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, answered, json.loads(content) if content else None
        finally:
            connection.close()

    def study(self) -> str:
        code = f"MEMORY-{uuid4().hex[:8].upper()}"
        body = json.dumps({"code": code})
        status, _, study = self.request(
            "POST", "/v1/studies", body, Content_Type="application/json"
        )
        assert status == 201, study
        return code

    def checked(self, recording: str, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            view: dict[str, Any] = self.request("GET", f"/v1/recordings/{recording}?wait=30")[2]
            if view["state"] not in ("receiving", "checking"):
                return view
        raise AssertionError(view["state"])


@pytest.fixture
def process(settings):
    create_root_keys(settings)
    assert settings.database_url is not None
    secret = new_secret()
    engine = open_engine(settings.database_url.get_secret_value())
    with open_sessions(engine).begin() as session:
        session.add(Token(hash=hash_secret(secret), role="owner", all_studies=True))
    engine.dispose()
    process = Process(settings, secret)
    yield process
    process.kill()


def noise(n_bytes: int) -> Iterator[bytes]:
    """A WAV with 96 kHz and eight channels, so that it is short for its size."""
    channels, rate = 8, 96_000
    n_data = n_bytes - 44
    yield (
        b"RIFF"
        + struct.pack("<I", n_bytes - 8)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
        + b"data"
        + struct.pack("<I", n_data)
    )
    block = np.random.default_rng(0).integers(-9000, 9000, MIB // 2, dtype="<i2").tobytes()
    for start in range(0, n_data, MIB):
        yield block[: min(MIB, n_data - start)]


@pytest.mark.parametrize(
    "n_bytes",
    [
        pytest.param(300 * 10**6 // 16 * 16 + 44, id="300 MB"),
        pytest.param(2 * 10**9 // 16 * 16 + 44, id="2 GB", marks=pytest.mark.slow),
    ],
)
def test_the_apis_memory_does_not_grow_with_an_upload(process, n_bytes):
    """Nor with the check of the recording, which uses a memory file outside the process."""
    study = process.study()
    before = process.peak
    started = time.monotonic()

    status, _, view = process.request(
        "POST",
        f"/v1/uploads?study={study}",
        noise(n_bytes),
        Content_Length=str(n_bytes),
        **OCTETS,
    )

    seconds = time.monotonic() - started
    received = process.peak
    assert status == 201, view
    assert view["n_received"] == n_bytes
    assert process.checked(view["id"], 300)["state"] == "ready"
    checked = process.peak
    rate = n_bytes / 1e6 / seconds
    log.info("%.0f MB/s; RSS %d, %d, %d", rate, before, received, checked)
    assert received < CEILING
    assert checked < CEILING


def test_nothing_acknowledged_is_lost_when_the_api_is_killed(process, settings):
    study = process.study()
    sound = b"".join(noise(20 * 10**6 + 44 - 20 * 10**6 % 16))
    length = {"Upload_Length": str(len(sound))}
    _, headers, view = process.request("POST", f"/v1/uploads?study={study}", **length)
    location = headers["location"]
    for offset in (0, 3_000_000):
        part = sound[offset : offset + 3_000_000]
        status, _, _ = process.request("PATCH", location, part, Upload_Offset=str(offset), **OCTETS)
        assert status == 204
    with socket.create_connection(("127.0.0.1", process.port)) as half:
        half.sendall(
            f"PATCH {location} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {process._token}\r\n"
            f"Content-Type: {OCTETS['Content-Type']}\r\nUpload-Offset: 6000000\r\n"
            f"Content-Length: {len(sound) - 6_000_000}\r\n\r\n".encode()
            + sound[6_000_000:9_000_000]
        )
        time.sleep(0.5)
        process.kill()

    process.start()

    offset = int(process.request("HEAD", location)[1]["upload-offset"])
    assert offset == 6_000_000
    status, _, _ = process.request(
        "PATCH", location, sound[offset:], Upload_Offset=str(offset), **OCTETS
    )
    assert status == 204
    process.kill()  # before or during the check
    process.start()
    view = process.checked(view["id"], 60)
    assert view["state"] == "ready"
    assert view["duration"] == pytest.approx((len(sound) - 44) / 16 / 96_000, rel=0.01)


def test_the_bytes_of_a_request_that_was_cut_off_are_kept(process):
    study = process.study()
    _, headers, _ = process.request("POST", f"/v1/uploads?study={study}", Upload_Length="5000000")
    location = headers["location"]
    with socket.create_connection(("127.0.0.1", process.port)) as half:
        half.sendall(
            f"PATCH {location} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {process._token}\r\n"
            f"Content-Type: {OCTETS['Content-Type']}\r\nUpload-Offset: 0\r\n"
            f"Content-Length: 5000000\r\n\r\n".encode()
            + b"x" * 3_000_000
        )
        time.sleep(0.5)

    end = time.monotonic() + 10
    offset = 0
    while not offset and time.monotonic() < end:
        offset = int(process.request("HEAD", location)[1]["upload-offset"])
    assert offset == 3_000_000
