"""Downloads published weights, and moves them between machines in bundles.

`fetch` is the only code that requests weights over a network. A bundle is a tar file that `export`
writes on one machine and `import_bundle` installs on another, either completely or not at all.
"""

import hashlib
import http.client
import io
import json
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from models.errors import WeightsError
from models.weights import catalogue
from models.weights.catalogue import (
    KnownFile,
    KnownModel,
    check_installed,
    is_intact,
    open_private,
    read_stamps,
    translate_read_errors,
    translate_write_errors,
    write_manifest,
)
from models.weights.errors import (
    AccessDenied,
    CannotWriteWeights,
    ChecksumMismatch,
    NetworkUnavailable,
    NoSpace,
    UnsafeBundle,
    WeightsCorrupt,
)

BLOCK_BYTES = 1 << 20


# --- fetch ----------------------------------------------------------------------------------------

Report = Callable[[KnownFile, int], None]
"""Called with a file and the number of its bytes received so far."""


def _no_report(file: KnownFile, n_bytes: int) -> None:
    pass


def fetch(
    model: KnownModel, folder: Path, *, token: str | None = None, report: Report = _no_report
) -> bool:
    """Download the files that are missing or damaged.

    Partial downloads resume. A file is moved into place once it is complete and its checksum
    matches.

    Args:
        token: for a gated model; sent only to its host and never stored.

    Returns:
        Whether anything was downloaded.

    Raises:
        NetworkUnavailable, AccessDenied, ChecksumMismatch, NoSpace, CannotWriteWeights.
    """
    stamps = read_stamps(model, folder)
    with translate_read_errors():
        missing = [file for file in model.files if not is_intact(file, folder, stamps)]
    if not missing and stamps:
        return False
    _check_space(folder, sum(file.size - _size_of(_partial(file, folder)) for file in missing))
    for file in missing:
        try:
            _download(file, folder, token if model.gated else None, report)
        except urllib.error.HTTPError as error:
            raise _refusal(error.code, model, token) from None
    write_manifest(model, folder)
    return bool(missing)


def _partial(file: KnownFile, folder: Path) -> Path:
    return folder / f"{file.path}.partial"


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _refusal(status: int, model: KnownModel, token: str | None) -> WeightsError:
    if not model.gated or status not in (401, 403):
        return NetworkUnavailable(
            f"The server with {model.name} answered {status}: try again later, or import a bundle"
            " written by `fieldscribe models export` on another machine."
        )
    reason = {
        401: "The token is not valid",
        403: "The account of this token has not accepted the conditions",
    }[status]
    return AccessDenied(
        f"{reason if token else 'The model is available to registered users only'}: create an"
        f" account at huggingface.co, accept the conditions at {model.source}, create a token with"
        f" read access, and pass it to `fieldscribe models fetch {model.name} --token-stdin`."
    )


def _download(file: KnownFile, folder: Path, token: str | None, report: Report) -> None:
    """
    Raises:
        HTTPError: the server refused.
    """
    partial = _partial(file, folder)
    request = urllib.request.Request(file.url, headers={"User-Agent": "fieldscribe"})
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    digest, n_bytes = hashlib.sha256(), 0
    if partial.exists():
        n_bytes = partial.stat().st_size
        request.add_header("Range", f"bytes={n_bytes}-")
    try:
        response = _open(request)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        partial.unlink()  # it does not match the start of the file
        return _download(file, folder, token, report)
    with response, translate_write_errors():
        resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {n_bytes}-"
        )
        if resumes:
            with partial.open("rb") as received:
                digest = hashlib.file_digest(received, "sha256")
        else:
            n_bytes = 0
        expected = n_bytes + int(response.headers.get("Content-Length", file.size))
        _make_folder(partial.parent)
        with open_private(partial, append=resumes) as out:
            report(file, n_bytes)
            while block := _read(response):
                out.write(block)
                digest.update(block)
                n_bytes += len(block)
                report(file, n_bytes)
                if n_bytes > 2 * file.size:
                    break  # a different file, which the checksum reports
        if n_bytes < expected:
            raise NetworkUnavailable(
                "The connection was lost: run the same command again to resume the download."
            )
        if digest.hexdigest() != file.sha256:
            partial.unlink()
            raise ChecksumMismatch(
                "The downloaded file is not the published one: fetch it again, and tell your"
                " network administrator if this happens twice."
            )
        partial.replace(folder / file.path)


def _open(request: urllib.request.Request) -> Any:
    with _network():
        return urllib.request.build_opener(_KeepTokenOnHost).open(request, timeout=60)


def _read(response: Any) -> bytes:
    with _network():
        return response.read(BLOCK_BYTES)  # type: ignore[no-any-return]


