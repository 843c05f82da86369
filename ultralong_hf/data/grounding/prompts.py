"""A text of real lines with a fact in it, and facts that are easily taken for it; a question has one answer.

>>> rng = random.Random(0)
>>> asked = Fact("access code", "upper harbour", "40713")
>>> for fact in draw_distractors(rng, asked, 3):
...     print(fact.statement)
The access code of the royal harbour is 25353.
The room number of the upper harbour is 38896.
The access code of the upper brewery is 58766.
"""

from __future__ import annotations

import hashlib
import random
import textwrap
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from ultralong_hf.errors import DocumentError
from ultralong_hf.lab.facts import KINDS, PLACES, QUALITIES, VALUE_DIGITS, Fact, draw_fact

LONGEST_LINE = 400
"""Characters; longer lines are broken at blanks, so that facts stand between lines everywhere."""
_LINES_A_CALL = 4096


@dataclass(frozen=True)
class GroundedText:
    """`text` with its facts, each a line of its own."""

    text: str
    asked: Fact
    distractors: tuple[Fact, ...]
    """What is nearest to `asked` first: the same kind of a place with the same noun."""
    is_stated: bool
    """Whether `asked` is in the text; else nobody can know its value."""
    depth: float
    """Percent of the text's lines before `asked`."""

    @property
    def values(self) -> set[str]:
        """Of all facts in the text."""
        return {fact.value for fact in (self.asked, *self.distractors)}


def draw_distractors(rng: random.Random, asked: Fact, count: int) -> tuple[Fact, ...]:
    """`count` facts that differ from `asked` in one part of their name, and all in their values.

    By turns: the same kind of a place with the same noun, another kind of the same place, the same kind of
    another place.
    """
    quality, noun = asked.place.split()
    qualities = [word for word in rng.sample(QUALITIES, len(QUALITIES)) if word != quality]
    kinds = [kind for kind in rng.sample(KINDS, len(KINDS)) if kind != asked.kind]
    nouns = [word for word in rng.sample(PLACES, len(PLACES)) if word != noun]
    turns = ([(asked.kind, f"{word} {noun}") for word in qualities], [(kind, asked.place) for kind in kinds])
    others = [(asked.kind, f"{quality} {word}") for word in nouns]
    named: list[tuple[str, str]] = []
    for turn in range(count):
        names = (*turns, others)[turn % 3]
        names = names or others
        if names:
            named.append(names.pop(0))
    values = _other_values(rng, {asked.value}, len(named))
    return tuple(
        Fact(kind=kind, place=place, value=value) for (kind, place), value in zip(named, values, strict=True)
    )


def invent_value(rng: random.Random, known: Iterable[str]) -> str:
    """A value that is none of the `known` ones."""
    return _other_values(rng, set(known), 1)[0]


def _other_values(rng: random.Random, known: set[str], count: int) -> list[str]:
    values: dict[str, None] = {}
    while len(values) < count:
        value = str(rng.randrange(10 ** (VALUE_DIGITS - 1), 10**VALUE_DIGITS))
        if value not in known:
            values[value] = None
    return list(values)


@dataclass(frozen=True, eq=False)
class LineText:
    """Lines of documents with their lengths, read as a ring.

    ends: int64 [L], tokens up to the end of each line, newlines counted.
    """

    lines: list[str] = field(repr=False)
    ends: np.ndarray = field(repr=False)
    tokenizer: Any = field(repr=False)

    @property
    def tokens(self) -> int:
        return int(self.ends[-1])

    @property
    def digest(self) -> str:
        """SHA-256 of the lines and their lengths."""
        content = hashlib.sha256("\n".join(self.lines).encode("utf-8", "surrogatepass"))
        content.update(self.ends.astype("<i8").tobytes())
        return content.hexdigest()

    @classmethod
    def read(cls, documents: Iterable[str], tokenizer: Any, tokens: int) -> LineText:
        """Lines in the order of the documents until `tokens` are reached, or the documents end.

        Raises DocumentError where there is no line.
        """
        lines: list[str] = []
        lengths: list[int] = []
        total = 0
        source = (line for document in documents for line in _lines(document))
        while total < tokens and (batch := list(islice(source, _LINES_A_CALL))):
            counts = [len(ids) for ids in _encode(tokenizer, [f"{line}\n" for line in batch])]
            lines += batch
            lengths += counts
            total += sum(counts)
        if not lines:
            raise DocumentError("the documents hold no text to hide facts in.")
        return cls(lines, np.cumsum(lengths, dtype=np.int64), tokenizer)

    def from_line(self, start: int, tokens: int) -> list[str]:
        """Consecutive lines of at most `tokens` from line `start` on, round the ring as often as needed."""
        before = int(self.ends[start - 1]) if start else 0
        turns, rest = divmod(before + tokens, self.tokens)
        end = bisect_right(self.ends, rest) + turns * len(self.lines)
        return [self.lines[index % len(self.lines)] for index in range(start, end)]

    def count(self, text: str) -> int:
        """Tokens of a text that is data."""
        return len(_encode(self.tokenizer, [text])[0])


def ground(
    rng: random.Random, lines: LineText, room: int, *, distractors: int, is_stated: bool = True
) -> GroundedText | None:
    """A text of at most `room` tokens, as near to it as whole lines come; none where the facts do not fit."""
    asked = draw_fact(rng)
    others = draw_distractors(rng, asked, distractors)
    facts = [asked, *others] if is_stated else list(others)
    start = rng.randrange(len(lines.lines))
    places = [rng.random() for _ in facts]
    left = room - lines.count("".join(f"{fact.statement}\n" for fact in facts))
    while left >= 0:
        body = lines.from_line(start, left)
        text, depth = _insert(body, facts, places)
        over = lines.count(text) - room
        if over <= 0:
            return GroundedText(text, asked, others, is_stated, depth if is_stated else 0.0)
        left -= over
    return None


def _insert(body: list[str], facts: list[Fact], places: list[float]) -> tuple[str, float]:
    """The text, and the percent of its lines before the first of `facts`."""
    placed = [
        (int(place * (len(body) + 1)), fact.statement) for place, fact in zip(places, facts, strict=True)
    ]
    text = list(body)
    for at, statement in sorted(placed, key=lambda item: item[0], reverse=True):
        text.insert(at, statement)
    depth = 100 * text.index(facts[0].statement) / max(1, len(text) - 1) if facts else 0.0
    return "\n".join(text), round(depth, 2)


def _lines(document: str) -> Iterable[str]:
    for line in document.splitlines():
        if len(line) <= LONGEST_LINE:
            if line.strip():
                yield line
        else:
            yield from textwrap.wrap(line, LONGEST_LINE)


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return list(
        tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    )
