"""Which weights exist, where they lie and what they must contain; fetch, verify, export, import.

    <folder>/whisper/large-v3.pt
    <folder>/whisper/large-v3.json
    <folder>/pyannote/speaker-diarization-community-1/config.yaml and what it refers to
    <folder>/pyannote/speaker-diarization-community-1.json

The JSON files are manifests: where the files came from and their checksums, sizes and times. The
checksums of known models are written down here; a manifest that says otherwise is not believed.
Only `fetch` uses the network. Nothing imports torch, so the API process may ask what is installed.
"""

import errno
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from models.errors import OptionError, WeightsError

Kind = Literal["whisper", "pyannote"]

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo"
DEFAULT_PIPELINE = "speaker-diarization-community-1"
BLOCK_BYTES = 1 << 20


class UnknownModel(OptionError):
    """No weights have this name."""

    code = "unknown_model"


class ModelMissing(WeightsError):
    """The weights are not installed."""

    code = "model_missing"


class WeightsCorrupt(WeightsError):
    """A file of the weights is damaged, cut short, or not the one its name promises."""

    code = "weights_corrupt"


class NetworkUnavailable(WeightsError):
    """The server with the weights cannot be reached, or broke off."""

    code = "network_unavailable"


class AccessDenied(WeightsError):
    """The server wants an account that has accepted the model's conditions."""

    code = "access_denied"


class ChecksumMismatch(WeightsError):
    """What was downloaded or imported is not what was published."""

    code = "checksum_mismatch"


class UnsafeBundle(WeightsError):
    """A bundle holds something that `export` never writes."""

    code = "unsafe_bundle"


class NoSpace(WeightsError):
    """The disk is full."""

    code = "no_space"


class CannotWriteWeights(WeightsError):
    """The weights folder, or the bundle, cannot be written."""

    code = "cannot_write_weights"


# --- what exists ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownFile:
    """`path` is below the weights folder; `size` in bytes is for display and for the disk."""

    path: str
    sha256: str
    size: int
    url: str


@dataclass(frozen=True)
class KnownModel:
    name: str
    kind: Kind
    files: tuple[KnownFile, ...]
    source: str
    revision: str | None
    licence: str
    gated: bool

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def manifest(self) -> str:
        return f"{self.kind}/{self.name}.json"


@dataclass(frozen=True)
class WhisperWeights:
    name: str
    path: Path
    sha256: str
    demo: bool


@dataclass(frozen=True)
class PipelineWeights:
    """`sha256` is of the lines "<sha256>  <path>\\n" of its files, sorted by path."""

    name: str
    folder: Path
    sha256: str
    demo: bool


WHISPER_URL = "https://openaipublic.azureedge.net/main/whisper/models"
# Checksums as in whisper/__init__.py, `_MODELS` (a test compares them); sizes as distributed.
_WHISPER = {
    "tiny.en": ("d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03", 75_571_315),
    "tiny": ("65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9", 75_572_083),
    "base.en": ("25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead", 145_261_783),
    "base": ("ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e", 145_262_807),
    "small.en": ("f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872", 483_615_683),
    "small": ("9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794", 483_617_219),
    "medium.en": (
        "d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f",
        1_528_006_491,
    ),
    "medium": ("345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1", 1_528_008_539),
    "large-v1": ("e4b87e7e0bf463eb8e6956e646f1e277e901512310def2c24bf0e11bd3c28e9a", 3_086_999_982),
    "large-v2": ("81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524", 3_086_999_982),
    "large-v3": ("e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb", 3_087_371_615),
    "large-v3-turbo": (
        "aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a",
        1_617_941_637,
    ),
}
ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}

COMMUNITY_PAGE = "https://huggingface.co/pyannote/speaker-diarization-community-1"
COMMUNITY_REVISION = "3533c8cf8e369892e6b79ff1bf80f7b0286a54ee"
_COMMUNITY = {
    "config.yaml": ("5ce2bfa9a938dc132cec1172592d65173cbb8f444ea1e4133f10f9391de155be", 444),
    "segmentation/pytorch_model.bin": (
        "7ad24338d844fb95985486eb1a464e32d229f6d7a03c9abe60f978bacf3f816e",
        5_906_507,
    ),
    "embedding/pytorch_model.bin": (
        "6f10ff60898a1d185fa22e1d11e0bfa8a92efec811f11bca48cb8cafebefd929",
        26_646_242,
    ),
    "plda/plda.npz": ("9b77bcd840692710dd3496f62ecfeed8d8e5f002fd991b785079b244eab7d255", 133_852),
    "plda/xvec_transform.npz": (
        "325f1ce8e48f7e55e9c8aa47e05d2766b7c48c4b25b8de8dd751e7a4cc5fbe8f",
        134_376,
    ),
}


