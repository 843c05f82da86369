"""The tables of one run's report: as text for terminals, and for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ultralong_hf.evaluation.heatmap import lay_out
from ultralong_hf.evaluation.intervals import wilson_interval
from ultralong_hf.evaluation.pages import Table


def grid_text(task: str, cells: Sequence[Mapping[str, Any]]) -> str:
    grid = lay_out(cells)
    beyond = {cell["length"] for cell in cells if cell.get("beyond_window")}
    heads = [
        label + (">" if length in beyond else "")
        for label, length in zip(grid.length_labels, grid.lengths, strict=True)
    ]
    rows = [
        [f"{100 * value:.0f}" if value == value else "-" for value in row] for row in grid.recall.tolist()
    ]
    totals = [f"{100 * value:.0f}" for value in (grid.hits.sum(axis=0) / grid.samples.sum(axis=0)).tolist()]
    width = max(6, *(len(head) + 2 for head in heads))
    lines = [f"{task}: % found by depth (rows) and length in tokens (columns)"]
    lines.append(f"{'depth':>8}" + "".join(f"{head:>{width}}" for head in heads))
    for label, row in zip(grid.depth_labels, rows, strict=True):
        lines.append(f"{label:>8}" + "".join(f"{value:>{width}}" for value in row))
    lines.append(f"{'all':>8}" + "".join(f"{value:>{width}}" for value in totals))
    if beyond:
        lines.append("> beyond the model's window")
    if 0 in grid.lengths:
        lines.append("0* the shortest prompt there is")
    return "\n".join(lines)


def scores_text(scores: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(row["task"]) for row in scores)
    lines = [f"{'task':<{width}}{'length':>12}{'score %':>10}{'samples':>10}"]
    lines += [
        f"{row['task']:<{width}}{row['length']:>12,}{100 * row['score']:>10.1f}{row['samples']:>10,}"
        for row in scores
    ]
    return "\n".join(lines)


def perplexity_text(buckets: Sequence[Mapping[str, Any]]) -> str:
    lines = ["perplexity by position", f"{'positions':>23}{'perplexity':>13}{'tokens':>12}"]
    for bucket in buckets:
        positions = f"{bucket['from']:,} to {bucket['to'] - 1:,}"
        lines.append(f"{positions:>23}{bucket['value']:>13.3f}{bucket['tokens']:>12,}")
    return "\n".join(lines)


def perplexity_table(buckets: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        ("from", "to", "perplexity", "nats a token", "tokens"),
        [(b["from"], b["to"] - 1, round(b["value"], 3), round(b["loss"], 4), b["tokens"]) for b in buckets],
    )


def scores_table(scores: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            row["task"],
            row["length"],
            row["prompt_tokens"],
            row["samples"],
            f"{100 * row['score']:.1f}",
            "beyond" if row.get("beyond_window") else "within",
        )
        for row in scores
    ]
    columns = ("task", "length", "prompt tokens", "prompts", "score %", "window")
    caption = "for intervals, means over tasks and other models beside it: ultralong eval report"
    return Table(columns, rows, caption=caption)


def standard_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for entry in entries:
        error = entry.get("stderr")
        retained = (entry.get("retention") or {}).get("value")
        rows.append(
            (
                entry["task"],
                entry["metric"],
                f"{100 * entry['value']:.2f}" + (f" ± {100 * error:.2f}" if error is not None else ""),
                entry["samples"],
                "-" if retained is None else f"{100 * retained:.1f}",
            )
        )
    return Table(("benchmark", "metric", "score %, standard error", "rows", "retained %"), rows)


def length_table(task: str, cells: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[tuple[str | int | float, ...]] = []
    for length in lay_out(cells).lengths:
        column = [cell for cell in cells if cell["length"] == length]
        hits, samples = sum(c["hits"] for c in column), sum(c["samples"] for c in column)
        low, high = wilson_interval(hits, samples)
        beyond = "beyond" if any(c.get("beyond_window") for c in column) else "within"
        prompt_tokens = round(sum(c["prompt_tokens"] for c in column) / len(column))
        rows.append(
            (
                length,
                prompt_tokens,
                hits,
                samples,
                f"{hits / samples:.1%}",
                f"{low:.1%} to {high:.1%}",
                beyond,
            )
        )
    return Table(
        ("length", "prompt tokens", "found", "of", "share", "95 % interval", "window"),
        rows,
        caption=f"{task}, all depths together",
    )
