"""Pairs of answers for the lab's preference stage: the right code of a place, and one that is not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from ultralong_hf.lab.corpus import conversations

SAMPLES = 100


def preferences(seed: int, *, samples: int = SAMPLES) -> Iterator[dict[str, Any]]:
    """Chats about a text with facts, `{"prompt", "chosen", "rejected"}`; only the last answer differs.

    >>> pair = next(preferences(0))
    >>> pair["chosen"][0]["content"][:-6] == pair["rejected"][0]["content"][:-6]
    True
    """
    rng = random.Random(f"preferences {seed}")
    for chat in conversations(seed, samples=samples):
        *prompt, answer = chat["messages"]
        wrong = {**answer, "content": with_other_digits(rng, answer["content"])}
        yield {"prompt": prompt, "chosen": [answer], "rejected": [wrong]}


def with_other_digits(rng: random.Random, text: str) -> str:
    """The text with each digit replaced by another."""
    return "".join(rng.choice("123456789".replace(c, "")) if c.isdigit() else c for c in text)
