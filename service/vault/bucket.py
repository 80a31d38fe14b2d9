"""Artefacts in a bucket of S3-compatible storage, through `obstore`.

An artefact is first written, encrypted, to an unnamed temporary file, then sent in parts of 8 MiB
that appear together. With it goes the SHA-256 of the encrypted bytes: if the answer to a finished
write is lost, that tells whether the write took effect.
"""

import hashlib
import io
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from uuid import UUID

import obstore
from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from service.vault.errors import ArtefactMissing, StorageUnreachable
from service.vault.files import make_folder, report_full_disk
from service.vault.objects import object_name

PART_SIZE = 8 * 2**20  # bytes; S3 allows 10,000 parts
N_PARTS_AT_ONCE = 4
FIRST_READ, LONGEST_READ = 2**18, 2**23  # bytes; a read that continues the last one is longer
KEPT_READS = 3  # the beginning, the last segment, and where the reader is
N_RETRIES = 4  # of one request
PAUSES = (0.3, 1.0)  # s before a whole operation is tried again
CHECKSUM = "sha256"  # name of the metadata

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class BucketAddress:
    """
    Args:
        prefix: of all names, without slashes at its ends; may be empty.
        certificate: PEM of a certificate authority to trust beside the system's.
    """

    bucket: str
    prefix: str
    endpoint: str
    region: str
    key_id: str = field(repr=False)
    secret_key: str = field(repr=False)
    certificate: str | None = field(default=None, repr=False)


class BucketObjects:
    """The artefacts of one class in a bucket. See `Objects` for the methods.

    Args:
        spool: folder of this machine for what is being written, encrypted.
    """

    def __init__(self, address: BucketAddress, spool: Path) -> None:
        self._prefix = f"{address.prefix}/" if address.prefix else ""
        self._spool = spool
        self._store = _connect(address, N_RETRIES)
        self._without_retries = _connect(address, 0)

    @contextmanager
    def write(self, id: UUID) -> Iterator[BinaryIO]:
        make_folder(self._spool)
        with report_full_disk(), tempfile.TemporaryFile(dir=self._spool) as file:
            yield cast(BinaryIO, file)
            self._put(id, cast(BinaryIO, file))

    def open(self, id: UUID) -> BinaryIO:
        return cast(BinaryIO, BucketReader(self, id))

    def __contains__(self, id: UUID) -> bool:
        return self._head(id) is not None

    def ids(self, before: float = math.inf) -> Iterator[UUID]:
        try:
            pages = retry(lambda: list(obstore.list(self._store, self._prefix or None)))
        except FileNotFoundError:
            raise _no_bucket() from None
        for meta in (meta for page in pages for meta in page):
            with suppress(ValueError):  # not an artefact
                id = UUID(meta["path"].rpartition("/")[2])
                is_ours = meta["path"] == self._name(id)
                if is_ours and meta["last_modified"].timestamp() < before:
                    yield id

    def delete(self, id: UUID) -> None:
        """
        Raises:
            StorageUnreachable: it could not be deleted, or is still there.
        """
        with suppress(FileNotFoundError):
            retry(lambda: obstore.delete(self._store, self._name(id)))
        if id in self:
            raise StorageUnreachable(f"The storage has not deleted artefact {id}: try again")

    def touch(self, id: UUID) -> None:
        """Write the object again, because S3 does not copy an object onto itself."""
        with suppress(FileNotFoundError), self.open(id) as old, self.write(id) as new:
            while data := old.read(PART_SIZE):
                new.write(data)

    def check(self) -> None:
        """Send one request, which is not retried: the caller waits for it."""
        pages = obstore.list(self._without_retries, self._prefix or None, chunk_size=1)
        try:
            retry(lambda: next(iter(pages), None), pauses=())
        except FileNotFoundError:
            raise _no_bucket() from None

    def checksum(self, id: UUID) -> str | None:
        """SHA-256 of the encrypted bytes, hexadecimal, as it was noted when they were written."""
        found = self._head(id)
        return None if found is None else found.attributes.get(CHECKSUM)

    def read_range(self, id: UUID, start: int, end: int, version: str | None) -> "Range":
        """Read the bytes from `start` to `end`, or fewer at the object's end.

        Args:
            version: of the object; a newer one is not read.

        Raises:
            FileNotFoundError, StorageUnreachable
            ArtefactMissing: the object has been replaced.
        """
        options: Any = {"range": (start, end)}
        if version is not None:
            options["if_match"] = version

        def read() -> Range:
            found = obstore.get(self._store, self._name(id), options=options)
            size = found.meta["size"]
            data = bytes(found.bytes())
            if len(data) != min(end, size) - start:
                raise _CutShort
            return Range(start, data, size, found.meta["e_tag"])

        try:
            return retry(read)
        except StorageUnreachable:
            found = self._head(id)
            if found is not None and found.meta["size"] == 0:  # S3 has no range of an empty object
                return Range(0, b"", 0, found.meta["e_tag"])
            raise

    def _put(self, id: UUID, file: BinaryIO) -> None:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

        def put() -> None:
            file.seek(0)
            try:
                obstore.put(
                    self._store,
                    self._name(id),
                    file,
                    attributes={CHECKSUM: checksum},
                    chunk_size=PART_SIZE,
                    max_concurrency=N_PARTS_AT_ONCE,
                )
            except (BaseError, FileNotFoundError):
                # Perhaps only the answer was lost. After a multipart upload the client's own
                # retry then fails, because that upload has ended.
                if not self._is_written(id, size, checksum):
                    raise

        try:
            retry(put)
        except FileNotFoundError:
            raise _no_bucket() from None

    def _is_written(self, id: UUID, size: int, checksum: str) -> bool:
        try:
            found = obstore.get(self._store, self._name(id), options={"head": True})
        except (BaseError, FileNotFoundError):
            return False
        return found.meta["size"] == size and found.attributes.get(CHECKSUM) == checksum

    def _head(self, id: UUID) -> "obstore.GetResult | None":
        try:
            return retry(lambda: obstore.get(self._store, self._name(id), options={"head": True}))
        except FileNotFoundError:
            return None

    def _name(self, id: UUID) -> str:
        return self._prefix + object_name(id)


