"""A picture a study: how each arm does by length, and by how much it differs from the base."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.ablation.arms import Arm
from ultralong_hf.ablation.comparing import Metric
from ultralong_hf.evaluation.differences import Difference, mean_interval
from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    from ultralong_hf.ablation.report import AblationReport, StudyOutcome

# Okabe and Ito's palette, which colour-blind readers tell apart; the base is dark and thick.
COLOURS = ("#333333", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")  # not as many as colours: arms that share one differ
DPI = 150


def curve_of(report: AblationReport, arm: Arm, task: str) -> list[tuple[int, Difference]]:
    """(length, mean with interval) of one arm."""
    runs = [report.results[arm.key, seed] for seed in report.seeds]
    lengths = sorted({score["length"] for score in runs[0]["scores"] if score["task"] == task})
    points = []
    for length in lengths:
        scores, weights = Metric("", task, (length,)).series(runs)
        points.append((length, mean_interval(scores, weights=weights)))
    return points


def loss_curve_of(report: AblationReport, arm: Arm) -> list[tuple[float, float]]:
    """(middle of the bucket, mean loss over seeds) of one arm."""
    runs = [report.results[arm.key, seed]["loss"] for seed in report.seeds]
    return [
        (
            (max(1, same[0]["from"]) * same[0]["to"]) ** 0.5,
            sum(b["loss"] * b["tokens"] for b in same) / sum(b["tokens"] for b in same),
        )
        for same in zip(*runs, strict=True)
    ]


def tasks_of(report: AblationReport, arm: Arm) -> list[str]:
    """The tasks that the arm was measured on."""
    scores = report.results[arm.key, report.seeds[0]]["scores"]
    return list(dict.fromkeys(score["task"] for score in scores))


def draw_study(outcome: StudyOutcome, report: AblationReport, path: Path) -> Path:
    """Writes the study's PNG: a panel a task by length, the loss by position, and the paired differences."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = outcome.study.all_arms
    tasks = tasks_of(report, arms[0])
    has_loss = bool(report.results[arms[0].key, report.seeds[0]]["loss"])
    forest = outcome.study.paired and len(arms) > 1
    panels = len(tasks) + has_loss + forest
    figure = Figure(figsize=(4.6 * panels + 0.4, 4.4), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axis, task in zip(axes, tasks, strict=False):
        _draw_curves(axis, report, arms, task)
    if has_loss:
        _draw_losses(axes[len(tasks)], report, arms)
    if forest:
        _draw_forest(axes[-1], outcome)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(outcome.study.question, fontsize=12, fontweight="bold")
    partial = path.with_name(f".partial-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(partial, format="png")
    os.replace(partial, path)
    return path


def _styles(arms: Sequence[Arm]) -> list[tuple[Arm, str, str]]:
    return list(zip(arms, cycle(COLOURS), cycle(MARKERS), strict=False))


def _draw_curves(axis: Any, report: AblationReport, arms: Sequence[Arm], task: str) -> None:
    ticks: set[int] = set()
    for number, (arm, colour, marker) in enumerate(_styles(arms)):
        points = curve_of(report, arm, task)
        lengths = [length for length, _ in points]
        ticks |= set(lengths)
        # side by side, so that bars of one length do not hide each other
        shifted = [length * 1.03 ** (number - len(arms) / 2) for length in lengths]
        values = [100 * mean.value for _, mean in points]
        below = [100 * mean.reach[0] for _, mean in points]
        above = [100 * mean.reach[1] for _, mean in points]
        axis.errorbar(
            shifted,
            values,
            yerr=[below, above],
            label=arm.title,
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=2 if number == 0 else 1.3,
            elinewidth=0.9,
            capsize=2,
        )
    axis.set_xscale("log")
    axis.set_xticks(sorted(ticks), [format_length(length) for length in sorted(ticks)], fontsize=8)
    axis.minorticks_off()
    axis.set_ylim(-3, 103)
    _finish(axis, "length, tokens", f"{task}, %")


def _draw_losses(axis: Any, report: AblationReport, arms: Sequence[Arm]) -> None:
    for number, (arm, colour, marker) in enumerate(_styles(arms)):
        points = loss_curve_of(report, arm)
        axis.plot(
            [position for position, _ in points],
            [loss for _, loss in points],
            color=colour,
            marker=marker,
            markersize=3.5,
            linewidth=2 if number == 0 else 1.3,
        )
    axis.set_xscale("log")
    axis.axvline(report.present_window, color="#888888", linestyle=(0, (4, 3)), linewidth=1)
    axis.annotate(
        " the base's window",
        (report.present_window, 0.98),
        xycoords=("data", "axes fraction"),
        fontsize=7.5,
        va="top",
    )
    _finish(axis, "position in the row, tokens", "loss on held-out text, nats a token")


def _draw_forest(axis: Any, outcome: StudyOutcome) -> None:
    """Differences in the scores' headlines, in points; an interval that leaves zero out is filled."""
    metrics = [metric for metric in outcome.headlines if metric.task != "loss"]
    labels: list[tuple[float, str]] = []
    place = 0.0
    for arm, colour, _ in _styles(outcome.study.all_arms)[1:]:
        labels.append((place, f"{arm.title}:"))
        for metric in metrics:
            found = outcome.find(arm.key, metric.name)
            if found is None or found.difference is None:
                continue
            d = found.difference
            place -= 1
            ends = [100 * (d.value - d.reach[0]), 100 * (d.value + d.reach[1])]
            axis.plot(ends, [place, place], color=colour, linewidth=2)
            face = colour if d.is_clear else "white"
            axis.plot(100 * d.value, place, "o", color=colour, markerfacecolor=face, markersize=5.5)
            labels.append((place, f"{metric.name} ({d.above}:{d.below})"))
        place -= 1.3
    axis.set_ylim(place + 0.7, 0.8)
    axis.axvline(0, color="#333333", linewidth=1)
    axis.set_yticks([at for at, _ in labels], [text for _, text in labels], fontsize=7)
    for tick, (_, text) in zip(axis.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if text.endswith(":") else "normal")
    _finish(axis, "points above the base (seeds above:below)", "")


def _finish(axis: Any, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
