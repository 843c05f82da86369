"""Descriptions and comparisons of RoPE as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    from ultralong_hf.rope.describe import Pair, Rope, RopeDescription
    from ultralong_hf.rope.readers import Comparison

_MARKS = {"kept": "kept", "ramp": "ramp", "interpolated": "intp"}
_LEGEND = "kept: as plain RoPE. intp: interpolated, slower by the whole scale. ramp: between."


def description_table(description: RopeDescription) -> str:
    """The RoPE of a model in words, then a line a pair; with a target, the methods side by side."""
    blocks = [f"{description.model}: window {length_text(description.window)} tokens"]
    if description.target_length is None:
        blocks += [f"{rope_line(rope)}\n\n{own_table(rope)}" for rope in description.own]
        blocks.append("\n".join(error_line(rope) for rope in description.own))
    else:
        blocks.append("\n".join(rope_line(rope) for rope in description.own))
        blocks.append("\n".join(rope_line(rope) for rope in description.methods))
        one, *others = description.methods
        blocks.append(methods_table(description.methods) if others else own_table(one))
        blocks.append("\n".join(error_line(rope) for rope in description.methods))
    blocks += [f"note: {note}" for note in description.notes]
    return "\n\n".join(blocks)


def rope_line(rope: Rope) -> str:
    """One RoPE in a line: "llama3: theta 500,000, scale 128 on 8K, temperature 1, for 1M tokens"."""
    counts = [f"{sum(pair.state == state for pair in rope.pairs)} {state}" for state in _MARKS]
    name = rope.name if rope.name == rope.rope_type else f"{rope.name} ({rope.rope_type})"
    return (
        f"{name}: theta {rope.theta:,.0f}, scale {rope.scale:g} on {format_length(rope.original_length)} for "
        f"{format_length(rope.length)} tokens, temperature {rope.temperature:.4f}; pairs: {', '.join(counts)}"
    )


def error_line(rope: Rope) -> str:
    """The errors of angles at the end of the length, in radians."""
    return (
        f"angle error at {format_length(rope.length)}, {rope.name}: {rope.angle_error_float32:.1e} rad in "
        f"float32, as transformers computes angles; {rope.angle_error_exact:.1e} rad with exact angles"
    )


def own_table(rope: Rope) -> str:
    """A line a pair of one RoPE."""
    original, length = format_length(rope.original_length), format_length(rope.length)
    rows = [
        ["", "plain", "plain turns", "", "turns", "", ""],
        ["pair", "wavelength", f"in {original}", "wavelength", f"in {length}", "slower", "state"],
    ]
    for pair in rope.pairs:
        plain = [str(pair.index), number(pair.wavelength / pair.slower), number(pair.turns_original)]
        now = [number(pair.wavelength), number(pair.turns_target), f"{number(pair.slower)}x", pair.state]
        rows.append(plain + now)
    return aligned(rows)


def methods_table(ropes: Sequence[Rope]) -> str:
    """A line a pair: plain RoPE, then for each method the turns within the target and the state."""
    first = ropes[0]
    original, target = format_length(first.original_length), format_length(first.length)
    rows = [
        ["", "plain", "plain turns", *(rope.name for rope in ropes)],
        ["pair", "wavelength", f"in {original}", *(f"turns in {target}" for _ in ropes)],
    ]
    for index, pair in enumerate(first.pairs):
        plain = [str(index), number(pair.wavelength / pair.slower), number(pair.turns_original)]
        rows.append(plain + [_cell(rope.pairs[index]) for rope in ropes])
    return f"{aligned(rows)}\n{_LEGEND}"


def readers_table(comparisons: Iterable[Comparison]) -> str:
    """A line a reader, then every warning."""
    header = [
        "reader",
        "version",
        "type",
        "theta",
        "factor",
        "original",
        "window",
        "temperature",
        "max rel diff",
    ]
    rows, warnings = [], []
    for comparison in comparisons:
        view = comparison.view
        warnings += [f"warning: {warning}" for warning in comparison.warnings]
        if view is None:
            rows.append([comparison.reader, "", "refuses it", *[""] * 6])
            continue
        difference = "-" if comparison.difference is None else f"{comparison.difference:.1g}"
        original = "-" if view.original_length is None else f"{view.original_length:,}"
        figures = [f"{view.theta:,.0f}", f"{view.factor:g}", original, f"{view.window:,}"]
        figures += [f"{view.temperature:.4f}", difference]
        rows.append([view.reader, view.version, view.rope_type, *figures])
    return "\n".join([aligned([header, *rows], left=3), *warnings])


def aligned(rows: Sequence[Sequence[str]], *, left: int = 0) -> str:
    """Columns right-aligned, the first `left` of them left-aligned, two spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def length_text(tokens: int) -> str:
    """A length as both texts: "1M (1,048,576)"; one without a shorter text stands alone."""
    short, exact = format_length(tokens), f"{tokens:,}"
    return exact if short == exact else f"{short} ({exact})"


def number(value: float) -> str:
    """Three digits, without exponents: 6.28, 51.4, 1,234, 0.0195."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(digits, 0)}f}"


def _cell(pair: Pair) -> str:
    return f"{number(pair.turns_target)} {_MARKS[pair.state]}"
