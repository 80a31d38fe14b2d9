"""Spreads a batch over several devices, with a child process on each.

The children claim sessions as runs on several machines do (claims.py), so each takes the next one
when it is free. If a child dies, another takes its sessions over at once, and the device gets a new
child for the others unless three have died in a row.
"""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from models.environment import child_environment
from service.batch.batch import Batch, Result, SessionFiles
from service.batch.child import Load, Work, load_pipeline
from service.batch.claims import RunsDied, find_failures
from service.devices import device_variables

CHILD = "service.batch.child"
MAX_DEATHS = 3  # of a device's children in a row
STOP_TIMEOUT = 10.0  # s that children have to stop

Message = tuple[str, str, Any]
"""Device, name and value. The names are those of child.py, and `died`."""


def spread(
    batch: Batch,
    devices: Sequence[str],
    *,
    allow_weak_sandbox: bool = False,
    load: Load = load_pipeline,
) -> Iterator[Message]:
    """Yield what the children report, with one result per session, until all have ended.

    Raises:
        OptionError, WeightsError: every session would fail in the same way.
    """
    work = Work(batch, "", load, allow_weak_sandbox, find_failures(batch.out))
    messages: queue.Queue[tuple[_Child, str, Any]] = queue.Queue()
    children = {name: _Child(replace(work, device=name), devices, messages) for name in devices}
    left = {session.name: session for session in batch.sessions}
    try:
        for child in children.values():
            child.start(left)
        while any(child.is_running for child in children.values()):
            child, name, value = messages.get()
            if name == "ended":
                child.is_running = False
                usable = [each for each in children.values() if each.n_deaths < MAX_DEATHS]
                if not child.has_ended:
                    yield child.device, "died", child in usable
                    if child in usable:
                        child.start(left)
                if left and usable and not any(each.is_running for each in children.values()):
                    usable[0].died_at.clear()  # nobody else is left to do these
                    usable[0].start(left)
            elif name == "raised":
                raise value
            elif name == "result":
                child.n_deaths = 0
                if left.pop(value.session.name, None) is None:
                    continue  # a sibling has reported it
                for other in children.values():
                    other.drop(value.session.name)
                yield child.device, "result", value
            else:
                yield child.device, name, value
        for session in left.values():
            yield devices[0], "result", _lost(session)
    finally:
        for child in children.values():
            child.stop()
        for child in children.values():
            child.wait()


def _lost(session: SessionFiles) -> Result:
    message = "The process that transcribed it ended three times on every device."
    return Result(session, "failed", code=RunsDied.code, message=message)


class _Child:
    """The child on one device, started again after it has died."""

    def __init__(self, work: Work, devices: Sequence[str], messages: "queue.Queue[Any]") -> None:
        self._work, self._messages = work, messages
        self._variables = device_variables(work.device, devices)
        self.device = work.device
        self.died_at: set[str] = set()  # sessions that another device should do
        self.n_deaths = 0  # since it had a result
        self.is_running = self.has_ended = False
        self._process: subprocess.Popen[bytes] | None = None
        self._group: set[str] = set()  # the sessions that it is transcribing

    def start(self, left: Mapping[str, SessionFiles]) -> None:
        """Start a process for the sessions that are left, but for those that its last died at."""
        sessions = tuple(left[name] for name in left if name not in self.died_at)
        if not sessions:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(self._variables),
            start_new_session=True,  # so that Ctrl-C reaches only us, and we stop it
        )
        self.is_running = True
        self.has_ended = False
        batch = replace(self._work.batch, sessions=sessions)
        self._send("work", replace(self._work, batch=batch))
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with suppress(EOFError, pickle.UnpicklingError):  # it was killed
            while True:
                name, value = pickle.load(process.stdout)
                if name == "start":
                    self._group = {session.name for session in value}
                if name == "result":
                    self._group.discard(value.session.name)
                if name == "end":
                    self.has_ended = True
                else:
                    self._messages.put((self, name, value))
        process.wait()
        process.stdout.close()
        self._close(process)
        if not self.has_ended:
            self.n_deaths += 1
            self.died_at |= self._group
        self._group = set()
        self._messages.put((self, "ended", None))

    def drop(self, session: str) -> None:
        self._send("drop", session)

    def _send(self, name: str, value: Any) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, ValueError):  # it has died, or was stopped
                pickle.dump((name, value), self._process.stdin)
                self._process.stdin.flush()

    def _close(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        with suppress(OSError):  # what was not sent cannot be any more
            process.stdin.close()

    def stop(self) -> None:
        """Ask the child to stop, which it does at its next progress report."""
        if self._process is not None:
            self._close(self._process)

    def wait(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