def _whisper(name: str, sha256: str, size: int) -> KnownModel:
    file = KnownFile(f"whisper/{name}.pt", sha256, size, url=f"{WHISPER_URL}/{sha256}/{name}.pt")
    return KnownModel(name, "whisper", (file,), file.url, revision=None, licence="MIT", gated=False)


def _community() -> KnownModel:
    files = tuple(
        KnownFile(
            f"pyannote/{DEFAULT_PIPELINE}/{path}",
            sha256,
            size,
            url=f"{COMMUNITY_PAGE}/resolve/{COMMUNITY_REVISION}/{path}",
        )
        for path, (sha256, size) in _COMMUNITY.items()
    )
    return KnownModel(
        DEFAULT_PIPELINE,
        "pyannote",
        files,
        COMMUNITY_PAGE,
        COMMUNITY_REVISION,
        licence="CC-BY-4.0",
        gated=True,
    )


KNOWN: dict[str, KnownModel] = {
    DEFAULT_PIPELINE: _community(),
    **{name: _whisper(name, sha256, size) for name, (sha256, size) in _WHISPER.items()},
}


def known(name: str, kind: Kind | None = None) -> KnownModel:
    """The published model of this name.

    Raises:
        UnknownModel: there is none.
    """
    model = KNOWN.get(ALIASES.get(name, name))
    if model is None or kind not in (None, model.kind):
        names = [name for name, model in KNOWN.items() if kind in (None, model.kind)]
        # The name that was given is not repeated: it may be a path, and paths name people.
        raise UnknownModel(f"There is no such model; there are {', '.join([*names, DEMO])}.")
    return model


def default_whisper(device: str) -> str:
    """The model that suits "cpu", "cuda" or "cuda:1"."""
    return "large-v3-turbo" if device.startswith("cuda") else "small"


def default_pipeline(whisper_name: str) -> str:
    """The demo weights go together, and with nothing else."""
    return DEMO if whisper_name == DEMO else DEFAULT_PIPELINE


# --- where it lies --------------------------------------------------------------------------------


def find_whisper(name_or_path: str, folder: Path) -> WhisperWeights:
    """The Whisper checkpoint of this name below the weights folder, or at this path.

    At a path there is a file of openai-whisper's or a folder of Hugging Face's transformers.
    An installed file is hashed unless its size and time are those in its manifest.

    Raises:
        UnknownModel: neither a known name nor a path.
        ModelMissing: not installed, or nothing at the path.
        WeightsCorrupt: not the file its name promises.
    """
    if name_or_path == DEMO:
        path = DEMO_FOLDER / "whisper.pt.xz"
        return WhisperWeights(DEMO, path, _sha256_of_own(path), demo=True)
    if _is_path(name_or_path, ".pt", ".pt.xz"):
        path = Path(name_or_path)
        sha256 = _sha256_of_hugging_face(path) if path.is_dir() else _sha256_of_own(path)
        return WhisperWeights(f"checkpoint-{sha256[:12]}", path, sha256, demo=False)
    model = known(name_or_path, "whisper")
    check_installed(model, folder)
    (file,) = model.files
    return WhisperWeights(model.name, folder / file.path, file.sha256, demo=False)


def find_pipeline(name_or_path: str, folder: Path) -> PipelineWeights:
    """The pyannote pipeline of this name below the weights folder, or in the folder at this path.

    Raises: as `find_whisper`.
    """
    if name_or_path == DEMO:
        own = DEMO_FOLDER / "pyannote"
        return PipelineWeights(DEMO, own, _sha256_of_folder(own), demo=True)
    if _is_path(name_or_path):
        own = Path(name_or_path)
        sha256 = _sha256_of_folder(own)
        return PipelineWeights(f"pipeline-{sha256[:12]}", own, sha256, demo=False)
    model = known(name_or_path, "pyannote")
    check_installed(model, folder)
    own = folder / "pyannote" / model.name
    prefix = f"pyannote/{model.name}/"
    files = {file.path.removeprefix(prefix): file.sha256 for file in model.files}
    return PipelineWeights(model.name, own, _sha256_of_list(files), demo=False)


def _is_path(name: str, *suffixes: str) -> bool:
    return "/" in name or os.sep in name or bool(suffixes and name.endswith(suffixes))


