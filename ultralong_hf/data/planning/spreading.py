"""Uses of one document moved to rows of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ultralong_hf.data.planning.layout import Layout
from ultralong_hf.data.planning.tables import Uses, own_numbers, repeated_uses, uniform

_PATIENCE = 20
"""Attempts at all clashing documents together without fewer clashes after which it is tried one by one."""
_STEPS = 2000
"""Attempts at single uses."""
_LEAP = 16
"""Of so many steps one may go to more clashes, out of a dead end."""
_WORK = 50_000_000
"""Uses times attempts of either kind: of 10 M uses half a minute, where nothing helps."""


def spread_over_rows(uses: Uses, lay_out: Callable[[Uses], Layout], *, seed: int, holds_first: bool) -> Uses:
    """The uses in an order in which no document is twice in one row, as far as attempts can find it.

    Where a document is, all its uses are moved to rows spread over the store (with `holds_first`: all but the
    first), the others closing up; and again, elsewhere, until none is or no attempt has helped for a while.
    Then single uses are put at random where that leaves no more clashes than there were. It cannot be helped
    where a document has more uses than there are rows; and it may not be found where documents are so long
    against the store that hardly a row is without a part of them: `Layout.repeats_within_rows` tells.
    """
    if not uses.copy.any():
        return uses
    layout, clashes = _spread_documents(lay_out(uses), lay_out, seed, holds_first=holds_first)
    if len(clashes):
        layout = _move_single_uses(layout, clashes, lay_out, seed, holds_first=holds_first)
    return layout.uses


def _spread_documents(
    layout: Layout, lay_out: Callable[[Uses], Layout], seed: int, *, holds_first: bool
) -> tuple[Layout, np.ndarray]:
    """The best layout found, and its clashes."""
    clashes = layout.repeats_within_rows()
    best, failures = (layout, clashes), 0
    for attempt in range(4 + _WORK // len(layout.uses)):
        if len(clashes) == 0 or layout.rows < 2 or failures > _PATIENCE:
            break
        order = _move(layout, clashes, f"spread {attempt}", seed, holds_first=holds_first)
        layout = lay_out(layout.uses.take(order))
        clashes = layout.repeats_within_rows()
        failures += 1
        if len(clashes) < len(best[1]):
            best, failures = (layout, clashes), 0
    return best


def _move_single_uses(
    layout: Layout, clashes: np.ndarray, lay_out: Callable[[Uses], Layout], seed: int, *, holds_first: bool
) -> Layout:
    """The best layout found by moving uses (with `holds_first`: not the first ones), without fewer rows."""
    size, rows = len(layout.uses), layout.rows
    best, fewest = layout, len(clashes)
    steps = min(_STEPS, _WORK // size)
    turns = uniform(seed, "single", np.arange(2 * steps)).reshape(steps, 2)
    for step, (which, where) in enumerate(turns):
        movable = np.flatnonzero(layout.uses.copy > 0) if holds_first else np.arange(size)
        moving = movable[int(which * len(movable))]
        order = np.insert(np.delete(np.arange(size), moving), int(where * size), moving)
        attempt = lay_out(layout.uses.take(order))
        remaining = attempt.repeats_within_rows()
        if attempt.rows >= rows and (len(remaining) <= len(clashes) or step % _LEAP == 0):
            layout, clashes = attempt, remaining
        if len(clashes) < fewest:
            best, fewest = layout, len(clashes)
        if fewest == 0:
            break
    return best


def _move(layout: Layout, clashes: np.ndarray, purpose: str, seed: int, *, holds_first: bool) -> np.ndarray:
    """Indices of the uses in a new order, in which those of the clashing documents lie in rows far apart."""
    uses = layout.uses
    repeated, group = repeated_uses(uses)
    is_moving = np.isin(group, group[np.isin(repeated, clashes)])
    moving, group = repeated[is_moving], np.unique(group[is_moving], return_inverse=True)[1]
    # the rows that may be taken, counted round the store from the first free one
    begin, room = np.zeros(group[-1] + 1, dtype=np.int64), np.full(group[-1] + 1, layout.rows)
    if holds_first:
        is_first = uses.copy[moving] == 0
        first, last = (rows[moving[is_first]] for rows in layout.rows_of_uses())
        begin, room = last + 1, np.maximum(layout.rows - (last - first + 1), 1)
        moving, group = moving[~is_first], group[~is_first]
    counts = np.bincount(group)
    number = np.arange(len(moving)) - (np.cumsum(counts) - counts)[group]
    turn = own_numbers(seed, purpose, uses.take(moving))
    first_turn = turn[np.cumsum(counts) - counts]
    row = begin[group] + ((number + first_turn[group]) * room[group] / counts[group]).astype(np.int64)
    position = _position_in(layout, row % layout.rows, uses.length[moving], turn)
    return _insert(layout, moving, position)


def _position_in(layout: Layout, row: np.ndarray, length: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Where in the stream documents of these lengths begin, for as few rows as they can lie in."""
    needed = -(-length // layout.target_length)
    slack = needed * layout.target_length - length
    row = np.minimum(row, np.maximum(layout.rows - needed, 0))
    return layout.row_starts[row] + (turn * slack).astype(np.int64)


def _insert(layout: Layout, moving: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Indices of the uses: those that stay in their order, the others so that they begin near `position`."""
    size = layout.uses.length + layout.separator_length
    staying = np.delete(np.arange(len(size)), moving)
    by_position = np.argsort(position, kind="stable")
    moving, position = moving[by_position], position[by_position]
    # of the tokens before a position, those of moved uses are known: the rest are of uses that stay
    before = np.maximum.accumulate(position - np.cumsum(size[moving]))
    return np.insert(staying, np.searchsorted(np.cumsum(size[staying]), before), moving)
