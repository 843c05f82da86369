"""What sources are made of: documents, their order, the parts that runs share out, and what is at fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class Key(NamedTuple):
    """Where a document stands. Documents are ordered by it."""

    source: int
    file: int
    """File of the source, or shard of a stream, from 0."""
    row: int
    """Row in the file, from 0; of JSON lines, the line."""


class Document(NamedTuple):
    """One text, where it lies in its source, and what errors and manifests call it."""

    text: str
    name: str
    """Such as "books.jsonl, line 17"."""
    file: int = 0
    row: int = 0


@dataclass(frozen=True)
class Part:
    """One of `count` parts that have each record once: the `index`-th, from 0.

    A source of at least `count` files is shared out by files, any other by rows.
    """

    index: int = 0
    count: int = 1


class Fault(NamedTuple):
    """A record that gives no document. `word` is one of a few; `detail` says what was seen."""

    file: int
    row: int
    place: str
    word: str
    detail: str
    records: int = 1
    """How many records of this part are at fault, where a whole file is."""
    is_named: bool = True
    """False: the part that has the row names it; here it is only counted."""


Report = Callable[[Fault], None]

EMPTY = "empty"
NO_COLUMN = "no column"
NULL = "null"
NOT_TEXT = "not text"
NOT_UTF8 = "not UTF-8"
NOT_JSON = "not JSON"
NOT_OBJECT = "not an object"
ENDS_EARLY = "ends early"
DAMAGED = "damaged"


class Rows(NamedTuple):
    """Those rows of a file, from `start` on, whose number modulo `step` is `remainder`."""

    start: int = 0
    remainder: int = 0
    step: int = 1

    def holds(self, row: int) -> bool:
        return row >= self.start and row % self.step == self.remainder

    def within(self, first: int, length: int) -> range:
        """The rows among `length` of them that begin with row `first`, counted from there."""
        skipped = max(self.start - first, 0)
        return range(skipped + (self.remainder - first - skipped) % self.step, length, self.step)


class Selection(NamedTuple):
    """What is read of a source: the records of a part, from a file and row on."""

    part: Part = Part()
    file: int = 0
    row: int = 0

    def of(self, files: int) -> Iterator[tuple[int, Rows]]:
        """Each file to open, and which rows of it; `files` is how many the source has."""
        index, count = self.part.index, self.part.count
        by_file = files >= count
        for file in range(self.file, files):
            start = self.row if file == self.file else 0
            if not by_file:
                yield file, Rows(start, index, count)
            elif file % count == index:
                yield file, Rows(start)


class SourceFile(NamedTuple):
    """A local file to read documents from."""

    path: str
    name: str
    """What errors and manifests call it."""
    number: int
    """Its place among the files of the source, from 0."""


@dataclass(frozen=True)
class Source:
    """Documents that can be read in order, as often as `read` is called."""

    label: str
    read: Callable[[Selection, Report], Iterator[Document]]
    """The selected documents; records that give none are reported, in the same order."""
    fingerprint: str | None
    """Digest that changes with the content; None: the content is known only by reading it."""
    one_pass: bool = False
    """True for an iterator, which gives its documents once."""
    share: float | None = None
    """The share of the tokens that this source is to have, relative to the other sources' shares."""
    files: int | None = 1
    """Files, or shards of a stream; None: texts in memory."""
    rows_of: Callable[[int], float] | None = None
    """About how many rows a file has, told without reading it; None: nobody knows."""
    has_where: bool = False
    """True: only some records are of this source, by what they hold; the others are not counted."""


def digest(content: Any) -> str:
    """SHA-256 of a value, as JSON."""
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
