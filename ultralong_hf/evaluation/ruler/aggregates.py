"""What RULER makes of its scores: means by length and by task, weighted means, the effective length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ultralong_hf.evaluation.ruler.definitions import TASKS, THRESHOLD


@dataclass(frozen=True)
class RulerSummary:
    """Scores in percent. A length's score is the mean over its tasks, a task's the mean over its samples."""

    by_task: dict[str, dict[int, float]]
    by_length: dict[int, float]
    incomplete: dict[int, list[str]]
    """Lengths at which tasks are missing that others have: their means are not comparable."""
    average: float
    """Plain mean over the lengths, as in the paper's tables (arXiv 2504.06214, RULER columns)."""
    average_increasing: float
    """wAvg. (inc): the i-th length weighs i."""
    average_decreasing: float
    """wAvg. (dec): the first length weighs most, by the same steps."""
    effective_length: int | None
    """The longest length with a score above 85.6; None: there is none."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def summarize(records: Iterable[Mapping[str, Any]]) -> RulerSummary | None:
    """The summary of the records whose task is one of RULER's; None: there are none.

    Records have "task" ("ruler/vt"), "length" and "score" (0 to 1).
    """
    scores: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        family, _, task = str(record["task"]).partition("/")
        if family == "ruler":
            scores[task][record["length"]].append(100 * record["score"])
    if not scores:
        return None
    by_task = {
        task: {length: _mean(cell) for length, cell in sorted(cells.items())}
        for task, cells in scores.items()
    }
    lengths = sorted({length for cells in by_task.values() for length in cells})
    there = {length: [task for task in by_task if length in by_task[task]] for length in lengths}
    by_length = {length: _mean([by_task[task][length] for task in there[length]]) for length in lengths}
    increasing, decreasing = weighted_averages(list(by_length.values()))
    return RulerSummary(
        by_task=by_task,
        by_length=by_length,
        incomplete={
            length: [task for task in by_task if task not in tasks]
            for length, tasks in there.items()
            if len(tasks) < len(by_task)
        },
        average=_mean(list(by_length.values())),
        average_increasing=increasing,
        average_decreasing=decreasing,
        effective_length=effective_length(by_length),
    )


def summary_text(summary: RulerSummary) -> str:
    """Means by length, their plain and weighted means, and the effective length, as lines of text."""
    lengths = summary.by_length
    effective = "none" if summary.effective_length is None else f"{summary.effective_length:,}"
    lines = [
        f"{'RULER':24}" + "".join(f"{length:>12,}" for length in lengths),
        f"{f'mean of {_tasks_text(summary)}, %':24}"
        + "".join(f"{score:12.1f}" for score in lengths.values()),
        f"mean {summary.average:.1f}, weighted (inc) {summary.average_increasing:.1f}, weighted (dec) "
        f"{summary.average_decreasing:.1f}; effective length (above {THRESHOLD} %): {effective}",
    ]
    lines += [
        f"without {', '.join(tasks)} at {length:,}: not to be compared with the other lengths"
        for length, tasks in summary.incomplete.items()
    ]
    return "\n".join(lines)


def _tasks_text(summary: RulerSummary) -> str:
    """ "13 tasks", "3 of 13 tasks"."""
    measured = len(summary.by_task)
    return f"{measured} of {len(TASKS)} tasks" if measured < len(TASKS) else f"{measured} tasks"


def weighted_averages(scores: Sequence[float]) -> tuple[float, float]:
    """wAvg. (inc) and wAvg. (dec) of the scores of ascending lengths.

    Weights grow and fall in equal steps; for six lengths they are 0.048, 0.095, ..., 0.286 (NVIDIA/RULER,
    issue 82). Of Llama-3.1-8B's row in RULER's README:

    >>> [round(mean, 1) for mean in weighted_averages([95.5, 93.8, 91.6, 87.4, 84.7, 77.0])]
    [85.4, 91.3]
    """
    weights = range(1, len(scores) + 1)
    total = sum(weights)
    increasing = sum(weight * score for weight, score in zip(weights, scores, strict=True)) / total
    decreasing = sum(weight * score for weight, score in zip(reversed(weights), scores, strict=True)) / total
    return increasing, decreasing


def effective_length(by_length: Mapping[int, float], threshold: float = THRESHOLD) -> int | None:
    """The longest length whose score is above the threshold.

    >>> effective_length({4096: 96.5, 8192: 88.0, 16384: 85.6})
    8192
    """
    return max((length for length, score in by_length.items() if score > threshold), default=None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
