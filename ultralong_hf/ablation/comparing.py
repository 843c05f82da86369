"""Results of arms and seeds -> metrics, each with its mean and its paired difference from the base arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ultralong_hf.ablation.arms import Study
from ultralong_hf.errors import AblationError
from ultralong_hf.evaluation.differences import Difference, mean_interval, paired_difference
from ultralong_hf.lengths import format_length

Result = Mapping[str, Any]
Results = Mapping[tuple[str, int], Result]
Series = tuple[list[list[float]], list[list[float]]]
"""Scores and weights, [seed][unit]."""


@dataclass(frozen=True)
class Metric:
    """One number of an arm: scores of `task` at `lengths`, or the loss from and up to a position."""

    name: str
    task: str
    lengths: tuple[int, ...]
    higher_is_better: bool = True
    is_headline: bool = True

    def series(self, results: Sequence[Result]) -> Series:
        """Of one arm's seeds. Raises AblationError where a seed lacks it."""
        scores: list[list[float]] = []
        weights: list[list[float]] = []
        for result in results:
            pairs = self._loss(result) if self.task == "loss" else self._scores(result)
            if not pairs:
                raise AblationError(f"{result['arm']}, seed {result['seed']}, has no {self.name}.")
            scores.append([pair[0] for pair in pairs])
            weights.append([pair[1] for pair in pairs])
        return scores, weights

    def _scores(self, result: Result) -> list[tuple[float, float]]:
        found = [s for s in result["scores"] if s["task"] == self.task and s["length"] in self.lengths]
        asked = {length: sum(s["weight"] for s in found if s["length"] == length) for length in self.lengths}
        # every length weighs the same in a mean over lengths
        return [(s["score"], s["weight"] / asked[s["length"]]) for s in found]

    def _loss(self, result: Result) -> list[tuple[float, float]]:
        low, high = self.lengths
        buckets = [b for b in result["loss"] if low <= b["from"] and b["to"] <= high]
        tokens = sum(b["tokens"] for b in buckets)
        return [(sum(b["loss"] * b["tokens"] for b in buckets) / tokens, 1.0)] if tokens else []


@dataclass(frozen=True)
class Comparison:
    """One arm and metric: its mean with an interval, and its difference from the base, None for the base."""

    arm: str
    metric: str
    mean: Difference
    by_seed: list[float]
    difference: Difference | None

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "arm": self.arm,
            "metric": self.metric,
            "mean": self.mean.value,
            "low": self.mean.low,
            "high": self.mean.high,
            "by_seed": self.by_seed,
        }
        values["difference"] = asdict(self.difference) if self.difference else None
        return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    """JSON has no infinity: bounds that are not known are null."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and math.isinf(value) else value


def metrics_of(result: Result, present_window: int) -> list[Metric]:
    """What results like this one hold; headlines first.

    Headlines: every task at its longest and at its shortest length, and as the mean over lengths; the loss
    beyond what the model read before, and within.
    """
    metrics: list[Metric] = []
    rest: list[Metric] = []
    for task in dict.fromkeys(score["task"] for score in result["scores"]):
        lengths = sorted({score["length"] for score in result["scores"] if score["task"] == task})
        single = {n: Metric(f"{task} at {format_length(n)}", task, (n,)) for n in lengths}
        metrics.append(single.pop(lengths[-1]))
        if len(lengths) > 1:
            metrics.append(Metric(f"{task}, mean over lengths", task, tuple(lengths)))
            metrics.append(single.pop(lengths[0]))
        rest += [Metric(m.name, m.task, m.lengths, is_headline=False) for m in single.values()]
    ends = [bucket["to"] for bucket in result["loss"]]
    if ends:
        # a bucket's end, so that no bucket is split
        border = max((end for end in ends if end <= present_window), default=0)
        if border < max(ends):
            name = f"loss from position {border:,} on"
            metrics.append(Metric(name, "loss", (border, max(ends)), higher_is_better=False))
        if border:
            name = f"loss before position {border:,}"
            metrics.append(Metric(name, "loss", (0, border), higher_is_better=False))
    return [*metrics, *rest]


def compare(study: Study, seeds: Sequence[int], results: Results, present_window: int) -> list[Comparison]:
    """Every arm of the study by every metric that it has; the base first."""
    found = []
    for arm in study.all_arms:
        runs = [results[arm.key, seed] for seed in seeds]
        base = [results[study.base.key, seed] for seed in seeds]
        for metric in metrics_of(runs[0], present_window):
            scores, weights = metric.series(runs)
            difference = None
            if study.paired and arm.key != study.base.key:
                difference = paired_difference(scores, metric.series(base)[0], weights=weights)
            mean = mean_interval(scores, weights=weights)
            by_seed = [
                sum(s * w for s, w in zip(units, heavy, strict=True)) / sum(heavy)
                for units, heavy in zip(scores, weights, strict=True)
            ]
            found.append(Comparison(arm.key, metric.name, mean, by_seed, difference))
    return found
