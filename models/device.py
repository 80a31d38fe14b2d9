"""What holds around every forward pass of the diarisation's models."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import OutOfMemory


@contextmanager
def exact_on(device: torch.device) -> Iterator[None]:
    """fp32 means fp32, not TF32, as pyannote.audio has it; the process's own choice comes back.

    Raises:
        OutOfMemory: a batch does not fit on the device.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"Diarisation does not fit into the memory of {device}.") from error
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
