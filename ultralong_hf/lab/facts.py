"""Facts in plain sentences: what the lab's documents hold, and what needle tests ask for.

>>> fact = Fact("access code", "upper harbour", "40713")
>>> fact.statement
'The access code of the upper harbour is 40713.'
>>> fact.question
'What is the access code of the upper harbour?'
"""

from __future__ import annotations

import random
from dataclasses import dataclass

KINDS = ("access code", "room number", "file number", "badge number", "locker code", "radio channel")
QUALITIES = tuple(
    """
    north south east west upper lower old new inner outer grand little royal central river mountain
    """.split()
)
PLACES = tuple(
    """
    abbey airport archive arena armoury arsenal asylum bakery bank barn barracks bazaar brewery
    bridge cabin camp canal canteen castle cellar chapel church cinema citadel clinic college
    cottage court dairy depot dock embassy factory farm ferry forge fort foundry fountain gallery
    garage garden gate gym hall hangar harbour hospital hotel hut inn jetty kennel kiln kiosk
    kitchen laboratory laundry library lighthouse lodge mansion market mill mine mint monastery
    monument museum nursery observatory office orchard orphanage palace parlour pavilion pharmacy
    pier plaza prison quarry quay refinery reservoir sawmill school shipyard shop shrine smithy
    stable stadium station studio tannery tavern temple theatre tower treasury tunnel vault villa
    vineyard warehouse wharf winery workshop zoo
    """.split()
)
MOST_FACTS = len(QUALITIES) * len(PLACES)
VALUE_DIGITS = 5


@dataclass(frozen=True)
class Fact:
    """One fact: `kind` of a `place` is `value` (five digits, the first not 0)."""

    kind: str
    place: str
    value: str

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


def draw_facts(rng: random.Random, count: int) -> list[Fact]:
    """`count` facts about different places; at most MOST_FACTS of them.

    Up to len(PLACES) no two have the place's noun in common; of more, only quality and noun together differ.

    >>> len({fact.place.split()[1] for fact in draw_facts(random.Random(0), 50)})
    50
    >>> len({fact.place for fact in draw_facts(random.Random(0), 500)})
    500
    """
    pairs: list[tuple[str | None, str]] = [(None, place) for place in PLACES]
    if count > len(PLACES):
        pairs = [(quality, place) for quality in QUALITIES for place in PLACES]
    return [
        Fact(
            kind=rng.choice(KINDS),
            place=f"{quality or rng.choice(QUALITIES)} {place}",
            value=str(rng.randrange(10 ** (VALUE_DIGITS - 1), 10**VALUE_DIGITS)),
        )
        for quality, place in rng.sample(pairs, count)
    ]


def draw_fact(rng: random.Random) -> Fact:
    """One fact."""
    return draw_facts(rng, 1)[0]
