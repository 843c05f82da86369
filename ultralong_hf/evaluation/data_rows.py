"""Records of a data file by their row: JSON Lines, Parquet or a list, read when asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError


class Rows(Sequence[dict[str, Any]]):
    """Records of a file by their row, from 0; read when asked for."""

    name: str

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def record(self, row: int, fields: Sequence[str]) -> dict[str, Any]:
        """The row, all of `fields` in it. Raises EvaluationError that names what it lacks."""
        record = self[row]
        if not isinstance(record, dict):
            raise EvaluationError(f"{self.name}, row {row}, is a {type(record).__name__}, not a record.")
        lacking = [field for field in fields if field not in record]
        if lacking:
            raise EvaluationError(
                f"{self.name}, row {row}, has no {', '.join(lacking)}; it has {', '.join(sorted(record))}. "
                "Is it the official file of this task?"
            )
        return record


class ListedRows(Rows):
    """Records of a JSON list."""

    def __init__(self, rows: list[Any], name: str) -> None:
        self._rows, self.name = rows, name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        return self._rows[row]


class JsonLines(Rows):
    """Lines of a file, found once, parsed when asked for: books of a million tokens stay on the disk.

    Blank lines are passed over, as the benchmarks' readers do.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self.name = path, name
        self._lines: list[tuple[int, int, int]] = []  # line number from 1, first byte, bytes
        start = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._lines.append((number, start, len(line)))
                start += len(line)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, row: Any) -> Any:
        number, start, length = self._lines[row]
        with self._path.open("rb") as file:
            file.seek(start)
            line = file.read(length)
        try:
            return json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{self.name}, line {number}, is no JSON record: {error}.") from error


class ParquetRows(Rows):
    """Rows of a Parquet file; the row group read last is kept."""

    def __init__(self, path: Path, name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path, self.name = path, name
        try:
            metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise EvaluationError(f"{path} is no Parquet file: {' '.join(str(error).split())}") from error
        self._groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._kept: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return sum(self._groups)

    def __getitem__(self, row: Any) -> Any:
        import pyarrow.parquet as pq

        if not 0 <= row < len(self):
            raise IndexError(row)
        group = 0
        while row >= self._groups[group]:
            row -= self._groups[group]
            group += 1
        if self._kept[0] != group:
            self._kept = group, pq.ParquetFile(self._path).read_row_group(group)
        return self._kept[1].slice(row, 1).to_pylist()[0]
