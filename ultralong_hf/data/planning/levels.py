"""How often documents of given weights are taken, up to a level or up to a number of tokens.

Use k of a document of weight w comes at level (k + u) / w, u being its own number from [0, 1). Up to level g
so ceil(w g - u) uses have come, w g on average; and what is taken at a level is taken at every higher one.
"""

from __future__ import annotations

import numpy as np

_FEW = 50_000
"""Uses between two levels that are cheaper to sort than to bisect."""


def take_to_level(level: float, weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """int32 [n]: uses of each document up to this level."""
    return np.maximum(np.ceil(weights * level - uniforms), 0).astype(np.int32)


def take_tokens(
    tokens: int, lengths: np.ndarray, weights: np.ndarray, uniforms: np.ndarray
) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Whole uses, int32 [n], in order of their levels until they have so many tokens.

    The second: the document whose next use meets the number when cut, and the tokens of it that are taken.
    Some weight times length must be above 0.
    """
    low, high = _bracket(tokens, lengths, weights, uniforms)
    taken = take_to_level(low, weights, uniforms)
    coming = take_to_level(high, weights, uniforms) - taken
    documents = np.repeat(np.arange(len(lengths)), coming)
    copies = np.arange(len(documents)) - np.repeat(np.cumsum(coming) - coming, coming) + taken[documents]
    levels = (copies + uniforms[documents]) / weights[documents]
    documents = documents[np.lexsort((copies, documents, levels))]
    ends = int(taken @ lengths) + np.cumsum(lengths[documents])
    whole = int(np.searchsorted(ends, tokens, side="right"))
    np.add.at(taken, documents[:whole], 1)
    rest = tokens - int(taken @ lengths)
    return taken, (int(documents[whole]), rest) if rest else None


def _bracket(
    tokens: int, lengths: np.ndarray, weights: np.ndarray, uniforms: np.ndarray
) -> tuple[float, float]:
    """Two levels with fewer or as many tokens up to the first, at least as many up to the second."""

    def count(level: float) -> tuple[int, int]:
        copies = take_to_level(level, weights, uniforms)
        return int(copies @ lengths), int(copies.sum(dtype=np.int64))

    per_level = float(weights @ lengths)
    low, high = 0.0, tokens / per_level
    below, above = (0, 0), count(high)
    step = high * 2**-10
    while above[0] < tokens:
        low, below = high, above
        high, step = high + step, step * 2
        above = count(high)
    while above[1] - below[1] > _FEW:
        guess = low + (high - low) * (tokens - below[0]) / (above[0] - below[0])
        # the tokens are nearly linear in the level: a little to either side of the guess closes in fast
        guess = min(max(guess, low + (high - low) / 64), high - (high - low) / 64)
        if not low < guess < high:
            break
        there = count(guess)
        if there[0] < tokens:
            low, below = guess, there
        else:
            high, above = guess, there
    return low, high
