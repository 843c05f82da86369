"""The text of one file as it grows: pieces, marks and warnings, never more than the limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ultralong_hf.chat.documents.document import Mark
from ultralong_hf.chat.documents.limits import Limits
from ultralong_hf.chat.documents.text import clean
from ultralong_hf.errors import UploadError


@dataclass
class Reading:
    """What a reader found in one file; it travels from the reader's process as plain values."""

    kind: str
    limits: Limits
    pages: int | None = None
    marks: list[Mark] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _pieces: list[str] = field(default_factory=list)
    _length: int = 0
    _unseen: Counter[str] = field(default_factory=Counter)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def mark(self, *, page: int | None = None, part: str = "") -> None:
        """What follows is of this page or part."""
        self.marks.append(Mark(self._length, page=page, part=part))

    def add(self, text: str) -> None:
        """Raises UploadError beyond the limit of characters."""
        text, warnings = clean(text)
        self._unseen.update(warnings)
        self._length += len(text)
        if self._length > self.limits.characters:
            raise UploadError(
                f"it holds more than {self.limits.characters:,} characters of text, which is the limit."
            )
        self._pieces.append(text)

    def finished(self, empty: str = "it holds no text.") -> Reading:
        """Raises UploadError if there is nothing to read."""
        if not self.text.strip():
            raise UploadError(empty)
        if not self.marks or self.marks[0].start:
            self.marks.insert(0, Mark(0))
        self.warnings += self._unseen
        return self
