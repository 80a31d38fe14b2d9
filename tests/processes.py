"""Children of the tests' own process."""

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path


def kill_decoders(with_signal: int = signal.SIGKILL) -> None:
    """Every ffmpeg that this process runs."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, fields = rest.rpartition(") ")
        if name == "ffmpeg" and int(fields.split()[1]) == os.getpid():
            os.kill(int(pid), with_signal)


def run_command(arguments: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Run `fieldscribe` in a process of its own: its exit status, output and error output.

    The process is forked from one that has imported the program, which takes most of the time that
    a short command takes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["service.commands.main", "service.supervisor"])
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_run, args=(arguments, environment, folder))
        process.start()
        process.join(60)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError("the command did not end within 60 s")
        output, errors = (Path(folder, name).read_text() for name in ("1", "2"))
        return process.exitcode, output, errors


def _run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    for descriptor in (1, 2):
        os.dup2(os.open(f"{folder}/{descriptor}", os.O_CREAT | os.O_WRONLY, 0o600), descriptor)
    os.environ.update(environment)
    sys.argv = ["fieldscribe", *arguments]
    from service.commands.main import main

    main()
