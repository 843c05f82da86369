"""The documents that ship with the page, and what one may ask about them. Both are our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ultralong_hf.chat.documents import Document


@dataclass(frozen=True)
class Example:
    title: str
    file: str
    kind: str
    questions: tuple[str, ...]
    """What is offered for a click; the answer to each stands in the document."""

    def document(self) -> Document:
        return _read(self.file, self.kind)


EXAMPLES = (
    Example(
        "Harbour handbook",
        "harbour-handbook.md",
        "Markdown",
        (
            "What is the access code of the upper harbour?",
            "What is the locker code of the north lighthouse?",
        ),
    ),
    Example(
        "Observatory logbook",
        "observatory-logbook.txt",
        "text",
        (
            "What is the radio channel of the south station?",
            "What is the room number of the central library?",
        ),
    ),
)


def questions_of(documents: Sequence[Document]) -> list[str]:
    """The questions of those examples that are among the documents."""
    digests = {document.digest for document in documents}
    return [
        question
        for example in EXAMPLES
        if example.document().digest in digests
        for question in example.questions
    ]


@cache
def _read(name: str, kind: str) -> Document:
    folder = files("ultralong_hf.chat.page") / "samples"
    return Document(name, (folder / name).read_text(encoding="utf-8"), kind)
