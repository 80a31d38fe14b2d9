"""Helpers around the forward passes of all models: exact arithmetic, batches, memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from models.errors import OutOfMemory


@dataclass
class HalvingCounter:
    """Counts how often memory ran out and a batch was halved. All models of a pipeline share it."""

    count: int = 0


def check_device(device: torch.device) -> None:
    """Multiply small matrices of whole numbers, whose product is exact in fp32.

    Raises:
        RuntimeError: the device does not compute, or computes something else.
    """
    numbers = (torch.arange(256 * 256) % 7 - 3).reshape(256, 256)
    with exact_on(device):
        on_device = numbers.float().to(device)
        product = (on_device @ on_device).cpu()
    if not torch.equal(product, (numbers @ numbers).float()):
        raise RuntimeError(f"{device} computes wrong results")


@contextmanager
def exact_on(device: torch.device, task: str = "Diarisation") -> Iterator[None]:
    """Compute fp32 in fp32, not in TF32, as pyannote.audio does; restore the setting afterwards.

    Args:
        task: names the work in the error message.

    Raises:
        OutOfMemory: a batch does not fit on the device.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{task} does not fit into the memory of {device}.") from error
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def in_batches(
    n: int, size: int, step: Callable[[int, int], None], halvings: HalvingCounter
) -> None:
    """Call step(first, last) for all of n, `size` at a time, or half as many if memory runs out.

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
            halvings.count += 1
        else:
            first = last
            continue
        if torch.cuda.is_available():  # outside the handler, whose error holds the memory to free
            torch.cuda.empty_cache()
