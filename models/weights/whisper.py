"""Loads Whisper models from checkpoints of openai-whisper or folders of transformers."""

import io
import json
import lzma
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from models.weights.catalogue import KNOWN, WhisperWeights, hugging_face_weights
from models.weights.checkpoints import BAD_INPUT, check_state, read_checkpoint
from models.weights.errors import UnsupportedCheckpoint, WeightsCorrupt
from models.weights.hugging_face import dimensions, openai_name

MAX_UNPACKED_BYTES = 256 << 20  # of an xz-compressed checkpoint; the demo takes a tenth of it
MAX_XZ_MEMORY = 128 << 20  # the header of an xz file may ask for 4 GiB; `xz -9` needs 65 MiB
MAX_JSON_BYTES = 1 << 20

# From tiny to slightly above large-v3. n_audio_ctx and n_vocab are fixed by the method: windows of
# 30 s and one of three vocabularies.
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
    """Load a `whisper.model.Whisper` on the CPU, in fp32 and eval mode, with its alignment heads.

    Raises:
        WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint.
    """
    from whisper.model import ModelDimensions, Whisper

    if weights.path.is_dir():
        found, state = _read_hugging_face(weights.path)
    else:
        found, state = _read_openai(weights.path)
    dims = ModelDimensions(**_checked_dimensions(found))
    check_state(state, _expected_state(dims), "a Whisper model of its dimensions")
    with _without_initialisation():
        model = Whisper(dims)
    model.load_state_dict(state)
    own_heads = _own_alignment_heads(weights.path, dims)
    heads = _alignment_heads(weights.sha256, dims)
    if own_heads is not None:
        model.register_buffer("alignment_heads", own_heads.to_sparse(), persistent=False)
    elif heads is not None:
        model.set_alignment_heads(heads)
    return model.eval()


@contextmanager
def _without_initialisation() -> Iterator[None]:
    """Build models with uninitialised weights: random ones for large-v3 take many seconds."""
    layers: list[Any] = [nn.Linear, nn.Conv1d, nn.LayerNorm, nn.Embedding]
    before = [layer.reset_parameters for layer in layers]
    try:
        for layer in layers:
            layer.reset_parameters = lambda self: None
        yield
    finally:
        for layer, reset_parameters in zip(layers, before, strict=True):
            layer.reset_parameters = reset_parameters


def _read_openai(path: Path) -> tuple[Any, Any]:
    """Dimensions and state, both unchecked."""
    with _open_checkpoint(path) as file:
        checkpoint = read_checkpoint(file)
    if not isinstance(checkpoint, dict) or not {"dims", "model_state_dict"} <= set(checkpoint):
        raise UnsupportedCheckpoint(
            "This is not a checkpoint of openai-whisper, which holds `dims` and"
            " `model_state_dict`: for a Hugging Face model, give the folder with its config.json."
        )
    return checkpoint["dims"], checkpoint["model_state_dict"]


