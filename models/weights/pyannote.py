"""Loads pyannote's models and pipeline from a folder that contains all of them."""

import dataclasses
import io
import math
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from models.audio.recording import SAMPLE_RATE
from models.diarisation.speaker_models import SpeakerModels
from models.pyannote_guard import import_pyannote_models
from models.weights.catalogue import PipelineWeights
from models.weights.checkpoints import BAD_INPUT, check_state, read_checkpoint
from models.weights.errors import (
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
    UnsupportedPipeline,
    WeightsCorrupt,
)

MAX_CONFIG_BYTES = 64 << 10
MAX_PLDA_BYTES = 64 << 20


# --- models ---------------------------------------------------------------------------------------

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

# Hyper-parameters that `_matches` accepts.
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
    "dither": {0.0},  # random noise would change the result from run to run
    "window_type": {"hamming", "hanning", "povey", "rectangular", "blackman"},
    "use_energy": {False},
    # The model's constructor does not accept these three; only their defaults are possible.
    "round_to_power_of_two": {True},
    "snip_edges": {True},
    "fbank_centering_span": {None},
}
_NOT_ACCEPTED = {"round_to_power_of_two", "snip_edges", "fbank_centering_span"}


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
            "The segmentation model does not predict the set of active speakers for each frame."
        )
    parameters = _checked_parameters(checkpoint.get("hyper_parameters", {}), _PYANNET)
    parameters.get("lstm", {}).pop("batch_first", None)
    model = PyanNet(**parameters)
    model.specifications = specifications
    model.build()  # type: ignore[no-untyped-call]
    state = _without_loss(checkpoint["state_dict"])
    check_state(state, model.state_dict(), "PyanNet")
    model.load_state_dict(state)
    return model.eval()


def _load_embedding(path: Path) -> Any:
    checkpoint, specifications = _read_model(path, _EMBEDDING)
    from pyannote.audio.models import embedding
    from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, Bottleneck, ResNet

    name = checkpoint["pyannote.audio"]["architecture"]["class"]
    parameters = _checked_parameters(checkpoint.get("hyper_parameters", {}), _WESPEAKER)
    for parameter in _NOT_ACCEPTED:
        parameters.pop(parameter, None)
    model = getattr(embedding, name)(**parameters)
    state = _without_loss(checkpoint["state_dict"])
    # Published models have 32 channels and embeddings of size 256; smaller ones also load.
    n_channels = _first_dimension(state, "resnet.conv1.weight", range(1, 129))
    dimension = _first_dimension(state, "resnet.seg_1.weight", range(1, 2049))
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
    check_state(state, model.state_dict(), name)
    model.load_state_dict(state)
    return model.eval()


def _read_model(path: Path, allowed: Collection[tuple[str, str]]) -> tuple[dict[str, Any], Any]:
    """Read the checkpoint of a pyannote model and its specifications, or None if it has none."""
    import_pyannote_models()
    from pyannote.audio.core.model import Introspection
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from torch.torch_version import TorchVersion

    classes = [Introspection, Problem, Resolution, Specifications, TorchVersion]
    try:
        with path.open("rb") as file:
            checkpoint = read_checkpoint(file, classes)
    except FileNotFoundError:
        raise UnsupportedPipeline(
            "The pipeline folder lacks a pytorch_model.bin that its config.yaml refers to: copy the"
            " complete folder."
        ) from None
    try:
        description = checkpoint["pyannote.audio"]
        architecture = tuple(description["architecture"][key] for key in ("module", "class"))
        _ = checkpoint["state_dict"].items
        known = architecture in allowed
    except (LookupError, TypeError, AttributeError):
        known = False
    if not known:
        raise UnsupportedCheckpoint(
            "The checkpoint is not one of the supported pyannote.audio models:"
            f" {', '.join(sorted({name for _, name in allowed}))}."
        )
    return checkpoint, _checked_specifications(description.get("specifications"))


