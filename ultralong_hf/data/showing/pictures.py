"""A token store as pictures: tokens by document length, as read and in the store; who sees whom in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.errors import StoreError
from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's set, told apart by the colour-blind too; sources beyond the last share its colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_OTHERS = "#bdbdbd"
_OWN, _EARLIER, _UNSEEN = "#0072B2", "#a9cfe8", "#ffffff"
_DOTS_PER_INCH = 150
_CELLS = 720
"""Side of the drawing of a row, in cells; a row of 4M tokens has 5,825 tokens a cell."""


def draw_composition(manifest: Mapping[str, Any], path: Path) -> Path:
    """Draws `composition_figure(manifest)` into the PNG file `path`, whole or not at all.

    Raises StoreError if the file cannot be written.
    """
    return save_figure(composition_figure(manifest), path)


def draw_row(facts: Mapping[str, Any], path: Path, *, mask_documents: bool) -> Path:
    """Draws `row_figure` into the PNG file `path`, whole or not at all.

    Raises StoreError if the file cannot be written.
    """
    return save_figure(row_figure(facts, mask_documents=mask_documents), path)


def composition_figure(manifest: Mapping[str, Any]) -> Figure:
    """Share of the tokens by document length and source: as read above, as taken below."""
    composition = manifest["composition"]
    edges, sources = composition["edges"], composition["sources"]
    used = [n for n in range(len(edges)) if any(s["before"]["documents"][n] for s in sources)]
    shown = range(used[0], used[-1] + 1) if used else range(1)
    figure = new_figure((9.0, 6.4))
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    figure.suptitle(_title(manifest), fontsize=12, x=0.01, ha="left")
    for axes, which, label in ((above, "before", "as read"), (below, "after", "as taken for the store")):
        _draw_buckets(axes, sources, which, shown, label)
    ends = [*edges[shown[0] : shown[-1] + 2]]
    below.set_xticks(np.arange(len(ends)) - 0.5, [format_length(end) if end else "0" for end in ends])
    below.set_xlabel("tokens of a document")
    if len(sources) > 1:
        figure.legend(
            *above.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9
        )
    return figure


def row_figure(facts: Mapping[str, Any], *, mask_documents: bool) -> Figure:
    """One row as its attention: query positions downwards, key positions to the right.

    `facts`: of `describe_row`. Dark: tokens of the same document; light: earlier documents and separators,
    which are hidden with `mask_documents`; white: not seen. Masked, a separator is the end of its document.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    pieces = facts["pieces"]
    length = sum(piece["length"] for piece in pieces)
    figure = new_figure((7.6, 7.0))
    axes = figure.subplots()
    seen = attention_blocks(pieces, cells=min(_CELLS, length), mask_documents=mask_documents)
    axes.imshow(
        seen,
        cmap=ListedColormap([_UNSEEN, _EARLIER, _OWN]),
        vmin=0,
        vmax=2,
        extent=(0, length, length, 0),
        interpolation="nearest",
    )
    rule = "each document sees itself alone" if mask_documents else "all that came before is seen"
    figure.suptitle(
        f"Row {facts['row']}: {length:,} tokens, {facts['documents']:,} documents; {rule}",
        fontsize=12,
        x=0.01,
        ha="left",
    )
    ticks = np.linspace(0, length, 5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{round(tick):,}" for tick in ticks])
    axes.set_xlabel("token that is seen")
    axes.set_ylabel("token that sees")
    legend = [Patch(color=_OWN, label="same document")]
    if not mask_documents:
        legend.append(Patch(color=_EARLIER, label="earlier document or separator"))
    axes.legend(handles=legend, loc="upper right", frameon=False, fontsize=9)
    return figure


def attention_blocks(pieces: Sequence[Mapping[str, Any]], *, cells: int, mask_documents: bool) -> np.ndarray:
    """uint8 [cells, cells]: 0 not seen, 1 seen in another document, 2 in the same.

    Of each cell the token in its middle counts.

    >>> pieces = [{"offset": 0, "length": 2, "document": 0, "is_separator": False}]
    >>> attention_blocks(pieces, cells=2, mask_documents=False).tolist()
    [[2, 0], [2, 2]]
    """
    length = pieces[-1]["offset"] + pieces[-1]["length"]
    middles = (np.arange(cells) * 2 + 1) * length // (2 * cells)
    offsets = np.array([piece["offset"] for piece in pieces])
    numbers = np.array(_numbers(pieces, mask_documents))
    document = numbers[np.searchsorted(offsets, middles, side="right") - 1]
    seen = np.where(document[:, None] == document[None, :], 2, 0 if mask_documents else 1)
    return np.tril(seen).astype(np.uint8)


def _numbers(pieces: Sequence[Mapping[str, Any]], mask_documents: bool) -> list[int]:
    """Of each piece a number, the same for all that belongs together."""
    numbers: list[int] = []
    for index, piece in enumerate(pieces):
        of_its_own = -1 - index
        before = numbers[-1] if numbers and mask_documents else of_its_own
        numbers.append(before if piece["is_separator"] else piece["document"])
    return numbers


def _title(manifest: Mapping[str, Any]) -> str:
    tokens, length = manifest["tokens"], manifest["settings"]["target_length"]
    return (
        f"{manifest['documents']['read']:,} documents, {tokens['of_documents']:,} tokens -> "
        f"{manifest['rows']:,} rows of {format_length(length)}"
    )


def _draw_buckets(
    axes: Axes, sources: Sequence[Mapping[str, Any]], which: str, shown: range, label: str
) -> None:
    total = sum(sum(source[which]["tokens"]) for source in sources) or 1
    bottom = np.zeros(len(shown))
    for number, source in enumerate(sources):
        height = np.array([source[which]["tokens"][n] for n in shown]) / total
        colour = COLOURS[number] if number < len(COLOURS) else _OTHERS
        axes.bar(range(len(shown)), height, 0.8, bottom=bottom, color=colour, label=source["label"])
        bottom += height
    axes.set_title(f"{label}: {total:,} tokens", fontsize=10, loc="left")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("of the tokens")
    axes.grid(True, axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(inches: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, dpi=_DOTS_PER_INCH, format="png")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path
