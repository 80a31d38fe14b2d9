"""Error rates, their sums, and how much they vary between recordings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ErrorRate:
    """`errors` out of `total`, in the unit of the metric: words, seconds or speakers."""

    errors: float
    total: float

    @property
    def rate(self) -> float:
        return self.errors / self.total if self.total else float(self.errors > 0)

    def __add__(self, other: "ErrorRate") -> "ErrorRate":
        return ErrorRate(self.errors + other.errors, self.total + other.total)


def sum_rates(rates: Sequence[ErrorRate]) -> ErrorRate:
    return sum(rates, ErrorRate(0, 0))


def bootstrap_interval(
    rates: Sequence[ErrorRate], *, share: float = 0.95
) -> tuple[float, float] | None:
    """Return a bootstrap interval of the summed rate, resampling recordings 2,000 times.

    None for fewer than three recordings, which do not represent other recordings.
    """
    if len(rates) < 3:
        return None
    counts = np.array([(rate.errors, rate.total) for rate in rates])
    drawn = np.random.default_rng(0).integers(0, len(rates), size=(2000, len(rates)))
    errors, totals = counts[drawn].sum(axis=1).T
    resampled = errors / np.maximum(totals, 1e-9)
    low, high = np.quantile(resampled, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
