"""Uses of documents -> rows of exactly the target length, as positions only: no token is touched.

The uses are joined by the separator, none before the first, and cut into rows; the last row, if short, is
dropped and counted. Rows of 4, separator "|":

    keep_tail       "aaa" "bb" "cc" -> "aaa|" "bb|c", and "c", too short for a row
    not keep_tail   "aaa" "bbbb" "cccccc" "dd" -> "aaa|" "bbbb" "cccc", and "dd", too short for a row

Without keep_tail a document cut by a row's end loses its tail, a separator its rest, and the next document
begins the next row without a separator before it.

How it is held: all uses in one stream, a separator before each, the first too; a row is a window of it.
Windows follow each other with keep_tail; without, what lies between them is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ultralong_hf.data.planning.tables import Uses, repeated_uses

SEGMENT = np.dtype(
    [
        ("row", np.int64),
        ("offset", np.int64),  # where it begins in the row
        ("is_separator", np.bool_),
        ("use", np.int64),  # which it is a part of, or stands before
        ("start", np.int64),  # from this token of the document, or of the separator
        ("stop", np.int64),  # to before this one
    ]
)


@dataclass(frozen=True)
class Totals:
    """Tokens: of_uses + of_separators = packed + separators + dropped_last_row + dropped_tails."""

    of_uses: int
    of_separators: int
    """Put between documents, in rows or not."""
    packed: int
    """Of documents, in rows."""
    separators: int
    """Of separators, in rows."""
    dropped_last_row: int
    """Of documents and separators, in the last row, which is short."""
    dropped_tails: int
    """Of documents and separators that a row's end cut; 0 with keep_tail."""


