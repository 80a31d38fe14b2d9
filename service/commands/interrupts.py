"""Handling of Ctrl-C that survives libraries which swallow KeyboardInterrupt.

Python raises KeyboardInterrupt wherever the program happens to be. In a destructor or a library's
callback it is printed and ignored, and the batch would run on for hours.
"""

import signal
from types import FrameType
from typing import Any, Self


class Interrupts:
    """While entered, remembers Ctrl-C; the next `check` raises it again if it was swallowed."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> Self:
        self.previous: Any = signal.getsignal(signal.SIGINT)
        # Another handler means that SIGINT is ignored, as under nohup or with `&`.
        if self.previous is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt

    def check(self) -> None:
        if self.received:
            raise KeyboardInterrupt
