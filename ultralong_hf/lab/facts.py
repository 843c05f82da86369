"""Facts in plain sentences: what the lab's documents hold, and what needle tests ask for.

>>> fact = Fact("access code", "harbour office", "40713")
>>> fact.statement
'The access code of the harbour office is 40713.'
>>> fact.question
'What is the access code of the harbour office?'
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ("access code", "room number", "file number", "badge number", "locker code", "radio channel")
PLACES = (
    "north south east west upper lower old new inner outer grand little royal central river mountain".split(),
    "harbour station castle market museum library garden hospital school airport theatre bridge "
    "tower factory temple palace".split(),
    "office desk archive vault gate cellar workshop kitchen".split(),
)
VALUE_DIGITS = 5


@dataclass(frozen=True)
class Fact:
    """One fact: `kind` of a `place` is `value` (five digits, the first not 0)."""

    kind: str
    place: str
    value: str

    @property
    def key(self) -> tuple[str, str]:
        """What a question names; facts of one document differ in it."""
        return self.kind, self.place

    @property
    def statement(self) -> str:
        return f"{self.answer_prefix} {self.value}."

    @property
    def question(self) -> str:
        return f"What is the {self.kind} of the {self.place}?"

    @property
    def answer_prefix(self) -> str:
        """The answer up to the value; a needle test may give it, so that only recall is measured."""
        return f"The {self.kind} of the {self.place} is"


def draw_fact(rng: random.Random, *, taken: Iterable[tuple[str, str]] = ()) -> Fact:
    """A fact whose key is not in `taken`."""
    taken = set(taken)
    while True:
        kind, place = rng.choice(KINDS), " ".join(rng.choice(words) for words in PLACES)
        if (kind, place) not in taken:
            break
    value = str(rng.randrange(10 ** (VALUE_DIGITS - 1), 10**VALUE_DIGITS))
    return Fact(kind, place, value)
