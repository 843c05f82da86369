"""Where prompts begin alike: what is computed once for several of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLOCK = 65_536


def common_prefix(first: np.ndarray, second: np.ndarray) -> int:
    """How many leading values two arrays share.

    >>> common_prefix(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    end = min(len(first), len(second))
    for start in range(0, end, _BLOCK):
        stop = min(start + _BLOCK, end)
        differs = first[start:stop] != second[start:stop]
        if differs.any():
            return start + int(differs.argmax())
    return end


def longest_shared(prompt: np.ndarray, held: Sequence[np.ndarray | None]) -> tuple[int, int]:
    """(row, tokens): which held prompt shares most with this one, and how much; (0, 0) if none does."""
    best = (0, 0)
    for row, other in enumerate(held):
        if other is not None and (shared := common_prefix(prompt, other)) > best[1]:
            best = (row, shared)
    return best
