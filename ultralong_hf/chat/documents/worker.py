"""The reader's process: `python -m ultralong_hf.chat.documents.worker REQUEST`, under its own limits.

It answers on stdout, for each file of the request in turn: a line of JSON with the number of bytes that
follow, then the text. Names of files on this machine are never part of an answer that a user sees.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import stat
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ultralong_hf.chat.documents.builder import Reading
from ultralong_hf.chat.documents.formats import detect, mismatch
from ultralong_hf.chat.documents.limits import MIB, Limits
from ultralong_hf.errors import UploadError

_READERS = {"PDF": "pdf", "DOCX": "docx", "EPUB": "epub", "HTML": "html"}


def main(request_path: str) -> None:
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    limits = Limits(**request["limits"])
    _limit_process(limits, len(request["files"]))
    for name, path in request["files"]:
        header, text = _answer(name, path, Path(request["into"]), limits)
        content = text.encode("utf-8")
        line = json.dumps(header | {"bytes": len(content)})
        sys.stdout.buffer.write(line.encode() + b"\n" + content)
        sys.stdout.buffer.flush()


def _answer(name: str, path: str, into: Path, limits: Limits) -> tuple[dict[str, Any], str]:
    try:
        if Path(path).is_dir():
            from ultralong_hf.chat.documents.unpacking import list_folder

            members = list_folder(Path(path), limits)
            return {"kind": "folder", "members": members.files, "warnings": members.warnings}, ""
        data = _read_bytes(path, limits)
        kind = detect(data, name)
        remark = mismatch(kind, name)
        if kind == "ZIP":
            from ultralong_hf.chat.documents.unpacking import unpack

            members = unpack(data, into, limits)
            return {"kind": kind, "members": members.files, "warnings": members.warnings}, ""
        reading = _read(kind, data, limits)
        return {
            "kind": kind,
            "marks": [asdict(mark) for mark in reading.marks],
            "warnings": [*([remark] if remark else []), *reading.warnings],
            "pages": reading.pages,
        }, reading.text
    except UploadError as error:
        return {"error": str(error)}, ""
    except MemoryError:
        return {"error": f"reading it takes more than {limits.memory_bytes // MIB:,} MiB of memory."}, ""
    except Exception as error:  # a reader's own fault, on a file that nobody foresaw: refused, with its kind
        return {"error": f"it is damaged, or not made as such files are ({type(error).__name__})."}, ""


def _read(kind: str, data: bytes, limits: Limits) -> Reading:
    module = importlib.import_module(f"ultralong_hf.chat.documents.readers.{_READERS.get(kind, 'plain')}")
    options = {} if kind in _READERS else {"kind": kind}
    reading: Reading = module.read(data, limits, **options)
    return reading


def _read_bytes(path: str, limits: Limits) -> bytes:
    """Of a regular file; a link is not followed, a pipe is not waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UploadError("it is no regular file.")
            if status.st_size > limits.file_bytes:
                raise UploadError(
                    f"it has {status.st_size / MIB:,.0f} MiB; the limit is {limits.file_bytes / MIB:,.0f}."
                )
            return file.read(limits.file_bytes + 1)
    except OSError as error:
        raise UploadError(f"it cannot be opened ({error.strerror}).") from error


def _limit_process(limits: Limits, files: int) -> None:
    """Where the system has such limits; the parent's clock holds everywhere."""
    try:
        import resource
    except ImportError:
        return
    wanted = {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": math.ceil(limits.seconds * files) + 1,  # if the parent is gone
        "RLIMIT_FSIZE": limits.expanded_bytes,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 64,
    }
    for name, value in wanted.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
            try:
                resource.setrlimit(kind, (limit, limit))
            except (ValueError, OSError):
                continue  # macOS knows RLIMIT_AS and refuses it


if __name__ == "__main__":
    main(sys.argv[1])
