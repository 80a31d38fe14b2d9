"""`fieldscribe doctor`: checks what transcription needs on this machine and says what to do."""

import os
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from models.errors import SpeechError
from service.database.engine import open_engine, open_sessions, require_schema
from service.domain.monitoring import NO_WORKER, RETIRED, backup_age, read_work
from service.domain.workers import list_workers
from service.errors import ServiceError
from service.services import database_url, is_sealed, open_store
from service.settings import Settings
from service.vault import ArtefactClass
from service.vault.roots import read_root_keys

GIB = 2**30
NEEDED_DISK = 5 * GIB  # for the default weights and a bundle of them
NEEDED_MEMORY = 4 * GIB  # for a session of four hours with the default model for a CPU
LOW_DISK = 20 * GIB  # for recordings; an hour from a telephone is 0.03 GiB, from a studio 0.6
OLD_BACKUP = timedelta(days=7)
TRIAL = b"written by fieldscribe doctor"


@dataclass(frozen=True)
class Check:
    name: str
    status: str  # ok, warning, problem
    message: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine(settings: Settings) -> list[Check]:
    """Check the machine, and the service if it has ever run here."""
    weights = settings.weights
    checks: list[Callable[[], Iterator[Check]]] = [
        check_ffmpeg,
        lambda: check_sandbox(settings.allow_weak_sandbox),
        check_torch,
        lambda: check_weights(weights),
        lambda: check_disk(weights),
        check_memory,
        check_swap,
    ]
    if settings.database_url is None and not settings.database.exists():
        checks.append(no_service)
    else:
        checks += [
            lambda: check_database(settings),
            lambda: check_data_disk(settings),
            lambda: check_storage(settings),
            lambda: check_keys(settings),
            lambda: check_backup(settings),
        ]
    return [check for examination in checks for check in examination()]


def check_ffmpeg() -> Iterator[Check]:
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            yield Check(
                program, "problem", "not found: install it with sudo apt-get install ffmpeg"
            )
            continue
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
        first, _, _ = answer.stdout.partition(" Copyright")
        status = "ok" if answer.returncode == 0 else "problem"
        yield Check(program, status, first.strip() or "does not run: reinstall it")


