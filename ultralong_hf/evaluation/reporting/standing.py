"""Where models stand: headlines a model, and the paper's figures beside those of ours that compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ultralong_hf.evaluation.pages import Table
from ultralong_hf.evaluation.published import COLUMNS, RESULTS, SOURCE, Column
from ultralong_hf.evaluation.reporting.models import FAMILY_SIZES, ModelResults
from ultralong_hf.lengths import format_length

RULER_THRESHOLD = 0.856
"""A length counts as effective above it: Llama-2-7B's score at 4K (README of NVIDIA/RULER)."""
_FAMILY_OF = {"RULER": "ruler", "LV-Eval": "lveval", "InfiniteBench": "infinitebench"}
_STANDARD_OF = {
    "MMLU": "mmlu",
    "MMLU-Pro": "mmlu_pro",
    "MATH": "math",
    "GSM8K": "gsm8k",
    "HumanEval": "humaneval",
}


@dataclass(frozen=True)
class Standing:
    """RULER's summary of one model, means 0 to 1."""

    by_length: dict[int, float]
    average: float
    increasing: float
    decreasing: float
    effective_length: int | None
    missing_tasks: int

    @property
    def effective(self) -> str:
        """As a cell of a table: a length, or why there is none."""
        if self.missing_tasks:
            return f"- ({FAMILY_SIZES['ruler'] - self.missing_tasks} of {FAMILY_SIZES['ruler']} tasks)"
        if self.effective_length is None:
            return f"below {format_length(min(self.by_length))}"
        below = [
            n for n, mean in self.by_length.items() if n < self.effective_length and mean <= RULER_THRESHOLD
        ]
        gaps = f" (but not at {', '.join(map(format_length, below))})" if below else ""
        return format_length(self.effective_length) + gaps


def ruler_standing(model: ModelResults) -> Standing | None:
    """RULER's means, weighted means and effective length; None without RULER's tasks.

    The effective length is the longest with a mean over the tasks above 85.6 %; weights of the weighted means
    grow (inc) or fall (dec) in equal steps with the length.
    """
    from ultralong_hf.evaluation.ruler.aggregates import summarize

    records = [
        record for task in model.tasks_of("ruler") for cell in model.records[task].values() for record in cell
    ]
    summary = summarize(records)
    if summary is None:
        return None
    return Standing(
        by_length={length: mean / 100 for length, mean in summary.by_length.items()},
        average=summary.average / 100,
        increasing=summary.average_increasing / 100,
        decreasing=summary.average_decreasing / 100,
        effective_length=summary.effective_length,
        missing_tasks=model.missing_tasks("ruler"),
    )


def comparable(model: ModelResults, column: Column) -> float | None:
    """Our value of a column of the paper, percent; None where it is not the same thing.

    RULER and LV-Eval: all tasks, and lengths that reach the bound; the mean over those up to it.
    InfiniteBench: all tasks. The standard side: all rows of the benchmark.
    """
    if column.benchmark in _STANDARD_OF:
        entry = model.standard.get(_STANDARD_OF[column.benchmark])
        if entry is None or entry.get("settings", {}).get("limit") is not None:
            return None
        return 100 * float(entry["value"])
    family = _FAMILY_OF[column.benchmark]
    tasks = model.tasks_of(family)
    if len(tasks) < FAMILY_SIZES[family]:
        return None
    lengths = {length for task in tasks for length in model.lengths(task)}
    if column.up_to is None:
        mean = model.family_mean(family)
    elif column.up_to not in lengths or any(column.up_to not in model.records[task] for task in tasks):
        return None
    else:
        mean = model.family_mean(family, [length for length in lengths if length <= column.up_to])
    return None if mean is None else 100 * mean


def paper_table(models: Sequence[ModelResults]) -> Table | None:
    """Ours and the paper's rows, over the columns in which one of ours compares; None where none does."""
    values = {(model.name, column): comparable(model, column) for model in models for column in COLUMNS}
    columns = [
        column for column in COLUMNS if any(values[model.name, column] is not None for model in models)
    ]
    if not columns:
        return None
    rows: list[list[str | int | float]] = [
        [model.name, "ours", *(_percent(values[model.name, column]) for column in columns)]
        for model in models
    ]
    for name, figures in RESULTS.items():
        published = dict(zip(COLUMNS, figures, strict=True))
        rows.append([name, "published", *(f"{published[column]:.2f}" for column in columns)])
    asked = "; ".join(f"{column.benchmark} {column.settings}" for column in columns if column.settings)
    caption = f"percent; published: {SOURCE}, not measured here" + (
        f", there asked so: {asked}" if asked else ""
    )
    return Table(["model", "figures", *(column.title for column in columns)], rows, caption=caption)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
