"""Read weights files as data: nothing that is in a file is ever run or imported.

A checkpoint is a pickle in a zip archive, and a pickle is a program. torch's restricted unpickler
reads it here, with an allow-list of four inert classes; what a checkpoint says about itself
(dimensions, architecture, hyper-parameters) is compared with lists of what is known and sane before
anything is built from it. Loading goes by path and never to the network.
"""

import dataclasses
import io
import json
import lzma
import pickle
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import yaml
from torch import Tensor

from models.audio import SAMPLE_RATE
from models.errors import WeightsError
from models.hugging_face import dimensions, openai_name
from models.pyannote_guard import pyannote_audio
from models.speaker_models import SpeakerModels
from models.weights import (
    KNOWN,
    PipelineWeights,
    WeightsCorrupt,
    WhisperWeights,
    hugging_face_weights,
)

MAX_UNPACKED_BYTES = 256 << 20  # of a checkpoint under xz; the demo's are a tenth of it
MAX_CONFIG_BYTES = 64 << 10
MAX_JSON_BYTES = 1 << 20
MAX_PLDA_BYTES = 64 << 20

BAD_INPUT = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError)
"""What torch, numpy and zipfile raise on bytes that are not what they should be."""


class UnsafeCheckpoint(WeightsError):
    """A weights file wants to run something, or holds objects that are not numbers."""

    code = "unsafe_checkpoint"


class UnsupportedCheckpoint(WeightsError):
    """A sound file, but not weights of a model that is known here."""

    code = "unsupported_checkpoint"


class UnsupportedPipeline(WeightsError):
    """A pipeline folder asks for something else than the pipeline that is known here."""

    code = "unsupported_pipeline"


# --- archives -------------------------------------------------------------------------------------


def read_checkpoint(file: BinaryIO, allowed: Collection[Any] = ()) -> Any:
    """Containers, numbers, strings, tensors on the CPU, and instances of the `allowed` classes.

    Raises:
        WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint
    """
    _check_archive(file)
    file.seek(0)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(
            "The checkpoint asks for code to be run or for a class that is not on the allow-list;"
            " do not use it, and get the weights from where they were published."
        ) from error
    except BAD_INPUT as error:
        raise WeightsCorrupt("The checkpoint is damaged; get it again.") from error


