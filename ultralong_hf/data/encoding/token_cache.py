"""The token cache: the ids of every document, once, in the order of the sources; rows are copied from it.

tokens-00000.bin       ids, document after document: raw uint16 or uint32, little-endian; empty where
                       they went straight into rows
tokens-00000.parquet   the index: a record a document, in order
tokens-00000.json      facts about these two, digests too; written after them: without it they are unfinished
complete.json          written when the last document is in
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ultralong_hf.data.reading.records import Key
from ultralong_hf.data.storing.shards import file_sha256, read_json, replacing, write_json

if TYPE_CHECKING:
    import pyarrow as pa

FILE_TOKENS = 64 << 20
"""Of a cache file, or a document more."""
FILE_SECONDS = 60.0
"""After these a file is closed too: a slow tokenizer loses no more work than this to a kill."""
FORMAT = 1
COMPLETE = "complete.json"

KEYS = {"source": "int32", "file": "int32", "row": "int64"}
NUMBERS = {**KEYS, "length": "int64", "characters": "int64", "digest": "uint64"}


class EncodedDocuments(NamedTuple):
    """Some documents in order, as they go into the cache."""

    keys: np.ndarray
    """int64 [n, 3]: source, file, row."""
    names: pa.Array
    """large_string [n]."""
    tokens: list[np.ndarray]
    """Ids in pieces of some documents each, in the cache's dtype; none: they are kept elsewhere."""
    lengths: np.ndarray
    """int64 [n], tokens."""
    characters: np.ndarray
    """int64 [n]."""
    digests: np.ndarray
    """uint64 [n], of the texts."""
    columns: dict[str, np.ndarray]
    """[n, ...] each: what filters and orders want to know of a document."""
    records: dict[str, Any]
    """State of the record policy after the last of them."""


class TokenCache:
    """Appends documents, and takes up after the last whole file where an earlier run was stopped."""

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        """Opens or begins the cache. Files that are torn, and those after them, are forgotten."""
        self.folder = folder
        self.dtype = dtype.newbyteorder("<")
        self.files: list[dict[str, Any]] = []
        """Facts of the whole files: name, documents, tokens, digests, last key, state of records, engine."""
        self.complete: dict[str, Any] | None = None
        """What `finish` was given, once it was."""
        self._open: _OpenFile | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._take_up()

    @property
    def last(self) -> Key | None:
        """Key of the last document in a whole file."""
        return Key(*self.files[-1]["last"]) if self.files else None

    @property
    def documents(self) -> int:
        """In whole files."""
        return sum(facts["documents"] for facts in self.files)

    @property
    def tokens(self) -> int:
        """In whole files."""
        return sum(facts["tokens"] for facts in self.files)

    @property
    def is_due(self) -> bool:
        """Whether the file at hand is long or old enough to be closed."""
        return self._open is not None and (self._open.tokens >= FILE_TOKENS or self._open.age >= FILE_SECONDS)

    def append(self, batch: EncodedDocuments) -> None:
        """Adds documents that follow the last ones to the file at hand."""
        if self._open is None:
            self._open = _OpenFile(self._path(len(self.files)))
        self._open.append(batch)

    def close_file(self, engine: dict[str, Any]) -> None:
        """Makes the file at hand, if there is one, a whole one; `engine` is what tokenized its documents."""
        if self._open is not None:
            facts = self._open.close(engine)
            self._open = None
            self.files.append(facts)

    def finish(self, records: dict[str, Any], engine: dict[str, Any], notices: Sequence[str]) -> None:
        """Closes the cache after the last document, with the state of the record policy."""
        self.close_file(engine)
        self.complete = {
            "format": FORMAT,
            "files": len(self.files),
            "records": records,
            "engines": self.engines(engine),
            "notices": list(notices),
        }
        write_json(self.folder / COMPLETE, self.complete)

    def engines(self, engine: dict[str, Any]) -> list[dict[str, Any]]:
        """Those that tokenized the files, in order, and `engine` if there is none."""
        used: list[dict[str, Any]] = []
        for facts in self.files:
            if facts["engine"] not in used:
                used.append(facts["engine"])
        return used or [engine]

    def abandon(self) -> None:
        """Removes the file at hand, which is not whole; the whole ones stay."""
        if self._open is not None:
            self._open.remove()
            self._open = None

    def clear(self) -> None:
        """Removes everything."""
        self.abandon()
        remove_cache(self.folder)
        self.folder.mkdir()
        self.files, self.complete = [], None

    def _path(self, number: int) -> Path:
        return self.folder / f"tokens-{number:05d}.bin"

    def _take_up(self) -> None:
        while (path := self._path(len(self.files)).with_suffix(".json")).is_file():
            facts = read_json(path, FORMAT)
            if not is_whole(self.folder, facts, self.dtype):
                break
            self.files.append(facts)
        whole = {self._path(number).stem for number in range(len(self.files))}
        torn = [f for f in self.folder.glob("tokens-*") if f.name.split(".")[0] not in whole]
        if (self.folder / COMPLETE).is_file():
            complete = read_json(self.folder / COMPLETE, FORMAT)
            if not torn and complete["files"] == len(self.files):
                self.complete = complete
            else:
                (self.folder / COMPLETE).unlink()
        for path in [*torn, *self.folder.glob("*.part")]:
            path.unlink(missing_ok=True)


