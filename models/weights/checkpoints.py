"""Reads weights files as data: nothing in a file is ever run or imported.

A checkpoint is a pickle in a zip archive, and a pickle is a program. torch's restricted unpickler
reads it, with an allow-list of inert classes. Before a model is built, whisper.py and pyannote.py
compare what the checkpoint says about itself (dimensions, architecture, hyper-parameters) with
lists of known, sane values. Loading goes by path and never uses the network.
"""

import io
import pickle
import zipfile
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from models.weights.errors import UnsafeCheckpoint, UnsupportedCheckpoint, WeightsCorrupt

BAD_INPUT = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError)
"""Raised by torch, numpy and zipfile for malformed bytes."""


def read_checkpoint(file: BinaryIO, allowed: Collection[Any] = ()) -> Any:
    """Read containers, numbers, strings, tensors (to the CPU) and instances of `allowed` classes.

    Raises:
        WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint.
    """
    _check_archive(file)
    file.seek(0)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(
            "The checkpoint would run code or needs a class that is not on the allow-list: do not"
            " use it; get the weights from their publisher."
        ) from error
    except BAD_INPUT as error:
        raise WeightsCorrupt("The checkpoint is damaged: get it again.") from error


def _check_archive(file: BinaryIO) -> None:
    """Require an archive as torch.save writes it: uncompressed, not a TorchScript program."""
    start = file.read(2)
    if start[:1] == b"\x80":
        raise UnsupportedCheckpoint(
            "The checkpoint is a bare pickle, the format of old versions of PyTorch:"
            " save it again with a current version."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        size = file.seek(0, io.SEEK_END)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise WeightsCorrupt("The checkpoint is damaged or truncated: get it again.") from error
    if any(member.filename.endswith("constants.pkl") for member in members):
        raise UnsupportedCheckpoint(
            "The checkpoint is a TorchScript program: use a file with plain weights."
        )
    unpacked = sum(member.file_size for member in members)
    if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise UnsupportedCheckpoint(
            "The checkpoint is compressed internally, which torch.save never does: save it again."
        )


def check_state(state: Any, expected: Mapping[str, Tensor], what: str) -> None:
    """Require exactly these names and shapes, and separate storage for each tensor.

    With shared or repeated storage, a small file could expand to a huge model.

    Args:
        what: name of the model, for messages.

    Raises:
        UnsupportedCheckpoint.
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
        raise UnsupportedCheckpoint("Tensors in the checkpoint share storage: save it again.")
