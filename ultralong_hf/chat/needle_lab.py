"""The needle lab: a sentence of the user's hidden in the session's documents, and asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.engine import Event, Options, Reply
from ultralong_hf.chat.session import Session
from ultralong_hf.errors import ChatError

SHORTEST = 256
"""Tokens of the shortest length that is offered; the next ones are twice as long each."""
LONGEST_SENTENCE = 2_000
# How far from the depth that was asked for a line's or a sentence's end is looked for, in characters.
_NEAR = 200
_VALUE = re.compile(r"\w*\d[\w.,:-]*\w|\d|\b[A-Z]\w+|\w+")


@dataclass(frozen=True)
class Attempt:
    """One try. tokens: of the prompt; length: what was chosen, None for the whole text."""

    depth: float
    length: int | None
    tokens: int
    found: bool
    answer: str


class NeedleLab:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.attempts: list[Attempt] = []

    def lengths(self) -> list[int]:
        """Tokens that a text may be cut to: powers of two below the documents' own, within the window."""
        total = self._tokens()
        window = self.session.engine.window or total
        found = []
        length = SHORTEST
        while length < min(total, window):
            found.append(length)
            length *= 2
        return found

    def hide(self, sentence: str, depth: float, length: int | None = None) -> Document:
        """The documents as one text, cut to about `length` tokens, with the sentence at `depth` percent.

        Raises ChatError without documents, or for a sentence that is empty or too long.
        """
        sentence = " ".join(sentence.split())
        if not self.session.documents:
            raise ChatError("There is no document to hide the sentence in.")
        if not sentence or len(sentence) > LONGEST_SENTENCE:
            raise ChatError(
                f"The sentence has {len(sentence):,} characters; 1 to {LONGEST_SENTENCE:,} can be hidden."
            )
        text = "\n\n".join(document.text.strip("\n") for document in self.session.documents)
        if length is not None:
            text = self._cut(text, length)
        return Document("haystack", insert(text, sentence, depth), "text")

    def attempt(
        self,
        sentence: str,
        question: str,
        expected: str,
        *,
        depth: float,
        length: int | None = None,
        options: Options | None = None,
    ) -> Iterator[Event | Attempt]:
        """Events as of `ask`, then the Attempt, which is kept; none where the answer was stopped.

        expected: what the answer must hold, in any case; empty: the sentence's last value.
        """
        expected = expected.strip() or expected_of(sentence)
        document = self.hide(sentence, depth, length)
        for event in self.session.ask_aside([document], question, options):
            yield event
            if isinstance(event, Reply) and event.finish_reason != "stopped":
                found = expected.casefold() in event.text.casefold()
                tokens = event.prompt_tokens or self.session.engine.count(self.session.name, document).tokens
                self.attempts.append(Attempt(depth, length, tokens, found, event.text))
                yield self.attempts[-1]

    def _cut(self, text: str, length: int) -> str:
        """The beginning of about so many tokens: by characters, put right twice, as parts differ."""
        session, end = self.session, len(text) * length // max(1, self._tokens())
        for _ in range(2):
            found = session.engine.count(session.name, Document("part", text[: max(1, end)], "text")).tokens
            end = end * length // max(1, found)
        session.engine.keep_texts(session.name, session.documents)
        return text[: max(1, end)]

    def _tokens(self) -> int:
        session = self.session
        return sum(session.engine.count(session.name, document).tokens for document in session.documents)


def insert(text: str, sentence: str, depth: float) -> str:
    """The sentence at a line's end, else a sentence's or a word's, near `depth` percent of the characters.

    >>> insert("One line.\\nTwo lines.\\n", "Hidden.", 50)
    'One line.\\nHidden.\\nTwo lines.\\n'
    >>> insert("One. Two. Three.", "Hidden.", 40)
    'One. Two. Hidden. Three.'
    """
    at = round(len(text) * min(max(depth, 0.0), 100.0) / 100)
    if at == 0:
        return f"{sentence}\n{text}"
    if at == len(text):
        return f"{text.rstrip()}\n{sentence}\n"
    for mark, before, behind in (("\n", "", "\n"), (". ", "", " "), (" ", "", " ")):
        place = _nearest(text, mark, at)
        if place is not None:
            return f"{text[:place]}{before}{sentence}{behind}{text[place:]}"
    return f"{text[:at]} {sentence} {text[at:]}"


def expected_of(sentence: str) -> str:
    """The last number or code of a sentence, else its last name, else its last word.

    >>> expected_of("The code of the mill is 4-711."), expected_of("The mayor is Ada, they say.")
    ('4-711', 'Ada')
    """
    words = _VALUE.findall(sentence)
    numbers = [word for word in words if any(letter.isdigit() for letter in word)]
    names = [word for word in words[1:] if word[:1].isupper()]
    return (numbers or names or words or [""])[-1]


def _nearest(text: str, mark: str, at: int) -> int | None:
    """The place behind the mark that is nearest to `at`, if one is near."""
    before = text.rfind(mark, max(0, at - _NEAR), at)
    after = text.find(mark, max(0, at - len(mark)), at + _NEAR)
    found = [place + len(mark) for place in (before, after) if place >= 0]
    return min(found, key=lambda place: abs(place - at)) if found else None


def by_cell(attempts: Sequence[Attempt]) -> dict[tuple[int | None, float], tuple[int, int]]:
    """(length, depth) -> (found, tries)."""
    cells: dict[tuple[int | None, float], tuple[int, int]] = {}
    for one in attempts:
        found, tries = cells.get((one.length, one.depth), (0, 0))
        cells[one.length, one.depth] = (found + one.found, tries + 1)
    return cells
