"""The pre-flight check's findings: one process and the set-up as launched, side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ultralong_hf.lengths import format_length

TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (1e-2, 5e-2), "float16": (1e-2, 5e-2)}
"""Compute dtype -> relative differences of the loss and of the gradient norm that are taken for rounding.
Two to five times what the order of summation alone makes; the mildest fault known to us, positions that
count within a part, changes a trained model's loss by more."""

_CUT = " Labels must be shifted before rows are split: the last token of a part has its next one elsewhere."
_TWICE = " Some devices hold the same ones."
_OTHERWISE = " Tokens see others than they should, count otherwise, or stand at other positions."


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What one step gave."""

    loss: float
    gradient_norm: float
    counted: int
    """Tokens that count for the loss, over all devices."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """One process and the set-up as launched, side by side."""

    one: Numbers
    launched: Numbers
    processes: int
    degree: int
    """Devices that are said to share a row."""
    length: int
    """Tokens of the longest row of the check."""
    device_tokens: int
    """Tokens of a row that reached the model on a device, at most."""
    dtype: str

    def faults(self) -> list[str]:
        """What is wrong with the set-up, a sentence each; empty where its numbers are right."""
        loss_tolerance, norm_tolerance = TOLERANCES[self.dtype]
        faults = []
        most = 2 * -(-self.length // (2 * self.degree))  # rows are filled up to what splits
        if self.device_tokens > most:
            faults.append(
                f"rows of {self.length:,} tokens are not split: {self.degree} devices are to share them, but "
                f"one got {self.device_tokens:,}. Attach the plugin to the trainer before it trains."
            )
        one, launched = self.one, self.launched
        if launched.counted != one.counted:
            faults.append(
                f"{launched.counted:,} tokens count for the loss on {self.processes} processes and "
                f"{one.counted:,} on one." + (_CUT if launched.counted < one.counted else _TWICE)
            )
        if not _near(one.loss, launched.loss, loss_tolerance):
            faults.append(
                f"the loss is {launched.loss:.7g} on {self.processes} processes and {one.loss:.7g} on one."
                + (self._ratio(one.loss, launched.loss) or _OTHERWISE)
            )
        if not _near(one.gradient_norm, launched.gradient_norm, norm_tolerance):
            faults.append(
                f"the gradient norm is {launched.gradient_norm:.7g} on {self.processes} processes and "
                f"{one.gradient_norm:.7g} on one." + self._ratio(one.gradient_norm, launched.gradient_norm)
            )
        return faults

    def lines(self) -> list[str]:
        """The table for the terminal."""
        what = f"{format_length(self.length)} tokens a row, {self.dtype}"
        rows = [("", "one process", f"{self.processes} processes")]
        for name, key in (("loss", "loss"), ("gradient norm", "gradient_norm")):
            rows.append((name, f"{getattr(self.one, key):.7g}", f"{getattr(self.launched, key):.7g}"))
        rows.append(("tokens counted", f"{self.one.counted:,}", f"{self.launched.counted:,}"))
        rows.append(("tokens a device", f"{self.length:,}", f"{self.device_tokens:,}"))
        return [f"parallel check, {what}", *(f"{a:<16}{b:>16}{c:>16}" for a, b, c in rows)]

    def _ratio(self, one: float, launched: float) -> str:
        """A sentence, with a space before it, where one number is a multiple of the other; else empty."""
        if not (math.isfinite(launched) and one > 0 and launched > 0):
            return ""
        for factor in {self.degree, self.processes} - {1}:
            if math.isclose(launched / one, factor, rel_tol=0.02):
                return f" That is {factor} times too much: summed over devices where it should be averaged."
            if math.isclose(one / launched, factor, rel_tol=0.02):
                return f" That is {factor} times too little: divided by the devices once too often."
        return ""


def _near(expected: float, found: float, tolerance: float) -> bool:
    return math.isfinite(found) and math.isclose(expected, found, rel_tol=tolerance)
