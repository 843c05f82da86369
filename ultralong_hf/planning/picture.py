"""A plan as a picture: the memory of a device by part, with each change beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ultralong_hf.errors import PlanError
from ultralong_hf.footprint.peak import PARTS
from ultralong_hf.lengths import format_length
from ultralong_hf.planning.plan import Plan
from ultralong_hf.planning.text import devices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's set, told apart by the colour-blind too
_COLOURS = dict(
    zip(
        PARTS,
        ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#E69F00", "#D55E00", "#CC79A7", "#999999", "#444444"),
        strict=True,
    )
)
_DOTS_PER_INCH = 150
_LINE, _FAINT = "#222222", "#6b6b6b"


def draw_plan(plan: Plan, path: Path) -> Path:
    """Draws into `path`, whole or not at all, and returns it. Raises PlanError if it cannot be written."""
    figure = plan_figure(plan)
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, dpi=_DOTS_PER_INCH, format=path.suffix.removeprefix(".") or "png")
        partial.replace(path)
    except (OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise PlanError(f"{path} cannot be written: {error}.") from error
    return path


def plan_figure(plan: Plan) -> Figure:
    """A bar for the plan and one for each change, against the line of what a device can hold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = [("as planned", dict(plan.footprint.parts), plan.tokens_per_second)]
    bars += [(f"{c.key}\n{c.value}", c.parts, c.tokens_per_second) for c in plan.changes]
    figure = Figure(figsize=(9.6, 1.9 + 0.52 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (_, parts, _) in enumerate(bars):
        _draw_bar(axes, place, parts)
    most = max(sum(parts.values()) for _, parts, _ in bars)
    right = max(most, plan.usable) / 2**30 * 1.2
    for place, (_, parts, speed) in enumerate(bars):
        total = sum(parts.values())
        text = f" {total / 2**30:,.1f}" + (f" GiB, {speed:,.0f} tokens/s" if speed else " GiB")
        axes.text(total / 2**30, place, text, va="center", fontsize=8.5, color=_LINE)
    axes.axvline(plan.usable / 2**30, color=_LINE, linewidth=1.2, linestyle="--")
    axes.text(
        plan.usable / 2**30,
        -0.72,
        f" usable, {plan.usable / 2**30:,.1f}",
        fontsize=8.5,
        color=_LINE,
        va="center",
    )
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8.5)
    axes.set_ylim(len(bars) - 0.4, -1.0)
    axes.set_xlim(0, right)
    axes.set_xlabel(
        "GiB of a device at its fullest moment; tokens a second of all devices", fontsize=9, color=_FAINT
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="x", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.suptitle(_title(plan), fontsize=11.5, x=0.01, ha="left")
    figure.legend(
        handles=_legend(),
        loc="outside lower center",
        ncols=len(PARTS),
        frameon=False,
        fontsize=8,
        columnspacing=1.0,
    )
    return figure


def _draw_bar(axes: Axes, place: int, parts: dict[str, int]) -> None:
    left = 0.0
    for part in PARTS:
        width = parts.get(part, 0) / 2**30
        axes.barh(
            place, width, left=left, color=_COLOURS[part], height=0.62, edgecolor="white", linewidth=0.4
        )
        left += width


def _legend() -> list[object]:
    from matplotlib.patches import Patch

    return [Patch(color=_COLOURS[part], label=part) for part in PARTS]


def _title(plan: Plan) -> str:
    fits = "fits" if plan.fits else "does not fit"
    how = f"{plan.sizes.degree} share a row" if plan.sizes.degree > 1 else "whole rows"
    return f"{plan.name}: {format_length(plan.length)} tokens on {devices(plan)} ({how}) {fits}"
