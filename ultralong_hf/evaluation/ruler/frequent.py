"""Frequent words: coded words whose numbers follow a power of their rank."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from ultralong_hf.evaluation.ruler.definitions import FrequentWords
from ultralong_hf.evaluation.ruler.drafts import Draft, Stream, random_stream
from ultralong_hf.evaluation.ruler.pieces import Layout, PieceEncoder, Pieces


def zeta(alpha: float) -> float:
    """Riemann's zeta function for alpha > 1, by Euler and Maclaurin's sum after 16 terms.

    >>> round(zeta(2.0), 12), round(math.pi**2 / 6, 12)
    (1.644934066848, 1.644934066848)
    """
    terms = 16
    first = math.fsum(k**-alpha for k in range(1, terms))
    rest = terms ** (1 - alpha) / (alpha - 1) + terms**-alpha / 2
    rest += alpha * terms ** (-alpha - 1) / 12
    rest -= alpha * (alpha + 1) * (alpha + 2) * terms ** (-alpha - 3) / 720
    rest += math.prod(alpha + step for step in range(5)) * terms ** (-alpha - 5) / 30_240
    return first + rest


def word_counts(words: int, ranks: int, alpha: float) -> np.ndarray:
    """int64 [ranks]: how often the words of rank 1, 2, ... stand among about `words` of them."""
    rank = np.arange(1, ranks + 1, dtype=np.float64)
    return (words * rank**-alpha / zeta(alpha)).astype(np.int64)


@dataclass(kw_only=True)
class FrequentWordsDraft:
    """Units are the words that the counts are shares of; the text has a few less."""

    arguments: FrequentWords
    vocabulary: Pieces = field(repr=False)
    """By rank, a blank before each; the first are the dots."""
    encoder: PieceEncoder = field(repr=False)
    seed: int

    @property
    def before(self) -> str:
        return self.arguments.before

    @property
    def after(self) -> str:
        return self.arguments.after

    @property
    def answer_prefix(self) -> str:
        return self.arguments.answer_prefix

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(text[1:] for text in self.vocabulary.texts[1 : 1 + self.arguments.num_answers])

    @property
    def fewest(self) -> int:
        """Of 27 words the fourth rank is the last that stands once: the answers are told from the rest."""
        return next(units for units in count(1) if self._has_answers(units))

    def fit(self, room: int) -> int:
        low, high = 0, 2 * max(room, 0)
        while low < high:
            middle = (low + high + 1) // 2
            if int(self._counts(middle) @ self.vocabulary.lengths) + 1 <= room:
                low = middle
            else:
                high = middle - 1
        while low and not self._has_answers(low):
            low -= 1
        return low

    def layout(self, units: int) -> Layout:
        order = np.repeat(np.arange(len(self.vocabulary)), self._counts(units))
        random_stream(self.seed, Stream.ORDER, units).shuffle(order)
        last = self.encoder.encode([f"{self.vocabulary.texts[order[-1]]}\n"])
        order[-1] = len(self.vocabulary)
        return Layout((self.vocabulary, last), order)

    def details(self, units: int) -> Mapping[str, Any]:
        counts = self._counts(units)
        return {
            "units": units,
            "words": int(counts.sum()),
            "different": int((counts > 0).sum()),
            "counts": counts[: self.arguments.num_answers + 2].tolist(),
        }

    def _counts(self, units: int) -> np.ndarray:
        return word_counts(units, len(self.vocabulary), self.arguments.alpha)

    def _has_answers(self, units: int) -> bool:
        """Whether the least frequent answer stands more often than the next word, which is none."""
        counts = np.append(self._counts(units), 0)
        return bool(counts[self.arguments.num_answers] > counts[self.arguments.num_answers + 1])


class FrequentWordsGenerator:
    """Drafts of frequent words. Of the vocabulary only the words that stand in the text are made."""

    def __init__(self, arguments: FrequentWords, encoder: PieceEncoder) -> None:
        self.arguments, self._encoder = arguments, encoder
        self.answer_tokens = arguments.answer_tokens

    def draw(self, length: int, sample: int, seed: int) -> Draft:
        rng = random_stream(seed, Stream.QUESTION)
        words = self._words(rng, self._vocabulary_size(length) - 1)
        vocabulary = self._encoder.encode([f" {word}" for word in (self.arguments.dots, *words)])
        return FrequentWordsDraft(
            arguments=self.arguments, vocabulary=vocabulary, encoder=self._encoder, seed=seed
        )

    def settings(self, length: int) -> Mapping[str, Any]:
        return {}

    def notes(self, details: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def _vocabulary_size(self, length: int) -> int:
        """Ranks that can stand in `length` words, NVIDIA's length / 50 at most, dots and answers at least."""
        standing = int((2 * length / zeta(self.arguments.alpha)) ** (1 / self.arguments.alpha)) + 1
        least = self.arguments.num_answers + 2
        return max(least, min(length // self.arguments.tokens_a_word, standing))

    def _words(self, rng: np.random.Generator, number: int) -> list[str]:
        letters = np.array(list(string.ascii_lowercase))
        words: dict[str, None] = {}
        while len(words) < number:
            drawn = letters[rng.integers(len(letters), size=(number - len(words), self.arguments.letters))]
            words.update(dict.fromkeys(map("".join, drawn.tolist())))
        return list(words)
