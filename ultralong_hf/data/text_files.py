"""Documents in JSON lines and in text files, plain or compressed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import orjson

from ultralong_hf.data.decompression import DECOMPRESSORS, DamagedError, read_blocks
from ultralong_hf.data.records import (
    DAMAGED,
    EMPTY,
    ENDS_EARLY,
    NOT_JSON,
    NOT_OBJECT,
    Document,
    Fault,
    Report,
    Rows,
    SourceFile,
)
from ultralong_hf.data.values import BadValueError, check_text, decode, missing_column
from ultralong_hf.errors import DocumentError

_BUFFER_BYTES = 1024**2
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_jsonl(file: SourceFile, column: str, rows: Rows, report: Report) -> Iterator[Document]:
    """A document a line; blank lines are none. The row of a document is its line, from 0."""
    loads = orjson.loads
    prefix = f"{file.name}, line "
    start, remainder, step = rows
    row = -1
    try:
        for row, line in enumerate(_read_lines(file.path)):
            if row % step != remainder or row < start:
                continue
            try:
                text = loads(line)[column]
            except (ValueError, KeyError, TypeError):
                text = None
            if type(text) is str and text:
                yield Document(text, f"{prefix}{row + 1}", file.number, row)
            elif line.strip():
                try:
                    text = _slow_text(line.removeprefix(_BYTE_ORDER_MARK) if row == 0 else line, column)
                except BadValueError as fault:
                    report(Fault(file.number, row, f"{prefix}{row + 1}", fault.word, fault.detail))
                else:
                    if text:
                        yield Document(text, f"{prefix}{row + 1}", file.number, row)
                    else:
                        report(Fault(file.number, row, f"{prefix}{row + 1}", EMPTY, "no characters."))
    except DamagedError as error:
        if rows.holds(row + 1):
            word = ENDS_EARLY if error.ends_early else DAMAGED
            detail = f"the file can be read up to line {row + 1} only: {error}."
            report(Fault(file.number, row + 1, f"{prefix}{row + 2}", word, detail))
    except OSError as error:
        raise DocumentError(f"{file.path}: cannot be read after line {row + 1}: {error.strerror}.") from error


def read_text(file: SourceFile, column: str, rows: Rows, report: Report) -> Iterator[Document]:
    """The whole file as one document, row 0."""
    if not rows.holds(0):
        return
    try:
        text = decode(_read_whole(file.path))
    except BadValueError as fault:
        report(Fault(file.number, 0, file.name, fault.word, fault.detail))
    except DamagedError as error:
        word = ENDS_EARLY if error.ends_early else DAMAGED
        report(Fault(file.number, 0, file.name, word, f"{error}."))
    except OSError as error:
        raise DocumentError(f"{file.path}: cannot be read: {error.strerror}.") from error
    else:
        if text:
            yield Document(text, file.name, file.number, 0)
        else:
            report(Fault(file.number, 0, file.name, EMPTY, "no characters."))


def _slow_text(line: bytes, column: str) -> str:
    """The text of a line that orjson refuses, or the reason why there is none.

    Python's parser is the judge: it takes NaN, and half surrogates in other columns, which orjson does not.
    """
    try:
        record = json.loads(decode(line))
    except ValueError as error:
        raise BadValueError(NOT_JSON, f"{getattr(error, 'msg', error)}. One object a line is read.") from None
    except RecursionError:
        raise BadValueError(NOT_JSON, "nested too deep. One object a line is read.") from None
    if not isinstance(record, dict):
        raise BadValueError(NOT_OBJECT, f"the line is {type(record).__name__}.")
    if column not in record:
        raise missing_column(column, record)
    return check_text(record[column], column)


def _read_lines(path: str) -> Iterator[bytes]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in DECOMPRESSORS:
        yield from _split_lines(read_blocks(path, suffix))
        return
    with open(path, "rb", buffering=_BUFFER_BYTES) as lines:
        yield from lines


def _split_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines without their ends, and what follows the last end."""
    pieces: list[bytes] = []
    for block in blocks:
        first, *others = block.split(b"\n")
        pieces.append(first)
        if others:
            yield b"".join(pieces)
            yield from others[:-1]
            pieces = [others[-1]]
    if last := b"".join(pieces):
        yield last


def _read_whole(path: str) -> bytes:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in DECOMPRESSORS:
        return b"".join(read_blocks(path, suffix))
    with open(path, "rb", buffering=0) as file:
        return file.read()
