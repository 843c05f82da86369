"""Local files: which they are, their formats, their fingerprint, and the reader for each."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator

from ultralong_hf.data.reading.arrow_text import read_parquet
from ultralong_hf.data.reading.decompression import DECOMPRESSORS
from ultralong_hf.data.reading.records import Document, Report, Rows, SourceFile
from ultralong_hf.data.reading.text_files import read_jsonl, read_text
from ultralong_hf.data.reading.values import Fields
from ultralong_hf.errors import DocumentError

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
"""Suffix, without that of a compression -> format. Every other file is text: one file, one document."""

_READERS = {"jsonl": read_jsonl, "parquet": read_parquet, "text": read_text}
_EDGE_BYTES = 64 * 1024


def find_files(pattern: str) -> tuple[str, list[str]]:
    """A folder, and the names in it of the files of a path, a folder or a glob, in order of their parts.

    Folders are read recursively, without hidden files and without following links to folders. Raises
    DocumentError if nothing is there, or a folder cannot be read.
    """
    path = os.path.expanduser(pattern)
    if os.path.isfile(path):
        root, files = os.path.dirname(path), [path]
    elif os.path.isdir(path):
        root, files = path, _files_below(path)
    else:
        files = [os.path.abspath(file) for file in glob.glob(path, recursive=True) if os.path.isfile(file)]
        root = os.path.commonpath(map(os.path.dirname, files)) if files else path
    if not files:
        raise DocumentError(
            f"{pattern}: no file is there. Check the path; a glob such as 'books/**/*.txt' works too."
        )
    start = len(os.path.join(root, ""))
    return root, sorted((file[start:] for file in files), key=lambda name: name.split(os.sep))


def file_format(name: str, forced: str | None = None) -> str:
    """jsonl, parquet or text: what `forced` says, else what the suffix says."""
    if forced is not None:
        if forced not in _READERS:
            raise DocumentError(f"{name}: format {forced!r} is not known. Choose jsonl, parquet or text.")
        return forced
    stem, suffix = os.path.splitext(name.lower())
    if suffix in DECOMPRESSORS:
        suffix = os.path.splitext(stem)[1]
    return FORMATS.get(suffix, "text")


def fingerprint_files(root: str, names: list[str]) -> str:
    """Digest of names, sizes and the first and last 64 KiB of each file, without the folder they lie in.

    A change in the middle that keeps the size is not seen. Raises DocumentError if a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in names:
        path = os.path.join(root, name)
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{name.replace(os.sep, '/')}\0{size}\0".encode(errors="surrogateescape"))
                digest.update(file.read(_EDGE_BYTES))
                if size > _EDGE_BYTES:
                    file.seek(max(size - _EDGE_BYTES, _EDGE_BYTES))
                    digest.update(file.read(_EDGE_BYTES))
        except OSError as error:
            raise DocumentError(f"{path}: cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def read_file(
    file: SourceFile, format: str, fields: Fields, rows: Rows, report: Report
) -> Iterator[Document]:
    """The selected documents of a file. Records that give none are reported.

    Raises DocumentError if the system cannot read the file.
    """
    return _READERS[format](file, fields, rows, report)


def _files_below(folder: str) -> list[str]:
    files: list[str] = []
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file():
                        files.append(entry.path)
        except OSError as error:
            raise DocumentError(f"{error.filename}: cannot be read: {error.strerror}.") from error
    return files
