"""The documents of token caches: facts about each as columns, and their ids where they are asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.data.encoding.token_cache import KEYS, NUMBERS, index_files
from ultralong_hf.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

_OPEN_FILES = 256


@dataclass(frozen=True)
class CacheIndex:
    """The documents of a cache, or of the caches of all parts, in the order of their keys."""

    source: np.ndarray
    """int32 [D]."""
    length: np.ndarray
    """int64 [D], tokens."""
    characters: np.ndarray
    """int64 [D]."""
    digest: np.ndarray
    """uint64 [D], of the text."""
    columns: dict[str, np.ndarray]
    """[D, ...] each."""
    names: pa.Array
    """[D]."""
    paths: list[Path]
    path: np.ndarray
    """int32 [D]: in which of `paths` the ids are."""
    offset: np.ndarray
    """int64 [D], tokens before them in that file."""

    def __len__(self) -> int:
        return len(self.length)


def read_index(folders: Sequence[Path]) -> CacheIndex:
    """The index of the whole files in these caches. Raises StoreError for a key that is there twice."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    indices = [index for folder in folders for index in index_files(folder)]
    paths = [index.with_suffix(".bin") for index in indices]
    tables = [pq.read_table(index).replace_schema_metadata() for index in indices]
    if not tables:
        return _no_documents()
    table = pa.concat_tables(tables)
    numbers = {name: table[name].to_numpy() for name in NUMBERS}
    offset = np.concatenate([_starts(one["length"].to_numpy()) for one in tables])
    path = np.repeat(np.arange(len(tables), dtype=np.int32), [len(one) for one in tables])
    others = [name for name in table.column_names if name not in (*NUMBERS, "name")]
    columns = {name: _to_numpy(table[name]) for name in others}
    names = pa.concat_arrays(table["name"].chunks)
    order = _key_order(numbers)
    if order is not None:
        numbers = {name: values[order] for name, values in numbers.items()}
        columns = {name: values[order] for name, values in columns.items()}
        offset, path, names = offset[order], path[order], names.take(pa.array(order))
    facts = {name: numbers[name] for name in ("source", "length", "characters", "digest")}
    return CacheIndex(columns=columns, names=names, paths=paths, path=path, offset=offset, **facts)


class TokenReader:
    """Copies ids out of cache files by pread: no map of a file grows in memory, few files are open."""

    def __init__(self, paths: Sequence[Path], dtype: np.dtype[Any]) -> None:
        self._paths = paths
        self._itemsize = dtype.itemsize
        self._open: OrderedDict[int, int] = OrderedDict()

    def __enter__(self) -> TokenReader:
        return self

    def __exit__(self, *error: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def read(
        self,
        tokens: np.ndarray,
        places: Iterable[int],
        paths: Iterable[int],
        starts: Iterable[int],
        lengths: Iterable[int],
    ) -> None:
        """Fills pieces of `tokens`: at each place so many tokens of a file, from its `start` on."""
        view, size = tokens.data.cast("B"), self._itemsize
        for place, path, start, length in zip(places, paths, starts, lengths, strict=True):
            file = self._open.get(path)
            if file is None:
                file = self._open_file(path)
            piece = view[place * size : (place + length) * size]
            if os.preadv(file, (piece,), start * size) != len(piece):
                self._read_rest(path, piece, start * size)

    def _open_file(self, path: int) -> int:
        if len(self._open) >= _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = os.open(self._paths[path], os.O_RDONLY)
        return self._open[path]

    def _read_rest(self, path: int, piece: memoryview, start: int) -> None:
        """preadv gives at most 2 GiB, and less at a signal."""
        done = 0
        while done < len(piece):
            count = os.preadv(self._open[path], [piece[done:]], start + done)
            if count == 0:
                raise StoreError(f"{self._paths[path]} is shorter than its index says. Delete its folder.")
            done += count


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    width = column.type.list_size
    return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]).reshape(-1, width)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _key_order(numbers: dict[str, np.ndarray]) -> np.ndarray | None:
    """The permutation that sorts by key; None where there is nothing to move."""
    keys = np.stack([numbers[name].astype(np.int64) for name in KEYS], axis=1)
    order = np.lexsort(tuple(keys[:, column] for column in (2, 1, 0)))
    keys = keys[order]
    if len(keys) > 1 and (keys[1:] == keys[:-1]).all(axis=1).any():
        raise StoreError(
            "a document is in more than one part: the parts were not made with the same sources."
        )
    return None if (order == np.arange(len(order))).all() else order


def _no_documents() -> CacheIndex:
    import pyarrow as pa

    return CacheIndex(
        source=np.empty(0, np.int32),
        length=np.empty(0, np.int64),
        characters=np.empty(0, np.int64),
        digest=np.empty(0, np.uint64),
        columns={},
        names=pa.array([], pa.large_string()),
        paths=[],
        path=np.empty(0, np.int32),
        offset=np.empty(0, np.int64),
    )
