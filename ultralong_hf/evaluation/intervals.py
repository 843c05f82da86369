"""Confidence intervals of a share of hits, and of the difference of two on the same prompts."""

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


def paired_interval(both: int, won: int, lost: int, neither: int) -> tuple[float, float]:
    """The interval of (won - lost) / prompts: two models were asked the same, the second minus the first.

    both, won, lost, neither: prompts that both hit, the second alone, the first alone, none. Newcombe's
    method 10 (R. G. Newcombe 1998, Statistics in Medicine 17, 2635): Wilson's intervals of the two shares,
    joined with the correlation over prompts. Unlike a bootstrap it is no point where no prompt differs.

    >>> [round(bound, 4) for bound in paired_interval(36, 12, 2, 0)]
    [0.0569, 0.3404]
    """
    prompts = both + won + lost + neither
    second, first = (both + won) / prompts, (both + lost) / prompts
    low_second, high_second = wilson_interval(both + won, prompts)
    low_first, high_first = wilson_interval(both + lost, prompts)
    margins = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    agreement: float = both * neither - won * lost
    if agreement > 0:  # his correction for continuity
        agreement = max(agreement - prompts / 2, 0.0)
    correlation = agreement / math.sqrt(margins) if margins else 0.0

    def joined(one: float, two: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * two + two**2))

    difference = second - first
    return (
        difference - joined(second - low_second, high_first - first),
        difference + joined(high_second - second, first - low_first),
    )
