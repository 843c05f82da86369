"""Rows straight from the tokenizer, past the cache, where each document is taken once and as it comes.

The cache still gets the index of the documents, from which the plan, the account and the segments are made as
ever. A file of it ends with each file of rows, with the documents whose tokens are all in rows by then. So a
run that was stopped goes on with the first document that is in no index, and skips of it what rows have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from ultralong_hf.data.encoding.cache_index import read_index
from ultralong_hf.data.encoding.token_cache import EncodedDocuments, TokenCache
from ultralong_hf.data.store import StoreWriter
from ultralong_hf.data.storing.gathering import rows_per_block


def goes_straight(writer: StoreWriter, cache: TokenCache) -> bool:
    """Whether this store is written so; not a part, a repair, or what was begun through the cache."""
    is_whole = writer.part is None and writer.finished is None
    return writer.settings.goes_straight and is_whole and cache.tokens == 0


def write_straight(
    writer: StoreWriter,
    cache: TokenCache,
    documents: Iterable[EncodedDocuments],
    engine: dict[str, Any],
    progress: Callable[[int], object],
) -> None:
    """As `fill_cache`, but the ids of the documents, which follow those of the cache, become rows."""
    settings = writer.settings
    separator = np.array(settings.separator_ids, settings.dtype)
    with closing(_stream(cache, documents, separator, progress)) as stream:
        rows = RowStream(stream, settings.target_length, np.dtype(settings.dtype))
        in_rows, in_index = _places(writer, cache)
        rows.skip(in_rows - in_index)
        for number in itertools.count(len(writer.rows)):
            blocks = rows.blocks(settings.rows_per_shard)
            first = next(blocks, None)
            if first is None:
                return
            writer.add_rows(writer.write_rows(number, itertools.chain([first], blocks)))
            cache.close_file(engine)


class RowStream:
    """Cuts a stream of tokens into rows."""

    def __init__(self, stream: Iterator[np.ndarray], target_length: int, dtype: np.dtype[Any]) -> None:
        self._stream = stream
        self._rest = np.empty(0, dtype)
        self._buffer = np.empty((rows_per_block(target_length), target_length), dtype)

    def skip(self, tokens: int) -> None:
        """Leaves out the next tokens."""
        while tokens and self._has_rest():
            skipped = min(tokens, len(self._rest))
            self._rest, tokens = self._rest[skipped:], tokens - skipped

    def blocks(self, most: int) -> Iterator[np.ndarray]:
        """The next rows, `most` at most, in blocks as `gather_rows` makes them; each overwrites the last."""
        for first in range(0, most, len(self._buffer)):
            block = self._buffer[: most - first]
            full = self._fill(block.reshape(-1)) // block.shape[1]
            if full:
                yield block[:full]
            if full < len(block):
                return

    def _fill(self, tokens: np.ndarray) -> int:
        """Puts the next tokens there; how many there were."""
        filled = 0
        while filled < len(tokens) and self._has_rest():
            piece = self._rest[: len(tokens) - filled]
            tokens[filled : filled + len(piece)] = piece
            self._rest, filled = self._rest[len(piece) :], filled + len(piece)
        return filled

    def _has_rest(self) -> bool:
        while not len(self._rest):
            following = next(self._stream, None)
            if following is None:
                return False
            self._rest = following
        return True


def _stream(
    cache: TokenCache,
    documents: Iterable[EncodedDocuments],
    separator: np.ndarray,
    progress: Callable[[int], object],
) -> Generator[np.ndarray]:
    """Each document after its separator. What is told of them goes into the cache when they were taken."""
    for batch in documents:
        yield from with_separators(batch.tokens, batch.lengths, separator)
        cache.append(batch._replace(tokens=[]))
        progress(int(batch.lengths.sum()))


def with_separators(
    pieces: Iterable[np.ndarray], lengths: np.ndarray, separator: np.ndarray
) -> Iterator[np.ndarray]:
    """The documents of each piece, of these lengths, each after a separator; none before an empty one.

    >>> [one.tolist() for one in with_separators([np.array([1, 1, 2])], np.array([2, 0, 1]), np.array([7]))]
    [[7, 1, 1, 7, 2]]
    """
    sizes = iter(lengths[lengths > 0].tolist())
    for piece in pieces:
        parts, end = [], 0
        while end < len(piece):
            start, end = end, end + next(sizes)
            parts += [separator, piece[start:end]]
        if parts:
            yield np.concatenate(parts)


def _places(writer: StoreWriter, cache: TokenCache) -> tuple[int, int]:
    """How far rows and index go in the stream, whose first separator is in no row."""
    width, lengths = len(writer.settings.separator_ids), read_index([cache.folder]).length
    in_rows = width + sum(rows.row_count for rows in writer.rows) * writer.settings.target_length
    return in_rows, int(lengths.sum()) + width * int((lengths > 0).sum())
