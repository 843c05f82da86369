"""Documents of Arrow columns: Parquet files, and what `datasets` holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ultralong_hf.data.records import DAMAGED, EMPTY, NOT_UTF8, Document, Fault, Report, Rows, SourceFile
from ultralong_hf.data.values import BadValueError, check_text, missing_column, not_utf8
from ultralong_hf.errors import DocumentError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_BYTES = 4 * 1024**2
_BATCH_ROWS = 1024
_BUFFER_BYTES = 1024**2
"""Read ahead of a column, so that a row group of GBs is not held at once."""


def read_column(
    values: pa.Array | pa.ChunkedArray,
    *,
    column: str,
    first: int,
    rows: Rows,
    name: str,
    file: int,
    report: Report,
) -> Iterator[Document]:
    """The selected documents of a column whose first value is row `first` of its file."""
    prefix = f"{name}, row " if name else "row "
    for index in rows.within(first, len(values)):
        row = first + index
        try:
            text = values[index].as_py()
            if type(text) is not str:
                text = check_text(text, column)
        except UnicodeDecodeError as error:
            report(Fault(file, row, f"{prefix}{row}", NOT_UTF8, not_utf8(error).detail))
        except BadValueError as fault:
            report(Fault(file, row, f"{prefix}{row}", fault.word, fault.detail))
        else:
            if text:
                yield Document(text, f"{prefix}{row}", file, row)
            else:
                report(Fault(file, row, f"{prefix}{row}", EMPTY, "no characters."))


def read_parquet(file: SourceFile, column: str, rows: Rows, report: Report) -> Iterator[Document]:
    """The selected documents of a Parquet file, batch by batch.

    What cannot be read as Parquet is reported as one fault, from that row to the end of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, total = 0, 1
    try:
        with pq.ParquetFile(file.path, buffer_size=_BUFFER_BYTES) as table:
            total = table.metadata.num_rows
            if column not in table.schema_arrow.names:
                fault = missing_column(column, table.schema_arrow.names)
                _report_rest(file, rows, 0, total, fault, report)
                return
            for group in range(table.num_row_groups):
                length = table.metadata.row_group(group).num_rows
                if first + length <= rows.start:
                    first += length
                    continue
                for batch in table.iter_batches(_batch_rows(table, group), [group], [column]):
                    yield from read_column(
                        batch.column(0),
                        column=column,
                        first=first,
                        rows=rows,
                        name=file.name,
                        file=file.number,
                        report=report,
                    )
                    first += len(batch)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DocumentError(f"{file.path}: cannot be read: {error.strerror}.") from error
        seen = " ".join(str(error).split())
        fault = BadValueError(DAMAGED, f"the file can be read up to row {first} only: {seen}")
        _report_rest(file, rows, first, max(total - first, 1), fault, report)


def _report_rest(
    file: SourceFile, rows: Rows, first: int, length: int, fault: BadValueError, report: Report
) -> None:
    """Reports `length` rows of a file as one fault. Every part counts its own of them."""
    records = len(rows.within(first, length))
    if records:
        place = f"{file.name}, row {first}" if first else file.name
        is_named = rows.holds(first)
        report(Fault(file.number, first, place, fault.word, fault.detail, records, is_named))


def _batch_rows(table: pq.ParquetFile, group: int) -> int:
    """Rows of about 4 MB, by the mean of the row group."""
    metadata = table.metadata.row_group(group)
    mean = metadata.total_byte_size / max(metadata.num_rows, 1)
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(mean, 1))))
