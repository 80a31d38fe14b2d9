"""The catalogue of weights: names, checksums, licences, where files are installed.

    <folder>/whisper/large-v3.pt
    <folder>/whisper/large-v3.json
    <folder>/pyannote/speaker-diarization-community-1/config.yaml and what it refers to
    <folder>/pyannote/speaker-diarization-community-1.json
    <folder>/spacy/en_core_web_sm.whl

The JSON files are manifests: they record where the files came from, their checksums, sizes and
times. The checksums of published models are listed here and override those of a manifest.
Nothing here uses the network (models/weights/transfer.py does) or imports torch, so the API process
can tell what is installed.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from models.weights.errors import (
    CannotWriteWeights,
    ModelMissing,
    NoSpace,
    UnknownModel,
    WeightsCorrupt,
)

Kind = Literal["whisper", "pyannote", "spacy"]

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo"
DEFAULT_PIPELINE = "speaker-diarization-community-1"


# --- what exists ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownFile:
    """`path` is relative to the weights folder; `size` is in bytes, for display and disk space."""

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
    """`sha256` is the checksum of a list of its files: lines "<sha256>  <path>\\n" by path."""

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


DEFAULT_SPACY = "en_core_web_sm"
SPACY_URL = "https://github.com/explosion/spacy-models/releases/download"
SPACY_VERSION = "3.8.0"
_SPACY = {
    "en_core_web_sm": (
        "1932429db727d4bff3deed6b34cfc05df17794f4a52eeb26cf8928f7c1a0fb85",
        12_806_118,
    ),
    "en_core_web_lg": (
        "293e9547a655b25499198ab15a525b05b9407a75f10255e405e8c3854329ab63",
        400_658_291,
    ),
}


def _spacy(name: str, sha256: str, size: int) -> KnownModel:
    release = f"{name}-{SPACY_VERSION}"
    url = f"{SPACY_URL}/{release}/{release}-py3-none-any.whl"
    file = KnownFile(f"spacy/{name}.whl", sha256, size, url)
    return KnownModel(
        name, "spacy", (file,), url, revision=SPACY_VERSION, licence="MIT", gated=False
    )


KNOWN: dict[str, KnownModel] = {
    DEFAULT_PIPELINE: _community(),
    **{name: _spacy(name, sha256, size) for name, (sha256, size) in _SPACY.items()},
    **{name: _whisper(name, sha256, size) for name, (sha256, size) in _WHISPER.items()},
}


def find_model(name: str, kind: Kind | None = None) -> KnownModel:
    """The published model of this name.

    Raises:
        UnknownModel.
    """
    model = KNOWN.get(ALIASES.get(name, name))
    if model is None or kind not in (None, model.kind):
        names = [name for name, model in KNOWN.items() if kind in (None, model.kind)]
        # The message does not repeat the name: it may be a path, and paths can name people.
        raise UnknownModel(f"There is no such model: choose one of {', '.join([*names, DEMO])}.")
    return model


def default_whisper(device: str) -> str:
    """The default model for a device such as "cpu", "cuda" or "cuda:1"."""
    return "large-v3-turbo" if device.startswith("cuda") else "small"


def default_pipeline(whisper_name: str) -> str:
    """The demo Whisper and the demo pipeline are only used together."""
    return DEMO if whisper_name == DEMO else DEFAULT_PIPELINE


# --- find and verify ------------------------------------------------------------------------------


def find_whisper(name_or_path: str, folder: Path) -> WhisperWeights:
    """Find a Whisper checkpoint by name in the weights folder, or by path.

    A path leads to a checkpoint file of openai-whisper or a folder of Hugging Face transformers.
    An installed file is hashed unless its size and time match its manifest.

    Raises:
        UnknownModel: neither a known name nor a path.
        ModelMissing: not installed, or nothing at the path.
        WeightsCorrupt: not the file that the name promises.
    """
    if name_or_path == DEMO:
        path = DEMO_FOLDER / "whisper.pt.xz"
        return WhisperWeights(DEMO, path, _sha256_of_checkpoint(path), demo=True)
    if _is_path(name_or_path, ".pt", ".pt.xz"):
        path = Path(name_or_path)
        sha256 = _sha256_of_hugging_face(path) if path.is_dir() else _sha256_of_checkpoint(path)
        return WhisperWeights(f"checkpoint-{sha256[:12]}", path, sha256, demo=False)
    model = find_model(name_or_path, "whisper")
    check_installed(model, folder)
    (file,) = model.files
    return WhisperWeights(model.name, folder / file.path, file.sha256, demo=False)


def find_pipeline(name_or_path: str, folder: Path) -> PipelineWeights:
    """Find a pyannote pipeline by name in the weights folder, or by the path of its folder.

    Raises: as `find_whisper`.
    """
    if name_or_path == DEMO:
        own = DEMO_FOLDER / "pyannote"
        return PipelineWeights(DEMO, own, _sha256_of_folder(own), demo=True)
    if _is_path(name_or_path):
        own = Path(name_or_path)
        sha256 = _sha256_of_folder(own)
        return PipelineWeights(f"pipeline-{sha256[:12]}", own, sha256, demo=False)
    model = find_model(name_or_path, "pyannote")
    check_installed(model, folder)
    own = folder / "pyannote" / model.name
    prefix = f"pyannote/{model.name}/"
    files = {file.path.removeprefix(prefix): file.sha256 for file in model.files}
    return PipelineWeights(model.name, own, _sha256_of_list(files), demo=False)


def find_spacy(name_or_path: str, folder: Path) -> Path:
    """Find a spaCy pipeline: the wheel in the weights folder, or the folder at a path.

    Raises:
        UnknownModel: neither a known name nor a path.
        ModelMissing: not installed, or nothing at the path.
        WeightsCorrupt: not the file that the name promises.
    """
    if _is_path(name_or_path):
        path = Path(name_or_path)
        if not path.exists():
            raise ModelMissing("There is no spaCy pipeline at the given path: check the path.")
        return path
    model = find_model(name_or_path, "spacy")
    check_installed(model, folder)
    return folder / model.files[0].path


def _is_path(name: str, *suffixes: str) -> bool:
    return "/" in name or os.sep in name or bool(suffixes and name.endswith(suffixes))


def _sha256_of_checkpoint(path: Path) -> str:
    with translate_read_errors():
        if not path.is_file():
            raise ModelMissing("There is no checkpoint at the given path: check the path.")
        return sha256_of(path)


def _sha256_of_hugging_face(folder: Path) -> str:
    """Covers only the files that are loaded; training leaves others in the folder."""
    with translate_read_errors():
        files = [folder / name for name in ("config.json", "generation_config.json")]
        files = [path for path in files if path.is_file()] + hugging_face_weights(folder)
        return _sha256_of_list({path.name: sha256_of(path) for path in files})


def hugging_face_weights(folder: Path) -> list[Path]:
    """The files with the tensors of a checkpoint saved by transformers, in one part or several.

    Raises:
        ModelMissing.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for kind in (r"model{}\.safetensors", r"pytorch_model{}\.bin"):
        for part in ("", r"-\d{5}-of-\d{5}"):
            found = [name for name in names if re.fullmatch(kind.format(part), name)]
            if found and (folder / "config.json").is_file():
                return [folder / name for name in found]
    raise ModelMissing(
        "The given folder does not contain a config.json and a model.safetensors or"
        " pytorch_model.bin: check the path."
    )


