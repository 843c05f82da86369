"""Records of conversations from any source, as they stand there, and what is no record."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ultralong_hf.data.instructions.json_lists import is_json_list, read_json_list
from ultralong_hf.data.reading.decompression import DamagedError
from ultralong_hf.data.reading.files import file_format, find_files, fingerprint_files
from ultralong_hf.data.reading.records import DAMAGED, Fault, Report, digest
from ultralong_hf.data.reading.text_files import parse_slowly, read_lines
from ultralong_hf.data.reading.values import BadValueError
from ultralong_hf.errors import ConversationError, DocumentError
from ultralong_hf.recipes.schema import Source

_FORMATS = "JSON lines, JSON lists and Parquet"
_HUB_KEYS = ("name", "data_dir", "data_files", "revision")


class Record(NamedTuple):
    """A row as it stands in its source."""

    value: Any
    """An object, or a list of messages; nothing is checked."""
    place: str
    """Such as "chat.jsonl, row 17": rows from 1."""
    file: int = 0
    row: int = 0
    """From 0; of JSON lines the line."""


@dataclass(frozen=True)
class RecordSource:
    """Records that can be read in order, as often as `read` is called."""

    label: str
    read: Callable[[Report], Iterator[Record]]
    fingerprint: str
    """Digest that changes with the content; of a Hub dataset with what is asked for."""
    origin: str
    """Where it was found, for reports."""


def open_source(source: Source, data_dir: str | None = None) -> RecordSource:
    """The records of a local file, folder or glob, a local copy under `data_dir`, or a Hub dataset.

    With `data_files`, a Hub dataset's files are downloaded as they are and read here, one format for all;
    without, `datasets` streams it. Raises ConversationError for what is neither.
    """
    path = Path(source.path).expanduser()
    if path.exists() or any(mark in source.path for mark in "*?["):
        return _open_files(source, str(path))
    if source.path.count("/") != 1 or _is_file_name(path):
        raise ConversationError(
            f"{source.path} is no file, folder or glob here, and no dataset id of the Hub."
        )
    if data_dir is not None and (copy := _local_copy(source, Path(data_dir).expanduser())):
        return _open_files(source, str(copy))
    if source.data_files is not None:
        return _open_download(source)
    return _open_stream(source)


def read_rows(sources: Iterable[Source]) -> Iterator[tuple[str, Any]]:
    """(place, row) of every source. Raises ConversationError at the first that cannot be read."""

    def refuse(fault: Fault) -> None:
        raise ConversationError(f"{fault.place}: {fault.word}: {fault.detail}")

    for source in sources:
        for record in open_source(source).read(refuse):
            yield record.place, record.value


def _is_file_name(path: Path) -> bool:
    return any(suffix in (".jsonl", ".json", ".parquet", ".ndjson") for suffix in path.suffixes)


def _local_copy(source: Source, folder: Path) -> Path | None:
    """owner/name, owner--name or name under `folder`: a folder, or a file with one of the known endings."""
    owner, name = source.path.split("/")
    for stem in (f"{owner}/{name}", f"{owner}--{name}", name):
        for ending in ("", ".jsonl", ".json", ".parquet", ".jsonl.gz", ".jsonl.zst", ".json.gz"):
            if (copy := folder / f"{stem}{ending}").exists():
                return copy
    return None


def _open_files(source: Source, path: str) -> RecordSource:
    folder = Path(path)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _open_saved(source, folder)
    try:
        root, names = find_files(path)
        names = _of_interest(source, names)
        bad = [name for name in names if file_format(name) == "text"]
        if bad:
            raise ConversationError(
                f"{os.path.join(root, bad[0])}: conversations are read from {_FORMATS} files."
            )
        fingerprint = fingerprint_files(root, names)
    except DocumentError as error:
        raise ConversationError(*error.faults) from error
    return RecordSource(_name(source), _file_reader(root, names), fingerprint, path)


def _of_interest(source: Source, names: list[str]) -> list[str]:
    """Of a folder the files with conversations, and of a split those that are named after it."""
    readable = [name for name in names if file_format(name) != "text"] or names
    if source.split == "train":
        return readable
    named = [name for name in readable if source.split in Path(name).name]
    if not named:
        raise ConversationError(
            f"{source.path}: no file is named after the split {source.split!r}. "
            f"Files: {', '.join(names[:8])}."
        )
    return named


def _open_download(source: Source) -> RecordSource:
    patterns = [source.data_files] if isinstance(source.data_files, str) else list(source.data_files or [])

    def read(report: Report) -> Iterator[Record]:
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(
                source.path, repo_type="dataset", revision=source.revision, allow_patterns=patterns
            )
        except Exception as error:  # the hub's client raises errors of three libraries
            raise ConversationError(f"{source.path} cannot be downloaded: {_one_line(error)}") from error
        found = _open_files(source, folder)
        yield from found.read(report)

    return RecordSource(_name(source), read, _hub_fingerprint(source), f"Hub: {source.path}")


def _open_stream(source: Source) -> RecordSource:
    def read(report: Report) -> Iterator[Record]:
        import datasets

        is_stream = "[" not in source.split  # a slice can be taken of a whole dataset alone
        arguments = {key: getattr(source, key) for key in _HUB_KEYS if getattr(source, key) is not None}
        try:
            dataset = datasets.load_dataset(source.path, split=source.split, streaming=is_stream, **arguments)
            for row, value in enumerate(dataset):
                yield Record(value, f"{source.path}, row {row + 1}", 0, row)
        except Exception as error:  # load_dataset raises errors of five libraries
            raise ConversationError(
                f"{source.path} cannot be loaded: {_one_line(error)} With a copy of it on disk, name its "
                "folder as instruct.data_dir (--data)."
            ) from error

    return RecordSource(_name(source), read, _hub_fingerprint(source), f"Hub: {source.path}")


def _hub_fingerprint(source: Source) -> str:
    return digest([source.path, source.split, *(getattr(source, key) for key in _HUB_KEYS)])


def _open_saved(source: Source, folder: Path) -> RecordSource:
    """A folder written by `save_to_disk`: of a dataset, or of one for each split."""
    if not (folder / "state.json").is_file():
        folder = folder / source.split
    root, names = find_files(str(folder))

    def read(report: Report) -> Iterator[Record]:
        import datasets

        for row, value in enumerate(datasets.load_from_disk(str(folder))):
            yield Record(value, f"{folder.name}, row {row + 1}", 0, row)

    return RecordSource(_name(source), read, fingerprint_files(root, names), str(folder))


def _name(source: Source) -> str:
    label = getattr(source, "label", None)
    return str(label or Path(source.path).name)


def _file_reader(root: str, names: list[str]) -> Callable[[Report], Iterator[Record]]:
    def read(report: Report) -> Iterator[Record]:
        for number, name in enumerate(names):
            path = os.path.join(root, name)
            is_parquet = file_format(name) == "parquet"
            records = (
                _parquet_records if is_parquet else _list_records if is_json_list(path) else _line_records
            )
            row = -1
            try:
                for row, value in records(path):
                    place = f"{name}, row {row + 1}"
                    if isinstance(value, BadValueError):
                        report(value.at(number, row, place))
                    else:
                        yield Record(value, place, number, row)
            except DamagedError as error:
                detail = f"the file can be read up to row {row + 1} only: {error}."
                report(Fault(number, row + 1, f"{name}, row {row + 2}", error.word, detail))
            except OSError as error:
                raise ConversationError(f"{path} cannot be read: {error.strerror}.") from error

    return read


def _line_records(path: str) -> Iterator[tuple[int, Any]]:
    """(line, record), or the fault of the line; blank lines are none."""
    for row, line in enumerate(read_lines(path)):
        if not line or line.isspace():
            continue
        try:
            yield row, orjson.loads(line)
        except ValueError:
            try:
                yield row, parse_slowly(line)
            except BadValueError as fault:
                yield row, fault


def _list_records(path: str) -> Iterator[tuple[int, Any]]:
    yield from enumerate(read_json_list(path))


def _parquet_records(path: str) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            rows = (row for batch in parquet.iter_batches(batch_size=256) for row in batch.to_pylist())
            yield from enumerate(rows)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DamagedError(_one_line(error), DAMAGED) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
