"""A client of the API, for the command line: finds its token, waits out an outage, goes on with
uploads that were interrupted.

ServiceError
├── ServiceUnreachable
├── UploadStuck
└── Misused
    └── NoToken, FileNotReadable
"""

import base64
import hashlib
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import httpx2
import typer
from platformdirs import user_state_path

from service.errors import Misused, ServiceError
from service.exports.files import write_whole
from service.settings import BadSettings, Settings
from service.tls import trust_only

PART_BYTES = 16 * 2**20  # each is checked, encrypted and acknowledged by itself
RETRY_FOR = 30.0  # s
TELL_AFTER = 2.0  # s
PATIENCE = 300.0  # s without progress, while an upload or a job goes on
AGAIN_AFTER = (408, 429, 502, 503, 504)
WAIT = 30  # s of a long poll
UNFINISHED = ("receiving", "checking")
FINAL = ("succeeded", "failed", "cancelled")


class ServiceUnreachable(ServiceError):
    """Nothing answers where the service should be."""

    code: ClassVar[str] = "service_unreachable"


class UploadStuck(ServiceError):
    """An upload made no progress for five minutes; the same command goes on with it."""

    code: ClassVar[str] = "upload_stuck"


class NoToken(Misused):
    """There is no token: not in FIELDSCRIBE_TOKEN, and not in a file of this machine."""

    code: ClassVar[str] = "no_token"


class FileNotReadable(Misused):
    """A file to upload is not there or may not be read."""

    code: ClassVar[str] = "file_not_readable"


class Refused(Exception):
    """The API said no: with an RFC 9457 problem, whose `code` docs/reference/errors.md explains."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.problem = problem
        self.code: str = problem["code"]
        self.status: int = problem["status"]


class Client:
    """
    Args:
        tls: whom to trust; by default whom this machine trusts.
        transport: in tests, instead of the network.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tls: ssl.SSLContext | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(WAIT + 30.0, connect=10.0),
            verify=tls or ssl.create_default_context(),
            trust_env=False,  # nothing goes through a proxy
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        return self.request("GET", path, params=given(parameters)).json()

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """
        Args:
            key: an idempotency key; only with one is the request sent again after an outage.
        """
        headers = {"Idempotency-Key": key} if key else {}
        answer = self.request("POST", path, json=body, headers=headers, again=key is not None)
        return answer.json() if answer.content else None

    def delete(self, path: str) -> Any:
        answer = self.request("DELETE", path)
        return answer.json() if answer.content else None

    def request(
        self,
        method: str,
        path: str,
        *,
        again: bool = True,
        retry_for: float = RETRY_FOR,
        **wish: Any,
    ) -> httpx2.Response:
        """
        Args:
            again: whether the request may be sent twice.

        Raises:
            Refused, ServiceUnreachable
        """
        begun = time.monotonic()
        end, pause, has_told = begun + retry_for, 0.2, False
        while True:
            try:
                answer = self._http.request(method, path, **wish)
            except httpx2.TransportError as error:
                if not again or time.monotonic() + pause > end:
                    raise ServiceUnreachable(
                        f"Nothing answers at {self.url}: is `fieldscribe serve` running there?"
                    ) from error
                if not has_told and time.monotonic() > begun + TELL_AFTER:
                    has_told = True
                    typer.echo(
                        f"Nothing answers at {self.url} yet; waiting up to {retry_for:.0f} s.",
                        err=True,
                    )
            else:
                if answer.is_success or answer.status_code == 304:
                    return answer
                refusal = Refused(problem_of(answer))
                passes = answer.status_code in AGAIN_AFTER and refusal.code != "sealed"
                pause = max(pause, _retry_after(answer))
                if not (again and passes) or time.monotonic() + pause > end:
                    raise refusal
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def problem_of(answer: httpx2.Response) -> dict[str, Any]:
    try:
        problem = answer.json()
        if isinstance(problem, dict) and {"code", "detail", "status"} <= problem.keys():
            return problem
    except ValueError:
        pass
    return {
        "code": "not_fieldscribe",
        "detail": f"The answer, with status {answer.status_code}, is not one of Fieldscribe's",
        "status": answer.status_code,
    }


def _retry_after(answer: httpx2.Response) -> float:
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


@contextmanager
def open_client(settings: Settings) -> Iterator[Client]:
    """To the service that FIELDSCRIBE_URL names, else to that of this machine.

    Raises:
        NoToken, BadSettings
    """
    url = settings.url or settings.local_url
    tls = None if settings.url else own_certificate(settings)
    client = Client(url.rstrip("/"), find_token(settings), tls=tls)
    try:
        yield client
    finally:
        client.close()


