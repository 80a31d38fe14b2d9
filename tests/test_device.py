import os
import subprocess
import sys

import pytest
import torch

from models.device import HalvingCounter, exact_on, in_batches
from models.errors import OutOfMemory


def test_batches_are_halved_if_memory_runs_out_and_nothing_is_left_out():
    done: list[int] = []
    sizes = []

    def step(first: int, last: int) -> None:
        sizes.append(last - first)
        if last - first > 3:
            raise torch.OutOfMemoryError("too many")
        done.extend(range(first, last))

    halvings = HalvingCounter()
    in_batches(10, 8, step, halvings)

    assert done == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    assert halvings.count == 2


def test_a_single_item_that_does_not_fit_is_out_of_memory():
    def step(first: int, last: int) -> None:
        raise torch.OutOfMemoryError("too many")

    with pytest.raises(OutOfMemory, match="Transcription does not fit into the memory of cpu"):
        with exact_on(torch.device("cpu"), "Transcription"):
            in_batches(4, 2, step, HalvingCounter())


@pytest.mark.parametrize(
    "module",
    ["service.commands.main", "service.worker.engine_child", "scripts.bench", "scripts.evaluate"],
)
def test_waiting_threads_leave_the_processor_to_others(module):
    """OpenMP reads and prints its settings when torch loads it; later changes have no effect."""
    environment = {name: value for name, value in os.environ.items() if "SPINCOUNT" not in name}
    printed = subprocess.run(
        [sys.executable, "-c", f"import {module}, torch"],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr

    assert "GOMP_SPINCOUNT = '1000'" in printed
