"""From what a record holds to a text, or the word for what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ultralong_hf.data.reading.records import EMPTY, NO_COLUMN, NOT_TEXT, NOT_UTF8, NULL, Fault


class BadValueError(Exception):
    """A value that is no text: one of the words of `records`, and what was seen."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(f"{word}: {detail}")
        self.word = word
        self.detail = detail

    def at(self, file: int, row: int, place: str) -> Fault:
        """The fault of the record that holds the value."""
        return Fault(file, row, place, self.word, self.detail)


class Fields(NamedTuple):
    """Which column is the text, and what other fields must hold for a record to be of the source."""

    text: str
    where: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = ()
    """Path of a field ("meta", "set") and the values that it may have."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns to read."""
        return list(dict.fromkeys([self.text, *(path[0] for path, _ in self.where)]))

    def match(self, record: Any) -> bool:
        """Whether a record is of the source. A field that is not there has no value."""
        return all(_value_at(record, path) in values for path, values in self.where)


def _value_at(record: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        record = record.get(name) if isinstance(record, Mapping) else None
    return record


def check_text(value: Any, column: str) -> str:
    """`value` if it is text, or bytes of text, of at least one character of UTF-8, else BadValueError."""
    if isinstance(value, bytes):
        value = decode(value)
    if value is None:
        raise BadValueError(NULL, f"column {column!r} is null.")
    if not isinstance(value, str):
        raise BadValueError(NOT_TEXT, f"column {column!r} holds {type(value).__name__}.")
    if not value:
        raise BadValueError(EMPTY, "no characters.")
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
