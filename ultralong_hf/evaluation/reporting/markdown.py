"""The report as Markdown: the page's own sections, with pictures for its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultralong_hf.evaluation.pages import Callout, Drawing, Preformatted, Section, Table


def markdown_of(title: str, sections: Sequence[Section], pictures: Path) -> str:
    """The text; pictures are named relative to the report's folder and drawn into `pictures`."""
    parts = [f"# {_inline(title)}"]
    for heading, blocks in sections:
        parts.append(f"## {_inline(heading)}")
        parts += [_block(block, pictures) for block in blocks]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Numbers as the page has them; the caption stands above."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.rows]
    text = "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)
    return f"*{_inline(table.caption)}*\n\n{text}" if table.caption else text


def _block(block: Any, pictures: Path) -> str:
    if isinstance(block, str):
        return _inline(block)
    if isinstance(block, Table):
        return markdown_table(block)
    if isinstance(block, Preformatted):
        return f"```\n{block.text}\n```"
    if isinstance(block, Callout):
        return f"> **{_inline(block.title)}**\n>\n" + "\n".join(f"> - {_inline(p)}" for p in block.points)
    assert isinstance(block, Drawing), type(block)
    pictures.mkdir(parents=True, exist_ok=True)
    path = pictures / f"{block.name}.png"
    block.draw(path)
    return f"![{_inline(block.description)}]({pictures.name}/{path.name})"


def _cell(value: str | int | float) -> str:
    text = value if isinstance(value, str) else f"{value:,}"
    return _inline(text).replace("|", "\\|").replace("\n", " ")


def _inline(text: str) -> str:
    """Names of tasks and models hold underscores and stars, which mean themselves."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>[]" else letter for letter in text)