class _KeepTokenOnHost(urllib.request.HTTPRedirectHandler):
    """Keeps the token from the content network to which gated files are redirected."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is None:
            return None
        if req.type == "https" and new.type != "https":
            raise NetworkUnavailable(
                "The server redirected the download to an address without TLS."
            )
        if (new.type, new.host) == (req.type, req.host) and req.has_header("Authorization"):
            new.add_unredirected_header("Authorization", req.get_header("Authorization") or "")
        return new


@contextmanager
def _network() -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise NetworkUnavailable(
            f"The server with the weights cannot be reached ({type(error).__name__}): on a machine"
            " without a network, import a bundle written by `fieldscribe models export` on another"
            " machine."
        ) from None


def _check_space(folder: Path, n_bytes: int) -> None:
    with translate_write_errors():
        _make_folder(folder)
        free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise NoSpace(
            f"The weights need {n_bytes / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: free some"
            " space, then run the command again."
        )


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, readable by this user only."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


# --- bundles --------------------------------------------------------------------------------------

BUNDLE_VERSION = 1
BUNDLE_MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20


def export(
    models: Sequence[KnownModel], folder: Path, bundle: Path, *, report: Report = _no_report
) -> None:
    """Write installed models to one tar file, manifest first, for a machine without a network.

    Raises:
        ModelMissing, WeightsCorrupt, NoSpace, CannotWriteWeights.
    """
    for model in models:
        check_installed(model, folder)
    if bundle.exists():
        raise CannotWriteWeights("The bundle already exists: delete it or choose another name.")
    manifest = {
        "fieldscribe_weights": BUNDLE_VERSION,
        "models": [
            {
                "name": model.name,
                "source": model.source,
                "revision": model.revision,
                "licence": model.licence,
                "files": {file.path: file.sha256 for file in model.files},
            }
            for model in models
        ],
    }
    text = json.dumps(manifest, indent=1).encode()
    partial = bundle.with_name(bundle.name + ".partial")
    with translate_write_errors(), open_private(partial) as out:
        try:
            with tarfile.open(fileobj=out, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
                tar.addfile(_member(BUNDLE_MANIFEST, len(text)), io.BytesIO(text))
                for file in (file for model in models for file in model.files):
                    _add(tar, file, folder, report)
            partial.replace(bundle)
        finally:
            partial.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _add(tar: tarfile.TarFile, file: KnownFile, folder: Path, report: Report) -> None:
    with (folder / file.path).open("rb") as content:
        hashing = _Hashing(content, file, report)
        tar.addfile(_member(file.path, os.fstat(content.fileno()).st_size), hashing)
    if hashing.hexdigest() != file.sha256:
        raise WeightsCorrupt("A file of the weights is damaged: run `fieldscribe models verify`.")


class _Hashing(io.RawIOBase):
    """Wraps a file and hashes it while it is read."""

    def __init__(self, content: IO[bytes], file: KnownFile, report: Report) -> None:
        self.content, self.file, self.report = content, file, report
        self.digest, self.n_bytes = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        block = self.content.read(size)
        self.digest.update(block)
        self.n_bytes += len(block)
        self.report(self.file, self.n_bytes)
        return block

    def hexdigest(self) -> str:
        return self.digest.hexdigest()


def import_bundle(
    bundle: Path, folder: Path, *, report: Report = _no_report
) -> tuple[KnownModel, ...]:
    """Install the models of a bundle: all of them, or none if anything is wrong with it.

    Raises:
        UnsafeBundle: it holds what `export` never writes: links, other names, duplicates, or
            files that are too large.
        ChecksumMismatch, WeightsCorrupt, NoSpace, CannotWriteWeights.
    """
    try:
        with tarfile.open(bundle, "r:") as tar:
            models = _read_bundle_manifest(tar)
            _check_space(folder, sum(model.size for model in models))
            with (
                translate_write_errors(),
                tempfile.TemporaryDirectory(dir=folder, prefix=".import-") as staging,
            ):
                _unpack(tar, models, Path(staging), report)
                for file in (file for model in models for file in model.files):
                    _make_folder((folder / file.path).parent)
                    (Path(staging) / file.path).replace(folder / file.path)
    except tarfile.TarError:
        raise WeightsCorrupt(
            "The file is not a bundle of weights, or it is truncated: copy it again from the"
            " machine that exported it."
        ) from None
    for model in models:
        write_manifest(model, folder)
    return models


def _read_bundle_manifest(tar: tarfile.TarFile) -> tuple[KnownModel, ...]:
    member = tar.next()
    if member is None or member.name != BUNDLE_MANIFEST or not _is_plain(member):
        raise UnsafeBundle("The bundle does not begin with a manifest: export it again.")
    if member.size > MAX_MANIFEST_BYTES:
        raise UnsafeBundle("The bundle's manifest is too large: export it again.")
    content = tar.extractfile(member)
    assert content is not None  # a plain file
    try:
        manifest = json.loads(content.read())
        version = manifest["fieldscribe_weights"]
        models = tuple(catalogue.KNOWN[entry["name"]] for entry in manifest["models"])
        files = [entry["files"] for entry in manifest["models"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UnsafeBundle(
            "The bundle's manifest is invalid or names unknown weights: export it again with the"
            " same version of fieldscribe."
        ) from error
    published = [{file.path: file.sha256 for file in model.files} for model in models]
    if version != BUNDLE_VERSION or files != published or len(set(models)) != len(models):
        raise UnsafeBundle(
            "The bundle's manifest does not match the published weights: export it again with the"
            " same version of fieldscribe."
        )
    return models


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.type == tarfile.REGTYPE and not member.issparse()


def _unpack(
    tar: tarfile.TarFile, models: Sequence[KnownModel], staging: Path, report: Report
) -> None:
    """Extract the files of these models, requiring each exactly once with its checksum."""
    expected = {file.path: file for model in models for file in model.files}
    while (member := tar.next()) is not None:
        file = expected.pop(member.name, None)
        if file is None or not _is_plain(member) or member.size > 2 * file.size:
            raise UnsafeBundle(
                "The bundle holds a link, a duplicate, or a file that is too large or not in its"
                " manifest: nothing was installed."
            )
        content = tar.extractfile(member)
        assert content is not None  # a plain file
        hashing = _Hashing(content, file, report)
        _make_folder((staging / file.path).parent)
        with open_private(staging / file.path) as out:
            shutil.copyfileobj(hashing, out, BLOCK_BYTES)
        if hashing.hexdigest() != file.sha256:
            raise ChecksumMismatch(
                "A file in the bundle is not the published one: nothing was installed."
            )
    if expected:
        raise WeightsCorrupt("The bundle is truncated: copy it again.")
