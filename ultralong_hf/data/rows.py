"""Ids of documents -> rows of exactly the target length. No files, no tokenizer: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ultralong_hf.data.accounting import Position


class Segment(NamedTuple):
    """A piece of a row: tokens `start` to `stop` of one document, or of the separator before it."""

    offset: int
    """Where it begins in the row."""
    is_separator: bool
    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class PackedRow:
    """One full row."""

    tokens: np.ndarray
    """[target_length]; a buffer that the next row overwrites."""
    segments: list[Segment]
    consumed: int
    """Tokens of the unit at hand, its separator and its document, that are in rows by now."""


@dataclass(frozen=True)
class PositionedRow:
    """A row, the names of the documents in it, and where the next one begins."""

    row: PackedRow
    names: dict[int, str]
    end: Position


class RowPacker:
    """Joins documents by a separator and cuts the stream into rows; what is left goes into the next row.

    Rows of 4 with separator |: "aaa" "bb" "cc" -> "aaa|" "bb|c"; "c" is too short for a row: it stays
    pending.
    """

    def __init__(
        self, target_length: int, separator_ids: Sequence[int], dtype: np.dtype[Any], *, is_first: bool = True
    ) -> None:
        """`is_first`: no document came before, so that the first one gets no separator."""
        self._row = np.empty(target_length, dtype=dtype)
        self._separator = np.array(separator_ids, dtype=dtype)
        self._filled = 0
        self.is_first = is_first
        self.pending: list[Segment] = []
        """Segments of the row at hand, which is not full."""

    def separator_length(self) -> int:
        """Tokens that the next document is preceded by."""
        return 0 if self.is_first else len(self._separator)

    def add(self, tokens: np.ndarray, document: int, *, skip: int = 0) -> Iterator[PackedRow]:
        """The rows that this document fills. `skip`: tokens of its separator and itself already in rows."""
        separator = self._separator[: self.separator_length()]
        self.is_first = False
        consumed = skip
        for piece, is_separator in ((separator, True), (tokens, False)):
            start, skip = min(skip, len(piece)), max(skip - len(piece), 0)
            while start < len(piece):
                stop = min(len(piece), start + len(self._row) - self._filled)
                self._row[self._filled : self._filled + stop - start] = piece[start:stop]
                self.pending.append(Segment(self._filled, is_separator, document, start, stop))
                self._filled += stop - start
                consumed += stop - start
                start = stop
                if self._filled == len(self._row):
                    yield PackedRow(self._row, self.pending, consumed)
                    self._filled, self.pending = 0, []


def count_tokens(segments: Sequence[Segment]) -> tuple[int, int]:
    """Tokens of documents and of separators in these segments."""
    separators = sum(s.stop - s.start for s in segments if s.is_separator)
    return sum(s.stop - s.start for s in segments) - separators, separators