def _read_hugging_face(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Dimensions and state, both unchecked, of a folder saved by transformers."""
    dims = dimensions(_read_json(folder / "config.json"))
    if dims is None:
        raise UnsupportedCheckpoint("The folder's config.json does not describe a Whisper model.")
    state: dict[str, Any] = {}
    for path in hugging_face_weights(folder):
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_bin(path)
        if not isinstance(tensors, Mapping) or state.keys() & (
            renamed := {openai_name(str(name)): tensor for name, tensor in tensors.items()}
        ):
            raise UnsupportedCheckpoint(
                "The tensors in the folder are not those of a Whisper model."
            )
        state.update(renamed)
    # The output matrix is the token embedding, which transformers may save twice.
    output = state.pop("proj_out.weight", None)
    embedding = state.get("decoder.token_embedding.weight")
    if isinstance(output, Tensor) and isinstance(embedding, Tensor):
        if not torch.equal(output, embedding):
            raise UnsupportedCheckpoint(
                "The checkpoint's output matrix differs from its token embedding."
            )
    return dims, state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, *BAD_INPUT) as error:
        raise WeightsCorrupt("The checkpoint is damaged or truncated: get it again.") from error


def _read_bin(path: Path) -> Any:
    with path.open("rb") as file:
        return read_checkpoint(file)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a file such as config.json, which holds a JSON object."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_JSON_BYTES))
    except (OSError, RecursionError, *BAD_INPUT) as error:
        raise UnsupportedCheckpoint(f"The folder's {path.name} cannot be read.") from error
    if not isinstance(found, dict):
        raise UnsupportedCheckpoint(f"The folder's {path.name} does not describe a Whisper model.")
    return found


def _own_alignment_heads(path: Path, dims: Any) -> Tensor | None:
    """Mask of the alignment heads named in a folder, bool, (n_layers, n_heads), or None."""
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
            "The alignment heads in the folder's generation_config.json do not fit the model."
        ) from error
    return mask


def _open_checkpoint(path: Path) -> BinaryIO:
    if path.suffix != ".xz":
        return path.open("rb")
    decompressor = lzma.LZMADecompressor(memlimit=MAX_XZ_MEMORY)
    try:
        with path.open("rb") as file:
            packed = file.read(MAX_UNPACKED_BYTES + 1)
        unpacked = decompressor.decompress(packed, MAX_UNPACKED_BYTES + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise WeightsCorrupt("The checkpoint is damaged or truncated: get it again.") from error
    if len(unpacked) <= MAX_UNPACKED_BYTES and not decompressor.eof:
        raise WeightsCorrupt("The checkpoint is damaged or truncated: get it again.")
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise UnsupportedCheckpoint(
            "The checkpoint is too large to be read from an xz file: decompress it."
        )
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
        raise UnsupportedCheckpoint(
            "The dimensions in the checkpoint are not those of a Whisper model."
        )
    return dims


def _expected_state(dims: Any) -> dict[str, Tensor]:
    """The names and shapes of the state of `Whisper(dims)`; the tensors take no memory."""
    shapes = {
        **_stack_shapes("encoder", dims.n_audio_state, dims.n_audio_layer),
        **_stack_shapes("decoder", dims.n_text_state, dims.n_text_layer, cross=True),
        **_layer("encoder.conv1", dims.n_audio_state, dims.n_mels, 3),
        **_layer("encoder.conv2", dims.n_audio_state, dims.n_audio_state, 3),
        **_layer("encoder.ln_post", dims.n_audio_state),
        **_layer("decoder.ln", dims.n_text_state),
        "encoder.positional_embedding": (dims.n_audio_ctx, dims.n_audio_state),
        "decoder.positional_embedding": (dims.n_text_ctx, dims.n_text_state),
        "decoder.token_embedding.weight": (dims.n_vocab, dims.n_text_state),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _stack_shapes(
    part: str, width: int, n_layers: int, *, cross: bool = False
) -> dict[str, tuple[int, ...]]:
    """Shapes of the blocks of an encoder or decoder, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(n_layers):
        block = f"{part}.blocks.{layer}"
        for attention in ("attn", "cross_attn") if cross else ("attn",):
            for projection in ("query", "value", "out"):
                shapes |= _layer(f"{block}.{attention}.{projection}", width, width)
            shapes[f"{block}.{attention}.key.weight"] = (width, width)
            shapes |= _layer(f"{block}.{attention}_ln", width)
        shapes |= _layer(f"{block}.mlp.0", 4 * width, width)
        shapes |= _layer(f"{block}.mlp.2", width, 4 * width)
        shapes |= _layer(f"{block}.mlp_ln", width)
    return shapes


def _layer(name: str, width: int, *others: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width, *others), f"{name}.bias": (width,)}


def _alignment_heads(sha256: str, dims: Any) -> bytes | None:
    """Alignment heads of the official model with this checksum, else with the same shape.

    A fine-tuned model keeps the heads of its original. large-v1 and large-v2 have the same shape;
    large-v2 is the one people fine-tune. None if no official model has the shape: whisper then
    uses all heads of the upper half of the layers.
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
