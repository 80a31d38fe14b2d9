"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the program happens to be. Where that is a destructor or a
callback of a library, it is printed, ignored and gone, and hours later the batch is still running.
"""

import signal
from types import FrameType
from typing import Any, Self


class Interrupts:
    """While it is entered, an interrupt that was ignored is raised again by the next `check`."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> Self:
        self.before: Any = signal.getsignal(signal.SIGINT)
        if self.before is signal.default_int_handler:  # with nohup and & it is to be ignored
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        if self.came:
            raise KeyboardInterrupt
