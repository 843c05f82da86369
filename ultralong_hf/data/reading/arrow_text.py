"""Documents of Arrow tables: Parquet files, and what `datasets` holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.reading.records import DAMAGED, Document, Fault, Report, Rows, SourceFile
from ultralong_hf.data.reading.values import BadValueError, Fields, check_text, missing_column, not_utf8
from ultralong_hf.errors import DocumentError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_BYTES = 4 * 1024**2
_BATCH_ROWS = 1024
_BUFFER_BYTES = 1024**2
"""Read ahead of a column; with pre_buffer a row group would be held whole (667 MB of one of 180,000 rows)."""


def read_table(
    table: pa.RecordBatch | pa.Table,
    fields: Fields,
    *,
    first: int,
    rows: Rows,
    name: str,
    file: int,
    report: Report,
) -> Iterator[Document]:
    """The selected documents of a table whose first row is row `first` of the file that it is a piece of."""
    prefix = f"{name}, row " if name else "row "
    selected = list(rows.within(first, len(table)))
    if fields.where:
        selected = _matching(table, fields, selected)
    if fields.text not in table.schema.names:
        fault = missing_column(fields.text, table.schema.names)
        for index in selected:
            report(fault.at(file, first + index, f"{prefix}{first + index}"))
        return
    values = table.column(fields.text)
    for index in selected:
        row = first + index
        try:
            text = values[index].as_py()
            if type(text) is not str or not text:
                text = check_text(text, fields.text)
        except UnicodeDecodeError as error:
            report(not_utf8(error).at(file, row, f"{prefix}{row}"))
        except BadValueError as fault:
            report(fault.at(file, row, f"{prefix}{row}"))
        else:
            yield Document(text, f"{prefix}{row}", file, row)


def _matching(table: pa.RecordBatch | pa.Table, fields: Fields, selected: list[int]) -> list[int]:
    names = {path[0] for path, _ in fields.where} & set(table.schema.names)
    records: list[dict[str, Any]] = table.select(sorted(names)).to_pylist()
    return [index for index in selected if fields.match(records[index])]


def read_parquet(file: SourceFile, fields: Fields, rows: Rows, report: Report) -> Iterator[Document]:
    """The selected documents of a Parquet file, batch by batch.

    What cannot be read as Parquet is reported as one fault, from that row to the end of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, total = 0, 1
    try:
        with pq.ParquetFile(file.path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
            total = parquet.metadata.num_rows
            if fields.text not in parquet.schema_arrow.names:
                fault = missing_column(fields.text, parquet.schema_arrow.names)
                _report_rest(file, rows, 0, total, fault, report)
                return
            for group in range(parquet.num_row_groups):
                length = parquet.metadata.row_group(group).num_rows
                if first + length <= rows.start:
                    first += length
                    continue
                for batch in parquet.iter_batches(_batch_rows(parquet, group), [group], fields.columns):
                    yield from read_table(
                        batch,
                        fields,
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
        report(Fault(file.number, first, place, fault.word, fault.detail, records, rows.holds(first)))


def _batch_rows(parquet: pq.ParquetFile, group: int) -> int:
    """Rows of about 4 MB, by the mean of the row group."""
    metadata = parquet.metadata.row_group(group)
    mean = metadata.total_byte_size / max(metadata.num_rows, 1)
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(mean, 1))))