@dataclass(frozen=True)
class Range:
    """Some bytes of an object of `size` bytes."""

    start: int
    data: bytes
    size: int
    version: str | None

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class BucketReader(io.RawIOBase):
    """Reads an object by ranges. The more of it is read in order, the longer the ranges.

    Raises:
        FileNotFoundError: on opening.
        ArtefactMissing: while reading, if it was deleted or replaced meanwhile.
        StorageUnreachable
    """

    def __init__(self, objects: BucketObjects, id: UUID) -> None:
        super().__init__()
        self._objects, self._id = objects, id
        first = objects.read_range(id, 0, FIRST_READ, None)
        self._size, self._version = first.size, first.version
        self._ranges, self._length = [first], FIRST_READ
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, except at the end."""
        start, end = self._position, min(self._position + len(buffer), self._size)
        if start >= end:
            return 0
        found = next((each for each in self._ranges if each.start <= start < end <= each.end), None)
        if found is None:
            found = self._fetch(start, end)
        buffer[: end - start] = found.data[start - found.start : end - found.start]
        self._position = end
        return end - start

    def _fetch(self, start: int, end: int) -> Range:
        is_next = any(each.start < start <= each.end for each in self._ranges)
        self._length = min(2 * self._length, LONGEST_READ) if is_next else FIRST_READ
        try:
            found = self._objects.read_range(
                self._id, start, max(end, start + self._length), self._version
            )
        except FileNotFoundError:
            raise ArtefactMissing(
                f"Artefact {self._id} was deleted while it was being read"
            ) from None
        first, *others = self._ranges
        self._ranges = [first, *others[-(KEPT_READS - 2) :], found]
        return found


class _CutShort(BaseError):
    """The storage closed the connection in the middle of an answer."""


def retry(operation: Callable[[], T], pauses: tuple[float, ...] | None = None) -> T:
    """Run an operation, and again after a failure that may pass, such as an answer cut short.

    `obstore` has by then tried each request several times, but it does not resume a cut answer.

    Args:
        pauses: in s before each further try; None: PAUSES.

    Raises:
        FileNotFoundError, StorageUnreachable
        ArtefactMissing: the object has been replaced.
    """
    remaining = iter(PAUSES if pauses is None else pauses)
    while True:
        try:
            return operation()
        except PreconditionError:
            raise ArtefactMissing("An artefact was replaced while it was being read") from None
        except BaseError as error:  # its message quotes the storage's answer
            if "404 Not Found" in str(error):  # to a listing: there is no such bucket
                raise FileNotFoundError from None
            if _is_refusal(error):
                raise StorageUnreachable(
                    "The storage refuses the service's key: check the settings that begin with "
                    "FIELDSCRIBE_S3"
                ) from None
            pause = next(remaining, None)
            if pause is None:
                raise StorageUnreachable(
                    "The storage of the vault does not answer: try again in a moment"
                ) from None
            log.warning("storage: %s, trying again", type(error).__name__)
            time.sleep(pause)


def _is_refusal(error: BaseError) -> bool:
    # A refused listing has no class of its own.
    refusals = (PermissionDeniedError, UnauthenticatedError)
    return isinstance(error, refusals) or "403 Forbidden" in str(error)


def _no_bucket() -> StorageUnreachable:
    return StorageUnreachable(
        "The storage has no bucket of this name: create it, or check FIELDSCRIBE_S3_BUCKET"
    )


def _connect(address: BucketAddress, n_retries: int) -> S3Store:
    client: Any = {
        "allow_http": address.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=30),
        "timeout": timedelta(seconds=120),
    }
    if address.certificate is not None:
        client["root_certificate"] = address.certificate
    return S3Store(
        address.bucket,
        # All that AWS_... variables could change is given: only our settings count.
        config={
            "endpoint": address.endpoint,
            "region": address.region,
            "virtual_hosted_style_request": False,
            "skip_signature": False,
            "disable_bulk_delete": True,
        },
        client_options=client,
        retry_config={
            "max_retries": n_retries,
            "retry_timeout": timedelta(seconds=15),
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
        credential_provider=lambda: {  # type: ignore[arg-type]  # it need not be a class
            "access_key_id": address.key_id,
            "secret_access_key": address.secret_key,
            "token": None,
            "expires_at": None,
        },
    )