def _checked_specifications(found: Any) -> Any:
    """Copy the specifications: the object in a checkpoint could have arbitrary attributes."""
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
        raise UnsupportedCheckpoint("The checkpoint's specifications are invalid.")
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
    if not _matches(found, allowed):
        raise UnsupportedCheckpoint(
            "The checkpoint has a hyper-parameter that is unknown or out of range."
        )
    return {
        name: dict(value) if isinstance(value, dict) else value for name, value in found.items()
    }


def _matches(value: Any, allowed: Any) -> bool:
    """Whether a value is allowed.

    Args:
        allowed: a set of values, a (low, high) range whose type must match too, or a dict from
            names to what is allowed for them; the value may lack names.
    """
    if isinstance(allowed, Mapping):
        return isinstance(value, dict) and all(
            name in allowed and _matches(each, allowed[name]) for name, each in value.items()
        )
    if isinstance(allowed, tuple):
        low, high = allowed
        return _is_number(value, low, high) and (type(low) is float or type(value) is int)
    return type(value) in {type(each) for each in allowed} and value in allowed


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _without_loss(state: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the weights of the loss function, which checkpoints straight from training include."""
    return {name: value for name, value in state.items() if not str(name).startswith("loss_func.")}


def _first_dimension(state: Mapping[str, Any], name: str, allowed: range) -> int:
    tensor = state.get(name)
    if not isinstance(tensor, Tensor) or not tensor.ndim or tensor.shape[0] not in allowed:
        raise UnsupportedCheckpoint("The tensors in the checkpoint are not those of a ResNet.")
    return int(tensor.shape[0])


# --- the pipeline ---------------------------------------------------------------------------------

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
    """A checked config.yaml: folders inside the pipeline's, options, parameters."""

    segmentation: Path
    embedding: Path
    plda: Path | None  # agglomerative clustering needs none
    options: dict[str, Any]
    parameters: dict[str, Any]


def load_pipeline(weights: PipelineWeights, device: torch.device) -> SpeakerModels:
    """Load a folder's models and parameters as pyannote.audio's `SpeakerDiarization` does.

    Raises:
        WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint, UnsupportedPipeline.
    """
    import_pyannote_models()
    config = _read_config(weights.folder)
    segmentation = _load_segmentation(
        _require_inside(weights.folder, config.segmentation / "pytorch_model.bin")
    )
    embedding = _load_embedding(
        _require_inside(weights.folder, config.embedding / "pytorch_model.bin")
    )
    models = SpeakerModels(
        segmentation,
        embedding,
        None
        if config.plda is None
        else _load_plda(weights.folder, config.plda, embedding.dimension),
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
        with _require_inside(folder, folder / "config.yaml").open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        config = yaml.safe_load(text) if len(text) <= MAX_CONFIG_BYTES else None
    except (OSError, yaml.YAMLError, *BAD_INPUT) as error:
        raise UnsupportedPipeline("The pipeline's config.yaml cannot be read.") from error
    try:
        name = config["pipeline"]["name"]
        options = dict(config["pipeline"]["params"])
        options.setdefault("clustering", "VBxClustering")
        parts = ["segmentation", "embedding"]
        if "plda" in options or options["clustering"] != "AgglomerativeClustering":
            parts.append("plda")  # pipelines of pyannote.audio 3 have none
        references = [options.pop(part) for part in parts]
        parameters = config["params"]
    except (LookupError, TypeError, ValueError) as error:
        raise UnsupportedPipeline(
            "The pipeline's config.yaml lacks its name, its models or its parameters."
        ) from error
    if set(config) - {"pipeline", "params", "dependencies", "version"} or set(
        config["pipeline"]
    ) != {"name", "params"}:
        raise UnsupportedPipeline(
            "The pipeline's config.yaml has keys other than models and parameters:"
            " preprocessors, devices and frozen parameters are not supported."
        )
    if not _matches(name, _PIPELINE_NAMES):
        raise UnsupportedPipeline(
            "The pipeline is not the supported pyannote.audio.pipelines.SpeakerDiarization."
        )
    if not _matches(options, _PIPELINE_OPTIONS) or not _are_complete(
        parameters,
        {
            "clustering": _CLUSTERING[options["clustering"]],
            "segmentation": _SEGMENTATION_PARAMETERS,
        },
    ):
        raise UnsupportedPipeline(
            "An option or parameter in the pipeline's config.yaml is unknown, missing or out of"
            " range."
        )
    segmentation, embedding, *plda = (
        _resolve_reference(folder, reference) for reference in references
    )
    return _Config(segmentation, embedding, plda[0] if plda else None, options, parameters)


def _are_complete(parameters: Any, allowed: Mapping[str, Mapping[str, Any]]) -> bool:
    return _matches(parameters, allowed) and all(
        set(parameters.get(part, {})) == set(names) for part, names in allowed.items()
    )


def _resolve_reference(folder: Path, reference: Any) -> Path:
    """The folder that `$model/<subfolder>` refers to."""
    match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if match is None:
        raise UnsupportedPipeline(
            "A model in the pipeline's config.yaml does not have the form $model/<subfolder>:"
            " models are loaded only from the pipeline's folder. Copy the model's pytorch_model.bin"
            " into a subfolder, and name that."
        )
    return folder / match[1]


def _require_inside(folder: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnsupportedPipeline(
            "A link in the pipeline's folder leads out of it: copy the files themselves there."
        )
    return path


def _load_plda(folder: Path, subfolder: Path, dimension: int) -> Any:
    """Load PLDA statistics.

    Args:
        dimension: size of the embeddings.
    """
    from pyannote.audio.core.plda import PLDA

    transform = _read_arrays(_require_inside(folder, subfolder / "xvec_transform.npz"))
    plda = _read_arrays(_require_inside(folder, subfolder / "plda.npz"))
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
        raise UnsupportedPipeline("The shape of the PLDA does not match the embeddings.")
    if not all(np.isfinite(found[name]).all() for name in shapes):
        raise UnsupportedPipeline("The PLDA contains numbers that are not finite.")
    try:
        return PLDA(_as_npz(transform), _as_npz(plda))  # type: ignore[arg-type]  # np.load takes it
    except (np.linalg.LinAlgError, ValueError) as error:
        raise UnsupportedPipeline("The PLDA's matrices cannot be inverted.") from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an .npz file of floating-point arrays."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PLDA_BYTES + 1)
    except FileNotFoundError:
        raise UnsupportedPipeline(
            "The pipeline folder lacks the PLDA that its config.yaml refers to: copy the complete"
            " folder."
        ) from None
    if raw.startswith(b"\x80"):
        raise UnsafeCheckpoint("A PLDA file is a pickle, which can run code: do not use it.")
    too_large = UnsupportedPipeline("A PLDA file expands to more than any PLDA contains.")
    if len(raw) > MAX_PLDA_BYTES:
        raise too_large
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_PLDA_BYTES:
                raise too_large
            for member in archive.infolist():
                _check_array(archive.read(member))
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            found = dict(arrays)
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise WeightsCorrupt("A PLDA file is damaged: get it again.") from error
        raise UnsafeCheckpoint(
            "A PLDA file contains objects, which can run code: do not use it."
        ) from error
    except BAD_INPUT as error:
        raise WeightsCorrupt("A PLDA file is damaged or truncated: get it again.") from error
    if not all(array.dtype.kind == "f" for array in found.values()):
        raise UnsupportedPipeline("A PLDA file contains something other than numbers.")
    return found


def _check_array(content: bytes) -> None:
    """Require as many bytes as the array's header declares: numpy allocates before it reads."""
    if content[:6] != b"\x93NUMPY":
        raise UnsupportedPipeline("A PLDA file contains something other than arrays.")
    file = io.BytesIO(content)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    if math.prod(shape) * dtype.itemsize > len(content) - file.tell() and not dtype.hasobject:
        raise ValueError("an array is larger than its file")


def _as_npz(arrays: Mapping[str, np.ndarray]) -> io.BytesIO:
    """Write only the checked arrays, in the format that pyannote reads."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    file.seek(0)
    return file
