"""Settings chosen so that every few of them meet: far fewer runs than all combinations."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any


def cover(dimensions: Mapping[str, Sequence[Any]], strength: int = 3) -> list[dict[str, Any]]:
    """Combinations in which any values of any `strength` dimensions stand together at least once.

    Greedy: each takes the combination that adds most, the first of equals.
    """
    names = list(dimensions)
    everything = list(itertools.product(*(range(len(values)) for values in dimensions.values())))
    meetings = [frozenset(itertools.combinations(enumerate(one), strength)) for one in everything]
    missing = set().union(*meetings)
    chosen = []
    while missing:
        best = max(range(len(everything)), key=lambda index: len(meetings[index] & missing))
        missing -= meetings[best]
        chosen.append(everything[best])
    return [{name: dimensions[name][at] for name, at in zip(names, one, strict=True)} for one in chosen]


def in_words(case: Mapping[str, Any]) -> str:
    """For pytest: "ulysses2-fsdp=True-rows=2"."""
    first, *others = case.items()
    return "-".join([str(first[1]), *(f"{name}={value}" for name, value in others)])
