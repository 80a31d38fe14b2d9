"""How a long step tells how far it is, how it is told to stop, and how long it will take."""

import time
from collections.abc import Callable

Progress = Callable[[float], None]
"""Called between batches with the share done, 0 to 1. To stop the step it raises `Stopped`."""


def ignore(fraction: float) -> None:
    """The Progress of a caller that does not want to know."""


def seconds_of(step: Callable[[], object]) -> float:
    """How long the second of two runs takes; the first one allocates."""
    step()
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
