"""What holds around the forward passes of all models."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from models.errors import OutOfMemory

_halvings = 0


def halvings() -> int:
    """How often, since this process began, memory ran out and a batch was halved."""
    return _halvings


def note_halved() -> None:
    global _halvings
    _halvings += 1


@contextmanager
def exact_on(device: torch.device, what: str = "Diarisation") -> Iterator[None]:
    """fp32 means fp32, not TF32, as pyannote.audio has it; the process's own choice comes back.

    Args:
        what: is done there, for a message.

    Raises:
        OutOfMemory: a batch does not fit on the device.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{what} does not fit into the memory of {device}.") from error
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def in_batches(n: int, size: int, step: Callable[[int, int], None]) -> None:
    """step(first, last) for all of n, `size` at a time, or half as many once memory has run out.

    Raises:
        torch.OutOfMemoryError: a single one does not fit.
    """
    first = 0
    while first < n:
        last = min(first + size, n)
        try:
            step(first, last)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = max(1, min(size, last - first) // 2)
            note_halved()
        else:
            first = last
            continue
        if torch.cuda.is_available():  # outside the handler, whose error holds what is to be freed
            torch.cuda.empty_cache()
