"""Progress callbacks of long steps, and timing of short trials."""

import time
from collections.abc import Callable

Progress = Callable[[float], None]
"""Called between batches with the fraction done, 0 to 1; raises `Stopped` to stop the step."""


def ignore(fraction: float) -> None:
    """A Progress that does nothing."""


def time_second_run(step: Callable[[], object]) -> float:
    """Time the second of two runs of a step; the first one allocates memory."""
    step()
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
