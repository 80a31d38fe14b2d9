"""The service under attack: its processes, on a small disk and with a clock that can be moved.

The disk is an ext4 image of 2 GB, mounted through a loop device, with data and keys on it; that
needs root. The wall clocks are moved by `clock.c`, which the processes preload. `serve` and all
its children, including the database, see one clock; a second worker sees another, as if it ran on
another machine. Without root or a C compiler these faults are left out.
"""

import contextlib
import os
import shutil
import struct
import subprocess
import threading
import time
from pathlib import Path

from scripts.chaos_run import engine
from scripts.stand_in.installation import Installation
from service.child import WORKER, child_command

ENGINE = engine.__name__
DISK = "2G"
RESTART_AFTER = 1.0  # s, as systemd waits


class SmallDisk:
    """A separate disk for the installation, which can be filled.

    Args:
        folder: where the image and its mount point are made.
    """

    def __init__(self, folder: Path) -> None:
        self._image, self.folder = folder / "disk.img", folder / "disk"
        self.folder.mkdir()
        self.folder.chmod(0o711)
        self.is_mounted = self._mount()

    def _mount(self) -> bool:
        if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
            return False
        commands = (
            ["truncate", "-s", DISK, str(self._image)],
            ["mkfs.ext4", "-q", "-F", "-m", "0", str(self._image)],
            ["mount", "-o", "loop", str(self._image), str(self.folder)],
        )
        for command in commands:
            if subprocess.run(command, check=False, capture_output=True).returncode:
                return False
        self.folder.chmod(0o711)
        return True

    def fill(self, *, leave: int) -> None:
        """Fill all but a number of bytes. The space is only reserved, which takes no time."""
        filler = self.folder / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            size = 2**28
            while size >= 4096:
                free = shutil.disk_usage(self.folder).free - leave
                if free < size:
                    size //= 2
                    continue
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)

    def empty(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)

    def unmount(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)
        self._image.unlink(missing_ok=True)


class Clock:
    """The wall clock of processes started with `variables`. Without a compiler it stays right."""

    def __init__(self, folder: Path, name: str) -> None:
        self._library, self._path = folder / "clock.so", folder / name
        self._path.write_bytes(bytes(8))
        self._path.chmod(0o644)
        self.offset = 0
        if not self._library.exists():
            compile_clock(self._library)

    @property
    def can_move(self) -> bool:
        return self._library.exists()

    def jump_to(self, offset: int) -> None:
        """Show the true time plus a number of seconds. Every process sees it at once."""
        self.offset = offset
        with self._path.open("r+b") as file:
            file.write(struct.pack("=q", offset))

    @property
    def variables(self) -> dict[str, str]:
        if not self.can_move:
            return {}
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._path)}


def compile_clock(library: Path) -> None:
    if (compiler := shutil.which("cc")) is not None:
        source = Path(__file__).with_name("clock.c")
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            library.chmod(0o755)


class Site(Installation):
    """
    Args:
        folder: for logs and the clocks' files.
        home: for data and keys.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        super().__init__(home, None)
        folder.chmod(0o711)
        self.log, self.serve_log = folder / "stand-in.log", folder / "serve.log"
        self.clock, self.other_clock = Clock(folder, "clock"), Clock(folder, "other-clock")
        self._ending = threading.Event()
        self._keeper: threading.Thread | None = None
        self.n_starts = 0

    def begin(self) -> None:
        """Start `serve` and a second worker, and restart each whenever it ends."""
        self._keeper = threading.Thread(target=self._keep, daemon=True, name="keeper")
        self._keeper.start()

    def end(self) -> None:
        self._ending.set()
        if self._keeper is not None:
            self._keeper.join()
        self.cut_power()

    def _keep(self) -> None:
        serve: subprocess.Popen[bytes] | None = None
        worker: subprocess.Popen[bytes] | None = None
        with self.serve_log.open("ab") as log:
            while not self._ending.wait(RESTART_AFTER):
                if serve is None or serve.poll() is not None:
                    self.variables = self.clock.variables
                    serve = self.start_serve(ENGINE, stderr=log)
                    self.n_starts += 1
                if (worker is None or worker.poll() is not None) and self.is_ready():
                    self.variables = self.other_clock.variables
                    worker = self._spawn(child_command(WORKER, ENGINE), log)
                self.processes = [each for each in (serve, worker) if each is not None]


def wait_for_answer(site: Site, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not site.is_ready():
        if time.monotonic() > end:
            raise AssertionError(f"the service did not answer within {seconds} s")
        time.sleep(0.2)
