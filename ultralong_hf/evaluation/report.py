"""What an evaluation found: cells with intervals, loss by position, and the files that show them."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.heatmap import draw_heatmap, heatmap_figure
from ultralong_hf.evaluation.intervals import wilson_interval
from ultralong_hf.evaluation.ledger import PROMPTS_FILE, write_json, write_lines
from ultralong_hf.evaluation.pages import Callout, Section, Table, write_html_report
from ultralong_hf.evaluation.report_tables import (
    grid_text,
    length_table,
    perplexity_table,
    perplexity_text,
    scores_table,
    scores_text,
    standard_table,
)
from ultralong_hf.evaluation.standard.results import entries_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

CURVE_COLOURS = ("#c8451b", "#0b8f6a", "#3b6fb6", "#8a5aab")

__all__ = ["Report", "Table", "count_cells", "write_html_report"]


@dataclass
class Report:
    """The results of one model.

    cells: [{"task", "length", "depth", "hits", "samples", "low", "high", "prompt_tokens", "beyond_window"}];
    low and high are Wilson's 95 % interval, prompt_tokens the mean of the cell.
    scores: [{"task", "length", "score" (mean, 0 to 1), "samples", "prompt_tokens", "beyond_window"}] of tasks
    that are no grids. perplexity: [{"from", "to", "value", "loss", "tokens"}] of the task "perplexity".
    notes: what a reader must know about single results. prompts: each prompt with its answer, or the
    prompts.jsonl that holds them.
    """

    model: str
    settings: Mapping[str, Any]
    cells: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    perplexity: list[dict[str, Any]] = field(default_factory=list)
    standard: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    window: int | None = None
    seconds: float = 0.0
    prompts: list[dict[str, Any]] | Path = field(default_factory=list, repr=False)

    @property
    def tasks(self) -> list[str]:
        """The tasks that have cells, in their order."""
        return list(dict.fromkeys(cell["task"] for cell in self.cells))

    def cells_of(self, task: str) -> list[dict[str, Any]]:
        return [cell for cell in self.cells if cell["task"] == task]

    def recall(self, task: str, length: int) -> float:
        """Share of needles found at this length, all depths together. Raises EvaluationError."""
        cells = [cell for cell in self.cells_of(task) if cell["length"] == length]
        if not cells:
            raise EvaluationError(f"{task!r} was not measured at {length:,} tokens.")
        return sum(cell["hits"] for cell in cells) / sum(cell["samples"] for cell in cells)

    def table(self) -> str:
        """The results as text: percent found by depth and length, then loss by position, then the notes."""
        blocks = [grid_text(task, self.cells_of(task)) for task in self.tasks]
        if self.scores:
            blocks.append(scores_text(self.scores))
            blocks += _ruler_text(self.scores)
        if self.perplexity:
            blocks.append(perplexity_text(self.perplexity))
        if self.standard:
            blocks.append(entries_text(self.standard))
        if self.notes:
            blocks.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """All but the prompts, as plain values for JSON."""
        return {
            "model": self.model,
            "window": self.window,
            "cells": self.cells,
            "scores": self.scores,
            "perplexity": self.perplexity,
            "standard": self.standard,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
            "settings": dict(self.settings),
        }

    def plot(self, path: str | Path) -> Path:
        """Draws the heat map of each task side by side: .png, or interactive .html."""
        panels = [(task, self.cells_of(task)) for task in self.tasks]
        if not panels:
            raise EvaluationError("There is no grid to draw: the task 'perplexity' alone was measured.")
        return draw_heatmap(panels, path, title=self.model)

    def save(self, output_dir: str | Path) -> Path:
        """Writes report.json, cells.json, cells.csv, report.html, heatmap.png and prompts.jsonl."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_prompts(folder / PROMPTS_FILE)
        if self.cells:
            write_json(folder / "cells.json", self.cells)
            _write_csv(folder / "cells.csv", self.cells)
            self.plot(folder / "heatmap.png")
        if self.perplexity:
            _write_csv(folder / "perplexity.csv", self.perplexity)
        write_html_report(folder / "report.html", f"{self.model}: long-context evaluation", self._sections())
        write_json(folder / "report.json", self.to_dict())
        return folder

    def _save_prompts(self, path: Path) -> None:
        if isinstance(self.prompts, Path):
            if self.prompts.exists() and not (path.exists() and path.samefile(self.prompts)):
                shutil.copyfile(self.prompts, path)
        elif self.prompts:
            write_lines(path, self.prompts)

    def _sections(self) -> list[Section]:
        sections: list[Section] = []
        if self.notes:
            sections.append(("Read this first", [Callout("Of these results", self.notes)]))
        sections += [
            (
                f"{task}: found by depth and length",
                [
                    heatmap_figure([("", self.cells_of(task))]),
                    length_table(task, self.cells_of(task)),
                ],
            )
            for task in self.tasks
        ]
        if self.scores:
            sections.append(("Scores", [scores_table(self.scores)]))
        if self.standard:
            sections.append(("The standard side", [standard_table(self.standard)]))
        if self.perplexity:
            sections.append(
                (
                    "Perplexity by position",
                    [perplexity_figure([(self.model, self.perplexity)]), perplexity_table(self.perplexity)],
                )
            )
        settings = [(name, str(value)) for name, value in self.settings.items() if name != "model"]
        sections.append(("Settings", [Table(("setting", "value"), settings)]))
        return sections


