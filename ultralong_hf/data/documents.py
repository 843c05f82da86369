"""Documents of any source, one at a time and in its order: nothing is held but the document at hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ultralong_hf.data.files import (
    COMPRESSIONS,
    FORMATS,
    check_text,
    file_format,
    find_files,
    fingerprint_files,
    missing_column,
    read_file,
)
from ultralong_hf.errors import DocumentError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

ENTRY_KEYS = (
    "path",
    "name",
    "data_dir",
    "data_files",
    "split",
    "revision",
    "streaming",
    "text_column",
    "format",
)
HUB_KEYS = {"name", "data_dir", "data_files", "revision", "streaming"}
FILE_SUFFIXES = {*FORMATS, *COMPRESSIONS, ".txt", ".md", ".py"}
"""Texts with these endings are taken for file names, never for names of Hub datasets."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")


class Document(NamedTuple):
    """One text, and what errors and manifests call it: "books.jsonl, line 17"."""

    text: str
    name: str


@dataclass(frozen=True)
class Source:
    """Documents that can be read in order, as often as `read` is called."""

    label: str
    read: Callable[[], Iterator[Document]]
    fingerprint: str | None
    """Digest that changes with the content; None: the content is known only by reading it."""
    one_pass: bool = False
    """True for an iterator, which gives its documents once."""


def open_sources(sources: Any, *, text_column: str = "text") -> list[Source]:
    """The sources that `prepare_dataset` takes, each as a Source; nothing is read but fingerprints.

    `sources` is one of
    - a path or glob (text or `Path`): JSON lines, Parquet or text, plain, .gz, .zst or .bz2; a text file
      is one document; of a folder all files are read. A text "owner/name" that is no path: a Hub dataset;
    - an entry: a mapping with the keys of `datasets.load_dataset` (path, name, data_dir, data_files, split,
      revision, streaming) and text_column, format (jsonl, parquet, text); or a recipe's `DocumentSource`;
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


def read_documents(sources: list[Source]) -> Iterator[Document]:
    """All documents of all sources, one source after the other."""
    for source in sources:
        yield from source.read()


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
        return _open_dataset(entry, type(entry).__name__, text_column, None)
    if isinstance(entry, str | Path):
        return _open_path({"path": str(entry)}, text_column)
    fields = dict(entry) if isinstance(entry, Mapping) else dataclasses.asdict(entry)
    fields = {key: value for key, value in fields.items() if value is not None}
    if "share" in fields:
        raise DocumentError(
            f"source {fields.get('path')}: shares of sources are not supported here. Leave share out, "
            "and give the documents in the proportion that you want."
        )
    if unknown := sorted(set(fields) - set(ENTRY_KEYS)):
        raise DocumentError(
            f"source {fields.get('path')}: unknown keys {unknown}. Known: {', '.join(ENTRY_KEYS)}."
        )
    if not isinstance(fields.get("path"), str | Path):
        raise DocumentError(f"source {fields!r} has no path: give a file, a folder, a glob or a Hub dataset.")
    fields["path"] = str(fields["path"])
    return _open_path(fields, fields.get("text_column", text_column))


def _open_path(entry: dict[str, Any], text_column: str) -> Source:
    path = Path(entry["path"]).expanduser()
    if _is_hub(entry, path):
        return _open_hub(entry, text_column)
    if entry.get("split", "train") != "train":
        raise DocumentError(
            f"{path}: split {entry['split']!r} is for datasets; local files have the one split train."
        )
    if (path / "state.json").is_file():
        return _open_saved(path, text_column)
    root, files = find_files(entry["path"])
    formats = [file_format(f, entry.get("format")) for f in files]

    def read() -> Iterator[Document]:
        for file, format in zip(files, formats, strict=True):
            name = file.relative_to(root).as_posix()
            for place, text in read_file(file, format, text_column):
                yield Document(text, f"{name}, {place}" if place else name)

    content = [fingerprint_files(root, files), text_column, sorted(set(formats))]
    return Source(path.name or entry["path"], read, _digest(content))


def _is_hub(entry: dict[str, Any], path: Path) -> bool:
    """Keys that only `load_dataset` knows, or "owner/name" that is neither a path nor ends like a file."""
    if HUB_KEYS & set(entry):
        return True
    return not path.exists() and path.suffix not in FILE_SUFFIXES and bool(_HUB_ID.fullmatch(entry["path"]))


def _open_saved(path: Path, text_column: str) -> Source:
    """A folder written by `Dataset.save_to_disk`."""
    import datasets

    if (path / "manifest.json").is_file():
        raise DocumentError(f"{path} is a token store, not documents: its rows are packed already.")
    root, files = find_files(str(path))
    content = [fingerprint_files(root, files), text_column]
    return _open_dataset(datasets.load_from_disk(str(path)), path.name, text_column, _digest(content))


def _open_hub(entry: dict[str, Any], text_column: str) -> Source:
    import datasets

    arguments = {"split": "train", "streaming": True, **entry}
    for ours in ("text_column", "format"):
        arguments.pop(ours, None)
    try:
        dataset = datasets.load_dataset(**arguments)
    except Exception as error:  # load_dataset raises errors of five libraries
        reason = " ".join(str(error).split())
        raise DocumentError(
            f"{entry['path']}: no such file or folder here, and as a Hub dataset it cannot be opened: "
            f"{reason}"
        ) from error
    return _open_dataset(
        dataset, entry["path"], text_column, _digest([sorted(arguments.items()), text_column])
    )


def _open_dataset(
    dataset: Dataset | IterableDataset, label: str, text_column: str, fingerprint: str | None
) -> Source:
    import datasets

    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise DocumentError(
            f"{label} is a {type(dataset).__name__} of several splits: choose one, such as data['train']."
        )
    names = dataset.column_names
    if names is not None and text_column not in names:
        raise missing_column(label, text_column, list(names))
    if names is not None:
        dataset = dataset.select_columns([text_column])
    if isinstance(dataset, datasets.Dataset):
        dataset = dataset.with_format(None)

    def read() -> Iterator[Document]:
        rows = enumerate(dataset)
        row = -1
        while True:
            try:
                row, record = next(rows)
            except StopIteration:
                return
            except Exception as error:  # a remote stream raises errors of five libraries
                raise DocumentError(f"{label}: cannot be read after row {row}: {error}") from error
            if text_column not in record:
                raise missing_column(f"{label}, row {row}", text_column, list(record))
            yield Document(check_text(record[text_column], f"{label}, row {row}", text_column), f"row {row}")

    return Source(label, read, fingerprint)


def _open_texts(texts: Iterable[Any]) -> Source:
    if isinstance(texts, list | tuple) and texts and all(isinstance(t, str) for t in texts):
        _refuse_paths(texts)

    def read() -> Iterator[Document]:
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise DocumentError(f"document {index} of the iterable is {type(text).__name__}, not a text.")
            yield Document(check_text(text, f"document {index}", "text"), f"document {index}")

    return Source("texts", read, None, one_pass=isinstance(texts, Iterator))


def _refuse_paths(texts: list[str] | tuple[str, ...]) -> None:
    """A list of file names is a mistake: it would be packed as the documents."""
    named = all(0 < len(t) < 256 and "\n" not in t and "\0" not in t for t in texts)
    if named and all(Path(t).exists() for t in texts):
        raise DocumentError(
            f"a list of texts is taken as the documents themselves, but {texts[0]!r} is a file. "
            "For files give pathlib.Path objects or entries such as {'path': ...}."
        )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
