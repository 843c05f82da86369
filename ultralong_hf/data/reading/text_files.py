"""Documents in JSON lines and in text files, plain or compressed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import orjson

from ultralong_hf.data.reading.decompression import DECOMPRESSORS, DamagedError, read_blocks
from ultralong_hf.data.reading.records import NOT_JSON, NOT_OBJECT, Document, Report, Rows, SourceFile
from ultralong_hf.data.reading.values import BadValueError, Fields, check_text, decode, missing_column
from ultralong_hf.errors import DocumentError

_BUFFER_BYTES = 1024**2
_ONE_VALUE = "one value, not an object a line. Convert it, or set format: text for a document a file."
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_jsonl(file: SourceFile, fields: Fields, rows: Rows, report: Report) -> Iterator[Document]:
    """A document a line; blank lines are none. The row of a document is its line, from 0."""
    prefix = f"{file.name}, line "
    start, remainder, step = rows
    row = -1
    try:
        for row, line in enumerate(read_lines(file.path)):
            if row == 0 and _is_one_value(file.path, line):
                if rows.holds(0):
                    report(BadValueError(NOT_JSON, _ONE_VALUE).at(file.number, 0, file.name))
                return
            if row < start or row % step != remainder or not line or line.isspace():
                continue
            try:
                text = _line_text(line, fields)
            except BadValueError as fault:
                report(fault.at(file.number, row, f"{prefix}{row + 1}"))
            else:
                if text:
                    yield Document(text, f"{prefix}{row + 1}", file.number, row)
    except DamagedError as error:
        if rows.holds(row + 1):
            detail = f"the file can be read up to line {row + 1} only: {error}."
            report(BadValueError(error.word, detail).at(file.number, row + 1, f"{prefix}{row + 2}"))
    except OSError as error:
        raise DocumentError(f"{file.path}: cannot be read after line {row + 1}: {error.strerror}.") from error


def read_text(file: SourceFile, fields: Fields, rows: Rows, report: Report) -> Iterator[Document]:
    """The whole file as one document, row 0."""
    if not rows.holds(0):
        return
    try:
        text = check_text(_read_whole(file.path), fields.text)
    except BadValueError as fault:
        report(fault.at(file.number, 0, file.name))
    except DamagedError as error:
        report(BadValueError(error.word, f"{error}.").at(file.number, 0, file.name))
    except OSError as error:
        raise DocumentError(f"{file.path}: cannot be read: {error.strerror}.") from error
    else:
        yield Document(text, file.name, file.number, 0)


def _is_one_value(path: str, first_line: bytes) -> bool:
    """Whether a .json file is a list, or an object over many lines: one fault then, not one for each line."""
    name = path.lower()
    stem, suffix = os.path.splitext(name)
    if suffix in DECOMPRESSORS:
        name = stem
    line = first_line.removeprefix(_BYTE_ORDER_MARK).strip()
    return name.endswith(".json") and (line == b"{" or line.startswith(b"["))


def _line_text(line: bytes, fields: Fields) -> str:
    """The text of a line; "" if the record is not of the source. Raises BadValueError."""
    is_utf8 = True
    try:
        record = orjson.loads(line)
    except ValueError:
        record = parse_slowly(line)
        is_utf8 = False
    if fields.where and not fields.match(record):
        return ""
    try:
        text = record[fields.text]
    except KeyError:
        raise missing_column(fields.text, record) from None
    except TypeError:
        raise BadValueError(NOT_OBJECT, f"the line is {type(record).__name__}.") from None
    if is_utf8 and type(text) is str and text:
        return text
    return check_text(text, fields.text)


def parse_slowly(line: bytes) -> Any:
    """What Python's parser makes of a line that orjson refuses, or the reason why that refuses it too.

    It takes NaN, and half surrogates in other columns than the text.
    """
    try:
        return json.loads(decode(line.removeprefix(_BYTE_ORDER_MARK)))
    except ValueError as error:
        raise BadValueError(NOT_JSON, f"{getattr(error, 'msg', error)}. One object a line is read.") from None
    except RecursionError:
        raise BadValueError(NOT_JSON, "nested too deep. One object a line is read.") from None


def read_lines(path: str) -> Iterator[bytes]:
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
