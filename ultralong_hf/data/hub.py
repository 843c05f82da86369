"""Documents of `datasets`: from the Hub, from a folder it saved, or from a dataset in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.arrow_text import read_column
from ultralong_hf.data.files import find_files, fingerprint_files
from ultralong_hf.data.records import (
    EMPTY,
    Document,
    Fault,
    Report,
    Rows,
    Selection,
    Source,
    digest,
)
from ultralong_hf.data.values import BadValueError, check_text, missing_column
from ultralong_hf.errors import DocumentError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_BATCH_ROWS = 256
OURS = ("text_column", "format", "share")
"""Keys of an entry that `load_dataset` does not take."""


def open_hub(entry: dict[str, Any], text_column: str) -> Source:
    """The dataset that `datasets.load_dataset` opens, a stream unless the entry says otherwise.

    The fingerprint of a Hub dataset is of the entry alone, so that a finished store opens without network: a
    corpus is only fixed by its `revision`. Raises DocumentError if the dataset cannot be opened.
    """
    import datasets

    arguments = {"split": "train", "streaming": True, **entry}
    for key in OURS:
        arguments.pop(key, None)
    try:
        dataset = datasets.load_dataset(**arguments)
    except Exception as error:  # load_dataset raises errors of five libraries
        reason = " ".join(str(error).split())
        raise DocumentError(
            f"{entry['path']}: no such file or folder here, and as a Hub dataset it cannot be opened: "
            f"{reason}"
        ) from error
    is_local = "/" not in entry["path"] or Path(entry["path"]).exists()
    fingerprint = None if is_local else digest([sorted(arguments.items()), text_column])
    return open_dataset(dataset, entry["path"], text_column, fingerprint, is_loaded=True)


def open_saved(path: Path, split: str, text_column: str) -> Source:
    """A folder written by `save_to_disk`: of a dataset, or of one for each split."""
    import datasets

    if (path / "manifest.json").is_file():
        raise DocumentError(f"{path} is a token store, not documents: its rows are packed already.")
    folder = path
    if not (path / "state.json").is_file():
        folder = path / split
        if not (folder / "state.json").is_file():
            splits = ", ".join(sorted(f.parent.name for f in path.glob("*/state.json"))) or "none"
            raise DocumentError(f"{path}: no split {split!r}. Splits there: {splits}.")
    root, names = find_files(str(folder))
    fingerprint = digest([fingerprint_files(root, names), text_column])
    return open_dataset(datasets.load_from_disk(str(folder)), path.name, text_column, fingerprint)


def open_dataset(
    dataset: Dataset | IterableDataset,
    label: str,
    text_column: str,
    fingerprint: str | None,
    *,
    is_loaded: bool = False,
) -> Source:
    """A dataset or stream as a source.

    A stream just loaded (`is_loaded`) is read shard by shard. One that a caller has worked on (take, shuffle)
    gives other rows by shards than as a whole, so it is read as a whole.
    """
    import datasets

    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise DocumentError(
            f"{label} is a {type(dataset).__name__} of several splits: choose one, such as data['train']."
        )
    names = dataset.column_names
    if names is not None:
        if text_column not in names:
            raise DocumentError(
                f"{label}: {missing_column(text_column, names)} Set text_column to one of them."
            )
        dataset = dataset.select_columns([text_column])
    files = dataset.num_shards if is_loaded and isinstance(dataset, datasets.IterableDataset) else 1

    def read(selection: Selection, report: Report) -> Iterator[Document]:
        for file, rows in selection.of(files):
            name = f"shard {file}" if files > 1 else ""
            if isinstance(dataset, datasets.Dataset):
                yield from _read_table(dataset, label, text_column, rows, report)
            elif is_loaded:
                shard = dataset.shard(num_shards=files, index=file)
                yield from _read_shard(shard, label, name, file, text_column, rows, report)
            else:
                yield from _read_records(dataset, label, text_column, rows, report)

    return Source(label, read, fingerprint, files=files)


def _read_table(dataset: Any, label: str, column: str, rows: Rows, report: Report) -> Iterator[Document]:
    tables = dataset.with_format("arrow")
    for first in range(rows.start, len(tables), _BATCH_ROWS):
        values = tables[first : first + _BATCH_ROWS][column]
        yield from read_column(values, column=column, first=first, rows=rows, name="", file=0, report=report)


def _read_shard(
    shard: Any, label: str, name: str, file: int, column: str, rows: Rows, report: Report
) -> Iterator[Document]:
    first = 0
    prefix = f"{name}, row " if name else "row "
    tables = shard.with_format("arrow").iter(batch_size=_BATCH_ROWS)
    while True:
        try:
            table = next(tables)
        except StopIteration:
            return
        except Exception as error:  # a remote stream raises errors of five libraries
            raise DocumentError(f"{label}: cannot be read from {prefix}{first} on: {error}") from error
        if column not in table.column_names:
            fault = missing_column(column, table.column_names)
            for row in rows.within(first, len(table)):
                report(Fault(file, first + row, f"{prefix}{first + row}", fault.word, fault.detail))
        else:
            yield from read_column(
                table[column], column=column, first=first, rows=rows, name=name, file=file, report=report
            )
        first += len(table)


def _read_records(dataset: Any, label: str, column: str, rows: Rows, report: Report) -> Iterator[Document]:
    records = enumerate(dataset)
    row = -1
    while True:
        try:
            row, record = next(records)
        except StopIteration:
            return
        except Exception as error:  # a remote stream raises errors of five libraries
            raise DocumentError(f"{label}: cannot be read after row {row}: {error}") from error
        if not rows.holds(row):
            continue
        try:
            if column not in record:
                raise missing_column(column, record)
            text = check_text(record[column], column)
        except BadValueError as fault:
            report(Fault(0, row, f"row {row}", fault.word, fault.detail))
        else:
            if text:
                yield Document(text, f"row {row}", 0, row)
            else:
                report(Fault(0, row, f"row {row}", EMPTY, "no characters."))
