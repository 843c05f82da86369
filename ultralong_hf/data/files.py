"""Documents in local files: JSON lines, Parquet and text, plain or compressed, a document at a time."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultralong_hf.errors import DocumentError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
"""Suffix, without that of a compression -> format. Every other file is text: one file, one document."""

_EDGE_BYTES = 64 * 1024
_BATCH_ROWS = 16  # Parquet rows decoded at a time; few, because one document may hold 50 MB.


def find_files(pattern: str) -> tuple[Path, list[Path]]:
    """The folder that names are told from, and the files of a path, a folder or a glob, sorted by name.

    Folders are read recursively, without hidden files. Raises DocumentError if nothing is there.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file() and not _is_hidden(f.relative_to(path)))
        root = path
    else:
        files = sorted(f for f in map(Path, glob.glob(str(path), recursive=True)) if f.is_file())
        root = Path(os.path.commonpath([f.parent for f in files])) if files else path
    if not files:
        raise DocumentError(
            f"{pattern}: no file is there. Check the path; a glob such as 'books/**/*.txt' works too."
        )
    return root, files


def file_format(path: Path, forced: str | None = None) -> str:
    """jsonl, parquet or text: what `forced` says, else what the suffix says."""
    if forced is not None:
        if forced not in {*FORMATS.values(), "text"}:
            raise DocumentError(f"{path}: format {forced!r} is not known. Choose jsonl, parquet or text.")
        return forced
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1], "text") if suffixes else "text"


def fingerprint_files(root: Path, files: list[Path]) -> str:
    """Digest of names, sizes and the first and last 64 KiB of each file, without the folder they lie in.

    A change in the middle that keeps the size is not seen here, but when an unfinished store goes on.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE_BYTES))
            if size > _EDGE_BYTES:
                file.seek(max(size - _EDGE_BYTES, _EDGE_BYTES))
                digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()


def read_file(path: Path, format: str, text_column: str) -> Iterator[tuple[str, str]]:
    """(place in the file, text) of each document; the place is "" for a text file.

    Raises DocumentError, naming file and row, for a missing column, a value that is no text, and bytes
    that are not UTF-8 or not what the suffix promises.
    """
    readers = {"jsonl": _read_jsonl, "parquet": _read_parquet, "text": _read_text}
    return readers[format](path, text_column)


def check_text(value: Any, place: str, column: str) -> str:
    """`value` if it is text that can be written as UTF-8, else DocumentError."""
    if isinstance(value, bytes):
        value = _decode(value, place)
    if value is None:
        raise DocumentError(f"{place}: column {column!r} is null, not a text.")
    if not isinstance(value, str):
        raise DocumentError(f"{place}: column {column!r} holds {type(value).__name__}, not a text.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"{place}: character {error.start} is half of a surrogate pair, which no UTF-8 text can hold."
        ) from None
    return value


def missing_column(place: str, column: str, present: list[str]) -> DocumentError:
    """The error for a record without the text column."""
    there = ", ".join(map(repr, present)) or "none"
    return DocumentError(
        f"{place}: no column {column!r}. Columns there: {there}. Set text_column to one of them."
    )


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{place}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8. "
            "Convert the file, or leave it out."
        ) from None


def _open(path: Path) -> io.BufferedReader:
    """The file, decompressed by pyarrow as its last suffix says."""
    import pyarrow as pa

    stream = pa.input_stream(str(path), compression=COMPRESSIONS.get(path.suffix.lower()))
    return io.BufferedReader(stream, buffer_size=1 << 20)


def _read_jsonl(path: Path, text_column: str) -> Iterator[tuple[str, str]]:
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.isspace():
                    continue
                yield f"line {number}", _record_text(line, f"{path}, line {number}", text_column)
    except (OSError, EOFError) as error:
        raise DocumentError(f"{path}: cannot be read after line {number}: {error}") from error


def _record_text(line: bytes, place: str, text_column: str) -> str:
    try:
        record = json.loads(_decode(line, place))
    except json.JSONDecodeError as error:
        raise DocumentError(
            f"{place}: no JSON ({error.msg}). One object a line is read; "
            "for one document a file set format: text."
        ) from None
    if not isinstance(record, dict):
        raise DocumentError(f"{place}: {type(record).__name__}, not an object with a column {text_column!r}.")
    if text_column not in record:
        raise missing_column(place, text_column, list(record))
    return check_text(record[text_column], place, text_column)


def _read_parquet(path: Path, text_column: str) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            if text_column not in file.schema_arrow.names:
                raise missing_column(str(path), text_column, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[text_column]):
                for scalar in batch.column(0):
                    yield f"row {row}", _scalar_text(scalar, f"{path}, row {row}", text_column)
                    row += 1
    except (OSError, pa.ArrowException) as error:
        raise DocumentError(f"{path}: cannot be read as Parquet after row {row}: {error}") from error


def _scalar_text(scalar: Any, place: str, text_column: str) -> str:
    try:
        value = scalar.as_py()
    except UnicodeDecodeError as error:
        raise DocumentError(f"{place}: byte {error.start} of column {text_column!r} is not UTF-8.") from None
    return check_text(value, place, text_column)


def _read_text(path: Path, text_column: str) -> Iterator[tuple[str, str]]:
    try:
        with _open(path) as file:
            data = file.read()
    except (OSError, EOFError) as error:
        raise DocumentError(f"{path}: cannot be read: {error}") from error
    yield "", check_text(data, str(path), text_column)
