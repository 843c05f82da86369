"""How long reading still takes: a pass costs so much a token, and so much a token times those before it."""

from __future__ import annotations

import numpy as np


class Remaining:
    """Fits seconds = a * tokens + b * tokens * (tokens before) to the passes so far, a and b not negative."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._passes: list[tuple[int, int, float]] = []

    def add(self, start: int, tokens: int, seconds: float) -> None:
        self._passes.append((start, tokens, seconds))

    def seconds(self) -> float | None:
        """None before anything is measured."""
        if not self._passes:
            return None
        passes = np.asarray(self._passes[-64:])
        start, tokens, took = passes.T
        work = np.stack([tokens, tokens * (start + tokens / 2)], axis=1)
        rates = np.linalg.lstsq(work, took, rcond=None)[0] if len(passes) > 2 else np.array([-1.0, -1.0])
        if (rates < 0).any():
            rates = np.array([took.sum() / tokens.sum(), 0.0])
        read = self._passes[-1][0] + self._passes[-1][1]
        left = self.total - read
        return float(max(0.0, left * rates[0] + left * (read + left / 2) * rates[1]))
