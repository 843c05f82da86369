"""Documents of `datasets`: from the Hub, from a folder it saved, or from a dataset in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.reading.arrow_text import read_table
from ultralong_hf.data.reading.files import find_files, fingerprint_files
from ultralong_hf.data.reading.records import Document, Report, Rows, Selection, Source, digest
from ultralong_hf.data.reading.values import BadValueError, Fields, check_text, missing_column
from ultralong_hf.errors import DocumentError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_BATCH_ROWS = 256
OUR_KEYS = ("text_column", "format", "share", "label", "where")
"""Keys of an entry that `load_dataset` does not take."""


def open_hub(entry: dict[str, Any], fields: Fields) -> Source:
    """The dataset that `datasets.load_dataset` opens, a stream unless the entry says otherwise.

    The fingerprint of a Hub dataset is of the entry alone, so that a finished store opens without network: a
    corpus is only fixed by its `revision`. Raises DocumentError if the dataset cannot be opened.
    """
    import datasets

    arguments = {"split": "train", "streaming": True, **entry}
    for key in OUR_KEYS:
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
    fingerprint = None if is_local else digest([sorted(arguments.items()), fields])
    return open_dataset(dataset, entry["path"], fields, fingerprint, is_loaded=True)


def open_saved(path: Path, split: str, fields: Fields) -> Source:
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
    fingerprint = digest([fingerprint_files(root, names), fields])
    return open_dataset(datasets.load_from_disk(str(folder)), path.name, fields, fingerprint)


def open_dataset(
    dataset: Dataset | IterableDataset,
    label: str,
    fields: Fields,
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
        if missing := [column for column in fields.columns if column not in names]:
            fault = missing_column(missing[0], names)
            raise DocumentError(f"{label}: {fault} Set text_column or where to one of them.")
        dataset = dataset.select_columns(fields.columns)
    is_stream = isinstance(dataset, datasets.IterableDataset)
    shards = _Shards(dataset) if is_loaded and is_stream else None
    files = shards.count if shards else 1

    def read(selection: Selection, report: Report) -> Iterator[Document]:
        for file, rows in selection.of(files):
            if isinstance(dataset, datasets.Dataset):
                yield from _read_dataset(dataset, fields, rows, report)
            elif shards:
                name = f"shard {file}" if files > 1 else ""
                yield from _read_shard(shards.open(file), label, name, file, fields, rows, report)
            else:
                yield from _read_stream(dataset, label, fields, rows, report)

    rows = _known_rows(dataset)
    return Source(
        label, read, fingerprint, files=files, rows_of=None if rows is None else lambda _: rows / files
    )


def _known_rows(dataset: Dataset | IterableDataset) -> int | None:
    """Rows of a dataset; of a stream, if its card tells."""
    import datasets

    if isinstance(dataset, datasets.Dataset):
        return len(dataset)
    split = (dataset.info.splits or {}).get(str(dataset.split))
    return split.num_examples or None if split else None


class _Shards:
    """The shards of a stream, each as a stream.

    `IterableDataset.shard` takes about 20 us for each shard that there is: 1 s for the 59,166 of SlimPajama.
    So each is taken from a group of shards, and there are about as many groups as shards in one.
    """

    def __init__(self, stream: IterableDataset) -> None:
        self.count = stream.num_shards
        self._stream = stream
        self._groups = math.isqrt(self.count)
        self._group, self._opened = -1, stream

    def open(self, number: int) -> IterableDataset:
        """Shard `number`, from 0."""
        size, larger = divmod(self.count, self._groups)  # the first `larger` groups have one more
        edge = larger * (size + 1)
        group = number // (size + 1) if number < edge else larger + (number - edge) // size
        if group != self._group:
            self._opened = self._stream.shard(num_shards=self._groups, index=group)
            self._group = group
        first = group * size + min(group, larger)
        return self._opened.shard(num_shards=self._opened.num_shards, index=number - first)


def _read_dataset(dataset: Dataset, fields: Fields, rows: Rows, report: Report) -> Iterator[Document]:
    tables = dataset.with_format("arrow")
    for first in range(rows.start, len(tables), _BATCH_ROWS):
        table = tables[first : first + _BATCH_ROWS]
        yield from read_table(table, fields, first=first, rows=rows, name="", file=0, report=report)


def _read_shard(
    shard: IterableDataset, label: str, name: str, file: int, fields: Fields, rows: Rows, report: Report
) -> Iterator[Document]:
    first = 0
    tables = shard.with_format("arrow").iter(batch_size=_BATCH_ROWS)
    while table := _next(tables, label, f"{name}, row {first}" if name else f"row {first}"):
        yield from read_table(table[0], fields, first=first, rows=rows, name=name, file=file, report=report)
        first += len(table[0])


def _read_stream(
    stream: IterableDataset, label: str, fields: Fields, rows: Rows, report: Report
) -> Iterator[Document]:
    records = iter(stream)
    row = 0
    while record := _next(records, label, f"row {row}"):
        if rows.holds(row) and (not fields.where or fields.match(record[0])):
            try:
                if fields.text not in record[0]:
                    raise missing_column(fields.text, record[0])
                text = check_text(record[0][fields.text], fields.text)
            except BadValueError as fault:
                report(fault.at(0, row, f"row {row}"))
            else:
                yield Document(text, f"row {row}", 0, row)
        row += 1


def _next(items: Iterator[Any], label: str, place: str) -> tuple[Any] | None:
    """The next item, alone in a tuple, or None at the end. Raises DocumentError where a stream breaks."""
    try:
        return (next(items),)
    except StopIteration:
        return None
    except Exception as error:  # a remote stream raises errors of five libraries
        reason = " ".join(str(error).split())
        raise DocumentError(f"{label}: cannot be read from {place} on: {reason}") from error