def _sha256_of_own(path: Path) -> str:
    with _reading():
        if not path.is_file():
            raise ModelMissing("There is no checkpoint at the path that was given.")
        return sha256_of(path)


def _sha256_of_hugging_face(folder: Path) -> str:
    """Of the files that are loaded; training leaves others beside them."""
    with _reading():
        files = [folder / name for name in ("config.json", "generation_config.json")]
        files = [path for path in files if path.is_file()] + hugging_face_weights(folder)
        return _sha256_of_list({path.name: sha256_of(path) for path in files})


def hugging_face_weights(folder: Path) -> list[Path]:
    """The files with the tensors of a checkpoint that transformers saved, in one or in parts.

    Raises:
        ModelMissing: there are none.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for kind in (r"model{}\.safetensors", r"pytorch_model{}\.bin"):
        for part in ("", r"-\d{5}-of-\d{5}"):
            found = [name for name in names if re.fullmatch(kind.format(part), name)]
            if found and (folder / "config.json").is_file():
                return [folder / name for name in found]
    raise ModelMissing(
        "The given folder has no config.json with a model.safetensors or pytorch_model.bin."
    )


def _sha256_of_folder(folder: Path) -> str:
    """Of all files but hidden ones (.git, .gitattributes), which are never loaded."""
    files = {}
    with _reading():
        if not (folder / "config.yaml").is_file():
            raise ModelMissing("There is no pipeline with a config.yaml at the given path.")
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in relative.parts):
                files[relative.as_posix()] = sha256_of(path)
    return _sha256_of_list(files)


def _sha256_of_list(files: Mapping[str, str]) -> str:
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_installed(model: KnownModel, folder: Path, *, rehash: bool = False) -> None:
    """Raises ModelMissing or WeightsCorrupt unless all files are there and are the right ones.

    Args:
        rehash: also read files whose size and time are those in the manifest.
    """
    with _reading():
        if not is_installed(model, folder):
            raise ModelMissing(
                f"{model.name} is not installed; run `fieldscribe models fetch {model.name}`."
            )
        stamps = {} if rehash else _read_stamps(model, folder)
        if not all(_is_intact(file, folder, stamps) for file in model.files):
            raise WeightsCorrupt(
                f"A file of {model.name} is damaged; run `fieldscribe models fetch {model.name}`"
                " to replace it."
            )


@contextmanager
def _reading() -> Iterator[None]:
    """Weights that were fetched by another user are as good as missing."""
    try:
        yield
    except PermissionError:
        raise ModelMissing(
            "This user may not read the weights; give another folder with --weights, or change"
            " who owns them."
        ) from None


def is_installed(model: KnownModel, folder: Path) -> bool:
    """Whether its files are there; `check_installed` tells whether they are intact."""
    return all((folder / file.path).is_file() for file in model.files)


Stamp = tuple[str, int, int]  # sha256, size, time of modification in ns


def _is_intact(file: KnownFile, folder: Path, stamps: Mapping[str, Stamp]) -> bool:
    path = folder / file.path
    return path.is_file() and (_is_stamped(file, folder, stamps) or sha256_of(path) == file.sha256)


def _is_stamped(file: KnownFile, folder: Path, stamps: Mapping[str, Stamp]) -> bool:
    """Its size and time are those it had when its checksum was last found to be right."""
    status = (folder / file.path).stat()
    return stamps.get(file.path) == (file.sha256, status.st_size, status.st_mtime_ns)


def _read_stamps(model: KnownModel, folder: Path) -> dict[str, Stamp]:
    """What the manifest says of each file; nothing when there is no manifest, or no good one."""
    try:
        manifest = json.loads((folder / model.manifest).read_text())
        return {
            file["path"]: (file["sha256"], file["size"], file["modified_ns"])
            for file in manifest["files"]
        }
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _write_manifest(model: KnownModel, folder: Path) -> None:
    """Of files that have just been found to be the right ones."""
    manifest = {
        "name": model.name,
        "kind": model.kind,
        "source": model.source,
        "revision": model.revision,
        "licence": model.licence,
        "files": [
            {
                "path": file.path,
                "sha256": file.sha256,
                "size": (status := (folder / file.path).stat()).st_size,
                "modified_ns": status.st_mtime_ns,
            }
            for file in model.files
        ],
    }
    path = folder / model.manifest
    partial = path.with_name(path.name + ".partial")
    with _writing():
        with _open_private(partial) as out:
            out.write(json.dumps(manifest, indent=1).encode())
        partial.replace(path)


def verify(model: KnownModel, folder: Path) -> None:
    """Read every byte and compare checksums; what is right is not read again at the next start.

    Raises:
        ModelMissing, WeightsCorrupt
    """
    check_installed(model, folder, rehash=True)
    stamps = _read_stamps(model, folder)
    if not all(_is_stamped(file, folder, stamps) for file in model.files):
        _write_manifest(model, folder)


# --- fetch ----------------------------------------------------------------------------------------

Report = Callable[[KnownFile, int], None]
"""Called with a file and how many of its bytes there are by now."""


def _no_report(file: KnownFile, n_bytes: int) -> None:
    pass


def fetch(
    model: KnownModel, folder: Path, *, token: str | None = None, report: Report = _no_report
) -> bool:
    """Download the files that are missing or damaged; False if there are none.

    A file that was begun is gone on with. Each is moved into place whole, after its checksum.

    Args:
        token: for a gated model; goes to its host only, and is not kept.

    Raises:
        NetworkUnavailable, AccessDenied, ChecksumMismatch, NoSpace, CannotWriteWeights
    """
    stamps = _read_stamps(model, folder)
    missing = [file for file in model.files if not _is_intact(file, folder, stamps)]
    if not missing and stamps:
        return False
    _check_space(folder, sum(file.size - _size_of(_partial(file, folder)) for file in missing))
    for file in missing:
        try:
            _download(file, folder, token if model.gated else None, report)
        except urllib.error.HTTPError as error:
            raise _refusal(error.code, model, token) from None
    _write_manifest(model, folder)
    return bool(missing)


def _partial(file: KnownFile, folder: Path) -> Path:
    return folder / f"{file.path}.partial"


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _refusal(status: int, model: KnownModel, token: str | None) -> WeightsError:
    if not model.gated or status not in (401, 403):
        return NetworkUnavailable(
            f"The server with {model.name} answered {status}; try again later, or import a bundle"
            " that `fieldscribe models export` has written on another machine."
        )
    problem = {
        401: "The token is not valid",
        403: "The account of this token has not accepted the conditions",
    }[status]
    return AccessDenied(
        f"{problem if token else 'The model is given to registered users only'}: make an account"
        f" at huggingface.co, accept the conditions at {model.source}, create a token with read"
        f" access, and pass it to `fieldscribe models fetch {model.name} --token-stdin`."
    )


def _download(file: KnownFile, folder: Path, token: str | None, report: Report) -> None:
    """Raises HTTPError where the server refuses."""
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
        partial.unlink()  # it is no beginning of the file
        return _download(file, folder, token, report)
    with response, _writing():
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {n_bytes}-"
        )
        if goes_on:
            with partial.open("rb") as begun:
                digest = hashlib.file_digest(begun, "sha256")
        else:
            n_bytes = 0
        expected = n_bytes + int(response.headers.get("Content-Length", file.size))
        _make_folder(partial.parent)
        with _open_private(partial, append=goes_on) as out:
            report(file, n_bytes)
            while block := _read(response):
                out.write(block)
                digest.update(block)
                n_bytes += len(block)
                report(file, n_bytes)
                if n_bytes > 2 * file.size:
                    break  # of something else; the checksum says so
        if n_bytes < expected:
            raise NetworkUnavailable(
                "The connection broke off; run the same command again to go on from there."
            )
        if digest.hexdigest() != file.sha256:
            partial.unlink()
            raise ChecksumMismatch(
                "What was downloaded is not the published file; fetch it again, and tell your"
                " network's administrator if this happens twice."
            )
        partial.replace(folder / file.path)


def _open(request: urllib.request.Request) -> Any:
    with _network():
        return urllib.request.build_opener(_TokenStaysAtItsHost).open(request, timeout=60)


def _read(response: Any) -> bytes:
    with _network():
        return response.read(BLOCK_BYTES)  # type: ignore[no-any-return]


class _TokenStaysAtItsHost(urllib.request.HTTPRedirectHandler):
    """Files of a gated model are redirected to a content network, which gets no token."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is None:
            return None
        if req.type == "https" and new.type != "https":
            raise NetworkUnavailable("The server sent the download to an address without TLS.")
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
            f"The server with the weights cannot be reached ({type(error).__name__}); on a machine"
            " without network, import a bundle that `fieldscribe models export` has written on"
            " another one."
        ) from None


