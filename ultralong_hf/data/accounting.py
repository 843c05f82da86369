"""Where a run stands, and what has become of every token so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Position(NamedTuple):
    """The end of a row in the stream of documents: from here the next row is packed."""

    pass_number: int = 0
    document: int = -1
    """Index of the document at hand over all sources; -1 before the first."""
    consumed: int = 0
    """Tokens of it, and of the separator before it, that are in rows."""
    is_first: bool = True
    """Whether no document came before the one at hand, so that it has no separator."""
    documents_sha256: str = ""
    """Digest of the texts of this pass up to the document at hand, so that changed documents are noticed."""


@dataclass
class Counts:
    """Tokens are counted three ways, which must agree.

    read = tokens of all documents, each once, + those of repeats + those of the separators put between them
         = packed + separators (both in rows) + dropped (by the mixture, or in the last short row).
    """

    documents_read: int = 0
    documents_used: int = 0
    documents_empty: int = 0
    documents_dropped_by_mixture: int = 0
    repeats: int = 0
    """Uses of a document after its first."""
    rows: int = 0
    tokens_of_documents: int = 0
    tokens_of_repeats: int = 0
    tokens_of_separators: int = 0
    """Put between documents, in rows or not."""
    tokens_packed: int = 0
    """Of documents, in rows."""
    separators_packed: int = 0
    """Tokens of separators, in rows."""
    dropped_by_mixture: int = 0
    dropped_tail: int = 0
    """Tokens of documents and separators in the last short row."""
    documents_sha256: str | None = None
    """Of the texts of all documents; none before the last is read."""

    @property
    def tokens_read(self) -> int:
        return self.tokens_of_documents + self.tokens_of_repeats + self.tokens_of_separators

    @property
    def tokens_dropped(self) -> int:
        return self.dropped_by_mixture + self.dropped_tail

    def add_document(self, length: int, copies: int) -> None:
        """A document read for the first time, which the mixture takes `copies` times."""
        self.documents_read += 1
        self.tokens_of_documents += length
        if length == 0:
            self.documents_empty += 1
        elif copies == 0:
            self.documents_dropped_by_mixture += 1
            self.dropped_by_mixture += length
        else:
            self.documents_used += 1

    def add_use(self, length: int, separator_length: int, *, is_repeat: bool) -> None:
        """A document handed to the packer, with the separator before it."""
        self.tokens_of_separators += separator_length
        if is_repeat:
            self.repeats += 1
            self.tokens_of_repeats += length

    def add_row(self, tokens: int, separators: int) -> None:
        """A full row of so many tokens of documents and of separators."""
        self.rows += 1
        self.tokens_packed += tokens
        self.separators_packed += separators

    def add_tail(self, tokens: int, separators: int) -> None:
        """The last row, which is short. The account must close."""
        self.dropped_tail += tokens + separators
        in_rows = self.tokens_packed + self.separators_packed
        assert self.tokens_read == in_rows + self.tokens_dropped, f"tokens went astray: {self}"

    def summary(self) -> dict[str, Any]:
        """As the manifest tells it: tokens.read = packed + separators + dropped."""
        return {
            "documents": {
                "read": self.documents_read,
                "used": self.documents_used,
                "dropped": self.documents_empty + self.documents_dropped_by_mixture,
                "empty": self.documents_empty,
                "dropped_by_mixture": self.documents_dropped_by_mixture,
                "repeats": self.repeats,
            },
            "tokens": {
                "read": self.tokens_read,
                "packed": self.tokens_packed,
                "separators": self.separators_packed,
                "dropped": self.tokens_dropped,
                "dropped_by_mixture": self.dropped_by_mixture,
                "dropped_tail": self.dropped_tail,
                "of_documents": self.tokens_of_documents,
                "of_repeats": self.tokens_of_repeats,
                "of_separators": self.tokens_of_separators,
            },
            "rows": self.rows,
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
