import pytest
import torch

from models.device import exact_on, in_batches
from models.errors import OutOfMemory


def test_batches_are_halved_where_memory_runs_out_and_nothing_is_left_out():
    done: list[int] = []
    sizes = []

    def step(first: int, last: int) -> None:
        sizes.append(last - first)
        if last - first > 3:
            raise torch.OutOfMemoryError("too many")
        done.extend(range(first, last))

    in_batches(10, 8, step)

    assert done == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]


def test_what_does_not_fit_alone_is_out_of_memory():
    def step(first: int, last: int) -> None:
        raise torch.OutOfMemoryError("too many")

    with pytest.raises(OutOfMemory, match="Transcription does not fit into the memory of cpu"):
        with exact_on(torch.device("cpu"), "Transcription"):
            in_batches(4, 2, step)
