"""Uploads -> documents: `read_documents`. Nothing of a file is looked at in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ultralong_hf.chat.documents.document import Document, Mark
from ultralong_hf.chat.documents.limits import MIB, Limits
from ultralong_hf.chat.documents.process import Answer, read_files
from ultralong_hf.chat.documents.text import display_name
from ultralong_hf.errors import UploadError

# Of an archive or a folder: files whose readers are no more than decoding share a process.
_ALONE = frozenset({".pdf", ".docx", ".epub", ".html", ".htm", ".xhtml", ".svg", ".zip"})
_TOGETHER = 200
_TOLD = 8


@dataclass(frozen=True)
class Refusal:
    """A file that was not read, and why; no path of this machine is in it."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Readings:
    documents: list[Document]
    refusals: list[Refusal]


def read_documents(
    paths: Sequence[str | Path],
    limits: Limits | None = None,
    *,
    names: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Readings:
    """Each file, archive or folder as a document, or its refusal; one that fails does not stop the others.

    names: what the files are called, where `paths` are temporary ones. progress(name, files read, files in
    all) is called within an archive or folder too. stopped: asked ten times a second.
    Raises UploadError for more uploads, or bytes of them together, than the limits allow.
    """
    limits = limits or Limits()
    shown = [display_name(str(name)) for name in (names or [Path(path).absolute().name for path in paths])]
    _check_uploads(paths, limits)
    documents, refusals = [], []
    for name, path in zip(shown, paths, strict=True):
        progress(name, 0, 1)
        try:
            documents.append(read_document(path, limits, name=name, progress=progress, stopped=stopped))
        except UploadError as error:
            refusals.append(Refusal(name, str(error)))
    return Readings(_with_own_names(documents), refusals)


def read_document(
    path: str | Path,
    limits: Limits | None = None,
    *,
    name: str | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Document:
    """One file, archive or folder. Raises UploadError."""
    limits = limits or Limits()
    name = display_name(name or Path(path).absolute().name)
    with tempfile.TemporaryDirectory(prefix="ultralong-reading-") as scratch:
        resolved = str(Path(path).resolve())
        (answer,) = read_files([(name, resolved)], Path(scratch), limits, stopped=stopped)
        if answer.refusal:
            raise UploadError(answer.refusal)
        if "members" not in answer.header:
            return _document(name, answer)
        return _gather(name, answer, Path(scratch), limits, progress, stopped)


def _check_uploads(paths: Sequence[str | Path], limits: Limits) -> None:
    if len(paths) > limits.uploads:
        raise UploadError(f"{len(paths):,} files were given at once; the limit is {limits.uploads:,}.")
    size = sum(Path(path).stat().st_size for path in paths if Path(path).is_file())
    if size > limits.total_bytes:
        raise UploadError(
            f"the files have {size / MIB:,.0f} MiB together; the limit is {limits.total_bytes / MIB:,.0f}."
        )


def _document(name: str, answer: Answer) -> Document:
    header = answer.header
    return Document(
        name=name,
        text=answer.text,
        kind=header["kind"],
        marks=tuple(Mark(**mark) for mark in header["marks"]),
        warnings=tuple(header["warnings"]),
        pages=header["pages"],
    )


def _gather(
    name: str,
    answer: Answer,
    scratch: Path,
    limits: Limits,
    progress: Callable[[str, int, int], None],
    stopped: Callable[[], bool],
) -> Document:
    """A folder's or an archive's files as one document: their tree first, then each under its name."""
    files: list[tuple[str, str]] = [(inside, path) for inside, path in answer.header["members"]]
    if not files:
        raise UploadError("; ".join(["it holds no files", *answer.header["warnings"]]) + ".")
    read, unread, characters = [], [], 0
    for batch in _batches(files):
        for (inside, _), found in zip(
            batch, read_files(batch, scratch, limits, stopped=stopped), strict=True
        ):
            characters += len(found.text)
            if characters > limits.characters:
                raise UploadError(f"it holds more than {limits.characters:,} characters of text, the limit.")
            if found.refusal or "members" in found.header:
                unread.append(Refusal(inside, found.refusal or "an archive inside an archive."))
            else:
                read.append((inside, _document(inside, found)))
            progress(name, len(read) + len(unread), len(files))
    if not read:
        raise UploadError(f"none of its {len(files):,} files can be read; the first, {unread[0]}")
    return _joined(name, answer.header["kind"], read, unread, answer.header["warnings"])


def _batches(files: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    batches: list[list[tuple[str, str]]] = []
    shared: list[tuple[str, str]] | None = None
    for file in files:
        if PurePosixPath(file[0]).suffix.lower() in _ALONE:
            batches.append([file])
            shared = None
        elif shared is None or len(shared) == _TOGETHER:
            shared = [file]
            batches.append(shared)
        else:
            shared.append(file)
    return batches


def _joined(
    name: str,
    kind: str,
    read: Sequence[tuple[str, Document]],
    unread: Sequence[Refusal],
    warnings: Sequence[str],
) -> Document:
    tree = f"The files of {name}:\n{_tree([inside for inside, _ in read])}\n"
    pieces, marks, at = [tree], [Mark(0)], len(tree)
    told = list(warnings)
    for inside, document in read:
        header = f"\n==== {inside} ====\n"
        marks += [
            Mark(at, file=inside),
            *(replace(mark, start=mark.start + at + len(header), file=inside) for mark in document.marks),
        ]
        body = document.text if document.text.endswith("\n") else document.text + "\n"
        pieces += [header, body]
        at += len(header) + len(body)
        told += [f"{inside}: {warning}" for warning in document.warnings]
    told += [f"not read: {refusal}" for refusal in unread[:_TOLD]]
    if len(unread) > _TOLD:
        told.append(f"{len(unread) - _TOLD:,} more files are not read")
    return Document(name, "".join(pieces), kind, tuple(marks), tuple(told))


def _tree(paths: Sequence[str]) -> str:
    """
    >>> print(_tree(["a.py", "src/b.py", "src/c.py"]))
    a.py
    src/
      b.py
      c.py
    """
    lines: list[str] = []
    before: list[str] = []
    for path in sorted(paths):
        *folders, name = path.split("/")
        shared = 0
        while shared < min(len(before), len(folders)) and before[shared] == folders[shared]:
            shared += 1
        for depth, folder in enumerate(folders[shared:], start=shared):
            lines.append(f"{'  ' * depth}{folder}/")
        lines.append(f"{'  ' * len(folders)}{name}")
        before = folders
    return "\n".join(lines)


def _with_own_names(documents: Sequence[Document]) -> list[Document]:
    """Two files of one name are told apart: "notes.md", "notes (2).md"."""
    taken: set[str] = set()
    named = []
    for document in documents:
        name, number = document.name, 2
        while name in taken:
            path = PurePosixPath(document.name)
            name = f"{path.stem} ({number}){path.suffix}"
            number += 1
        taken.add(name)
        named.append(document if name == document.name else replace(document, name=name))
    return named
