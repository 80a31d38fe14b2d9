"""Reads weights files as data: nothing in a file is ever run or imported.

A checkpoint is a pickle in a zip archive, and a pickle is a program. pickle_check.py checks that it
does only what torch.save writes for weights, and takes no more memory than the file's size. Then
torch's restricted unpickler reads it, with an allow-list of inert classes. Before a model is built,
whisper.py and pyannote.py compare what the checkpoint says about itself (dimensions, architecture,
hyper-parameters) with lists of known, sane values. Loading goes by path and never uses the network.
"""

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from models.weights.errors import UnsafeCheckpoint, UnsupportedCheckpoint, WeightsCorrupt
from models.weights.pickle_check import check_pickle

BAD_INPUT = (
    RuntimeError,  # NotImplementedError and RecursionError too
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""Raised by torch, numpy and zipfile for malformed bytes."""

MAX_PICKLE_BYTES = 2 << 20  # that of large-v3, whose tensors are not part of it, takes 0.2 MB


def read_checkpoint(file: BinaryIO, allowed: Collection[Any] = ()) -> Any:
    """Read containers, numbers, strings, tensors (to the CPU) and instances of `allowed` classes.

    Raises:
        WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint.
    """
    _check_archive(file)
    file.seek(0)
    try:
        _check_records(file, allowed)
        file.seek(0)
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
    except (OSError, *BAD_INPUT) as error:
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


def _check_records(file: BinaryIO, allowed: Collection[Any]) -> None:
    """Check the archive as torch's reader sees it, which may differ from what zipfile sees."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    reader = torch._C.PyTorchFileReader(file)
    sizes = {name: reader.get_record_size(name) for name in reader.get_all_records()}
    if sum(sizes.values()) > size:
        raise ValueError("the records are larger than the file")
    if sizes["data.pkl"] > MAX_PICKLE_BYTES:
        raise UnsupportedCheckpoint(
            "The checkpoint contains far more than weights: save only the model's state."
        )
    storages = {name.removeprefix("data/"): n_bytes for name, n_bytes in sizes.items()}
    check_pickle(reader.get_record("data.pkl"), storages, allowed)


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