# --- writing --------------------------------------------------------------------------------------


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("The disk is full; free some space and run the command again.") from None
        raise CannotWriteWeights(
            f"The weights cannot be written ({error.strerror}); give a folder that can be with"
            " --weights."
        ) from None


def _check_space(folder: Path, n_bytes: int) -> None:
    with _writing():
        _make_folder(folder)
        free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise NoSpace(
            f"{n_bytes / 1e9:.1f} GB are needed for the weights and {free / 1e9:.1f} GB are free."
        )


def _make_folder(folder: Path) -> None:
    """With the folders above it; new ones are for this user alone."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _open_private(path: Path, *, append: bool = False) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), "wb")


# --- bundles --------------------------------------------------------------------------------------

BUNDLE_VERSION = 1
BUNDLE_MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20


def export(
    models: Sequence[KnownModel], folder: Path, bundle: Path, *, report: Report = _no_report
) -> None:
    """Write installed models into one tar file, its manifest first, for a machine without network.

    Raises:
        ModelMissing, WeightsCorrupt, NoSpace, CannotWriteWeights
    """
    for model in models:
        check_installed(model, folder)
    if bundle.exists():
        raise CannotWriteWeights("The bundle exists already; delete it or give another name.")
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
    with _writing(), _open_private(partial) as out:
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
        raise WeightsCorrupt("A file of the weights is damaged; run `fieldscribe models verify`.")


class _Hashing(io.RawIOBase):
    """A file that is hashed as it is read."""

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
    """Install the models of a bundle; all of them, or none if anything about it is wrong.

    Raises:
        UnsafeBundle: not what `export` writes: links, other names, twice the same, too large.
        ChecksumMismatch, WeightsCorrupt, NoSpace, CannotWriteWeights
    """
    try:
        with tarfile.open(bundle, "r:") as tar:
            models = _read_bundle_manifest(tar)
            _check_space(folder, sum(model.size for model in models))
            with _writing(), tempfile.TemporaryDirectory(dir=folder, prefix=".import-") as staging:
                _unpack(tar, models, Path(staging), report)
                for file in (file for model in models for file in model.files):
                    _make_folder((folder / file.path).parent)
                    (Path(staging) / file.path).replace(folder / file.path)
    except tarfile.TarError:
        raise WeightsCorrupt(
            "This is no bundle of weights, or it is cut short; copy it again from the machine"
            " that exported it."
        ) from None
    for model in models:
        _write_manifest(model, folder)
    return models


def _read_bundle_manifest(tar: tarfile.TarFile) -> tuple[KnownModel, ...]:
    member = tar.next()
    if member is None or member.name != BUNDLE_MANIFEST or not _is_plain(member):
        raise UnsafeBundle("The bundle does not begin with a manifest of weights.")
    if member.size > MAX_MANIFEST_BYTES:
        raise UnsafeBundle("The bundle's manifest is too large.")
    content = tar.extractfile(member)
    assert content is not None  # a plain file
    try:
        manifest = json.loads(content.read())
        version = manifest["fieldscribe_weights"]
        models = tuple(KNOWN[entry["name"]] for entry in manifest["models"])
        files = [entry["files"] for entry in manifest["models"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UnsafeBundle("The bundle's manifest names weights that are not known.") from error
    published = [{file.path: file.sha256 for file in model.files} for model in models]
    if version != BUNDLE_VERSION or files != published or len(set(models)) != len(models):
        raise UnsafeBundle(
            "The bundle's manifest is not of the weights that are known here; export it again"
            " with the same version of fieldscribe."
        )
    return models


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.type == tarfile.REGTYPE and not member.issparse()


def _unpack(
    tar: tarfile.TarFile, models: Sequence[KnownModel], staging: Path, report: Report
) -> None:
    """Exactly the files of these models, each once, each with its checksum."""
    expected = {file.path: file for model in models for file in model.files}
    while (member := tar.next()) is not None:
        file = expected.pop(member.name, None)
        if file is None or not _is_plain(member) or member.size > 2 * file.size:
            raise UnsafeBundle(
                "The bundle holds a link, a file that is not in its manifest, one that is there"
                " twice or one that is too large; nothing was installed."
            )
        content = tar.extractfile(member)
        assert content is not None  # a plain file
        hashing = _Hashing(content, file, report)
        _make_folder((staging / file.path).parent)
        with _open_private(staging / file.path) as out:
            shutil.copyfileobj(hashing, out, BLOCK_BYTES)
        if hashing.hexdigest() != file.sha256:
            raise ChecksumMismatch(
                "A file in the bundle is not the published one; nothing was installed."
            )
    if expected:
        raise WeightsCorrupt("The bundle is cut short; copy it again.")
