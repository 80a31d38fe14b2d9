"""The devices that workers and batch mode compute on: finding and assigning them."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from models.environment import child_environment

AUTO = "auto"
GPU_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, WSL, AMD
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"  # ROCm reads it too
CORES_PER_CPU_DEVICE = 16  # with more threads, a model is hardly any faster
MEMORY_PER_CPU_DEVICE = 8 * 2**30  # bytes: a session of four hours, the models, and some room
COUNT_GPUS = "import torch; print(torch.cuda.device_count())"


def parse_devices(value: str) -> tuple[str, ...] | None:
    """Read a list such as `cuda:0,cuda:2` or `cpu,cpu`; None for `auto`.

    CPU devices are numbered if there are several. A GPU that is named twice gets two children.

    Raises:
        ValueError: a name is unknown.
    """
    names = [name.strip() for name in value.split(",")]
    if names == [AUTO]:
        return None
    for name in names:
        kind, _, number = name.partition(":")
        if kind not in ("cuda", "cpu") or (":" in name and not number.isdecimal()):
            raise ValueError(
                f"{name!r} is not a device: write auto, or devices such as cuda:0,cuda:1 or cpu"
            )
    return number_devices([f"{name}:0" if name == "cuda" else name for name in names])


def number_devices(names: Sequence[str]) -> tuple[str, ...]:
    """Number CPU devices, if there are several, so that each name means one child."""
    is_cpu = [name.startswith("cpu") for name in names]
    if sum(is_cpu) < 2:
        return tuple(names)
    numbers = iter(range(len(names)))
    return tuple(
        f"cpu:{next(numbers)}" if cpu else name for name, cpu in zip(names, is_cpu, strict=True)
    )


def find_devices(value: str, count: Callable[[], int] | None = None) -> tuple[str, ...]:
    """The devices that the setting names; for `auto` every GPU, or else the CPU, by its size.

    Args:
        count: counts GPUs; None: `count_gpus`.
    """
    named = parse_devices(value)
    if named is not None:
        return named
    n_gpus = (count or count_gpus)()
    if n_gpus:
        return tuple(f"cuda:{i}" for i in range(n_gpus))
    n_cpus = count_cpu_devices(len(os.sched_getaffinity(0)), read_memory())
    return number_devices(["cpu"] * n_cpus)


def count_gpus() -> int:
    """Count GPUs with torch in another process, as loading it takes seconds and much memory."""
    if not any(map(os.path.exists, GPU_FILES)):
        return 0
    command = [sys.executable, "-c", COUNT_GPUS]
    answer = subprocess.run(
        command, env=child_environment(), stdout=subprocess.PIPE, text=True, check=False
    )
    return int(answer.stdout.strip() or 0) if answer.returncode == 0 else 0


def count_cpu_devices(n_cores: int, n_bytes: int) -> int:
    """Return one device for every 16 cores, as far as memory allows, but at least one."""
    return max(1, min(n_cores // CORES_PER_CPU_DEVICE, n_bytes // MEMORY_PER_CPU_DEVICE))


def read_memory() -> int:
    """Bytes of memory of this machine, or of its control group if that has a limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return physical


def device_variables(
    device: str, devices: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return environment variables that let a child process see only this device.

    Args:
        devices: all that are in use on this machine; CPU devices share its cores.
        environment: from which the child inherits; None: this process's.
    """
    kind, _, number = device.partition(":")
    if kind == "cuda":
        inherited = child_environment() if environment is None else environment
        visible = inherited.get(GPU_VARIABLE)
        names = [str(i) for i in range(int(number) + 1)] if visible is None else visible.split(",")
        # A number that does not exist leaves no device visible, which the child reports.
        return {GPU_VARIABLE: names[int(number)] if int(number) < len(names) else "none"}
    n_cpus = sum(each.startswith("cpu") for each in devices)
    variables = {GPU_VARIABLE: ""}
    if n_cpus > 1:
        variables["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // n_cpus))
    return variables
