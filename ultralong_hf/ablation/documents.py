"""The lab's documents for ablations: rows that hold the same documents whatever stands between them.

The recipe `lab` sizes its documents for one separator. Here a row's documents are planned so that each arm
packs them into that row: the last one is long enough to fill what a shorter separator leaves, and its tail is
dropped (`data.keep_tail: false`), so that no document ever moves to another row.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ultralong_hf.lab.corpus import (
    CHARACTERS_A_FACT,
    CHARACTERS_PER_TOKEN,
    REAL_SHARE,
    SEPARATOR_TOKENS,
    Filler,
    fact_document,
    real_training_documents,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHORTEST_SHARE = 1 / 16
"""Of a row: the shortest document. With the base's 256 tokens and rows of 4,096 they are equal."""
SPARSE_CHARACTERS_A_FACT = 2_000
"""Few labels a row, for comparison: 49 in one of 32,768 tokens, in place of 490."""
POOL_SHORTEST, POOL_LONGEST = 32, 8192
"""Tokens, about, of the documents among which a length mixture chooses."""


def row_documents(
    tokenizer: Tokenizer,
    target_length: int,
    rows: int,
    seed: int,
    *,
    characters_a_fact: int = CHARACTERS_A_FACT,
) -> Iterator[str]:
    """Documents of `rows` rows of `target_length` tokens, two to six a row, some real and some with facts.

    Row n depends on (seed, target_length, n) alone. Packed without tails and with a separator of at most
    SEPARATOR_TOKENS, every row begins with the first document that was made for it.
    """
    real = list(real_training_documents())
    for row in range(rows):
        rng = random.Random(f"ablation row {seed}/{target_length}/{row}")
        make = partial(_document, rng, Filler(rng), real, characters_a_fact=characters_a_fact)
        yield from _one_row(rng, make, tokenizer, target_length)


def pool_documents(tokens: int, seed: int) -> Iterator[str]:
    """Documents of about `tokens` tokens together, of all lengths: uniform in their logarithm."""
    rng = random.Random(f"ablation pool {seed}")
    filler = Filler(rng)
    real = list(real_training_documents())
    drawn = 0
    while drawn < tokens:
        size = _log_uniform(rng, POOL_SHORTEST, POOL_LONGEST)
        yield _document(rng, filler, real, size)
        drawn += size


def _one_row(
    rng: random.Random, make: Callable[[int], str], tokenizer: Tokenizer, target_length: int
) -> Iterator[str]:
    shortest = round(target_length * SHORTEST_SHARE)
    left = target_length
    while True:
        size = _log_uniform(rng, shortest, target_length)
        # what would be left must hold the last document even where every separator takes its tokens
        if size > left - 2 * shortest:
            break
        text = make(size)
        used = _count(tokenizer, text) + SEPARATOR_TOKENS
        if used > left - shortest:
            continue
        yield text
        left -= used
    # a separator of no tokens leaves SEPARATOR_TOKENS for each document before, far fewer than a shortest one
    text = make(left)
    filler = Filler(rng)
    while (short_of := left + shortest - _count(tokenizer, text)) > 0:
        text += "\n".join(filler.lines(round(short_of * CHARACTERS_PER_TOKEN) + 80)) + "\n"
    yield text


def _document(
    rng: random.Random,
    filler: Filler,
    real: list[str],
    tokens: int,
    *,
    characters_a_fact: int = CHARACTERS_A_FACT,
) -> str:
    characters = round(tokens * CHARACTERS_PER_TOKEN)
    if rng.random() < REAL_SHARE:
        text = rng.choice(real)
        start = rng.randrange(max(1, len(text) - characters))
        return text[text.find("\n", start) + 1 :][:characters] or text[:characters]
    return fact_document(rng, filler, characters, characters_a_fact=characters_a_fact)


def _log_uniform(rng: random.Random, low: float, high: float) -> int:
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))
