"""Read weights files as data: nothing that is in a file is ever run or imported.

A checkpoint is a pickle in a zip archive, and a pickle is a program. torch's restricted unpickler
reads it here, with an allow-list of inert classes; what a checkpoint says about itself (dimensions,
architecture, hyper-parameters) is compared with lists of what is known and sane before anything is
built from it: whisper_checkpoints.py and pyannote_checkpoints.py do that. Loading goes by path and
never to the network.
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
"""What torch, numpy and zipfile raise on bytes that are not what they should be."""


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


def check_state(state: Any, expected: Mapping[str, Tensor], what: str) -> None:
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
