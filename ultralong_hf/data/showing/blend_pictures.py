"""The report of a blend as a picture: what became of each source's records, and the domains of the blend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.showing.pictures import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KEPT = "#1b7f4d"
_DROPPED = {
    "no_conversation": "#5f6368",
    "too_long": "#b3541e",
    "language": "#8a6d3b",
    "contaminated": "#c0392b",
    "exact_duplicate": "#7e57c2",
    "near_duplicate": "#b39ddb",
    "over_quota": "#dfe3e8",
    "rewrite_failed": "#ad1457",
    "rewrite_cut": "#d81b60",
    "rewrite_too_long": "#f06292",
    "rewrite_contaminated": "#f8bbd0",
}


def draw_blend(report: Mapping[str, Any], path: Path) -> Path:
    """Writes a PNG: a bar a source, of its records by what became of them; below, the blend by domain."""
    sources = report["sources"]
    figure = new_figure((10.0, 2.9 + 0.34 * len(sources)))
    above, below = figure.subplots(2, 1, height_ratios=[max(1.6, 0.34 * len(sources)), 0.5])
    total = report["total"]
    figure.suptitle(
        f"{total['read']:,} records read, {total['kept']:,} samples kept, {total['tokens']:,} tokens",
        fontsize=12,
        x=0.01,
        ha="left",
    )
    _draw_sources(above, sources, list(total["dropped"]))
    _draw_domains(below, report["domains"])
    figure.legend(*above.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return save_figure(figure, path)


def _draw_sources(axes: Axes, sources: list[Mapping[str, Any]], steps: list[str]) -> None:
    names = [source["label"] for source in sources]
    left = [0.0] * len(sources)
    for step in ["kept", *steps]:
        counts = [source["kept"] if step == "kept" else source["dropped"].get(step, 0) for source in sources]
        widths = [count / (source["read"] or 1) for count, source in zip(counts, sources, strict=True)]
        colour = _KEPT if step == "kept" else _DROPPED[step]
        axes.barh(names, widths, 0.7, left=left, color=colour, label=step.replace("_", " "))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for n, source in enumerate(sources):
        axes.text(1.01, n, f"{source['kept']:,} of {source['read']:,}", va="center", fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title("what became of the records of each source", fontsize=10, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


def _draw_domains(axes: Axes, domains: list[Mapping[str, Any]]) -> None:
    left = 0.0
    for n, domain in enumerate(domains):
        axes.barh([0], [domain["share"]], 0.8, left=left, color=COLOURS[n % len(COLOURS)])
        wanted = domain["wanted_share"]
        name = domain["domain"] or "no domain"
        note = "" if wanted is None else f" (wanted {wanted:.0%})"
        if domain["share"] > 0.08:
            axes.text(
                left + domain["share"] / 2,
                0,
                f"{name}\n{domain['kept']:,}, {domain['share']:.0%}{note}",
                ha="center",
                va="center",
                color="white",
                fontsize=8.5,
            )
        left += domain["share"]
    axes.set_xlim(0, 1)
    axes.set_title("the blend by domain", fontsize=10, loc="left")
    axes.axis("off")
