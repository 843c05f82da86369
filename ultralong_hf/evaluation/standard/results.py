"""lm-eval's results as entries of standard.json: a task, its metric, the value and its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.standard.harness import primary_metrics

Entry = dict[str, Any]
_ZERO = "zero: no answer counts as right. Look at the prompts (chat template, few-shot) before believing it"


def make_entry(
    name: str, results: Mapping[str, Any], task: str, metric: str | None, settings: Mapping[str, Any]
) -> Entry:
    """{"task", "metric", "filter", "value", "stderr", "samples", "others", "settings"}.

    metric: "metric,filter"; None: the best known of the task's own. A group that lm-eval does not sum up is
    summed up here, its tasks weighted by their samples. Raises EvaluationError without such a metric.
    """
    leaves = _leaves(results, task)
    own = results.get("groups", {}).get(task) or results["results"].get(task, {})
    wanted = primary_metrics(list(own)) or primary_metrics(list(results["results"][leaves[0]]))
    if metric is not None and metric not in wanted:
        raise EvaluationError(f"standard/{name}: {task} has no metric {metric}; it has {', '.join(wanted)}.")
    if not wanted:
        raise EvaluationError(f"standard/{name}: {task} has no metric.")
    chosen = metric or wanted[0]
    samples = {leaf: int(results["n-samples"][leaf]["effective"]) for leaf in leaves}
    values = {key: _value(results, own, key, samples) for key in wanted}
    value, stderr = values.pop(chosen)
    title, _, answer_filter = chosen.partition(",")
    return {
        "task": name,
        "metric": title,
        "filter": answer_filter,
        "value": value,
        "stderr": stderr,
        "samples": sum(samples.values()),
        "others": {key: value for key, (value, _) in values.items()},
        "notes": [*results.get("notes", ()), *([_ZERO] if value == 0 else [])],
        "settings": dict(settings),
    }


def entries_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """The entries as a text table, retention beside them where there is a baseline, and their notes."""
    rows = [("standard task", "score %", "+- %", "rows", "metric", "original %", "retained %")]
    for entry in entries:
        original, kept = entry.get("baseline", {}), entry.get("retention", {})
        answer_filter = str(entry.get("filter") or "none")
        metric = entry["metric"] if answer_filter == "none" else f"{entry['metric']},{answer_filter}"
        rows.append(
            (
                entry["task"],
                _percent(entry["value"]),
                _percent(entry["stderr"]),
                f"{entry['samples']:,}",
                metric,
                _percent(original.get("value")),
                _percent(kept.get("value")),
            )
        )
    shown = rows if any("baseline" in entry for entry in entries) else [row[:5] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["   ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    notes = [
        f"note: standard/{entry['task']}: {note}" for entry in entries for note in entry.get("notes", ())
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _leaves(results: Mapping[str, Any], task: str) -> list[str]:
    """The tasks with samples of their own that a group comes down to; of a tag, all that were run."""
    members: Sequence[str] = results.get("group_subtasks", {}).get(task) or []
    if members:
        return [leaf for member in members for leaf in _leaves(results, member)]
    return [task] if task in results["n-samples"] else sorted(results["n-samples"])


def _value(
    results: Mapping[str, Any], own: Mapping[str, Any], key: str, samples: Mapping[str, int]
) -> tuple[float, float | None]:
    metric, _, answer_filter = key.partition(",")
    error_key = f"{metric}_stderr,{answer_filter}"
    if key in own:
        return float(own[key]), _number(own.get(error_key))
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr

    parts = {leaf: results["results"][leaf] for leaf in samples}
    counts = list(samples.values())
    value = aggregate_subtask_metrics([part[key] for part in parts.values()], counts)
    errors = [_number(part.get(error_key)) for part in parts.values()]
    pooled = None if None in errors else float(pooled_sample_stderr(errors, counts))
    return float(value), pooled


def _number(value: Any) -> float | None:
    """lm-eval writes "N/A" for an error that one sample does not give."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