@dataclass(frozen=True)
class Layout:
    """Which tokens make which row; see `lay_out_rows`."""

    uses: Uses
    target_length: int
    separator_length: int
    starts: np.ndarray
    """int64 [U]: where the document of each use begins in the stream, after its separator."""
    ends: np.ndarray
    """int64 [U]: where it ends."""
    row_starts: np.ndarray
    """int64 [rows + 1]: where in the stream each row begins, and what is left for the last, short one."""

    @property
    def rows(self) -> int:
        return len(self.row_starts) - 1

    def segments(self, row: int, stop: int | None = None) -> np.ndarray:
        """The pieces of a row, or of rows `row` to `stop`, in order; dtype SEGMENT.

        >>> aaa_bb = Uses(*np.array([[0, 1], [0, 0], [0, 0], [3, 2]]))
        >>> lay_out_rows(aaa_bb, target_length=5, separator_length=1).segments(0).tolist()
        [(0, 0, False, 0, 0, 3), (0, 3, True, 1, 0, 1), (0, 4, False, 1, 0, 1)]

        Raises IndexError for a row that there is not.
        """
        stop = row + 1 if stop is None else stop
        if not 0 <= row <= stop <= self.rows:
            raise IndexError(f"rows {row} to {stop} of {self.rows}")
        begin = self.row_starts[row:stop]
        end = begin + self.target_length
        first = np.searchsorted(self.ends, begin, side="right")
        counts = np.searchsorted(self.starts, end + self.separator_length, side="left") - first
        which = np.repeat(np.arange(len(begin)), counts)
        use = np.arange(len(which)) + (first - np.cumsum(counts) + counts)[which]
        # two candidates a use, its separator and its document, of which those that are in the row stay
        low = self.starts[use][:, None] - [self.separator_length, 0]
        high = np.stack([self.starts[use], self.ends[use]], axis=1)
        cut_low = np.maximum(low, begin[which][:, None])
        cut_high = np.minimum(high, end[which][:, None])
        is_in = cut_low < cut_high
        base = np.stack([np.zeros(len(use), dtype=np.int64), self.uses.start[use]], axis=1) - low
        result = np.empty((len(use), 2), dtype=SEGMENT)
        result["row"] = (row + which)[:, None]
        result["offset"] = cut_low - begin[which][:, None]
        result["is_separator"] = [True, False]
        result["use"] = use[:, None]
        result["start"] = cut_low + base
        result["stop"] = cut_high + base
        return result[is_in]

    def documents_per_row(self) -> np.ndarray:
        """int64 [rows]: uses with a token in the row."""
        begin, end = self._windows()
        return np.searchsorted(self.starts, end, side="left") - np.searchsorted(
            self.ends, begin, side="right"
        )

    def separators_per_row(self) -> np.ndarray:
        """int64 [rows]: separators, whole or cut, in the row."""
        begin, end = self._windows()
        if self.separator_length == 0:
            return np.zeros(self.rows, dtype=np.int64)
        return np.searchsorted(self.starts, end + self.separator_length, side="left") - np.searchsorted(
            self.starts, begin, side="right"
        )

    def rows_of_uses(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [U] each: first and last row that has a token of the use; last < first if none has."""
        first = np.searchsorted(self.row_starts, self.starts, side="right") - 1
        last = np.searchsorted(self.row_starts, self.ends - 1, side="right") - 1
        return first, np.minimum(last, self.rows - 1)

    def repeats_within_rows(self) -> np.ndarray:
        """int64: uses that share a row with another, earlier use of the same tokens."""
        repeated, group = repeated_uses(self.uses)
        first, last = (rows[repeated] for rows in self.rows_of_uses())
        return repeated[1:][(group[1:] == group[:-1]) & (first[1:] <= last[:-1])]

    def totals(self) -> Totals:
        of_uses = int(self.uses.length.sum())
        if len(self.uses) == 0:
            return Totals(0, 0, 0, 0, 0, 0)
        begin, end = self._windows()
        separators = int((self._separators_before(end) - self._separators_before(begin)).sum())
        packed = self.rows * self.target_length - separators
        # a separator is put where it begins within a row, the last short one included
        begin, end = self.row_starts, np.append(end, self.ends[-1])
        size = self.separator_length
        put = np.searchsorted(self.starts, end + size) - np.searchsorted(self.starts, begin + size)
        of_separators = int(put.sum()) * size
        dropped = of_uses + of_separators - packed - separators
        last_row = int(self.ends[-1] - self.row_starts[-1])
        return Totals(of_uses, of_separators, packed, separators, last_row, dropped - last_row)

    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        return self.row_starts[:-1], self.row_starts[:-1] + self.target_length

    def _separators_before(self, positions: np.ndarray) -> np.ndarray:
        """Tokens of separators in the stream before each position."""
        whole = np.searchsorted(self.starts, positions, side="right")
        following = np.append(self.starts, np.iinfo(np.int64).max)[whole] - self.separator_length
        return whole * self.separator_length + np.maximum(positions - following, 0)


def lay_out_rows(uses: Uses, *, target_length: int, separator_length: int, keep_tail: bool = True) -> Layout:
    """The rows that these uses fill, in their order. Lengths in tokens; separator_length may be 0."""
    ends = np.cumsum(uses.length + separator_length)
    starts = ends - uses.length
    if len(uses) == 0:
        row_starts = np.zeros(1, dtype=np.int64)
    elif keep_tail:
        rows = int(ends[-1] - separator_length) // target_length
        row_starts = separator_length + np.arange(rows + 1) * target_length
    else:
        row_starts = _starts_without_tails(starts, int(ends[-1]), target_length)
    return Layout(uses, target_length, separator_length, starts, ends, row_starts)


def _starts_without_tails(starts: np.ndarray, end: int, target_length: int) -> np.ndarray:
    """Each row begins with the first document that begins where the row before has ended, or later."""
    row_starts = [int(starts[0])]
    while row_starts[-1] + target_length <= end:
        following = int(starts.searchsorted(row_starts[-1] + target_length))
        row_starts.append(int(starts[following]) if following < len(starts) else end)
    return np.array(row_starts, dtype=np.int64)
