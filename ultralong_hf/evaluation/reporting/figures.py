"""Curves by length and forests of differences, for pages (plotly) and as pictures (PNG)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.evaluation.differences import mean_interval
from ultralong_hf.evaluation.reporting.models import ModelResults, Score
from ultralong_hf.evaluation.reporting.pairing import Pairing
from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's palette, which colour-blind readers tell apart, without its black: pages are dark too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DPI = 150


@dataclass(frozen=True)
class Curve:
    """Scores of one model by length."""

    name: str
    points: Mapping[int, Score]


def family_curve(model: ModelResults, family: str) -> Curve:
    """The mean over a family's tasks at each length, tasks weighing the same."""
    points = {}
    lengths = sorted({n for task in model.tasks_of(family) for n in model.lengths(task)})
    for length in lengths:
        groups = [
            [record["score"] for record in model.records[task][length]]
            for task in model.tasks_of(family)
            if length in model.records[task]
        ]
        single = model.score(model.tasks_of(family)[0], length) if len(groups) == 1 else None
        points[length] = single or _mean_over_tasks(groups)
    return Curve(model.name, points)


def curves_figure(curves: Sequence[Curve], title: str, line_at: float | None = None) -> go.Figure:
    """Score by length, percent; a dotted line where one is asked for."""
    import plotly.graph_objects as go

    figure = go.Figure()
    lengths = sorted({length for curve in curves for length in curve.points})
    for curve, colour in zip(curves, cycle(COLOURS), strict=False):
        known = [(length, curve.points[length]) for length in lengths if length in curve.points]
        figure.add_trace(
            go.Scatter(
                x=[format_length(length) for length, _ in known],
                y=[100 * score.mean for _, score in known],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * _above(score) for _, score in known],
                    "arrayminus": [100 * _below(score) for _, score in known],
                    "thickness": 1.3,
                },
                customdata=[_hover(score) for _, score in known],
                hovertemplate="%{x} tokens: %{y:.1f} %<br>%{customdata}<extra>%{fullData.name}</extra>",
                mode="lines+markers",
                name=curve.name,
                line={"color": colour, "width": 2.5},
            )
        )
    if line_at is not None:
        figure.add_hline(y=line_at, line={"dash": "dot", "width": 1.5, "color": "#888888"})
    order = [format_length(length) for length in lengths]
    figure.update_xaxes(
        title_text="length, tokens", type="category", categoryorder="array", categoryarray=order
    )
    figure.update_yaxes(title_text=f"{title}, %", range=[-3, 104])
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
    figure.update_layout(
        height=380, margin={"l": 60, "r": 20, "t": 40, "b": 60}, legend=legend, showlegend=len(curves) > 1
    )
    return figure


def draw_curves(curves: Sequence[Curve], title: str, path: Path, line_at: float | None = None) -> Path:
    """The same as PNG."""
    figure, axis = _canvas(7.2, 4.2)
    lengths = sorted({length for curve in curves for length in curve.points})
    for number, (curve, colour, marker) in enumerate(
        zip(curves, cycle(COLOURS), cycle(MARKERS), strict=False)
    ):
        known = [(lengths.index(length), score) for length, score in curve.points.items()]
        axis.errorbar(
            # side by side, so that bars of one length do not hide each other
            [place + 0.06 * (number - (len(curves) - 1) / 2) for place, _ in known],
            [100 * score.mean for _, score in known],
            yerr=[[100 * _below(score) for _, score in known], [100 * _above(score) for _, score in known]],
            label=curve.name,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.8,
            elinewidth=1,
            capsize=2.5,
        )
    if line_at is not None:
        axis.axhline(line_at, color="#888888", linestyle=":", linewidth=1.2)
        axis.annotate(f"{line_at:g} %", (0, line_at), fontsize=7.5, va="bottom", color="#666666")
    axis.set_xticks(range(len(lengths)), [format_length(n) for n in lengths], fontsize=8)
    if len(lengths) > 12:
        axis.tick_params(axis="x", labelrotation=60)
    axis.set_ylim(-3, 104)
    axis.set_xlabel("length, tokens", fontsize=9)
    axis.set_ylabel(f"{title}, %", fontsize=9)
    if len(curves) > 1:
        axis.legend(fontsize=8, frameon=False)
    return _save(figure, path)


