"""RoPE as a picture: the wavelength of each pair above, how much slower it turns below."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.errors import ModelError
from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ultralong_hf.rope.describe import Rope, RopeDescription

# A colour a name (Okabe and Ito's set, told apart by the colour-blind too); the model's own RoPE is black.
_COLOURS = {"yarn": "#0072B2", "llama3": "#D55E00", "ntk": "#009E73", "linear": "#CC79A7"}
_OWN, _PLAIN, _SHADE, _RULE = "#222222", "#8a8a8a", "#f7ecc8", "#555555"
# yarn and llama3 lie on each other but for the ramp: a wide line below a narrow one shows both.
_WIDTHS = {"yarn": 4.2, "llama3": 1.8}
_ORDER = ("linear", "ntk", "yarn", "llama3")
_SMALL: dict[str, Any] = {"fontsize": 9, "color": _RULE}
_BACKGROUND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
_INCHES, _DOTS_PER_INCH = (9.0, 7.2), 150


def draw_rope(description: RopeDescription, path: Path) -> Path:
    """Draws `rope_figure(description)` into the PNG file `path`, whole or not at all, and returns `path`.

    Raises ModelError if the file cannot be written.
    """
    figure = rope_figure(description)
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, dpi=_DOTS_PER_INCH, format="png")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ModelError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def rope_figure(description: RopeDescription) -> Figure:
    """Two axes over the pairs, with the methods where there are any, else with the model's own RoPE.

    The shade covers the pairs on the ramp of yarn or llama3.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ropes = description.methods or description.own
    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.suptitle(_title(description), fontsize=12.5, x=0.01, ha="left")
    _draw_wavelengths(above, ropes)
    _draw_slowdowns(below, ropes)
    for axes in (above, below):
        _shade_ramp(axes, ropes)
        axes.grid(True, which="major", color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    above.legend(loc="lower right", frameon=False, fontsize=9)
    return figure


def _title(description: RopeDescription) -> str:
    name = Path(description.model).name or description.model
    if not description.methods:
        return f"RoPE of {name}, window {format_length(description.window)}"
    first = description.methods[0]
    return (
        f"RoPE of {name} stretched from {format_length(first.original_length)} to "
        f"{format_length(first.length)} tokens (scale {first.scale:g})"
    )


def _draw_wavelengths(axes: Axes, ropes: tuple[Rope, ...]) -> None:
    from matplotlib.ticker import LogLocator

    first = ropes[0]
    plain = 2 * np.pi / first.plain
    axes.plot(
        plain, color=_PLAIN, linewidth=1.4, linestyle=(0, (4, 2)), label=f"plain, theta {first.theta:,.0f}"
    )
    for rope in ropes:
        _draw_line(axes, rope, [pair.wavelength for pair in rope.pairs])
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(LogLocator(base=32))
    axes.yaxis.set_major_formatter(lambda value, _: _tokens(value))
    axes.set_ylabel("wavelength (tokens a turn)")
    for length, words in {first.original_length: "original length", first.length: "length"}.items():
        axes.axhline(length, color=_RULE, linewidth=1.0, linestyle=":", zorder=1)
        told = f"{words} {format_length(length)}"
        axes.annotate(
            told, (0, length), xytext=(5, 4), textcoords="offset points", bbox=_BACKGROUND, **_SMALL
        )


def _draw_slowdowns(axes: Axes, ropes: tuple[Rope, ...]) -> None:
    for rope in ropes:
        _draw_line(axes, rope, [pair.slower for pair in rope.pairs])
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_ylabel("slower than plain RoPE")
    axes.set_xlabel("pair of dimensions (fast to slow)")
    axes.set_xlim(0, len(ropes[0].inv_freq) - 1)


def _shade_ramp(axes: Axes, ropes: tuple[Rope, ...]) -> None:
    pairs = [pair for rope in ropes if rope.rope_type in ("yarn", "llama3") for pair in rope.pairs]
    on_ramp = [pair.index for pair in pairs if pair.state == "ramp"]
    if on_ramp:
        label = "ramp of yarn and llama3" if len(ropes) > 1 else "ramp"
        axes.axvspan(min(on_ramp) - 0.5, max(on_ramp) + 0.5, color=_SHADE, linewidth=0, zorder=0, label=label)


def _draw_line(axes: Axes, rope: Rope, values: list[float]) -> None:
    axes.plot(
        values,
        color=_COLOURS.get(rope.name, _OWN if "sliding" not in rope.name else _PLAIN),
        linewidth=_WIDTHS.get(rope.name, 1.8),
        label=_label(rope),
        zorder=2 + (_ORDER.index(rope.name) if rope.name in _ORDER else 0),
    )


def _tokens(value: float) -> str:
    return format_length(round(value)) if value >= 1 else f"{value:g}"


def _label(rope: Rope) -> str:
    name = rope.name if rope.name == rope.rope_type else f"{rope.name} ({rope.rope_type})"
    return f"{name}, temperature {rope.temperature:.3g}" if rope.temperature != 1 else name
