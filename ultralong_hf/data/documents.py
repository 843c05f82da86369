"""Documents of any source, one at a time and in its order: nothing is held but the document at hand."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ultralong_hf.data.reading.bad_records import BadRecord, RecordPolicy
from ultralong_hf.data.reading.decompression import DECOMPRESSORS
from ultralong_hf.data.reading.files import FORMATS, file_format, find_files, fingerprint_files, read_file
from ultralong_hf.data.reading.hub import OUR_KEYS, open_dataset, open_hub, open_saved
from ultralong_hf.data.reading.records import (
    Document,
    Key,
    Part,
    Report,
    Selection,
    Source,
    SourceFile,
    digest,
)
from ultralong_hf.data.reading.row_counts import estimate_rows
from ultralong_hf.data.reading.values import BadValueError, Fields, check_text
from ultralong_hf.errors import DocumentError

__all__ = [
    "BadRecord",
    "Document",
    "Key",
    "Part",
    "RecordPolicy",
    "Source",
    "open_sources",
    "read_documents",
]

ENTRY_KEYS = ("path", "name", "data_dir", "data_files", "split", "revision", "streaming", *OUR_KEYS)
HUB_KEYS = {"name", "data_dir", "data_files", "revision", "streaming"}
FILE_SUFFIXES = {*FORMATS, *DECOMPRESSORS, ".txt", ".md", ".py"}
"""Texts with these endings are taken for file names, never for names of Hub datasets."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")


def open_sources(sources: Any, *, text_column: str = "text") -> list[Source]:
    """The sources that `prepare_dataset` takes, each as a Source; nothing is read but fingerprints.

    `sources` is one of
    - a path or glob (text or `Path`): JSON lines, Parquet or text, plain, .gz, .zst, .bz2 or .xz; a text file
      is one document; of a folder all files are read. A text "owner/name" that is no path: a Hub dataset;
    - an entry: a mapping with the keys of `datasets.load_dataset` (path, name, data_dir, data_files, split,
      revision, streaming) and ours; or a recipe's `DocumentSource`. Ours are text_column, format (jsonl,
      parquet, text), label (what reports and shares call the source), share (of the tokens) and where: only
      records with these values are of the source, {"meta.set": "books"} or {"meta.set": ["books", "arxiv"]};
    - a `datasets.Dataset` or `IterableDataset`;
    - a list of entries, `Path`s and datasets;
    - any other iterable of texts: these are the documents themselves.

    Raises DocumentError for anything else.
    """
    if _is_entry(sources):
        return [_open_entry(sources, text_column)]
    if isinstance(sources, list | tuple) and sources and all(map(_is_listed_entry, sources)):
        return [_open_entry(entry, text_column) for entry in sources]
    if isinstance(sources, Iterable) and not isinstance(sources, Mapping | bytes):
        return [_open_texts(sources)]
    raise DocumentError(
        f"{type(sources).__name__} is no source of documents: give a path, a dataset or texts."
    )


def read_documents(
    sources: list[Source],
    *,
    part: Part = Part(),  # noqa: B008 - it cannot change
    policy: RecordPolicy | None = None,
    start: Key | None = None,
) -> Iterator[tuple[int, Document]]:
    """The index of its source and each document of a part, in the order of `Key`, from `start` on.

    Records before `start` are neither given nor counted, and files before it are not opened. At each document
    `policy` has counted the records up to it and no further, so its state and the document's key, one row on,
    are where a later call takes up. Raises DocumentError as `policy` says; none: `RecordPolicy()`.
    """
    if not 0 <= part.index < part.count:
        raise DocumentError(f"part {part.index} of {part.count}: the index runs from 0 to {part.count - 1}.")
    policy = policy or RecordPolicy()
    start = start or Key(0, 0, 0)
    for index in range(start.source, len(sources)):
        source = sources[index]
        counts = policy.begin(index, source.label)
        file, row = (start.file, start.row) if index == start.source else (0, 0)
        for document in source.read(Selection(part, file, row), partial(policy.add, index)):
            counts.good += 1
            yield index, document
        policy.check(index)
        if source.has_where and counts.records == 0 and part.count == 1:
            raise DocumentError(f"{source.label}: no record has the values of where. Look at their spelling.")


def _is_dataset(value: Any) -> bool:
    """A dataset of `datasets`, told without importing it for those who use none."""
    return any(cls.__module__.split(".")[0] == "datasets" for cls in type(value).__mro__)


def _is_listed_entry(value: Any) -> bool:
    return not isinstance(value, str) and _is_entry(value)


def _is_entry(value: Any) -> bool:
    is_record = (
        dataclasses.is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Source)
    )
    return isinstance(value, str | Path | Mapping) or is_record or _is_dataset(value)


