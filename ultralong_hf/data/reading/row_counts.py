"""About how many rows a local file has, told by its head or its footer."""

from __future__ import annotations

import os

from ultralong_hf.data.reading.decompression import DECOMPRESSORS
from ultralong_hf.errors import DocumentError

_HEAD_BYTES = 256 * 1024


def estimate_rows(path: str, format: str) -> float:
    """Exact for text (one) and Parquet; of JSON lines by the lines in the first 256 KiB.

    At least 1. Raises DocumentError if the system cannot read the file; a damaged one counts as one row.
    """
    if format == "text":
        return 1.0
    try:
        return max(1.0, _parquet_rows(path) if format == "parquet" else _lines(path))
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _parquet_rows(path: str) -> float:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return float(pq.read_metadata(path).num_rows)
    except pa.ArrowException:
        return 1.0


def _lines(path: str) -> float:
    suffix = os.path.splitext(path)[1].lower()
    with open(path, "rb", buffering=0) as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(_HEAD_BYTES)
    text = head
    if suffix in DECOMPRESSORS:
        try:
            text = DECOMPRESSORS[suffix]().decompress(head)
        except Exception:  # each decompressor raises an error of its own; reading the file reports it
            return 1.0
    lines = text.count(b"\n")
    if size <= len(head):
        return float(lines + (not text.endswith(b"\n") and bool(text)))
    return size * lines / len(head)
