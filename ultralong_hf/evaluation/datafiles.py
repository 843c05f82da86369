"""Official data files of the benchmarks: found in a local folder or on the hub, read row by row.

Only data is read: JSON, JSON Lines, Parquet and text, plain or as a member of a zip file. Loading scripts
are never run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.data.reading.files import fingerprint_files
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.data_rows import JsonLines, ListedRows, ParquetRows, Rows
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
