"""Benchmark files, as decontamination reads them: every text in every row."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ultralong_hf.data.reading.decompression import DECOMPRESSORS, DamagedError, read_blocks
from ultralong_hf.data.reading.files import file_format, find_files
from ultralong_hf.errors import DocumentError


class BenchmarkText(NamedTuple):
    """One text of a benchmark, and where it stands."""

    place: str
    """As "gsm8k.jsonl, row 12, question", rows from 0; of a text file its name."""
    text: str


def read_benchmarks(
    pattern: str,
    *,
    columns: Sequence[str] | None = None,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> Iterator[BenchmarkText]:
    """The texts of a file, folder or glob of JSON lines, JSON lists, Parquet and text files.

    All texts of a row are read, within lists and structures too, or those of the named columns alone; a file
    of another kind is one text. With a `split`, `pattern` is a Hub dataset, `name` its configuration. Raises
    DocumentError for what is not there or cannot be read, and for columns that no row has.
    """
    if split is not None:
        label = pattern if name is None else f"{pattern}, {name}"
        parts = {label: _read_hub(pattern, name, split, revision)}
    else:
        root, names = find_files(pattern)
        parts = {file: _read_rows(os.path.join(root, file)) for file in names}
    missing = set(columns or ())
    for label, rows in parts.items():
        for number, row in enumerate(rows):
            chosen = {key: value for key, value in row.items() if columns is None or key in columns}
            missing.difference_update(chosen)
            for column, value in chosen.items():
                place = f"{label}, row {number}, {column}" if column else label
                yield from (BenchmarkText(place, text) for text in _texts(value))
    if missing:
        raise DocumentError(
            f"{pattern}: no row has the columns {sorted(missing)}. Name others, or none for all."
        )


def _read_hub(path: str, name: str | None, split: str, revision: str | None) -> Iterator[dict[str, Any]]:
    import datasets

    try:
        yield from datasets.load_dataset(path, name, split=split, revision=revision)
    except Exception as error:  # load_dataset raises errors of five libraries
        reason = " ".join(str(error).split())
        raise DocumentError(
            f"benchmark {path} cannot be loaded: {reason} Give a file with its texts in its place, or leave "
            "it out of decontaminate.files."
        ) from error


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _read_rows(path: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    readers = {"jsonl": _read_json, "parquet": _read_parquet, "text": _read_text}
    try:
        yield from readers[file_format(path)](path)
    except (OSError, DamagedError, UnicodeDecodeError, json.JSONDecodeError, pa.ArrowException) as error:
        raise DocumentError(f"benchmark file {path} cannot be read: {error}") from error


def _read_json(path: str) -> Iterator[dict[str, Any]]:
    """Rows of JSON lines, or of one list of objects."""
    text = _decompress(path)
    rows = (
        json.loads(text)
        if text.lstrip().startswith("[")
        else map(json.loads, filter(str.strip, text.split("\n")))
    )
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DocumentError(f"benchmark file {path}, row {number}: {type(row).__name__}, not an object.")
        yield row


def _read_parquet(path: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _read_text(path: str) -> Iterator[dict[str, Any]]:
    yield {"": _decompress(path)}


def _decompress(path: str) -> str:
    suffix = os.path.splitext(path.lower())[1]
    if suffix in DECOMPRESSORS:
        return b"".join(read_blocks(path, suffix)).decode("utf-8")
    with open(path, encoding="utf-8") as file:
        return file.read()
