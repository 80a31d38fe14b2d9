"""What transcription needs on this machine, and what to do where it is missing."""

import os
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from models.errors import SpeechError

GIB = 2**30
NEEDED_DISK = 5 * GIB  # the default weights and a bundle of them
NEEDED_MEMORY = 4 * GIB  # a session of four hours with the default model of a CPU


@dataclass(frozen=True)
class Check:
    name: str
    status: str  # ok, warning, problem
    message: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine(weights: Path) -> list[Check]:
    checks: list[Callable[[], Iterator[Check]]] = [
        check_ffmpeg,
        check_sandbox,
        check_torch,
        lambda: check_weights(weights),
        lambda: check_disk(weights),
        check_memory,
    ]
    return [check for examination in checks for check in examination()]


def check_ffmpeg() -> Iterator[Check]:
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            yield Check(program, "problem", "not found; install it: sudo apt-get install ffmpeg")
            continue
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
        first, _, _ = answer.stdout.partition(" Copyright")
        status = "ok" if answer.returncode == 0 else "problem"
        yield Check(program, status, first.strip() or "does not run; install it again")


def check_sandbox() -> Iterator[Check]:
    """Decodes a second of silence the way recordings are decoded."""
    from models.audio import SAMPLE_RATE, SilentAudio, decode

    try:
        with tempfile.TemporaryFile() as file:
            with wave.open(file, "wb") as silence:
                silence.setparams((1, 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
                silence.writeframes(bytes(2 * SAMPLE_RATE))
            file.seek(0)
            decode(file)
    except SilentAudio:
        yield Check("sandbox", "ok", "recordings are decoded without network or other files")
    except SpeechError as error:
        yield Check("sandbox", "problem", str(error))


def check_torch() -> Iterator[Check]:
    import torch

    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / GIB
        yield Check("GPU", "ok", f"{properties.name}, {memory:.0f} GiB")
    elif torch.version.cuda is None:
        yield Check(
            "GPU",
            "warning",
            "this torch is a CPU build; transcription runs, an hour or more per hour of sound",
        )
    else:
        yield Check(
            "GPU",
            "warning",
            "none found; transcription runs on the CPU, an hour or more per hour of sound. If "
            "there is a card, nvidia-smi must list it: install NVIDIA's driver",
        )


def check_weights(folder: Path) -> Iterator[Check]:
    import torch

    from models.weights import DEFAULT_PIPELINE, default_whisper, find_pipeline, find_whisper

    model = default_whisper("cuda" if torch.cuda.is_available() else "cpu")
    for name, find in ((model, find_whisper), (DEFAULT_PIPELINE, find_pipeline)):
        try:
            find(name, folder)
        except SpeechError as error:
            yield Check(f"weights {name}", "problem", str(error))
        else:
            yield Check(f"weights {name}", "ok", "installed")


def check_disk(folder: Path) -> Iterator[Check]:
    # os.path.exists: pathlib's raises where this user may not look
    existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    free = shutil.disk_usage(existing).free
    message = f"{free / GIB:.0f} GiB free where the weights go"
    if free < NEEDED_DISK:
        yield Check("disk", "problem", f"{message}; {NEEDED_DISK / GIB:.0f} are needed")
    else:
        yield Check("disk", "ok", message)


def check_memory() -> Iterator[Check]:
    fields = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    message = f"{available / GIB:.0f} GiB available"
    if available < NEEDED_MEMORY:
        yield Check("memory", "warning", f"{message}; a long session takes up to 4")
    else:
        yield Check("memory", "ok", message)
