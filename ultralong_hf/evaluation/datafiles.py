"""Official data files of the benchmarks: found in a local folder or on the hub, read row by row.

Only data is read: JSON, JSON Lines, Parquet and text, plain or as a member of a zip file. Loading scripts
are never run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.data.reading.files import fingerprint_files
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.zip_members import MEMBER_MARK, find_member, unpack_member

_READABLE = (".jsonl", ".ndjson", ".json", ".parquet", ".txt")


@dataclass(frozen=True)
class HubSource:
    """A dataset repository of the hub, and what a local copy of it may be called."""

    repo: str
    folders: tuple[str, ...] = ()
    """Names of sub-folders of the data folder that are looked into as well."""
    revision: str | None = None
    """Commit to read; None: the newest. What was read is told by `DataFile.fingerprint` either way."""


@dataclass(frozen=True)
class DataFile:
    """A file that is there. `member` is the path inside it where it is a zip file."""

    path: Path
    member: str | None
    origin: str
    """For the report: "hub: OWNER/NAME@COMMIT" or "local"."""

    @property
    def name(self) -> str:
        """Such as "hotpotwikiqa_mixup.zip::hotpotwikiqa_mixup_16k.jsonl"."""
        return f"{self.path.name}{MEMBER_MARK}{self.member}" if self.member else self.path.name

    @property
    def suffix(self) -> str:
        return Path(self.member or self.path.name).suffix.lower()

    @property
    def fingerprint(self) -> str:
        """Digest of the file's name, size, first and last 64 KiB, and of the member's name."""
        found = fingerprint_files(str(self.path.parent), [self.path.name])
        return f"{found}{MEMBER_MARK}{self.member}" if self.member else found


def find_data(
    source: HubSource, *, local: Sequence[str], hub: str | None = None, data_dir: str | Path | None = None
) -> DataFile:
    """The first of the files `local` that lies in `data_dir`, else the file `hub` of the source's repository.

    Names are paths with "/"; "a.zip::b.jsonl" is the member of a zip file whose last part is b.jsonl. Raises
    EvaluationError that names the file, every place looked at, and how to get it.
    """
    looked: list[str] = []
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        found = _find_local(source, local, root)
        if found:
            return found
        folders = [str(root), *(str(root / name) for name in source.folders)]
        looked.append(f"{', '.join(folders)} (for {' or '.join(local)})")
    if hub is None:
        raise EvaluationError(_missing(source, local[0], looked, "it is on no hub repository that is known."))
    path, commit = _download(source, hub, looked)
    return _checked(path, hub, f"hub: {source.repo}@{commit}")


def read_rows(file: DataFile, cache_dir: str | Path | None = None) -> Rows:
    """The records of a JSON Lines, Parquet or JSON file (a list, or one under "data").

    Raises EvaluationError for a file that is none of them.

    Zip members are unpacked to `cache_dir`, or to a temporary folder, when they are read first.
    """
    if file.suffix in (".jsonl", ".ndjson"):
        return JsonLines(_plain(file, cache_dir), file.name)
    if file.suffix == ".parquet":
        return ParquetRows(_plain(file, cache_dir), file.name)
    content = read_json(file, cache_dir)
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise EvaluationError(f"{file.path} holds neither a list of records nor one under 'data'.")
    return ListedRows(rows, file.name)


def read_json(file: DataFile, cache_dir: str | Path | None = None) -> Any:
    """What a JSON file holds. Raises EvaluationError where it is damaged."""
    try:
        return json.loads(read_text(file, cache_dir))
    except ValueError as error:
        raise EvaluationError(f"{file.path} ({file.name}) is no JSON: {error}.") from error


def read_text(file: DataFile, cache_dir: str | Path | None = None) -> str:
    """A text file, as UTF-8. Raises EvaluationError where it is none."""
    try:
        return _plain(file, cache_dir).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{file.path} ({file.name}) is no UTF-8 text: {error}.") from error


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


def _find_local(source: HubSource, names: Sequence[str], root: Path) -> DataFile | None:
    if not root.is_dir():
        raise EvaluationError(f"{root} is no folder: --data is a folder with the benchmarks' official files.")
    for folder in (root, *(root / name for name in source.folders)):
        for name in names:
            path = folder / name.partition(MEMBER_MARK)[0]
            if path.is_file():
                return _checked(path, name, "local")
    return None


def _checked(path: Path, name: str, origin: str) -> DataFile:
    member_name = name.partition(MEMBER_MARK)[2]
    member = find_member(path, member_name) if member_name else None
    file = DataFile(path, member, origin)
    if file.suffix not in _READABLE:
        raise EvaluationError(f"{path} is none of {', '.join(_READABLE)}: only data files are read.")
    return file


def _plain(file: DataFile, cache_dir: str | Path | None) -> Path:
    if file.member is None:
        return file.path
    return unpack_member(file.path, file.member, Path(cache_dir) if cache_dir is not None else None)


def _download(source: HubSource, name: str, looked: list[str]) -> tuple[Path, str]:
    """(local copy, its commit). Raises EvaluationError, the reason in one line."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    filename = name.partition(MEMBER_MARK)[0]
    revision = source.revision or "main"
    looked.append(f"https://huggingface.co/datasets/{source.repo} ({filename} at {revision})")
    try:
        path = hf_hub_download(source.repo, filename, repo_type="dataset", revision=source.revision)
    except GatedRepoError as error:
        reason = "the repository asks for its terms to be accepted: do so on its page, then log in."
        raise EvaluationError(_missing(source, filename, looked, reason)) from error
    except LocalEntryNotFoundError as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        reason = "HF_HUB_OFFLINE is set." if offline else "the hub cannot be reached."
        raise EvaluationError(_missing(source, filename, looked, reason)) from error
    except EntryNotFoundError as error:
        raise EvaluationError(
            _missing(source, filename, looked, "the repository has no such file.")
        ) from error
    except Exception as error:  # the client raises errors of three libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EvaluationError(_missing(source, filename, looked, reason)) from error
    return Path(path), _commit_of(Path(path)) or revision


def _commit_of(path: Path) -> str | None:
    """The hub's cache keeps a file under snapshots/COMMIT."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def _missing(source: HubSource, name: str, looked: Sequence[str], reason: str) -> str:
    places = "; ".join(looked)
    filename = name.partition(MEMBER_MARK)[0]
    return (
        f"The data file {filename} is missing: {reason} Looked at {places}. Get it with `hf download "
        f"{source.repo} {filename} --repo-type dataset --local-dir DIR` and give --data DIR."
    )
