"""HTML pages that need nothing else: style, tables and plotly.js (once) are inside the file."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Table:
    """Column names, and rows of values as text or numbers; numbers are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    caption: str = ""


@dataclass(frozen=True)
class Preformatted:
    """Text whose blanks and lines are kept: a command, a prompt."""

    text: str


@dataclass(frozen=True)
class Callout:
    """What must not be overlooked: a title, and points under it."""

    title: str
    points: Sequence[str]


@dataclass(frozen=True)
class Drawing:
    """A figure for pages, and the same as a picture for where none can be moved about in."""

    name: str
    """Of the picture's file, without its suffix."""
    description: str
    figure: go.Figure
    draw: Callable[[Path], object]
    """Writes the picture as PNG."""


Block: TypeAlias = "str | Table | Preformatted | Callout | Drawing | go.Figure"
Section: TypeAlias = "tuple[str, Sequence[Block]]"

_STYLE = """
:root { color-scheme: light dark; --text: #1d2433; --quiet: #5b6477; --page: #f6f7f9; --card: #ffffff;
        --line: #dde1e8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9f0; --quiet: #a2abbd; --page: #12161e; --card: #1b212c; --line: #333c4b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1.2rem; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
          padding: 1.1rem 1.3rem; margin: 0 0 1.2rem; overflow-x: auto; }
p { margin: .4rem 0 .8rem; max-width: 75ch; }
table { border-collapse: collapse; margin: .4rem 0 .9rem; font-size: .93rem;
        font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); font-size: .9rem; padding-bottom: .35rem; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; }
th { color: var(--quiet); font-weight: 600; }
.number { text-align: right; }
td:first-child { white-space: nowrap; }
.plotly-graph-div { min-width: 460px; }
.callout { border-left: 4px solid #c8451b; padding: .1rem 0 .1rem 1rem; margin: .3rem 0 .9rem; }
.callout b { display: block; } .callout ul { margin: .3rem 0; padding-left: 1.1rem; max-width: 85ch; }
.callout li { margin: .2rem 0; overflow-wrap: anywhere; }
pre { background: var(--page); border-radius: 6px; padding: .7rem .9rem; overflow-x: auto;
      font-size: .87rem; }
"""
# plotly draws its own text: it takes the page's colour now, and again when the reader's system changes.
_FOLLOW_COLOURS = """
function followColours() {
  const text = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
  document.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.relayout(plot, {"font.color": text}));
}
window.addEventListener("load", followColours);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", followColours);
"""


def write_html_report(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes one self-contained page and returns its path.

    sections: (heading, blocks) each; a block is a paragraph (str), a Table, Preformatted text, a Callout, a
    Drawing, or a plotly figure. All text is escaped. The file is whole or not there.
    """
    path = Path(path)
    figures_before = 0
    body = []
    for heading, blocks in sections:
        parts = [f"<h2>{html.escape(heading)}</h2>"] if heading else []
        for block in blocks:
            parts.append(_block(block, first_figure=figures_before == 0))
            figures_before += _is_figure(block)
        body.append("<section>\n" + "\n".join(parts) + "\n</section>")
    script = f"<script>{_FOLLOW_COLOURS}</script>\n" if figures_before else ""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(body) + f"\n</main>\n{script}</body>\n</html>\n"
    )
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def _is_figure(block: object) -> bool:
    return not isinstance(block, str | Table | Preformatted | Callout)


def _block(block: Block, *, first_figure: bool) -> str:
    if isinstance(block, str):
        return f"<p>{html.escape(block)}</p>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Preformatted):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Callout):
        points = "".join(f"<li>{html.escape(point)}</li>" for point in block.points)
        return f'<div class="callout"><b>{html.escape(block.title)}</b><ul>{points}</ul></div>'
    figure = block.figure if isinstance(block, Drawing) else block
    return _figure(figure, with_library=first_figure)


def _figure(figure: go.Figure, *, with_library: bool) -> str:
    import plotly.graph_objects as go

    themed = go.Figure(figure)
    themed.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,0.6)", "activecolor": "#0072b2"},
    )
    grid = "rgba(128,128,128,0.25)"
    themed.update_xaxes(gridcolor=grid, zerolinecolor=grid, linecolor=grid, automargin=True)
    themed.update_yaxes(gridcolor=grid, zerolinecolor=grid, linecolor=grid, automargin=True)
    return str(
        themed.to_html(
            full_html=False,
            include_plotlyjs=with_library,
            config={"displaylogo": False, "responsive": True},
        )
    )


def _table(table: Table) -> str:
    def cell(tag: str, value: str | int | float, *, number: bool) -> str:
        text = value if isinstance(value, str) else f"{value:,}"
        kind = ' class="number"' if number else ""
        return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

    numeric = [
        bool(table.rows) and all(not isinstance(row[column], str) for row in table.rows)
        for column in range(len(table.columns))
    ]
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    head = "".join(cell("th", name, number=numeric[i]) for i, name in enumerate(table.columns))
    rows = "\n".join(
        "<tr>" + "".join(cell("td", value, number=numeric[i]) for i, value in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"