def own_certificate(settings: Settings) -> ssl.SSLContext | None:
    """
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
    """
    Raises:
        NoToken
    """
    if settings.token:
        return settings.token.get_secret_value().strip()
    try:
        return settings.owner_token.read_text().strip()
    except OSError:
        raise NoToken(
            "There is no token: start `fieldscribe serve` on this machine, or set FIELDSCRIBE_KEYS "
            "to the folder of keys of the one that runs, or put a token into FIELDSCRIBE_TOKEN."
        ) from None


# --- uploads --------------------------------------------------------------------------------------


class Unfinished:
    """Uploads that were begun, so that the same command goes on with them: ids, no file names."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or user_state_path("fieldscribe") / "uploads.json"

    def find(self, key: str) -> str | None:
        return self._read().get(key)

    def remember(self, key: str, location: str) -> None:
        self._write({**self._read(), key: location})

    def forget(self, key: str) -> None:
        self._write({name: value for name, value in self._read().items() if name != key})

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, uploads: dict[str, str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self._path, json.dumps(uploads))


@dataclass(frozen=True)
class Source:
    """A file to upload, and what for."""

    path: Path
    study: str
    session: str | None = None

    def open(self) -> BinaryIO:
        """Raises FileNotReadable."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise FileNotReadable(f"A file cannot be read ({error.strerror}).") from None

    def key(self, url: str) -> str:
        """The same file at the same place for the same session; a changed one is another."""
        status = self.path.stat()
        what = [url, self.study, self.session, str(self.path.resolve())]
        plain = json.dumps([*what, status.st_size, status.st_mtime_ns])
        return hashlib.sha256(plain.encode()).hexdigest()


def upload(
    client: Client,
    source: Source,
    unfinished: Unfinished,
    on_progress: Callable[[int], None] = lambda n_bytes: None,
) -> str:
    """Bring a file to the service; goes on where an earlier attempt stopped.

    Args:
        on_progress: called with the number of bytes that are safe.

    Returns:
        Id of the recording, which is then checked by the service.

    Raises:
        FileNotReadable, UploadStuck, Refused, ServiceUnreachable
    """
    with source.open() as file:
        size = source.path.stat().st_size
        key = source.key(client.url)
        location = unfinished.find(key)
        offset = None if location is None else _offset(client, location)
        if location is None or offset is None:
            location, offset = _begin(client, source, size), 0
            unfinished.remember(key, location)
        on_progress(offset)
        progressed = time.monotonic()
        while offset < size:
            reached = _bring(client, location, file, offset)
            if reached > offset:
                offset, progressed = reached, time.monotonic()
                on_progress(offset)
            elif time.monotonic() > progressed + PATIENCE:
                raise UploadStuck("The upload makes no progress: try the same command later.")
            else:
                time.sleep(1)
    return location.rpartition("/")[2]


def _begin(client: Client, source: Source, size: int) -> str:
    name = base64.b64encode(source.path.name.encode()).decode()
    answer = client.request(
        "POST",
        "/v1/uploads",
        again=False,  # the first one would stay behind in its session
        params=given({"study": source.study, "session": source.session}),
        headers={
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(size),
            "Upload-Metadata": f"filename {name}",
        },
    )
    return str(answer.headers["Location"])


def _bring(client: Client, location: str, file: BinaryIO, offset: int) -> int:
    """One part; the offset after it, or where to go on if it did not get through."""
    file.seek(offset)
    part = file.read(PART_BYTES)
    digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
    try:
        answer = client.request(
            "PATCH",
            location,
            content=part,
            again=False,
            headers={
                "Tus-Resumable": "1.0.0",
                "Content-Type": "application/offset+octet-stream",
                "Upload-Offset": str(offset),
                "Upload-Checksum": f"sha256 {digest}",
            },
        )
        return int(answer.headers["Upload-Offset"])
    except ServiceUnreachable:
        pass
    except Refused as refusal:
        lost = ("wrong_offset", "upload_busy", "upload_damaged")
        if refusal.code not in lost and refusal.status not in AGAIN_AFTER:
            raise
    found = _offset(client, location)
    return offset if found is None else found


def _offset(client: Client, location: str) -> int | None:
    """How much has arrived; None if the service knows no such upload any more."""
    try:
        answer = client.request(
            "HEAD", location, headers={"Tus-Resumable": "1.0.0"}, retry_for=PATIENCE
        )
    except Refused as refusal:
        if refusal.status in (404, 410):
            return None
        raise
    return int(answer.headers["Upload-Offset"])


# --- waiting --------------------------------------------------------------------------------------


def wait_for_recording(client: Client, recording_id: str) -> dict[str, Any]:
    """Until the service has checked it: `ready` or `refused`."""
    while True:
        recording: dict[str, Any] = client.get(f"/v1/recordings/{recording_id}", wait=WAIT)
        if recording["state"] not in UNFINISHED:
            return recording


def follow(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """A job, again at every change, until it has ended. Outlives a restart of the service."""
    etag: str | None = None
    while True:
        answer = client.request(
            "GET",
            f"/v1/jobs/{job_id}",
            params={"wait": WAIT} if etag else None,
            headers={"If-None-Match": etag} if etag else {},
            retry_for=PATIENCE,
        )
        if answer.status_code == 304:
            continue
        etag = answer.headers["ETag"]
        job: dict[str, Any] = answer.json()
        yield job
        if job["status"] in FINAL:
            return
