"""Phase 3 of a store: rows are copied out of the token cache, as the layout says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ultralong_hf.data.encoding.cache_index import TokenReader
from ultralong_hf.data.planning.layout import SEGMENT

if TYPE_CHECKING:
    import pyarrow as pa

    from ultralong_hf.data.encoding.cache_index import CacheIndex
    from ultralong_hf.data.planning.layout import Layout

BLOCK_TOKENS = 1 << 20
"""Rows are made so many tokens at a time, or one at a time if that is longer."""


class PackedRows(NamedTuple):
    """Some full rows, one after the other."""

    tokens: np.ndarray
    """[rows, target_length]; a buffer that the next ones overwrite."""
    pieces: np.ndarray
    """dtype SEGMENT; what is in them, in order."""
    documents: np.ndarray
    """int64 [pieces]: the document of each piece; of a separator, the one that follows it."""


def rows_per_block(target_length: int) -> int:
    """How many rows are made at a time, and make a record batch of a shard."""
    return max(1, BLOCK_TOKENS // target_length)


def gather_rows(
    index: CacheIndex, layout: Layout, rows: range, *, separator_ids: Sequence[int], dtype: np.dtype[Any]
) -> Iterator[PackedRows]:
    """These rows of the layout, in order."""
    length = layout.target_length
    block = rows_per_block(length)
    separator = np.array(separator_ids, dtype=dtype)
    buffer = np.empty(min(block, max(len(rows), 1)) * length, dtype=dtype)
    with TokenReader(index.paths, dtype) as reader:
        for first in range(rows.start, rows.stop, block):
            stop = min(first + block, rows.stop)
            pieces, documents = row_pieces(layout, range(first, stop))
            tokens = buffer[: (stop - first) * length]
            places = (pieces["row"] - first) * length + pieces["offset"]
            _put_separators(tokens, places, pieces, separator)
            _read_documents(reader, index, tokens, places, pieces, documents)
            yield PackedRows(tokens.reshape(-1, length), pieces, documents)


def row_pieces(layout: Layout, rows: range) -> tuple[np.ndarray, np.ndarray]:
    """What is in these rows, and of which documents, as in PackedRows."""
    pieces = layout.segments(rows.start, rows.stop)
    return pieces, layout.uses.document[pieces["use"]]


def segment_table(blocks: Sequence[tuple[np.ndarray, np.ndarray]], names: pa.Array) -> dict[str, Any]:
    """The columns of a segments file.

    `blocks`: pieces and documents of PackedRows. `names`: of all documents.
    """
    import pyarrow as pa

    pieces = np.concatenate([pieces for pieces, _ in blocks])
    documents = np.concatenate([documents for _, documents in blocks])
    columns = {name: np.ascontiguousarray(pieces[name]) for name in SEGMENT.names or () if name != "use"}
    return {**columns, "document": documents, "name": names.take(pa.array(documents))}


def _put_separators(
    tokens: np.ndarray, places: np.ndarray, pieces: np.ndarray, separator: np.ndarray
) -> None:
    """`separator[start:stop]` at the place of each separator."""
    is_separator = pieces["is_separator"]
    places, pieces = places[is_separator], pieces[is_separator]
    lengths = pieces["stop"] - pieces["start"]
    before = np.cumsum(lengths) - lengths
    counted = np.arange(int(lengths.sum()))
    tokens[counted + np.repeat(places - before, lengths)] = separator[
        counted + np.repeat(pieces["start"] - before, lengths)
    ]


def _read_documents(
    reader: TokenReader,
    index: CacheIndex,
    tokens: np.ndarray,
    places: np.ndarray,
    pieces: np.ndarray,
    documents: np.ndarray,
) -> None:
    """Tokens `start` to `stop` of the document at the place of each piece of one."""
    is_text = ~pieces["is_separator"]
    places, pieces, documents = places[is_text], pieces[is_text], documents[is_text]
    start = index.offset[documents] + pieces["start"]
    lengths = pieces["stop"] - pieces["start"]
    reader.read(tokens, places.tolist(), index.path[documents].tolist(), start.tolist(), lengths.tolist())