def count_cells(records: Sequence[Mapping[str, Any]], window: int | None) -> list[dict[str, Any]]:
    """Cells of finished prompts ({"task", "length", "depth", "hit", "prompt_tokens"}), in their order."""
    groups: dict[tuple[str, int, float], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["task"], record["length"], record["depth"]), []).append(record)
    cells = []
    for (task, length, depth), group in groups.items():
        hits = sum(bool(record["hit"]) for record in group)
        low, high = wilson_interval(hits, len(group))
        cells.append(
            {
                "task": task,
                "length": length,
                "depth": depth,
                "hits": hits,
                "samples": len(group),
                "low": round(low, 6),
                "high": round(high, 6),
                "prompt_tokens": round(sum(record["prompt_tokens"] for record in group) / len(group)),
                "beyond_window": window is not None and length > window,
            }
        )
    return cells


def _is_beyond(record: Mapping[str, Any], window: int) -> bool:
    """A benchmark's own level is no token count, and a prompt cut to the window is none beyond it."""
    is_cut = any(note.startswith("cut:") for note in record.get("notes", ()))
    return bool(record["prompt_tokens"] > window or (record["length"] > window and not is_cut))


def count_scores(records: Sequence[Mapping[str, Any]], window: int | None) -> list[dict[str, Any]]:
    """Mean scores of finished prompts ({"task", "length", "score", "prompt_tokens"}), in their order."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["task"], record["length"]), []).append(record)
    return [
        {
            "task": task,
            "length": length,
            "score": sum(record["score"] for record in group) / len(group),
            "samples": len(group),
            "prompt_tokens": round(sum(record["prompt_tokens"] for record in group) / len(group)),
            "beyond_window": window is not None and any(_is_beyond(record, window) for record in group),
        }
        for (task, length), group in groups.items()
    ]


def perplexity_figure(curves: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> go.Figure:
    """Perplexity by position, a curve a (name, buckets); both axes logarithmic."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for (name, buckets), colour in zip(curves, cycle(CURVE_COLOURS), strict=False):
        figure.add_trace(
            go.Scatter(
                x=[(max(1, bucket["from"]) * bucket["to"]) ** 0.5 for bucket in buckets],
                y=[bucket["value"] for bucket in buckets],
                customdata=[f"{bucket['from']:,} to {bucket['to'] - 1:,}" for bucket in buckets],
                hovertemplate="positions %{customdata}<br>perplexity %{y:.2f}<extra>%{fullData.name}</extra>",
                mode="lines+markers",
                name=name,
                line={"color": colour, "width": 2.5},
            )
        )
    figure.update_xaxes(title_text="position in the row, tokens", type="log")
    figure.update_yaxes(title_text="perplexity", type="log")
    figure.update_layout(height=380, margin={"l": 70, "r": 20, "t": 30, "b": 60}, showlegend=len(curves) > 1)
    return figure


def _ruler_text(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """RULER's summary; nothing without its tasks."""
    from ultralong_hf.evaluation.ruler.aggregates import summarize, summary_text

    summary = summarize(scores)
    return [] if summary is None else [summary_text(summary)]


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)