class _OpenFile:
    """The file at hand: ids go to disk as they come, the index at the end."""

    def __init__(self, path: Path) -> None:
        import xxhash

        self.path = path
        self.tokens = 0
        self._part = path.with_name(f"{path.name}.part")
        self._file = self._part.open("wb", buffering=0)
        self._digest = xxhash.xxh3_128()
        self._batches: list[EncodedDocuments] = []
        self._records: dict[str, Any] = {}
        self._begun = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds."""
        return time.monotonic() - self._begun

    def append(self, batch: EncodedDocuments) -> None:
        for piece in batch.tokens:
            data = np.ascontiguousarray(piece).data.cast("B")
            self._digest.update(data)
            while data:
                data = data[self._file.write(data) :]
            self.tokens += len(piece)
        self._records = batch.records
        self._batches.append(batch._replace(tokens=[], records={}))

    def close(self, engine: dict[str, Any]) -> dict[str, Any]:
        """Gives the file its name and writes its index and then its facts, which it returns."""
        self._file.close()
        os.replace(self._part, self.path)
        facts = {
            "format": FORMAT,
            "name": self.path.stem,
            "documents": sum(len(batch.names) for batch in self._batches),
            "tokens": self.tokens,
            "xxh3": self._digest.hexdigest(),
            "index_sha256": _write_index(self.path.with_suffix(".parquet"), self._batches),
            "last": self._batches[-1].keys[-1].tolist(),
            "records": self._records,
            "engine": engine,
        }
        write_json(self.path.with_suffix(".json"), facts)
        return facts

    def remove(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


def index_files(folder: Path) -> list[Path]:
    """The index of each whole file of a cache, in order."""
    return [facts.with_suffix(".parquet") for facts in sorted(folder.glob("tokens-*.json"))]


def is_whole(folder: Path, facts: Mapping[str, Any], dtype: np.dtype[Any]) -> bool:
    """Whether a file of a cache is as it was written."""
    ids, index = (folder / f"{facts['name']}{suffix}" for suffix in (".bin", ".parquet"))
    try:
        return (
            ids.stat().st_size == facts["tokens"] * dtype.itemsize
            and _xxh3(ids) == facts["xxh3"]
            and file_sha256(index) == facts["index_sha256"]
        )
    except OSError:
        return False


def remove_cache(folder: Path) -> None:
    """Deletes a cache; what says that it is whole goes first."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _xxh3(path: Path) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _write_index(path: Path, batches: list[EncodedDocuments]) -> str:
    """A record a document; the file's SHA-256."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = np.concatenate([batch.keys for batch in batches])
    values: dict[str, pa.Array] = {
        name: pa.array(keys[:, number].astype(kind)) for number, (name, kind) in enumerate(KEYS.items())
    }
    values["name"] = pa.concat_arrays([batch.names for batch in batches])
    for name, field in (("length", "lengths"), ("characters", "characters"), ("digest", "digests")):
        values[name] = pa.array(np.concatenate([getattr(batch, field) for batch in batches]))
    for name in batches[0].columns:
        values[name] = _to_arrow(np.concatenate([batch.columns[name] for batch in batches]))
    with replacing(path) as sink:
        pq.write_table(pa.table(values), sink, compression="zstd", compression_level=1)
        return sink.sha256.hexdigest()


def _to_arrow(column: np.ndarray) -> pa.Array:
    """A column of numbers, or of rows of numbers."""
    import pyarrow as pa

    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
