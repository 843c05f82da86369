"""Local files: which they are, their fingerprint, and the documents in JSON lines and text."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ultralong_hf.data.arrow_text import read_parquet
from ultralong_hf.data.decompression import DECOMPRESSORS
from ultralong_hf.data.records import Document, Report, Rows, SourceFile
from ultralong_hf.data.text_files import read_jsonl, read_text
from ultralong_hf.errors import DocumentError

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
"""Suffix, without that of a compression -> format. Every other file is text: one file, one document."""

_EDGE_BYTES = 64 * 1024


def find_files(pattern: str) -> tuple[Path, list[Path]]:
    """The folder that names are told from, and the files of a path, a folder or a glob, sorted by name.

    Folders are read recursively, without hidden files. Raises DocumentError if nothing is there.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file() and not _is_hidden(f.relative_to(path)))
        root = path
    else:
        files = sorted(f for f in map(Path, glob.glob(str(path), recursive=True)) if f.is_file())
        root = Path(os.path.commonpath([f.parent for f in files])) if files else path
    if not files:
        raise DocumentError(
            f"{pattern}: no file is there. Check the path; a glob such as 'books/**/*.txt' works too."
        )
    return root, files


def file_format(path: Path, forced: str | None = None) -> str:
    """jsonl, parquet or text: what `forced` says, else what the suffix says."""
    if forced is not None:
        if forced not in {*FORMATS.values(), "text"}:
            raise DocumentError(f"{path}: format {forced!r} is not known. Choose jsonl, parquet or text.")
        return forced
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in DECOMPRESSORS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1], "text") if suffixes else "text"


def fingerprint_files(root: Path, files: list[Path]) -> str:
    """Digest of names, sizes and the first and last 64 KiB of each file, without the folder they lie in.

    A change in the middle that keeps the size is not seen here, but when an unfinished store goes on.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE_BYTES))
            if size > _EDGE_BYTES:
                file.seek(max(size - _EDGE_BYTES, _EDGE_BYTES))
                digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()


def read_file(file: SourceFile, format: str, column: str, rows: Rows, report: Report) -> Iterator[Document]:
    """The selected documents of a file. Records that give none are reported.

    Raises DocumentError if the system cannot read the file.
    """
    readers = {"jsonl": read_jsonl, "parquet": read_parquet, "text": read_text}
    return readers[format](file, column, rows, report)


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)
