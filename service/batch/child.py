"""A child of batch mode that transcribes on one device: `python -m service.batch.child PARENT`.

Messages are pickled tuples of a name and a value. On standard input: first `work`, then the names
of sessions that siblings have finished (`drop`); it stops when its standard input closes. On
standard output: `loading`, `rates`, `start`, `progress`, `result`, and last `raised` or `end`.
"""

import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from models.audio.ffmpeg_child import allow_weak_sandbox
from models.errors import OptionError, SpeechError, Stopped, WeightsError
from models.pipeline import Pipeline, StageProgress
from service.batch.batch import Batch, SessionFiles, run
from service.errors import ServiceError
from service.processes import disable_core_dumps, end_with_parent

PROGRESS_INTERVAL = 0.1  # s

Load = Callable[[Batch, str], Pipeline]
"""Loads the models on a device: a function of a module, which is pickled by its name."""


@dataclass(frozen=True)
class Work:
    """What a child is told first."""

    batch: Batch
    device: str
    load: Load
    allow_weak_sandbox: bool
    old_failures: frozenset[str]


def load_pipeline(batch: Batch, device: str) -> Pipeline:
    """Load the models on the only device that this process sees."""
    found = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and found.type != "cuda":
        sys.exit(f"{device} cannot be used: torch finds no GPU there")
    return Pipeline(batch.whisper, batch.diarisation, found, batch.precision)


def main(parent: int) -> None:
    disable_core_dumps()
    end_with_parent(signal.SIGKILL, parent)
    os.umask(0o077)
    warnings.simplefilter("ignore")
    # Libraries print to standard output, so our messages get another descriptor.
    messages = open(os.dup(1), "wb")
    os.dup2(2, 1)
    # Not `sys.stdin`, which the interpreter locks when it ends and our thread is reading from.
    orders = open(os.dup(0), "rb")
    name, work = pickle.load(orders)
    assert name == "work"
    allow_weak_sandbox(work.allow_weak_sandbox)
    _Child(work, orders, messages).run()


class _Child:
    def __init__(self, work: Work, orders: BinaryIO, messages: BinaryIO) -> None:
        self._work, self._orders, self._messages = work, orders, messages
        self._dropped: set[str] = set()
        self._stop = threading.Event()
        self._stage, self._reported = "", 0.0

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            for result in run(
                self._work.batch,
                self._load,
                self._start,
                self._report,
                is_dropped=lambda session: session.name in self._dropped,
                old_failures=self._work.old_failures,
            ):
                self._send("result", result)
        except Stopped:
            self._send("end")
        except (OptionError, WeightsError) as error:  # every other session would fail like this
            self._send("raised", error)
        except (SpeechError, ServiceError) as error:  # another device may do better
            sys.exit(f"{self._work.device}: {error.code}: {error}")
        else:
            self._send("end")

    def _load(self) -> Pipeline:
        self._send("loading")
        pipeline = self._work.load(self._work.batch, self._work.device)
        self._send("rates", pipeline.measure_speed())
        return pipeline

    def _listen(self) -> None:
        try:
            while True:
                _, session = pickle.load(self._orders)
                self._dropped.add(session)
        except EOFError:
            self._stop.set()

    def _start(self, group: Mapping[SessionFiles, float]) -> None:
        self._send("start", dict(group))

    def _report(self, progress: StageProgress) -> None:
        if self._stop.is_set():
            raise Stopped("The batch was stopped")
        now = time.monotonic()
        if progress.stage == self._stage and now - self._reported < PROGRESS_INTERVAL:
            return
        self._stage, self._reported = progress.stage, now
        self._send("progress", progress)

    def _send(self, name: str, value: Any = None) -> None:
        pickle.dump((name, value), self._messages)
        self._messages.flush()


if __name__ == "__main__":
    from service.batch import child  # so that its classes are pickled under this name

    child.main(int(sys.argv[1]))
