"""Shared parts of the benchmark reports: hardware, versions, peak memory, the JSON file."""

import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe_hardware(device: str) -> dict[str, Any]:
    hardware: dict[str, Any] = {"cpu": read_cpu_name(), "cpus": os.cpu_count()}
    if device == "cuda":
        import torch

        hardware["gpu"] = torch.cuda.get_device_name()
    return hardware


def read_cpu_name() -> str:
    """The processor's model name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def read_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def read_peak_bytes(process: int | str = "self") -> int:
    """The peak memory of one process; getrusage would include its parent's."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def write_report(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
