"""The needle lab's tries as a table of depth by length, each cell coloured by what was found."""

from __future__ import annotations

from collections.abc import Sequence

from ultralong_hf.chat.needle_lab import Attempt, by_cell
from ultralong_hf.chat.page import texts

# The depths that are always there, so that the map is seen to grow.
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)


def heat_map(attempts: Sequence[Attempt]) -> str:
    if not attempts:
        return f"<p>{texts.MAP_EMPTY}</p>"
    cells = by_cell(attempts)
    lengths = sorted({one.length for one in attempts}, key=lambda length: length or float("inf"))
    depths = sorted({*DEPTHS, *(one.depth for one in attempts)})
    whole = max((one.tokens for one in attempts if one.length is None), default=0)
    names = [f"{length:,}" if length else f"{texts.WHOLE_LENGTH} ({whole:,})" for length in lengths]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{depth:g} %</th>{"".join(_cell(cells.get((n, depth))) for n in lengths)}</tr>'
        for depth in depths
    )
    return (
        f'<table class="ul-map"><caption>{texts.MAP_CAPTION}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cell(counted: tuple[int, int] | None) -> str:
    if counted is None:
        return "<td></td>"
    found, tries = counted
    level = "hit" if found == tries else "miss" if found == 0 else "some"
    return f'<td class="{level}">{found}/{tries}</td>'
