"""Paired differences between two arms, with bootstrap intervals.

Arms of one seed were asked the same prompts, so differences are taken prompt by prompt, which leaves out what
seed and prompt have in common. Letters: `S` seeds, `U` units (prompts, or texts with several questions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ultralong_hf.evaluation.intervals import Z_95

RESAMPLES = 10_000
# 97.5 % quantiles of Student's t with 1 to 10 degrees of freedom.
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Difference:
    """Mean of an arm minus that of its base; the interval is of 95 %; seeds above and below zero."""

    value: float
    low: float
    high: float
    above: int
    below: int

    @property
    def reach(self) -> tuple[float, float]:
        """How far the interval goes down and up from the value, for error bars; 0 where it has no bounds."""
        if math.isinf(self.low):
            return 0.0, 0.0
        return max(0.0, self.value - self.low), max(0.0, self.high - self.value)

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_difference(
    arm: Sequence[Sequence[float]],
    base: Sequence[Sequence[float]],
    *,
    weights: Sequence[Sequence[float]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """`arm` and `base` [S][U]: scores of the same units of the same seeds, `weights` those of each unit.

    The interval is a percentile bootstrap of two levels: seeds are drawn with replacement, then units within
    each. Of few seeds plain percentiles are too narrow, so the tails are those of `expanded_tail`. With one
    seed only units vary, and the interval says nothing about other seeds; of one unit of one seed the bounds
    are infinite. Raises ValueError for shapes that differ.
    """
    if len(arm) != len(base) or not arm or any(len(a) != len(b) for a, b in zip(arm, base, strict=True)):
        raise ValueError("arm and base must hold the same seeds and units, and at least one.")
    weights = weights or [[1.0] * len(units) for units in arm]
    by_seed = [
        (np.subtract(a, b, dtype=np.float64), np.asarray(w, dtype=np.float64))
        for a, b, w in zip(arm, base, weights, strict=True)
    ]
    means = np.array([np.average(difference, weights=weight) for difference, weight in by_seed])
    if len(by_seed) == 1 and len(by_seed[0][0]) == 1:
        value = float(means[0])
        return Difference(value, -math.inf, math.inf, int(value > 0), int(value < 0))
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(by_seed)))
    for number, (difference, weight) in enumerate(by_seed):
        units = rng.integers(len(difference), size=(resamples, len(difference)))
        drawn[:, number] = (difference[units] * weight[units]).sum(axis=1) / weight[units].sum(axis=1)
    # each seed that is drawn brings a resample of its own units
    chosen = rng.integers(len(by_seed), size=(resamples, len(by_seed)))
    row = rng.permuted(np.tile(np.arange(resamples), (len(by_seed), 1)), axis=1).T
    totals = drawn[row, chosen].mean(axis=1)
    tail = expanded_tail(len(by_seed)) if len(by_seed) > 1 else 0.025
    low, high = np.quantile(totals, [tail, 1 - tail])
    return Difference(
        float(means.mean()), float(low), float(high), int((means > 0).sum()), int((means < 0).sum())
    )


def expanded_tail(seeds: int) -> float:
    """The share to cut off at either end of a bootstrap over `seeds` means, for a two-sided 95 % interval.

    The "expanded percentile interval" of T. Hesterberg 2015 (The American Statistician 69, 371): so wide that
    for normal means it is the t interval. 0.025 for many seeds, 0.00096 for five.
    """
    freedom = seeds - 1
    quantile = _T_975[freedom - 1] if freedom <= len(_T_975) else _t_quantile(freedom)
    return NormalDist().cdf(-math.sqrt(seeds / freedom) * quantile)


def _t_quantile(freedom: int) -> float:
    """97.5 % of Student's t by its expansion around the normal (Abramowitz and Stegun 26.7.5)."""
    z = Z_95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_interval(
    scores: Sequence[Sequence[float]], *, weights: Sequence[Sequence[float]] | None = None
) -> Difference:
    """The mean of one arm's scores [S][U], with the same bootstrap."""
    return paired_difference(scores, [[0.0] * len(units) for units in scores], weights=weights)
