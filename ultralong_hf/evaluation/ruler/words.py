"""Random words, numbers and uuids, drawn by the thousand."""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files

import numpy as np

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ruler.definitions import Kind

NUMBER_DIGITS = 7
"""Of RULER's magic numbers; the first is not 0."""
_STEP_SHARE = (5**0.5 - 1) / 2


@cache
def word_lists() -> tuple[list[str], list[str], list[str]]:
    """Nouns, adjectives and verbs of the package wonderwords, as RULER uses them; each sorted, each once.

    Read from its files: the package itself takes a third of a second to make tries of them. Raises
    EvaluationError where the package is missing.
    """
    try:
        folder = files("wonderwords") / "assets"
        texts = [(folder / f"{kind}list.txt").read_text("utf-8") for kind in ("noun", "adjective", "verb")]
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise EvaluationError(
            f"RULER's words come from the package wonderwords 3 ({error}): pip install wonderwords."
        ) from error
    nouns, adjectives, verbs = (sorted({word.strip() for word in text.splitlines()} - {""}) for text in texts)
    return nouns, adjectives, verbs


@cache
def all_words() -> list[str]:
    """Every noun, adjective and verb once, sorted."""
    return sorted({word for words in word_lists() for word in words})


def compound_words(count: int) -> list[str]:
    """`count` different words "adjective-noun", always the same ones in the same order."""
    nouns, adjectives, _ = word_lists()
    most = len(nouns) * len(adjectives)
    if count > most:
        raise EvaluationError(f"There are {most:,} words 'adjective-noun', and {count:,} are needed.")
    # Steps of a share of all that has no divisor in common with their number reach each once.
    step = next(step for step in range(round(most * _STEP_SHARE), most) if math.gcd(step, most) == 1)
    order = (index * step % most for index in range(count))
    return [f"{adjectives[index // len(nouns)]}-{nouns[index % len(nouns)]}" for index in order]


def draw(kind: Kind, rng: np.random.Generator, count: int) -> list[str]:
    """`count` words, numbers or uuids, each drawn anew: two may be alike."""
    if kind == "words":
        return _draw_words(rng, count)
    return _draw_numbers(rng, count) if kind == "numbers" else _draw_uuids(rng, count)


def draw_different(kind: Kind, rng: np.random.Generator, count: int) -> list[str]:
    """`count` of them, no two alike."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn.update(dict.fromkeys(draw(kind, rng, count - len(drawn))))
    return list(drawn)


def _draw_words(rng: np.random.Generator, count: int) -> list[str]:
    nouns, adjectives, _ = word_lists()
    first = rng.integers(len(adjectives), size=count).tolist()
    second = rng.integers(len(nouns), size=count).tolist()
    return [f"{adjectives[adjective]}-{nouns[noun]}" for adjective, noun in zip(first, second, strict=True)]


def _draw_numbers(rng: np.random.Generator, count: int) -> list[str]:
    drawn = rng.integers(10 ** (NUMBER_DIGITS - 1), 10**NUMBER_DIGITS, size=count)
    return list(map(str, drawn.tolist()))


def _draw_uuids(rng: np.random.Generator, count: int) -> list[str]:
    """Of version 4: the 13th digit is 4, the 17th 8, 9, a or b (RFC 9562, section 5.4)."""
    digits = rng.bytes(16 * count).hex()
    parts = (digits[at : at + 32] for at in range(0, 32 * count, 32))
    return [f"{d[:8]}-{d[8:12]}-4{d[13:16]}-{'89ab'[int(d[16], 16) & 3]}{d[17:20]}-{d[20:]}" for d in parts]
