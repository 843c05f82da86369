"""Two models on the same prompts: paired differences and retention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.differences import RESAMPLES, Difference, paired_difference
from ultralong_hf.evaluation.intervals import Z_95, paired_interval
from ultralong_hf.evaluation.reporting.models import ModelResults
from ultralong_hf.evaluation.reporting.runs import Record

# What a pair of prompts hangs on; other settings, such as the engine, do not change what is asked.
OF_PROMPTS = ("seed", "prompt", "haystack", "answer_tokens")


@dataclass(frozen=True)
class Pairing:
    """A task of two models at one length, on the prompts that both were asked; means 0 to 1."""

    task: str
    length: int
    base: float
    other: float
    difference: Difference
    won: int
    """Prompts that the other scores higher on."""
    lost: int
    prompts: int


@dataclass(frozen=True)
class Retention:
    """extended / original of one task, over the lengths that both have; None where the original is zero."""

    task: str
    original: float
    extended: float
    ratio: float | None
    low: float | None
    high: float | None


def pair(
    base: ModelResults, other: ModelResults, tasks: Sequence[str], length: int, *, name: str | None = None
) -> Pairing | None:
    """Of all prompts of the tasks, tasks weighing the same; `name` in place of the single task's.

    None where the two share no prompt: not measured, or other prompts under the same places.
    """
    groups = [found for task in tasks if (found := _pairs(base, other, task, length))]
    if not groups:
        return None
    pairs = [both for group in groups for both in group]
    weights = [1 / len(group) for group in groups for _ in group]
    theirs = [first["score"] for first, _ in pairs]
    ours = [second["score"] for _, second in pairs]
    return Pairing(
        task=name or tasks[0],
        length=length,
        base=float(np.average(theirs, weights=weights)),
        other=float(np.average(ours, weights=weights)),
        difference=_difference(ours, theirs, weights),
        won=sum(second["score"] > first["score"] for first, second in pairs),
        lost=sum(second["score"] < first["score"] for first, second in pairs),
        prompts=len(pairs),
    )


def _difference(ours: list[float], theirs: list[float], weights: list[float]) -> Difference:
    """Newcombe's interval for hits that weigh the same, a bootstrap over prompts for other scores."""
    found = paired_difference([ours], [theirs], weights=[weights])
    if {*ours, *theirs} - {0, 1} or len(set(weights)) > 1:
        return found
    counts = Counter(zip(ours, theirs, strict=True))
    low, high = paired_interval(counts[1, 1], counts[1, 0], counts[0, 1], counts[0, 0])
    return replace(found, low=low, high=high)


def retention(base: ModelResults, other: ModelResults, task: str) -> Retention | None:
    """Over the prompts that both were asked, lengths weighing the same; with a paired bootstrap."""
    lengths = [n for n in base.lengths(task) if n in other.records.get(task, {})]
    cells = [cell for n in lengths if (cell := _pairs(base, other, task, n))]
    if not cells:
        return None
    rng = np.random.default_rng(0)
    sums = np.zeros((2, RESAMPLES))
    means = np.zeros(2)
    for cell in cells:
        scores = np.array([[first["score"], second["score"]] for first, second in cell]).T
        drawn = rng.integers(len(cell), size=(RESAMPLES, len(cell)))
        sums += scores[:, drawn].mean(axis=2)
        means += scores.mean(axis=1)
    original, extended = (means / len(cells)).tolist()
    if original == 0:
        return Retention(task, original, extended, None, None, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[1] / sums[0]
    known = ratios[np.isfinite(ratios)]
    low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (None, None)
    return Retention(task, original, extended, extended / original, low, high)


def standard_retention(base: ModelResults, other: ModelResults, task: str) -> Retention | None:
    """Of a standard benchmark; None where one lacks it or was asked in another way.

    Its interval takes the two errors as independent: too wide if anything.
    """
    from ultralong_hf.evaluation.standard.retention import retention as ratio_of

    theirs, ours = base.standard.get(task), other.standard.get(task)
    if theirs is None or ours is None:
        return None
    try:
        [found] = ratio_of([ours], [theirs])
    except EvaluationError:  # asked in different ways: `setting_differences` tells of it
        return None
    low = high = None
    if found.value is not None and found.stderr is not None:
        low, high = found.value - Z_95 * found.stderr, found.value + Z_95 * found.stderr
    return Retention(task, found.original, found.extended, found.value, low, high)


def setting_differences(base: ModelResults, other: ModelResults) -> list[str]:
    """Why prompts of a task that both have cannot be paired, or scores not be compared: sentences."""
    notes = []
    for task in base.records:
        if task not in other.records:
            continue
        shared = set(base.lengths(task)) & set(other.lengths(task))
        if not shared:
            notes.append(
                f"{task}: {base.name} and {other.name} have no length in common; nothing is compared."
            )
        elif not any(_pairs(base, other, task, length) for length in shared):
            differing = _differing(_settings_of(base, task), _settings_of(other, task))
            notes.append(
                f"{task}: {base.name} and {other.name} were asked different prompts"
                f"{' (' + differing + ')' if differing else ''}: their scores stand side by side, no paired "
                "difference is taken."
            )
    for task, entry in base.standard.items():
        theirs = other.standard.get(task)
        if theirs is not None and theirs.get("settings") != entry.get("settings"):
            differing = _differing(entry.get("settings", {}), theirs.get("settings", {}))
            notes.append(f"{task}: asked of {base.name} and {other.name} in different ways ({differing}).")
    return notes


def _pairs(base: ModelResults, other: ModelResults, task: str, length: int) -> list[tuple[Record, Record]]:
    """Records of the same place and expected answer; none at all where a place has another answer."""
    theirs = {_place(record): record for record in base.records.get(task, {}).get(length, ())}
    pairs = []
    for record in other.records.get(task, {}).get(length, ()):
        first = theirs.get(_place(record))
        if first is None:
            continue
        if _asked(first) != _asked(record):
            return []
        pairs.append((first, record))
    return pairs


def _place(record: Record) -> tuple[Any, ...]:
    return record.get("depth"), record["sample"]


def _asked(record: Record) -> Any:
    return record.get("references", [record.get("expected")])


def _settings_of(model: ModelResults, task: str) -> Mapping[str, Any]:
    return next(run.settings for run in model.runs if task in run.tasks)


def _differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    names: Sequence[str] = OF_PROMPTS if "seed" in one else sorted({*one, *two})
    return "; ".join(
        f"{name} {_shown(one.get(name))} against {_shown(two.get(name))}"
        for name in names
        if one.get(name) != two.get(name)
    )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