def _check_archive(file: BinaryIO) -> None:
    """An archive as torch.save writes it: uncompressed, not a TorchScript program."""
    start = file.read(2)
    if start[:1] == b"\x80":
        raise UnsupportedCheckpoint(
            "The checkpoint is a bare pickle, the format of old versions of PyTorch;"
            " save it again with a current one."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        size = file.seek(0, io.SEEK_END)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise WeightsCorrupt("The checkpoint is damaged or cut short; get it again.") from error
    if any(member.filename.endswith("constants.pkl") for member in members):
        raise UnsupportedCheckpoint(
            "The checkpoint is a TorchScript program; only plain weights are read."
        )
    unpacked = sum(member.file_size for member in members)
    if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise UnsupportedCheckpoint(
            "The checkpoint is compressed inside, which torch.save never does; save it again."
        )


def _check_state(state: Any, expected: Mapping[str, Tensor], what: str) -> None:
    """Exactly these names and shapes, each tensor with numbers of its own.

    A few numbers that are shared or repeated by all tensors would make a small file very large.
    """
    if not isinstance(state, Mapping) or set(state) != set(expected):
        raise UnsupportedCheckpoint(f"The tensors in the checkpoint are not those of {what}.")
    n_bytes, storages = 0, {}
    for name, tensor in state.items():
        if (
            not isinstance(tensor, Tensor)
            or tensor.layout != torch.strided
            or tensor.is_floating_point() != expected[name].is_floating_point()
            or tensor.shape != expected[name].shape
        ):
            raise UnsupportedCheckpoint(f"A tensor in the checkpoint is not one of {what}.")
        n_bytes += tensor.nbytes
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    if n_bytes > sum(storages.values()):
        raise UnsupportedCheckpoint("Tensors in the checkpoint share their numbers; save it again.")


# --- Whisper --------------------------------------------------------------------------------------

# Each from a little above nothing to a little above large-v3. The encoder's and the tokenizer's
# sizes are facts of the method: windows of 30 s and one of three vocabularies.
_DIMENSIONS: dict[str, Collection[int]] = {
    "n_mels": (80, 128),
    "n_audio_ctx": (1500,),
    "n_audio_state": range(4, 2049, 2),
    "n_audio_head": range(1, 65),
    "n_audio_layer": range(1, 65),
    "n_vocab": (51864, 51865, 51866),
    "n_text_ctx": range(8, 449),
    "n_text_state": range(4, 2049, 2),
    "n_text_head": range(1, 65),
    "n_text_layer": range(1, 65),
}


def load_whisper(weights: WhisperWeights) -> Any:
    """A `whisper.model.Whisper` on the CPU, in fp32 and evaluation mode, its alignment heads set.

    Raises:
        WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint
    """
    from whisper.model import ModelDimensions, Whisper

    if weights.path.is_dir():
        found, state = _read_hugging_face(weights.path)
    else:
        found, state = _read_openai(weights.path)
    dims = ModelDimensions(**_checked_dimensions(found))
    _check_state(state, _expected_state(dims), "a Whisper of its dimensions")
    model = Whisper(dims)
    model.load_state_dict(state)
    own_heads = _own_alignment_heads(weights.path, dims)
    heads = _alignment_heads(weights.sha256, dims)
    if own_heads is not None:
        model.register_buffer("alignment_heads", own_heads.to_sparse(), persistent=False)
    elif heads is not None:
        model.set_alignment_heads(heads)
    return model.eval()


def _read_openai(path: Path) -> tuple[Any, Any]:
    """Dimensions and state, neither checked."""
    with _open_checkpoint(path) as file:
        checkpoint = read_checkpoint(file)
    if not isinstance(checkpoint, dict) or not {"dims", "model_state_dict"} <= set(checkpoint):
        raise UnsupportedCheckpoint(
            "This is not a checkpoint of openai-whisper, which holds `dims` and"
            " `model_state_dict`; of Hugging Face's, give the folder with its config.json."
        )
    return checkpoint["dims"], checkpoint["model_state_dict"]


def _read_hugging_face(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Dimensions and state, neither checked, of a folder as transformers saves it."""
    dims = dimensions(_read_json(folder / "config.json"))
    if dims is None:
        raise UnsupportedCheckpoint("The folder's config.json is not that of a Whisper.")
    state: dict[str, Any] = {}
    for path in hugging_face_weights(folder):
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_bin(path)
        if not isinstance(tensors, Mapping) or state.keys() & (
            renamed := {openai_name(str(name)): tensor for name, tensor in tensors.items()}
        ):
            raise UnsupportedCheckpoint("The tensors in the folder are not those of a Whisper.")
        state.update(renamed)
    # The vocabulary's matrix, which transformers may save a second time.
    output = state.pop("proj_out.weight", None)
    embedding = state.get("decoder.token_embedding.weight")
    if isinstance(output, Tensor) and isinstance(embedding, Tensor):
        if not torch.equal(output, embedding):
            raise UnsupportedCheckpoint(
                "The checkpoint's output matrix is not that of its token embedding."
            )
    return dims, state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, *BAD_INPUT) as error:
        raise WeightsCorrupt("The checkpoint is damaged or cut short; get it again.") from error


def _read_bin(path: Path) -> Any:
    with path.open("rb") as file:
        return read_checkpoint(file)


def _read_json(path: Path) -> dict[str, Any]:
    """An object, as config.json holds it."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_JSON_BYTES))
    except (OSError, RecursionError, *BAD_INPUT) as error:
        raise UnsupportedCheckpoint(f"The folder's {path.name} cannot be read.") from error
    if not isinstance(found, dict):
        raise UnsupportedCheckpoint(f"The folder's {path.name} is not that of a Whisper.")
    return found


def _own_alignment_heads(path: Path, dims: Any) -> Tensor | None:
    """Of a folder that names them, (n_layers, n_heads)."""
    config = path / "generation_config.json"
    if not path.is_dir() or not config.is_file():
        return None
    heads = _read_json(config).get("alignment_heads")
    if not heads:
        return None
    mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
    try:
        for layer, head in heads:
            if type(layer) is not int or type(head) is not int or min(layer, head) < 0:
                raise ValueError
            mask[layer, head] = True
    except BAD_INPUT as error:
        raise UnsupportedCheckpoint(
            "The alignment heads in the folder's generation_config.json are not the model's."
        ) from error
    return mask


def _open_checkpoint(path: Path) -> BinaryIO:
    if path.suffix != ".xz":
        return path.open("rb")
    try:
        with lzma.open(path) as file:
            unpacked = file.read(MAX_UNPACKED_BYTES + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise WeightsCorrupt("The checkpoint is damaged or cut short; get it again.") from error
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise UnsupportedCheckpoint("The checkpoint is too large to be kept under xz; unpack it.")
    return io.BytesIO(unpacked)


def _checked_dimensions(dims: Any) -> dict[str, int]:
    if (
        not isinstance(dims, dict)
        or set(dims) != set(_DIMENSIONS)
        or not all(type(dims[name]) is int and dims[name] in _DIMENSIONS[name] for name in dims)
        or dims["n_audio_state"] != dims["n_text_state"]  # cross-attention joins the two
        or dims["n_audio_state"] % dims["n_audio_head"]
        or dims["n_text_state"] % dims["n_text_head"]
    ):
        raise UnsupportedCheckpoint("The dimensions in the checkpoint are not those of a Whisper.")
    return dims


def _expected_state(dims: Any) -> dict[str, Tensor]:
    """The state of `Whisper(dims)` without the memory for it."""
    from whisper.model import AudioEncoder, TextDecoder

    with torch.device("meta"):
        parts = {
            "encoder": AudioEncoder(
                dims.n_mels,
                dims.n_audio_ctx,
                dims.n_audio_state,
                dims.n_audio_head,
                dims.n_audio_layer,
            ),
            "decoder": TextDecoder(
                dims.n_vocab,
                dims.n_text_ctx,
                dims.n_text_state,
                dims.n_text_head,
                dims.n_text_layer,
            ),
        }
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def _alignment_heads(sha256: str, dims: Any) -> bytes | None:
    """Of the official model with this checksum, else of the newest one of the same shape.

    A model fine-tuned from an official one keeps that one's heads. large-v1 and large-v2 have one
    shape; large-v2 is what people tune. None where no official model has it: whisper then takes
    all heads of the upper half of the layers.
    """
    from whisper import _ALIGNMENT_HEADS

    for name, model in KNOWN.items():
        if model.kind == "whisper" and model.files[0].sha256 == sha256:
            return bytes(_ALIGNMENT_HEADS[name])
    shape = (dims.n_mels, dims.n_vocab, dims.n_text_state, dims.n_text_layer)
    official = _OFFICIAL_SHAPES.get(shape)
    return None if official is None else bytes(_ALIGNMENT_HEADS[official])


# (n_mels, n_vocab, n_text_state, n_text_layer)
_OFFICIAL_SHAPES = {
    (80, 51864, 384, 4): "tiny.en",
    (80, 51865, 384, 4): "tiny",
    (80, 51864, 512, 6): "base.en",
    (80, 51865, 512, 6): "base",
    (80, 51864, 768, 12): "small.en",
    (80, 51865, 768, 12): "small",
    (80, 51864, 1024, 24): "medium.en",
    (80, 51865, 1024, 24): "medium",
    (80, 51865, 1280, 32): "large-v2",
    (128, 51866, 1280, 32): "large-v3",
    (128, 51866, 1280, 4): "large-v3-turbo",
}


# --- pyannote: models -----------------------------------------------------------------------------

_SEGMENTATION = {
    ("pyannote.audio.models.segmentation.PyanNet", "PyanNet"),
    ("pyannote.audio.models.segmentation", "PyanNet"),
}
_RESNETS = {
    "WeSpeakerResNet34": [3, 4, 6, 3],
    "WeSpeakerResNet152": [3, 8, 36, 3],
    "WeSpeakerResNet221": [6, 16, 48, 3],
    "WeSpeakerResNet293": [10, 20, 64, 3],
}
_EMBEDDING = {
    (module, name)
    for module in (
        "pyannote.audio.models.embedding.wespeaker",
        "pyannote.audio.models.embedding",
    )
    for name in _RESNETS
}

# What `_fits` compares hyper-parameters with.
_COMMON: dict[str, Any] = {"sample_rate": {SAMPLE_RATE}, "num_channels": {1}}
_PYANNET: dict[str, Any] = {
    **_COMMON,
    "sincnet": {"sample_rate": {SAMPLE_RATE}, "stride": (1, 100)},
    "lstm": {
        "hidden_size": (1, 1024),
        "num_layers": (1, 12),
        "bidirectional": {True, False},
        "monolithic": {True, False},
        "dropout": (0.0, 1.0),
        "batch_first": {True},
    },
    "linear": {"hidden_size": (1, 1024), "num_layers": (0, 12)},
}
_WESPEAKER: dict[str, Any] = {
    **_COMMON,
    "num_mel_bins": (8, 128),
    "frame_length": (10.0, 100.0),
    "frame_shift": (5.0, 50.0),
    "dither": {0.0},  # noise would differ from chunk to chunk, and from run to run
    "window_type": {"hamming", "hanning", "povey", "rectangular", "blackman"},
    "use_energy": {False},
    # The model's own constructor does not take these three; their defaults are the only values.
    "round_to_power_of_two": {True},
    "snip_edges": {True},
    "fbank_centering_span": {None},
}
_NOT_TAKEN = {"round_to_power_of_two", "snip_edges", "fbank_centering_span"}


def _load_segmentation(path: Path) -> Any:
    checkpoint, specifications = _read_model(path, _SEGMENTATION)
    from pyannote.audio.core.task import Problem, Resolution
    from pyannote.audio.models.segmentation import PyanNet

    if (
        specifications is None
        or specifications.resolution != Resolution.FRAME
        or specifications.problem != Problem.MONO_LABEL_CLASSIFICATION
        or specifications.classes is None
        or specifications.powerset_max_classes is None
    ):
        raise UnsupportedCheckpoint(
            "The segmentation model does not tell which set of speakers speaks in each frame."
        )
    parameters = _checked_parameters(checkpoint.get("hyper_parameters", {}), _PYANNET)
    parameters.get("lstm", {}).pop("batch_first", None)
    model = PyanNet(**parameters)
    model.specifications = specifications
    model.build()  # type: ignore[no-untyped-call]
    state = _without_loss(checkpoint["state_dict"])
    _check_state(state, model.state_dict(), "PyanNet")
    model.load_state_dict(state)
    return model.eval()


def _load_embedding(path: Path) -> Any:
    checkpoint, specifications = _read_model(path, _EMBEDDING)
    from pyannote.audio.models import embedding
    from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, Bottleneck, ResNet

    name = checkpoint["pyannote.audio"]["architecture"]["class"]
    parameters = _checked_parameters(checkpoint.get("hyper_parameters", {}), _WESPEAKER)
    for parameter in _NOT_TAKEN:
        parameters.pop(parameter, None)
    model = getattr(embedding, name)(**parameters)
    state = _without_loss(checkpoint["state_dict"])
    # The published models have 32 channels and embeddings of 256; smaller ones read the same.
    n_channels = _length(state, "resnet.conv1.weight", range(1, 129))
    dimension = _length(state, "resnet.seg_1.weight", range(1, 2049))
    model.resnet = ResNet(  # type: ignore[no-untyped-call]
        BasicBlock if name == "WeSpeakerResNet34" else Bottleneck,
        _RESNETS[name],
        m_channels=n_channels,
        feat_dim=model.hparams.num_mel_bins,
        embed_dim=dimension,
        two_emb_layer=False,
    )
    if specifications is not None:
        model.specifications = specifications
    _check_state(state, model.state_dict(), name)
    model.load_state_dict(state)
    return model.eval()


def _read_model(path: Path, allowed: Collection[tuple[str, str]]) -> tuple[dict[str, Any], Any]:
    """The checkpoint of a pyannote model and its specifications, or None for these."""
    pyannote_audio()
    from pyannote.audio.core.model import Introspection
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from torch.torch_version import TorchVersion

    classes = [Introspection, Problem, Resolution, Specifications, TorchVersion]
    try:
        with path.open("rb") as file:
            checkpoint = read_checkpoint(file, classes)
    except FileNotFoundError:
        raise UnsupportedPipeline(
            "The pipeline folder lacks a pytorch_model.bin that its config.yaml refers to."
        ) from None
    try:
        own = checkpoint["pyannote.audio"]
        architecture = (own["architecture"]["module"], own["architecture"]["class"])
        _ = checkpoint["state_dict"].items
        known = architecture in allowed
    except (LookupError, TypeError, AttributeError):
        known = False
    if not known:
        raise UnsupportedCheckpoint(
            "The checkpoint is not of a pyannote.audio model on the allow-list:"
            f" {', '.join(sorted({name for _, name in allowed}))}."
        )
    return checkpoint, _checked_specifications(own.get("specifications"))


def _checked_specifications(found: Any) -> Any:
    """A new object: that of the checkpoint may carry any attribute under any name."""
    from pyannote.audio.core.task import Problem, Resolution, Specifications

    if found is None:
        return None
    fields = vars(found) if isinstance(found, Specifications) else {}
    fields = {field.name: fields.get(field.name) for field in dataclasses.fields(Specifications)}
    classes, powerset = fields["classes"], fields["powerset_max_classes"]
    if (
        not isinstance(fields["problem"], Problem)
        or not isinstance(fields["resolution"], Resolution)
        or not _is_number(fields["duration"], 0.1, 60.0)
        or not (fields["min_duration"] is None or _is_number(fields["min_duration"], 0.0, 60.0))
        or not (
            type(fields["warm_up"]) is tuple
            and len(fields["warm_up"]) == 2
            and all(_is_number(seconds, 0.0, 60.0) for seconds in fields["warm_up"])
        )
        or not (
            classes is None
            or (
                isinstance(classes, list)
                and 1 <= len(classes) <= 20
                and all(type(name) is str for name in classes)
            )
        )
        or not (powerset is None or (type(powerset) is int and 1 <= powerset <= 20))
    ):
        raise UnsupportedCheckpoint("The checkpoint's specifications are not those of a model.")
    return Specifications(
        problem=fields["problem"],
        resolution=fields["resolution"],
        duration=fields["duration"],
        min_duration=fields["min_duration"],
        warm_up=fields["warm_up"],
        classes=classes,
        powerset_max_classes=powerset,
        permutation_invariant=fields["permutation_invariant"] is True,
    )


def _checked_parameters(found: Any, allowed: Mapping[str, Any]) -> dict[str, Any]:
    if not _fits(found, allowed):
        raise UnsupportedCheckpoint(
            "The checkpoint has a hyper-parameter that is not known, or out of range."
        )
    return {
        name: dict(value) if isinstance(value, dict) else value for name, value in found.items()
    }


def _fits(value: Any, allowed: Any) -> bool:
    """Whether a value is one of a set, a number in a (low, high) range of one type, or a dict
    with some of the names of a dict, each with a value that fits.
    """
    if isinstance(allowed, Mapping):
        return isinstance(value, dict) and all(
            name in allowed and _fits(each, allowed[name]) for name, each in value.items()
        )
    if isinstance(allowed, tuple):
        low, high = allowed
        return _is_number(value, low, high) and (type(low) is float or type(value) is int)
    return type(value) in {type(each) for each in allowed} and value in allowed


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _without_loss(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint straight from training also has the weights of its loss function."""
    return {name: value for name, value in state.items() if not str(name).startswith("loss_func.")}


def _length(state: Mapping[str, Any], name: str, allowed: range) -> int:
    tensor = state.get(name)
    if not isinstance(tensor, Tensor) or not tensor.ndim or tensor.shape[0] not in allowed:
        raise UnsupportedCheckpoint("The tensors in the checkpoint are not those of a ResNet.")
    return int(tensor.shape[0])


# --- pyannote: the pipeline -----------------------------------------------------------------------

_PIPELINE_NAMES = {
    "pyannote.audio.pipelines.SpeakerDiarization",
    "pyannote.audio.pipelines.speaker_diarization.SpeakerDiarization",
}
_PIPELINE_OPTIONS: dict[str, Any] = {
    "clustering": {"VBxClustering", "AgglomerativeClustering"},
    "embedding_exclude_overlap": {True, False},
    "segmentation_step": (0.01, 1.0),
    "segmentation_batch_size": (1, 1024),
    "embedding_batch_size": (1, 1024),
}
_CLUSTERING: dict[str, dict[str, Any]] = {
    "VBxClustering": {"threshold": (0.0, 2.0), "Fa": (0.0, 100.0), "Fb": (0.0, 100.0)},
    "AgglomerativeClustering": {
        "threshold": (0.0, 2.0),
        "method": {"average", "centroid", "complete", "median", "single", "ward", "weighted"},
        "min_cluster_size": (1, 1000),
    },
}
_SEGMENTATION_PARAMETERS: dict[str, Any] = {"min_duration_off": (0.0, 60.0)}
_REFERENCE = re.compile(r"\$model/([A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*)")


@dataclass(frozen=True)
class _Config:
    """config.yaml, checked: folders that lie inside the pipeline's, options, parameters."""

    segmentation: Path
    embedding: Path
    plda: Path
    options: dict[str, Any]
    parameters: dict[str, Any]


def load_pipeline(weights: PipelineWeights, device: torch.device) -> SpeakerModels:
    """The folder's models and parameters, as the `SpeakerDiarization` of pyannote.audio has them.

    Raises:
        WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint, UnsupportedPipeline
    """
    pyannote_audio()
    config = _read_config(weights.folder)
    segmentation = _load_segmentation(
        _inside(weights.folder, config.segmentation / "pytorch_model.bin")
    )
    embedding = _load_embedding(_inside(weights.folder, config.embedding / "pytorch_model.bin"))
    models = SpeakerModels(
        segmentation,
        embedding,
        _load_plda(weights.folder, config.plda, embedding.dimension),
        clustering=config.options["clustering"],
        parameters=config.parameters["clustering"],
        min_duration_off=config.parameters["segmentation"]["min_duration_off"],
        segmentation_step=config.options.get("segmentation_step", 0.1),
        exclude_overlap=config.options.get("embedding_exclude_overlap", False),
    )
    return models.to(torch.device(device))


def _read_config(folder: Path) -> _Config:
    config: Any
    try:
        with _inside(folder, folder / "config.yaml").open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        config = yaml.safe_load(text) if len(text) <= MAX_CONFIG_BYTES else None
    except (OSError, yaml.YAMLError, *BAD_INPUT) as error:
        raise UnsupportedPipeline("The pipeline's config.yaml cannot be read.") from error
    try:
        name = config["pipeline"]["name"]
        options = dict(config["pipeline"]["params"])
        references = [options.pop(part) for part in ("segmentation", "embedding", "plda")]
        parameters = config["params"]
        options.setdefault("clustering", "VBxClustering")
    except (LookupError, TypeError, ValueError) as error:
        raise UnsupportedPipeline(
            "The pipeline's config.yaml lacks its name, its models or its parameters."
        ) from error
    if set(config) - {"pipeline", "params", "dependencies", "version"} or set(
        config["pipeline"]
    ) != {"name", "params"}:
        raise UnsupportedPipeline(
            "The pipeline's config.yaml asks for more than models and parameters;"
            " preprocessors, devices and frozen parameters are not supported."
        )
    if not _fits(name, _PIPELINE_NAMES):
        raise UnsupportedPipeline(
            "The pipeline is not pyannote.audio.pipelines.SpeakerDiarization, the only one known."
        )
    if not _fits(options, _PIPELINE_OPTIONS) or not _are_complete(
        parameters,
        {
            "clustering": _CLUSTERING[options["clustering"]],
            "segmentation": _SEGMENTATION_PARAMETERS,
        },
    ):
        raise UnsupportedPipeline(
            "An option or parameter in the pipeline's config.yaml is not known, missing, or out of"
            " range."
        )
    segmentation, embedding, plda = (_referred(folder, reference) for reference in references)
    return _Config(segmentation, embedding, plda, options, parameters)


def _are_complete(parameters: Any, allowed: Mapping[str, Mapping[str, Any]]) -> bool:
    return _fits(parameters, allowed) and all(
        set(parameters.get(part, {})) == set(names) for part, names in allowed.items()
    )


def _referred(folder: Path, reference: Any) -> Path:
    """The folder behind `$model/<subfolder>`."""
    match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if match is None:
        raise UnsupportedPipeline(
            "A model in the pipeline's config.yaml is not of the form $model/<subfolder>;"
            " models are only taken from the pipeline's own folder."
        )
    return folder / match[1]


def _inside(folder: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnsupportedPipeline(
            "A link in the pipeline's folder leads out of it; copy the files themselves there."
        )
    return path


def _load_plda(folder: Path, subfolder: Path, dimension: int) -> Any:
    """PLDA statistics, which pyannote asks for even where the clustering does not use them.

    Args:
        dimension: of the embeddings.
    """
    from pyannote.audio.core.plda import PLDA

    transform = _read_arrays(_inside(folder, subfolder / "xvec_transform.npz"))
    plda = _read_arrays(_inside(folder, subfolder / "plda.npz"))
    reduced = transform.get("lda", np.empty((0, 0))).shape[-1]
    shapes = {
        "mean1": (dimension,),
        "mean2": (reduced,),
        "lda": (dimension, reduced),
        "mu": (reduced,),
        "tr": (reduced, reduced),
        "psi": (reduced,),
    }
    found = {**transform, **plda}
    if {name: found[name].shape for name in shapes if name in found} != shapes:
        raise UnsupportedPipeline("The PLDA has not the shape that goes with the embeddings.")
    if not all(np.isfinite(found[name]).all() for name in shapes):
        raise UnsupportedPipeline("The PLDA holds numbers that are not finite.")
    try:
        return PLDA(_as_npz(transform), _as_npz(plda))  # type: ignore[arg-type]  # np.load takes it
    except (np.linalg.LinAlgError, ValueError) as error:
        raise UnsupportedPipeline("The PLDA's matrices cannot be inverted.") from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, each of floating-point numbers."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UnsupportedPipeline(
            "The pipeline folder lacks the PLDA that its config.yaml refers to."
        ) from None
    if raw.startswith(b"\x80"):
        raise UnsafeCheckpoint("A PLDA file is a pickle, which can run programs; do not use it.")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_PLDA_BYTES:
                raise UnsupportedPipeline("A PLDA file unpacks to more than any PLDA has.")
            headers = [archive.read(member)[:6] for member in archive.infolist()]
        if any(header != b"\x93NUMPY" for header in headers):
            raise UnsupportedPipeline("A PLDA file holds something that is not an array.")
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            found = dict(arrays)
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise WeightsCorrupt("A PLDA file is damaged; get it again.") from error
        raise UnsafeCheckpoint(
            "A PLDA file holds objects, which can run programs; do not use it."
        ) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, *BAD_INPUT) as error:
        raise WeightsCorrupt("A PLDA file is damaged or cut short; get it again.") from error
    if not all(array.dtype.kind == "f" for array in found.values()):
        raise UnsupportedPipeline("A PLDA file holds something else than numbers.")
    return found


def _as_npz(arrays: Mapping[str, np.ndarray]) -> io.BytesIO:
    """What was checked, and nothing else, in the form that pyannote reads."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    file.seek(0)
    return file
