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


def import_in_a_process(modules: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if "SPINCOUNT" not in name}
    return subprocess.run(
        [sys.executable, "-c", f"import {modules}"],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_waiting_threads_leave_the_processor_to_others():
    """OpenMP reads and prints its settings when torch loads it; later changes have no effect."""
    printed = import_in_a_process("service.commands.main, torch", OMP_DISPLAY_ENV="VERBOSE").stderr

    assert "GOMP_SPINCOUNT = '1000'" in printed


@pytest.mark.parametrize(
    "module", ["service.worker.engine_child", "scripts.bench", "scripts.evaluate"]
)
def test_every_program_sets_the_spin_count_before_it_loads_torch(module, tmp_path):
    """In place of torch, a module that prints the variable and ends the process."""
    (tmp_path / "torch.py").write_text(
        "import os; print(os.environ['GOMP_SPINCOUNT'], flush=True); os._exit(0)"
    )
    path = os.pathsep.join((str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])))

    assert import_in_a_process(f"{module}, torch", PYTHONPATH=path).stdout == "1000\n"
