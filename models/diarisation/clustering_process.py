"""Clustering in a separate process, beside a process that continues to use the GPU.

The processes get arrays and return arrays. Where none can be started, as in a sandbox, or one
fails, this process does the clustering itself.
"""

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import IO

import numpy as np

from models.diarisation.pyannote_clustering import Arrays, cluster
from models.environment import child_environment
from models.errors import OutOfMemory
from models.pyannote_guard import import_pyannote_models

OUT_OF_MEMORY = {-signal.SIGKILL, errno.ENOMEM}
"""Exit statuses of a process that ran out of memory: killed by the kernel, or by its own choice."""


class ClusteringProcesses:
    """Clustering processes, started when needed and reused; one process for each task at a time.

    They end with this object, and with this process however it ends.
    """

    def __init__(self) -> None:
        self._idle: list[ClusteringProcess] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)  # also runs when the interpreter exits

    def prepare(self) -> None:
        """Have a process ready: it takes seconds to import pyannote.audio."""
        with contextlib.suppress(OSError):
            self._give_back(self._take())

    def submit(self, task: Arrays) -> "Future[Arrays]":
        """Start `pyannote_clustering.cluster` on a task; the result may raise OutOfMemory."""
        try:
            process = self._take()
        except OSError:  # in a sandbox, or at the limit of processes
            return completed(cluster(task))
        answer: Future[Arrays] = Future()
        # A daemon: a job that was stopped does not keep the program from ending.
        threading.Thread(target=self._run, args=(process, task, answer), daemon=True).start()
        return answer

    def close(self) -> None:
        """End the processes that have no task."""
        _close_all(self._idle)

    def _take(self) -> "ClusteringProcess":
        """
        Raises:
            OSError: no process can be started here.
        """
        with self._lock:
            return self._idle.pop() if self._idle else ClusteringProcess()

    def _give_back(self, process: "ClusteringProcess") -> None:
        with self._lock:
            self._idle.append(process)

    def _run(self, process: "ClusteringProcess", task: Arrays, answer: "Future[Arrays]") -> None:
        try:
            try:
                found = process.cluster(task)
            except (EOFError, OSError):
                if process.close() in OUT_OF_MEMORY:
                    message = "Telling the speakers apart does not fit into memory."
                    raise OutOfMemory(message) from None
                found = cluster(task)
            else:
                self._give_back(process)
            answer.set_result(found)
        except BaseException as error:  # noqa: BLE001  # raised again by the future's `result`
            answer.set_exception(error)


def _close_all(processes: "list[ClusteringProcess]") -> None:
    while processes:
        processes.pop().close()


def completed(found: Arrays) -> "Future[Arrays]":
    """A future that has its result."""
    answer: Future[Arrays] = Future()
    answer.set_result(found)
    return answer


class ClusteringProcess:
    """A process that runs `serve`: one task after the other until its standard input ends."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        program = "from models.diarisation.clustering_process import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(
                {
                    "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]),
                    "OMP_NUM_THREADS": "1",  # the process beside it needs the other cores
                    "OPENBLAS_NUM_THREADS": "1",
                }
            ),
        )

    def cluster(self, task: Arrays) -> Arrays:
        """
        Raises:
            EOFError, OSError: the process has died.
        """
        assert self._process.stdin and self._process.stdout
        _send(self._process.stdin, task)
        return _receive(self._process.stdout)

    def close(self) -> int:
        """End the process and return its exit status, 0 if it had to be killed."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # which ends it
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = 0
        self._process.stdout.close()
        return status


def serve() -> None:
    """The process's main loop: tasks from standard input, answers to standard output."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing a library prints ends up between the answers
    import_pyannote_models()
    while True:
        try:
            task = _receive(source)
        except EOFError:
            return
        try:
            _send(sink, cluster(task))
        except OutOfMemory:
            sys.exit(errno.ENOMEM)


def _send(pipe: IO[bytes], arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # mypy takes them for savez's own options
    pipe.write(len(buffer.getbuffer()).to_bytes(8, "big"))
    pipe.write(buffer.getbuffer())
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Arrays:
    """
    Raises:
        EOFError: the other end is closed.
    """
    n_bytes = int.from_bytes(pipe.read(8), "big")
    message = pipe.read(n_bytes)
    if not n_bytes or len(message) < n_bytes:
        raise EOFError
    with np.load(io.BytesIO(message), allow_pickle=False) as arrays:
        return dict(arrays)
