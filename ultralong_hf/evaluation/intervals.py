"""Confidence intervals of a share of hits."""

from __future__ import annotations

import math

# The 97.5 % quantile of the standard normal distribution: two-sided 95 % intervals.
Z_95 = 1.959963984540054


def wilson_interval(hits: int, samples: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of `hits` out of `samples` (E. B. Wilson 1927, JASA 22, page 209).

    Unlike the normal approximation it is no point at 0 or all hits: (0.839, 1.0) for 20 of 20.
    Returns (low, high) within [0, 1]; raises ValueError unless 0 <= hits <= samples and samples > 0.
    """
    if samples < 1 or not 0 <= hits <= samples:
        raise ValueError(f"{hits} hits of {samples} samples is no share: hits run from 0 to samples.")
    share = hits / samples
    spread = z**2 / samples
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / samples + spread / (4 * samples))
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == samples else centre + half
    return low, high
