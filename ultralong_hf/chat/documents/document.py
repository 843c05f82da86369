"""A document as the chat holds it: its text, and where each part of the text stood in the file."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Mark:
    """From `start` (a character of the text) on, the text is of this file, page or part."""

    start: int
    file: str = ""
    """Of a folder or an archive: the file's path inside it."""
    page: int | None = None
    part: str = ""
    """A chapter's name, where there are no pages."""
    line: int = 1
    """The number of the line that stands at `start`."""


@dataclass(frozen=True)
class Place:
    """Where a passage stands; str() gives what a reader looks up."""

    document: str
    start: int
    """Characters of the document's text."""
    end: int
    file: str
    page: int | None
    last_page: int | None
    part: str
    line: int | None
    last_line: int | None

    def __str__(self) -> str:
        """
        >>> str(Place("report.pdf", 10, 20, "", 3, 4, "", None, None))
        'report.pdf, pages 3-4'
        """
        name = f"{self.document}: {self.file}" if self.file else self.document
        if self.page is not None:
            return f"{name}, {_range('page', self.page, self.last_page)}"
        where = f"{name}, {self.part}" if self.part else name
        return f"{where}, {_range('line', self.line, self.last_line)}"


@dataclass(frozen=True)
class Document:
    """What one upload holds, as text.

    `marks` are sorted and the first starts at 0. `warnings` tell what of the file is not in the text.
    """

    name: str
    text: str
    kind: str
    """PDF, DOCX, EPUB, HTML, Markdown, text, source, ZIP or folder."""
    marks: tuple[Mark, ...] = (Mark(0),)
    warnings: tuple[str, ...] = ()
    pages: int | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over name and text, which is what a model reads."""
        return hashlib.sha256(f"{self.name}\0{self.text}".encode()).hexdigest()

    def place(self, start: int, end: int) -> Place:
        """Where the characters [start, end) stand. Raises IndexError outside the text."""
        if not 0 <= start < end <= len(self.text):
            raise IndexError(f"characters {start} to {end} are not in a text of {len(self.text)}")
        first, last = self._mark_at(start), self._mark_at(end - 1)
        same_file = first.file == last.file
        paged = first.page is not None
        return Place(
            document=self.name,
            start=start,
            end=end,
            file=first.file,
            page=first.page,
            last_page=last.page if paged and same_file else first.page,
            part=first.part,
            line=None if paged else self._line(first, start),
            last_line=None
            if paged or first.part != last.part or not same_file
            else self._line(last, end - 1),
        )

    def cut(self, keep: Sequence[tuple[int, int]], note: str) -> Document:
        """The document of the spans `keep` alone, in order; `note` stands where something is left out."""
        pieces, marks, at, read_to = [], [], 0, 0
        gap = f"\n[{note}]\n"
        for start, end in [*keep, (len(self.text), len(self.text))]:
            if start > read_to:
                marks.append(replace(self._mark_at(read_to), start=at, line=self._line_at(read_to)))
                pieces.append(gap)
                at += len(gap)
            if end > start:
                here = [mark for mark in self.marks if start < mark.start < end]
                first = replace(self._mark_at(start), start=start, line=self._line_at(start))
                marks += [replace(mark, start=at + mark.start - start) for mark in (first, *here)]
                pieces.append(self.text[start:end])
                at += end - start
            read_to = end
        return replace(self, text="".join(pieces), marks=tuple(marks), warnings=(*self.warnings, note))

    def to_dict(self) -> dict[str, Any]:
        """What tells the document, without its text."""
        return {
            "name": self.name,
            "kind": self.kind,
            "characters": len(self.text),
            "pages": self.pages,
            "digest": self.digest,
            "warnings": list(self.warnings),
        }

    @cached_property
    def _starts(self) -> list[int]:
        return [mark.start for mark in self.marks]

    def _mark_at(self, position: int) -> Mark:
        return self.marks[max(0, bisect_right(self._starts, position) - 1)]

    def _line_at(self, position: int) -> int:
        return self._line(self._mark_at(position), position)

    def _line(self, mark: Mark, position: int) -> int:
        return mark.line + self.text.count("\n", mark.start, position)


def _range(unit: str, first: int | None, last: int | None) -> str:
    return f"{unit} {first}" if last is None or last == first else f"{unit}s {first}-{last}"