def check_sandbox(allow_weak: bool) -> Iterator[Check]:
    """Decode a second of silence in the way recordings are decoded."""
    from models.audio.decode import decode
    from models.audio.errors import SilentAudio
    from models.audio.ffmpeg_child import allow_weak_sandbox, find_walls
    from models.audio.recording import SAMPLE_RATE

    allow_weak_sandbox(allow_weak)
    walls = find_walls()
    try:
        with tempfile.TemporaryFile() as file:
            with wave.open(file, "wb") as silence:
                silence.setparams((1, 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
                silence.writeframes(bytes(2 * SAMPLE_RATE))
            file.seek(0)
            decode(file)
    except SilentAudio:
        if walls.hide_files:
            message = "recordings are decoded without access to the network or other files"
            yield Check("sandbox", "ok" if walls.seccomp else "warning", f"{message} ({walls})")
        else:
            yield Check(
                "sandbox",
                "warning",
                "recordings are decoded without access to the network, but a hostile one could read"
                f" all files that this user can read ({walls})",
            )
    except SpeechError as error:
        yield Check("sandbox", "problem", f"{error} ({walls})")


def check_torch() -> Iterator[Check]:
    import torch

    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        n_gpus = torch.cuda.device_count()
        for i in range(n_gpus):
            properties = torch.cuda.get_device_properties(i)
            memory = properties.total_memory / GIB
            name = "GPU" if n_gpus == 1 else f"GPU cuda:{i}"
            yield Check(name, "ok", f"{properties.name}, {memory:.0f} GiB")
    elif torch.version.cuda is None:
        yield Check(
            "GPU",
            "warning",
            "this torch is a CPU build: transcription is far slower than on a GPU",
        )
    else:
        yield Check(
            "GPU",
            "warning",
            "none found: transcription on the CPU is far slower. If the machine has a GPU, "
            "nvidia-smi must list it: install NVIDIA's driver",
        )


def check_weights(folder: Path) -> Iterator[Check]:
    import torch

    from models.weights.catalogue import (
        DEFAULT_PIPELINE,
        default_whisper,
        find_pipeline,
        find_whisper,
    )

    model = default_whisper("cuda" if torch.cuda.is_available() else "cpu")
    for name, find in ((model, find_whisper), (DEFAULT_PIPELINE, find_pipeline)):
        try:
            find(name, folder)
        except SpeechError as error:
            yield Check(f"weights {name}", "problem", str(error))
        else:
            yield Check(f"weights {name}", "ok", "installed")


def check_disk(folder: Path) -> Iterator[Check]:
    # not pathlib's exists(), which raises where this user has no access
    existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    free = shutil.disk_usage(existing).free
    message = f"{free / GIB:.0f} GiB free for weights"
    if free < NEEDED_DISK:
        yield Check("disk", "problem", f"{message}; {NEEDED_DISK / GIB:.0f} GiB are needed")
    else:
        yield Check("disk", "ok", message)


def check_memory() -> Iterator[Check]:
    fields = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    message = f"{available / GIB:.0f} GiB available"
    if available < NEEDED_MEMORY:
        yield Check("memory", "warning", f"{message}; a long session takes up to 4 GiB")
    else:
        yield Check("memory", "ok", message)


def check_swap() -> Iterator[Check]:
    """Data that is decrypted in memory must not be written to the disk unencrypted."""
    areas = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    plain = [area for area in areas if not area.startswith(("/dev/zram", "/dev/dm-"))]
    if plain:
        yield Check(
            "swap", "warning", "swap may write speech to the disk unencrypted: run swapoff -a"
        )
    else:
        yield Check("swap", "ok", "in memory or on an encrypted device" if areas else "none")


# --- the service ----------------------------------------------------------------------------------


def no_service() -> Iterator[Check]:
    yield Check("service", "ok", "has never run here: `fieldscribe serve` starts it")


def check_database(settings: Settings) -> Iterator[Check]:
    try:
        engine = open_engine(database_url(settings))
        try:
            require_schema(engine)
            with open_sessions(engine)() as session:
                work, running = read_work(session), list_workers(session)
        finally:
            engine.dispose()
    except ServiceError as error:
        yield Check("database", "problem", f"{error}. Is `fieldscribe serve` running?")
        return
    yield Check("database", "ok", "answers and has the right version")
    if work.is_stuck:
        yield Check("worker", "warning", NO_WORKER)
    else:
        n = work.n_workers
        yield Check("worker", "ok", f"{n} running, {work.n_queued} jobs queued")
    for worker in running:
        name = f"worker {worker.device} on {worker.host}"
        if worker.retired_because is not None:
            reason = RETIRED[worker.retired_because]
            yield Check(name, "problem", f"the device is retired: {reason}")
        elif worker.job_id is not None:
            yield Check(name, "ok", f"running job {worker.job_id}")
        else:
            yield Check(name, "ok", "idle")


def check_data_disk(settings: Settings) -> Iterator[Check]:
    existing = next(path for path in (settings.data, *settings.data.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    what = "recordings" if settings.storage == "folder" else "uploads in progress"
    message = f"{free / GIB:.0f} GiB free for {what}"
    yield Check("data disk", "warning" if free < LOW_DISK else "ok", message)


def check_storage(settings: Settings) -> Iterator[Check]:
    """Write, read and delete a small object in the bucket of each class."""
    if settings.storage == "folder":
        yield Check("storage", "ok", "the vault is in the data folder of this machine")
        return
    try:
        for name in ArtefactClass:
            objects, id = open_store(settings, name).objects, uuid4()
            with objects.write(id) as file:
                file.write(TRIAL)
            with objects.open(id) as found:
                is_same = found.read(len(TRIAL)) == TRIAL
            objects.delete(id)
            if not is_same:
                yield Check(
                    "storage", "problem", f"{name}: other bytes come back than were written"
                )
                return
    except FileNotFoundError:
        yield Check("storage", "problem", "what was written cannot be found")
    except ServiceError as error:
        yield Check("storage", "problem", str(error))
    else:
        yield Check("storage", "ok", "the vault's bucket can be written, read and deleted from")


def check_keys(settings: Settings) -> Iterator[Check]:
    roots = {name: settings.root_keys / f"{name}.key" for name in ArtefactClass}
    missing = [name for name, path in roots.items() if not path.exists()]
    if missing:
        yield Check("keys", "problem", f"no root key for {', '.join(missing)}: restore a backup")
        return
    sealed = [name for name, path in roots.items() if is_sealed(path)]
    try:
        read_root_keys(
            {name: path for name, path in roots.items() if name not in sealed},
            data_folder=settings.data,
        )
    except ServiceError as error:
        yield Check("keys", "problem", str(error))
    else:
        kind = "under a passphrase" if sealed else "in files that only their owner can read"
        yield Check("keys", "ok", f"three root keys {kind}; do you have two copies elsewhere?")


def check_backup(settings: Settings) -> Iterator[Check]:
    age = backup_age(settings)
    if age is None:
        yield Check("backup", "warning", "none yet: run `fieldscribe backup`")
        return
    status = "warning" if age > OLD_BACKUP else "ok"
    yield Check("backup", status, f"the latest is {age.days} days old")
