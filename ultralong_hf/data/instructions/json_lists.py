"""A JSON list of records read one at a time, as ShareGPT's and Alpaca's files are: one value of any size."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from typing import Any

from ultralong_hf.data.reading.decompression import DECOMPRESSORS, DamagedError, read_blocks
from ultralong_hf.data.reading.records import DAMAGED, ENDS_EARLY

_BLOCK_BYTES = 1 << 20
_LARGEST_RECORD = 64 << 20
"""Characters that may follow the beginning of a record before it is taken for damaged."""
_BLANK = " \t\n\r"
_AFTER = tuple(_BLANK + ",]")


def is_json_list(path: str) -> bool:
    """Whether the first character of a file that is no blank is a bracket."""
    try:
        for block in _blocks(path):
            text = block.lstrip(b"\xef\xbb\xbf \t\n\r")
            if text:
                return text.startswith(b"[")
    except DamagedError:
        pass
    return False


def read_json_list(path: str) -> Iterator[Any]:
    """The values of the list, in order. Raises DamagedError where it is no JSON or ends early."""
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    scan = json.JSONDecoder().raw_decode
    blocks = _blocks(path)
    text, at, is_first, ended = "", 0, True, False

    def more() -> bool:
        """Adds a block to the text; False at the end."""
        nonlocal text, at, ended
        block = next(blocks, None)
        ended = block is None
        try:
            text, at = text[at:] + decode(block or b"", final=ended), 0
        except UnicodeDecodeError as error:
            raise DamagedError(f"bytes that are not UTF-8: {error.reason}", DAMAGED) from None
        return not ended

    def skip_blanks() -> str:
        """The next character that is no blank; nothing at the end."""
        nonlocal at
        while True:
            while at < len(text) and text[at] in _BLANK:
                at += 1
            if at < len(text):
                return text[at]
            if ended or not more():
                return text[at] if at < len(text) else ""

    if skip_blanks() != "[":
        raise DamagedError("it is no JSON list", DAMAGED)
    at += 1
    while True:
        character = skip_blanks()
        if character == "]":
            return
        if not is_first:
            if character != ",":
                raise _fault(character, "a comma or the end of the list")
            at += 1
            skip_blanks()
        is_first = False
        while True:
            is_large = len(text) - at > _LARGEST_RECORD
            try:
                value, end = scan(text, at)
                if text[end : end + 1] in _AFTER or is_large or ended or not more():
                    break  # without a mark after it, a number may go on in the next block
            except json.JSONDecodeError as error:
                word = DAMAGED if error.pos < len(text) - 1 else ENDS_EARLY
                if is_large or ended or not more():
                    raise DamagedError(f"it is no JSON: {error.msg}", word) from None
            except RecursionError:
                raise DamagedError("it is nested too deep", DAMAGED) from None
        at = end
        yield value


def _fault(character: str, expected: str) -> DamagedError:
    if not character:
        return DamagedError("the list does not end", ENDS_EARLY)
    return DamagedError(f"{character!r} stands where {expected} is expected", DAMAGED)


def _blocks(path: str) -> Iterator[bytes]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in DECOMPRESSORS:
        yield from read_blocks(path, suffix)
        return
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
