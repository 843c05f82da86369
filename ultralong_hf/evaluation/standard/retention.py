"""Retention: what the longer window left of a standard benchmark, extended / original."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ultralong_hf.errors import EvaluationError

_COMPARED = ("tasks", "num_fewshot", "chat_template", "limit", "harness")


@dataclass(frozen=True)
class Retention:
    """A ratio of two scores. `stderr` is by the delta method for independent errors.

    Both models see the same rows, so errors mostly go together and the true one is smaller.
    """

    task: str
    extended: float
    original: float
    value: float | None
    """None where the original's score is zero."""
    stderr: float | None


def retention(
    extended: Sequence[Mapping[str, Any]], original: Sequence[Mapping[str, Any]]
) -> list[Retention]:
    """Per task of both, in the order of `extended`; entries as in standard.json.

    Raises EvaluationError where they share no task, or a task was asked in different ways.
    """
    of_original = {entry["task"]: entry for entry in original}
    shared = [entry for entry in extended if entry["task"] in of_original]
    if not shared:
        known = ", ".join(of_original) or "none"
        raise EvaluationError(f"The baseline has none of these tasks; it has {known}.")
    return [_ratio(entry, of_original[entry["task"]]) for entry in shared]


def _ratio(extended: Mapping[str, Any], original: Mapping[str, Any]) -> Retention:
    task = extended["task"]
    ours, theirs = extended["settings"], original["settings"]
    differing = [name for name in _COMPARED if ours.get(name) != theirs.get(name)]
    if differing or extended["metric"] != original["metric"]:
        shown = ", ".join(f"{name} {ours.get(name)!r} against {theirs.get(name)!r}" for name in differing)
        raise EvaluationError(
            f"standard/{task} was asked in another way of the baseline: {shown or 'by another metric'}. "
            "Measure both in the same way."
        )
    top, bottom = float(extended["value"]), float(original["value"])
    if bottom == 0:
        return Retention(task, top, bottom, None, None)
    errors = extended["stderr"], original["stderr"]
    stderr = None
    if errors[0] is not None and errors[1] is not None:
        # Of a ratio a/b: sqrt(var(a) / b^2 + a^2 var(b) / b^4).
        stderr = math.hypot(errors[0] / bottom, top * errors[1] / bottom**2)
    return Retention(task, top, bottom, top / bottom, stderr)
