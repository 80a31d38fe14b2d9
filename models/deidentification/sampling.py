"""The share of identifiers that a review found, estimated from a blind sample."""

import math

Z = 1.959964  # of a 95 % interval


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share."""
    if n == 0:
        return 0.0, 1.0
    p = k / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    margin = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, centre - margin), min(1.0, centre + margin)
