"""From what a record holds to a text, or the word for what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ultralong_hf.data.records import NO_COLUMN, NOT_TEXT, NOT_UTF8, NULL


class BadValueError(Exception):
    """A value that is no text: one of the words of `records`, and what was seen."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(f"{word}: {detail}")
        self.word = word
        self.detail = detail


def check_text(value: Any, column: str) -> str:
    """`value` if it is text, or bytes of text, that can be written as UTF-8, else BadValueError."""
    if isinstance(value, bytes):
        return decode(value)
    if value is None:
        raise BadValueError(NULL, f"column {column!r} is null.")
    if not isinstance(value, str):
        raise BadValueError(NOT_TEXT, f"column {column!r} holds {type(value).__name__}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadValueError(NOT_UTF8, f"character {error.start} is half of a surrogate pair.") from None
    return value


def decode(data: bytes) -> str:
    """The text of UTF-8 bytes, else BadValueError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error) from None


def not_utf8(error: UnicodeDecodeError) -> BadValueError:
    """Names the first byte that is at fault."""
    return BadValueError(NOT_UTF8, f"byte {error.start} is 0x{error.object[error.start]:02x}.")


def missing_column(column: str, present: Iterable[str]) -> BadValueError:
    """For a record or table without the text column."""
    there = ", ".join(map(repr, present)) or "none"
    return BadValueError(NO_COLUMN, f"{column!r} is not there. Columns there: {there}.")
