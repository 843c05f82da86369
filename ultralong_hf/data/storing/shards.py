"""Files of a token store: Arrow shards of rows, Parquet tables of segments, JSON; each whole or absent."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ultralong_hf.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_LARGE = 1 << 20  # bytes from which on two threads hash and write at once

SEGMENT_COLUMNS = ("row", "offset", "is_separator", "document", "start", "stop", "name")


def rows_schema(dtype: str, target_length: int) -> pa.Schema:
    """Arrow schema of rows, with the features that `datasets` reads from it."""
    return _features(dtype, target_length).arrow_schema


def write_rows(path: Path, schema: pa.Schema, blocks: Iterable[np.ndarray]) -> tuple[int, str]:
    """Writes blocks of rows, [rows, target_length], a record batch each; their rows and the file's SHA-256.

    To open a file is to touch the head of each of its batches, and the kernel maps 64 KB around it.
    """
    import pyarrow as pa

    count = 0
    with replacing(path) as sink:
        with pa.ipc.new_stream(sink, schema) as writer:
            for block in blocks:
                column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1])
                writer.write_batch(pa.record_batch([column], schema=schema))
                count += len(block)
        return count, sink.sha256.hexdigest()


def write_segments(path: Path, columns: Mapping[str, Any]) -> str:
    """Writes a table of SEGMENT_COLUMNS, each an array; gives the file's SHA-256."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: columns[name] for name in SEGMENT_COLUMNS})
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as sink:
        pq.write_table(table, sink)
        return sink.sha256.hexdigest()


def read_segments(path: Path, row: int) -> list[dict[str, Any]]:
    """The pieces of one row, in order."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, filters=[("row", "==", row)])
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}). Run the same `ultralong prepare` again."
        ) from error
    return [
        {
            "offset": piece["offset"],
            "length": piece["stop"] - piece["start"],
            "is_separator": piece["is_separator"],
            "document": piece["document"],
            "name": piece["name"],
            "tokens": [piece["start"], piece["stop"]],
        }
        for piece in table.to_pylist()
    ]


def write_dataset_info(folder: Path, dtype: str, target_length: int, shards: list[tuple[str, str]]) -> None:
    """The two files that `datasets.load_from_disk` reads. `shards`: names and digests, in order.

    Rows open in numpy format: in none they would be Python lists, seconds and 100 MB for a row of 4M tokens.
    """
    from datasets import DatasetInfo

    info = asdict(DatasetInfo(features=_features(dtype, target_length)))
    write_json(folder / "dataset_info.json", info)
    state: dict[str, Any] = {
        "_data_files": [{"filename": file} for file, _ in shards],
        "_fingerprint": hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": "numpy",
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)


def file_sha256(path: Path) -> str | None:
    """Digest of a file; none if it is not there."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes the file whole or not at all, the same bytes for the same value."""
    with replacing(path) as sink:
        sink.write((json.dumps(value, indent=1) + "\n").encode())


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a record a line; no file where there is none."""
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    first = next(lines, None)
    if first is None:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as sink:
        for line in itertools.chain([first], lines):
            sink.write(line.encode("utf-8", "backslashreplace") + b"\n")


def read_json(path: Path, format: int) -> dict[str, Any]:
    """A file of ours; StoreError if it is damaged or of another format."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = value["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged, or not of a token store: {error}. Delete the folder."
        ) from error
    if found != format:
        raise StoreError(f"{path} is of format {found}, but this version reads format {format}.")
    return value


class HashingFile:
    """A file for writing that follows its own digest."""

    def __init__(self, file: IO[bytes], hashing: ThreadPoolExecutor) -> None:
        self.sha256 = hashlib.sha256()
        self.closed = False
        self._file = file
        self._hashing = hashing

    def write(self, data: Any) -> int:
        if memoryview(data).nbytes < _LARGE:
            self.sha256.update(data)
            return self._file.write(data)
        hashed = self._hashing.submit(self.sha256.update, data)
        written = self._file.write(data)
        hashed.result()
        return written

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Left to `replacing`, which has yet to rename it."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[HashingFile]:
    """A file that takes its name only when it is whole and on the disk; after an error there is none."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file, ThreadPoolExecutor(1) as hashing:
            yield HashingFile(file, hashing)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _features(dtype: str, target_length: int) -> Any:
    from datasets import Features, List, Value

    return Features({"input_ids": List(Value(dtype), length=target_length)})