def _sha256_of_folder(folder: Path) -> str:
    """Covers all files except hidden ones (.git, .gitattributes), which are never loaded."""
    files = {}
    with translate_read_errors():
        if not (folder / "config.yaml").is_file():
            raise ModelMissing(
                "There is no pipeline with a config.yaml at the given path: check the path."
            )
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
    """Check that all files of a model are installed and intact.

    Args:
        rehash: hash even files whose size and time match the manifest.

    Raises:
        ModelMissing, WeightsCorrupt.
    """
    with translate_read_errors():
        if not is_installed(model, folder):
            arguments = f"{model.name} --token-stdin" if model.gated else model.name
            raise ModelMissing(
                f"{model.name} is not installed: run `fieldscribe models fetch {arguments}`."
            )
        stamps = {} if rehash else read_stamps(model, folder)
        if not all(is_intact(file, folder, stamps) for file in model.files):
            raise WeightsCorrupt(
                f"A file of {model.name} is damaged: run `fieldscribe models fetch {model.name}`"
                " to replace it."
            )


@contextmanager
def translate_read_errors() -> Iterator[None]:
    """Report unreadable weights, perhaps fetched by another user, as missing."""
    try:
        yield
    except PermissionError:
        raise ModelMissing(
            "You do not have permission to read the weights: choose another folder with --weights,"
            " or change their owner."
        ) from None


def is_installed(model: KnownModel, folder: Path) -> bool:
    """Whether the files exist; `check_installed` also checks that they are intact."""
    with translate_read_errors():
        return all((folder / file.path).is_file() for file in model.files)


Stamp = tuple[str, int, int]  # sha256, size, time of modification in ns


def is_intact(file: KnownFile, folder: Path, stamps: Mapping[str, Stamp]) -> bool:
    path = folder / file.path
    return path.is_file() and (_is_stamped(file, folder, stamps) or sha256_of(path) == file.sha256)


def _is_stamped(file: KnownFile, folder: Path, stamps: Mapping[str, Stamp]) -> bool:
    """Whether size and time are still those recorded when the checksum last matched."""
    status = (folder / file.path).stat()
    return stamps.get(file.path) == (file.sha256, status.st_size, status.st_mtime_ns)


def read_stamps(model: KnownModel, folder: Path) -> dict[str, Stamp]:
    """Stamps of the files by path, from the manifest; empty if it is missing or invalid."""
    try:
        manifest = json.loads((folder / model.manifest).read_text())
        return {
            file["path"]: (file["sha256"], file["size"], file["modified_ns"])
            for file in manifest["files"]
        }
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def write_manifest(model: KnownModel, folder: Path) -> None:
    """Call this once the checksums of all files have been found to match."""
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
    with translate_write_errors():
        with open_private(partial) as out:
            out.write(json.dumps(manifest, indent=1).encode())
        partial.replace(path)


def verify(model: KnownModel, folder: Path) -> None:
    """Hash every file; intact ones need not be hashed again at the next start.

    Raises:
        ModelMissing, WeightsCorrupt.
    """
    check_installed(model, folder, rehash=True)
    stamps = read_stamps(model, folder)
    if not all(_is_stamped(file, folder, stamps) for file in model.files):
        write_manifest(model, folder)


# --- writing --------------------------------------------------------------------------------------


@contextmanager
def translate_write_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                "The disk is full: free some space, then run the command again."
            ) from None
        raise CannotWriteWeights(
            f"The weights cannot be written ({error.strerror}): choose a writable folder with"
            " --weights."
        ) from None


def open_private(path: Path, *, append: bool = False) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), "wb")
