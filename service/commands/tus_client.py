"""Uploading one recording with the tus protocol, resuming after an interruption.

ServiceError
├── UploadStuck
└── Misused
    └── FileNotReadable
"""

import base64
import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, ClassVar

from platformdirs import user_state_path

from service.commands.client import (
    RETRYABLE_STATUSES,
    Client,
    Refused,
    ServiceUnreachable,
    drop_none,
)
from service.commands.console import printable
from service.errors import Misused, ServiceError
from service.exports.files import write_whole

PART_BYTES = 16 * 2**20  # each part is checked, encrypted and acknowledged on its own
STALL_LIMIT = 300.0  # s without progress before an upload is given up


class UploadStuck(ServiceError):
    """An upload made no progress for five minutes; run the same command again to resume it."""

    code: ClassVar[str] = "upload_stuck"


class FileNotReadable(Misused):
    """A file to upload does not exist or cannot be read."""

    code: ClassVar[str] = "file_not_readable"


class UnfinishedUploads:
    """The uploads to resume if the same command is run again. Holds ids, no file names."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or user_state_path("fieldscribe") / "uploads.json"

    def find(self, key: str) -> str | None:
        return self._read().get(key)

    def remember(self, key: str, location: str) -> None:
        with self._locked():
            self._write({**self._read(), key: location})

    def forget(self, key: str) -> None:
        with self._locked():
            self._write({name: value for name, value in self._read().items() if name != key})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other commands from changing the file, so that none loses an entry of another."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path.with_suffix(".lock").open("ab") as file:
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, str]:
        try:
            uploads = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return uploads if isinstance(uploads, dict) else {}

    def _write(self, uploads: dict[str, str]) -> None:
        write_whole(self._path, json.dumps(uploads))


@dataclass(frozen=True)
class UploadSource:
    """A file to upload, and the study and session it belongs to."""

    path: Path
    study: str
    session: str | None = None

    def open(self) -> BufferedReader:
        """
        Raises:
            FileNotReadable
        """
        try:
            return self.path.open("rb")
        except OSError as error:
            raise FileNotReadable(f"A file cannot be read ({error.strerror}).") from None

    def key(self, url: str) -> str:
        """Identifies this upload to this service; a changed file gets a new key."""
        status = self.path.stat()
        target = [url, self.study, self.session, str(self.path.resolve())]
        plain = json.dumps([*target, status.st_size, status.st_mtime_ns])
        return hashlib.sha256(plain.encode()).hexdigest()


def upload(
    client: Client,
    source: UploadSource,
    unfinished: UnfinishedUploads,
    on_progress: Callable[[int], None] = lambda n_bytes: None,
    *,
    other_than: Sequence[str] = (),
    on_found: Callable[[], None] = lambda: None,
) -> str:
    """Upload a file, resuming an earlier attempt.

    Args:
        on_progress: called with the number of bytes that the service has stored.
        other_than: ids of recordings that the file is not, even if its content is the same.
        on_found: called if the same content was uploaded before; the id is then that recording's.

    Returns:
        The id of the recording, which the service then checks.

    Raises:
        FileNotReadable, UploadStuck, Refused, ServiceUnreachable
    """
    with source.open() as file:
        size = source.path.stat().st_size
        key = source.key(client.url)
        location = unfinished.find(key)
        offset = None if location is None else _stored_bytes(client, location)
        if location is None or offset is None:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            location, is_new = _create(client, source, size, sha256, other_than)
            if not is_new:
                on_progress(size)
                on_found()
                return location.rpartition("/")[2]
            offset = 0
            unfinished.remember(key, location)
        on_progress(offset)
        progressed_at = time.monotonic()
        while offset < size:
            reached = _send_part(client, location, file, offset)
            if reached > offset:
                offset, progressed_at = reached, time.monotonic()
                on_progress(offset)
            elif time.monotonic() > progressed_at + STALL_LIMIT:
                raise UploadStuck(
                    "The upload has stalled: run the same command later to resume it."
                )
            else:
                time.sleep(1)
    return location.rpartition("/")[2]


def _create(
    client: Client, source: UploadSource, size: int, sha256: str, other_than: Sequence[str]
) -> tuple[str, bool]:
    """Announce an upload; returns its location, and whether it is new."""
    digest = base64.b64encode(sha256.encode()).decode()
    name = base64.b64encode(printable(source.path.name).encode()).decode()
    response = client.request(
        "POST",
        "/v1/uploads",
        retry=False,  # a second upload would leave the first one behind in its session
        params=drop_none({"study": source.study, "session": source.session})
        | {"other_than": list(other_than)},
        headers={
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(size),
            "Upload-Metadata": f"filename {name},sha256 {digest}",
        },
    )
    return str(response.headers["Location"]), response.status_code == 201


def _send_part(client: Client, location: str, file: BinaryIO, offset: int) -> int:
    """Send one part; returns the offset of the next one, or of this one if it was lost."""
    file.seek(offset)
    part = file.read(PART_BYTES)
    digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
    try:
        response = client.request(
            "PATCH",
            location,
            content=part,
            retry=False,
            headers={
                "Tus-Resumable": "1.0.0",
                "Content-Type": "application/offset+octet-stream",
                "Upload-Offset": str(offset),
                "Upload-Checksum": f"sha256 {digest}",
            },
        )
        return int(response.headers["Upload-Offset"])
    except ServiceUnreachable:
        pass
    except Refused as refusal:
        part_lost = ("wrong_offset", "upload_busy", "upload_damaged")
        if refusal.code not in part_lost and refusal.status not in RETRYABLE_STATUSES:
            raise
    stored = _stored_bytes(client, location)
    return offset if stored is None else stored


def _stored_bytes(client: Client, location: str) -> int | None:
    """How much of an upload the service has stored; None if it no longer knows the upload."""
    try:
        response = client.request(
            "HEAD", location, headers={"Tus-Resumable": "1.0.0"}, retry_for=STALL_LIMIT
        )
    except Refused as refusal:
        if refusal.status in (404, 410):
            return None
        raise
    return int(response.headers["Upload-Offset"])
