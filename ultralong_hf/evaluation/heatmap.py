"""Recall by depth and length as pictures: PNG through matplotlib's Agg, interactive through plotly."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.errors import EvaluationError
from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    import plotly.graph_objects as go

Cells = Sequence[Mapping[str, Any]]

# Vermilion to bluish green of Okabe and Ito's palette, which colour-blind readers tell apart; the numbers in
# the cells say it again.
COLOURS = ((0.0, "#c8451b"), (0.35, "#eb9a55"), (0.6, "#f6e0a4"), (0.8, "#8fcfa6"), (1.0, "#0b8f6a"))
DPI = 150


@dataclass(frozen=True)
class Grid:
    """Cells of one model and task, laid out: rows are depths, columns lengths, nan where not measured."""

    lengths: list[int]
    depths: list[float]
    recall: np.ndarray
    hits: np.ndarray
    samples: np.ndarray
    lengths_within_window: int

    @property
    def length_labels(self) -> list[str]:
        return [format_length(length) if length else "0*" for length in self.lengths]

    @property
    def tick_labels(self) -> list[str]:
        """Shorter, for many columns: 26,887 -> "26K", where rounding keeps neighbours apart."""
        rounded = [
            f"{length / 1024:.0f}K" if length % 1024 and length > 10_240 else label
            for length, label in zip(self.lengths, self.length_labels, strict=True)
        ]
        return rounded if len(set(rounded)) == len(rounded) else self.length_labels

    @property
    def depth_labels(self) -> list[str]:
        return [f"{depth:g} %" for depth in self.depths]


def lay_out(cells: Cells) -> Grid:
    """The grid of [{"length", "depth", "hits", "samples"[, "beyond_window"]}]. Raises EvaluationError."""
    if not cells:
        raise EvaluationError("There is no cell to draw: measure at least one length and depth.")
    lengths = sorted({int(cell["length"]) for cell in cells})
    depths = sorted({float(cell["depth"]) for cell in cells})
    hits = np.zeros((len(depths), len(lengths)), dtype=np.int64)
    samples = np.zeros_like(hits)
    for cell in cells:
        place = depths.index(float(cell["depth"])), lengths.index(int(cell["length"]))
        hits[place] += int(cell["hits"])
        samples[place] += int(cell["samples"])
    recall = np.where(samples > 0, hits / np.maximum(samples, 1), np.nan)
    beyond = {int(cell["length"]) for cell in cells if cell.get("beyond_window")}
    return Grid(lengths, depths, recall, hits, samples, sum(length not in beyond for length in lengths))


def draw_heatmap(panels: Sequence[tuple[str, Cells]], path: str | Path, *, title: str = "") -> Path:
    """Writes the panels side by side as PNG (or HTML, by the suffix of `path`) and returns the path.

    A dashed line stands between the lengths within the model's window and those beyond.
    """
    path = Path(path)
    if path.suffix not in (".png", ".html"):
        raise EvaluationError(f"{path.name} is neither a .png nor an .html file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    if path.suffix == ".html":
        from ultralong_hf.evaluation.pages import write_html_report

        write_html_report(partial, title or "Recall by depth and length", [("", [heatmap_figure(panels)])])
    else:
        _draw_png(panels, partial, title)
    os.replace(partial, path)
    return path


def before_after_heatmap(
    before: Cells,
    after: Cells,
    path: str | Path,
    *,
    titles: tuple[str, str] = ("Before", "After"),
    title: str = "",
) -> Path:
    """Two heat maps on one scale, side by side, as .png or .html."""
    return draw_heatmap(list(zip(titles, (before, after), strict=True)), path, title=title)


def heatmap_figure(panels: Sequence[tuple[str, Cells]]) -> go.Figure:
    """The panels as one plotly figure; hovering shows hits, samples and the interval."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from ultralong_hf.evaluation.intervals import wilson_interval

    grids = [lay_out(cells) for _, cells in panels]
    figure = make_subplots(
        rows=1, cols=len(panels), subplot_titles=[name for name, _ in panels], horizontal_spacing=0.09
    )
    for column, grid in enumerate(grids, start=1):
        notes = [
            [
                "not measured"
                if not samples
                else "{} of {} found<br>95 % interval {:.0%} to {:.0%}".format(
                    hits, samples, *wilson_interval(hits, samples)
                )
                for hits, samples in zip(hits_row, samples_row, strict=True)
            ]
            for hits_row, samples_row in zip(grid.hits.tolist(), grid.samples.tolist(), strict=True)
        ]
        figure.add_trace(
            go.Heatmap(
                x=grid.length_labels,
                y=grid.depth_labels,
                z=[[None if np.isnan(v) else 100 * v for v in row] for row in grid.recall.tolist()],
                customdata=notes,
                hovertemplate="%{x} tokens, needle at %{y}<br>%{customdata}<extra></extra>",
                texttemplate="%{z:.0f}",
                zmin=0,
                zmax=100,
                colorscale=[list(stop) for stop in COLOURS],
                xgap=2,
                ygap=2,
                colorbar={"title": {"text": "found, %"}},
                showscale=column == len(panels),
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="length in tokens", type="category", showgrid=False, row=1, col=column)
        figure.update_yaxes(
            title_text="depth of the needle" if column == 1 else None,
            type="category",
            autorange="reversed",
            showgrid=False,
            # narrow pages have no room for both
            showticklabels=column == 1 or grid.depths != grids[0].depths,
            row=1,
            col=column,
        )
        if _crosses(grid):
            line = {"dash": "dash", "width": 2, "color": "#777777"}
            figure.add_vline(x=grid.lengths_within_window - 0.5, line=line, row=1, col=column)
    rows = max(len(grid.depths) for grid in grids)
    figure.update_layout(height=170 + 44 * rows, margin={"l": 70, "r": 20, "t": 50, "b": 60})
    return figure


def _draw_png(panels: Sequence[tuple[str, Cells]], path: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("recall", list(COLOURS)).with_extremes(bad="#e4e4e4")
    grids = [lay_out(cells) for _, cells in panels]
    cell_width = 0.62 if max(len(grid.lengths) for grid in grids) <= 16 else 0.42
    widths = [max(3.2, cell_width * len(grid.lengths)) for grid in grids]
    height = 1.75 + 0.42 * max(len(grid.depths) for grid in grids) + (0.3 if title else 0)
    figure = Figure(figsize=(sum(widths) + 0.9 * len(panels) + 0.8, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for index, (axis, grid, (name, _)) in enumerate(zip(axes, grids, panels, strict=True)):
        image = axis.imshow(grid.recall, cmap=colours, vmin=0, vmax=1, aspect="auto")
        axis.set_title(name, fontsize=11, fontweight="bold", pad=20 if any(_crosses(g) for g in grids) else 8)
        axis.set_xticks(range(len(grid.lengths)), grid.tick_labels, fontsize=8)
        if len(grid.lengths) > 12:
            axis.tick_params(axis="x", labelrotation=60)
        axis.set_yticks(range(len(grid.depths)), grid.depth_labels, fontsize=8)
        axis.set_xlabel("length in tokens", fontsize=9)
        if index == 0:
            axis.set_ylabel("depth of the needle", fontsize=9)
        _mark_cells(axis, grid)
        _mark_window(axis, grid)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.9, pad=0.015, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0", "25", "50", "75", "100"], fontsize=8)
    bar.set_label("needles found, %", fontsize=9)
    bar.outline.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.savefig(path, format="png")


def _mark_cells(axis: Any, grid: Grid) -> None:
    """White gaps between the cells, and the percentage in each."""
    axis.set_xticks(np.arange(len(grid.lengths) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(grid.depths) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="both", length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    size = 9 if len(grid.lengths) <= 16 else 7
    for (row, column), value in np.ndenumerate(grid.recall):
        if not np.isnan(value):
            dark_cell = value < 0.2 or value > 0.9
            axis.text(
                column,
                row,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark_cell else "#222222",
            )


def _crosses(grid: Grid) -> bool:
    """Whether the lengths lie on both sides of the model's window."""
    return 0 < grid.lengths_within_window < len(grid.lengths)


def _mark_window(axis: Any, grid: Grid) -> None:
    if not _crosses(grid):
        return
    inside = grid.lengths_within_window
    axis.axvline(inside - 0.5, color="#222222", linestyle=(0, (4, 3)), linewidth=1.8, clip_on=False)
    to_the_right = inside <= len(grid.lengths) / 2
    axis.annotate(
        "beyond the window →" if to_the_right else "← within the window",
        (inside - 0.5, 1.01),
        xycoords=("data", "axes fraction"),
        ha="left" if to_the_right else "right",
        va="bottom",
        fontsize=8,
        color="#333333",
    )