def differences_figure(pairings: Sequence[Pairing], base: str, other: str) -> go.Figure:
    """Paired differences in points, a line a task and length; filled where the interval leaves zero out."""
    import plotly.graph_objects as go

    labels = [f"{p.task} at {format_length(p.length)}" for p in pairings]
    figure = go.Figure(
        go.Scatter(
            x=[100 * p.difference.value for p in pairings],
            y=labels,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * (p.difference.high - p.difference.value) for p in pairings],
                "arrayminus": [100 * (p.difference.value - p.difference.low) for p in pairings],
                "thickness": 1.5,
            },
            customdata=[f"{p.won} won, {p.lost} lost of {p.prompts} prompts" for p in pairings],
            hovertemplate="%{y}: %{x:+.1f} points<br>%{customdata}<extra></extra>",
            mode="markers",
            marker={
                "size": 9,
                "color": COLOURS[1],
                "symbol": ["circle" if p.difference.is_clear else "circle-open" for p in pairings],
            },
        )
    )
    figure.add_vline(x=0, line={"width": 1.2, "color": "#888888"})
    figure.update_xaxes(title_text=f"points of {other} above {base}")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=130 + 22 * len(pairings), margin={"l": 60, "r": 20, "t": 20, "b": 60})
    return figure


def draw_differences(pairings: Sequence[Pairing], base: str, other: str, path: Path) -> Path:
    """The same as PNG."""
    figure, axis = _canvas(7.2, 1.2 + 0.26 * len(pairings))
    for place, p in enumerate(pairings):
        d = p.difference
        axis.plot([100 * d.low, 100 * d.high], [-place, -place], color=COLOURS[1], linewidth=2)
        face = COLOURS[1] if d.is_clear else "white"
        axis.plot(100 * d.value, -place, "o", color=COLOURS[1], markerfacecolor=face, markersize=6)
    labels = [f"{p.task} at {format_length(p.length)}  ({p.won}:{p.lost})" for p in pairings]
    axis.set_yticks([-n for n in range(len(pairings))], labels, fontsize=8)
    axis.set_ylim(0.6 - len(pairings), 0.6)
    axis.axvline(0, color="#333333", linewidth=1)
    axis.set_xlabel(f"points of {other} above {base} (prompts won:lost)", fontsize=9)
    return _save(figure, path)


def draw_perplexities(curves: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], path: Path) -> Path:
    """Perplexity by position of each model as PNG; both axes logarithmic."""
    figure, axis = _canvas(7.2, 3.8)
    for (name, buckets), colour, marker in zip(curves, cycle(COLOURS), cycle(MARKERS), strict=False):
        middles = [(max(1, b["from"]) * b["to"]) ** 0.5 for b in buckets]
        values = [b["value"] for b in buckets]
        axis.plot(middles, values, label=name, color=colour, marker=marker, markersize=4.5, linewidth=1.8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("position in the row, tokens", fontsize=9)
    axis.set_ylabel("perplexity", fontsize=9)
    if len(curves) > 1:
        axis.legend(fontsize=8, frameon=False)
    return _save(figure, path)


def _mean_over_tasks(groups: Sequence[Sequence[float]]) -> Score:
    scores = [score for group in groups for score in group]
    weights = [1 / len(group) for group in groups for _ in group]
    found = mean_interval([scores], weights=[weights])
    mean = sum(sum(group) / len(group) for group in groups) / len(groups)
    return Score(mean, found.low, found.high, len(scores))


def _above(score: Score) -> float:
    return 0.0 if score.high is None else max(0.0, score.high - score.mean)


def _below(score: Score) -> float:
    return 0.0 if score.low is None else max(0.0, score.mean - score.low)


def _hover(score: Score) -> str:
    if score.low is None or score.high is None:
        return "1 prompt"
    return f"95 % interval {score.low:.1%} to {score.high:.1%}, {score.samples:,} prompts"


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure, axis


def _save(figure: Any, path: Path) -> Path:
    partial = path.with_name(f".partial-{path.name}")
    figure.savefig(partial, format="png")
    os.replace(partial, path)
    return path