def _open_entry(entry: Any, text_column: str) -> Source:
    if _is_dataset(entry):
        return open_dataset(entry, type(entry).__name__, Fields(text_column), None)
    if isinstance(entry, str | Path):
        return _open_path({"path": str(entry)}, Fields(text_column))
    values = dict(entry) if isinstance(entry, Mapping) else dataclasses.asdict(entry)
    values = {key: value for key, value in values.items() if value is not None}
    if unknown := sorted(set(values) - set(ENTRY_KEYS)):
        raise DocumentError(
            f"source {values.get('path')}: unknown keys {unknown}. Known: {', '.join(ENTRY_KEYS)}."
        )
    if not isinstance(values.get("path"), str | Path):
        raise DocumentError(f"source {values!r} has no path: give a file, a folder, a glob or a Hub dataset.")
    values["path"] = str(values["path"])
    fields = Fields(values.get("text_column", text_column), _parse_where(values))
    source = _open_path(values, fields)
    label = str(values.get("label", source.label))
    return dataclasses.replace(source, label=label, share=_parse_share(values), has_where=bool(fields.where))


def _parse_share(entry: dict[str, Any]) -> float | None:
    share = entry.get("share")
    if share is None:
        return None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
        raise DocumentError(f"source {entry['path']}: share is {share!r}, not a number above 0.")
    return float(share)


def _parse_where(entry: dict[str, Any]) -> tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...]:
    """The path of each field and the values that it may have."""
    where = entry.get("where", {})
    if not isinstance(where, Mapping) or not all(isinstance(field, str) and field for field in where):
        raise DocumentError(
            f"source {entry['path']}: where is {where!r}, not fields with their values, as in "
            "{'meta.set': 'books'}."
        )
    return tuple(
        (tuple(field.split(".")), tuple(value) if isinstance(value, list | tuple) else (value,))
        for field, value in where.items()
    )


def _open_path(entry: dict[str, Any], fields: Fields) -> Source:
    path = Path(entry["path"]).expanduser()
    if _is_hub(entry, path):
        return open_hub(entry, fields)
    split = entry.get("split", "train")
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return open_saved(path, split, fields)
    if split != "train":
        raise DocumentError(f"{path}: split {split!r} is for datasets; local files have the one split train.")
    return _open_files(entry, path, fields)


def _open_files(entry: dict[str, Any], path: Path, fields: Fields) -> Source:
    root, names = find_files(entry["path"])
    forced = entry.get("format")
    formats = sorted({file_format(name, forced) for name in names})
    if fields.where and "text" in formats:
        raise DocumentError(f"{path}: where is for records with fields, but text files are there.")

    def read(selection: Selection, report: Report) -> Iterator[Document]:
        for number, rows in selection.of(len(names)):
            name = names[number]
            file = SourceFile(os.path.join(root, name), name.replace(os.sep, "/"), number)
            yield from read_file(file, file_format(name, forced), fields, rows, report)

    def rows_of(number: int) -> float:
        return estimate_rows(os.path.join(root, names[number]), file_format(names[number], forced))

    content = [fingerprint_files(root, names), fields, formats]
    return Source(path.name or entry["path"], read, digest(content), files=len(names), rows_of=rows_of)


def _is_hub(entry: dict[str, Any], path: Path) -> bool:
    """Keys that only `load_dataset` knows, or "owner/name" that is neither a path nor ends like a file."""
    if HUB_KEYS & set(entry):
        return True
    return not path.exists() and path.suffix not in FILE_SUFFIXES and bool(_HUB_ID.fullmatch(entry["path"]))


def _open_texts(texts: Iterable[Any]) -> Source:
    if isinstance(texts, list | tuple) and texts and all(isinstance(t, str) for t in texts):
        _refuse_paths(texts)

    def read(selection: Selection, report: Report) -> Iterator[Document]:
        for file, rows in selection.of(1):
            for row, text in enumerate(texts):
                if not rows.holds(row):
                    continue
                try:
                    document = Document(check_text(text, "text"), f"document {row}", file, row)
                except BadValueError as fault:
                    report(fault.at(file, row, f"document {row}"))
                else:
                    yield document

    return Source("texts", read, None, one_pass=isinstance(texts, Iterator), files=None)


def _refuse_paths(texts: list[str] | tuple[str, ...]) -> None:
    """A list of file names is a mistake: it would be packed as the documents."""
    named = all(0 < len(t) < 256 and "\n" not in t and "\0" not in t for t in texts)
    if named and all(Path(t).exists() for t in texts):
        raise DocumentError(
            f"a list of texts is taken as the documents themselves, but {texts[0]!r} is a file. "
            "For files give pathlib.Path objects or entries such as {'path': ...}."
        )
