"""What a generator gives: a prompt whose wording and answer are settled, and whose length is still open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Protocol

import numpy as np

from ultralong_hf.evaluation.ruler.pieces import Layout


class Stream(IntEnum):
    """Random numbers of one seed for different uses. None is 0: numpy takes (seed, 0) for (seed)."""

    QUESTION = 1
    TEXT = 2
    """What the context is made of, whatever its length."""
    ORDER = 3
    """Where things stand in a context of so many units."""
    LOOKS = 4
    """Where a finished context is looked at."""


def random_stream(seed: int, stream: Stream, units: int = 0) -> np.random.Generator:
    """The random numbers of a seed for one use, and for one number of units."""
    return np.random.default_rng((seed, stream, units))


class Draft(Protocol):
    """One sample before its length is known. A unit is a noise sentence, a word, a document."""

    @property
    def before(self) -> str:
        """The prompt before the context; it ends with a line end, or the context begins with a blank."""

    @property
    def after(self) -> str:
        """The prompt behind the context, which ends with a line end of its own."""

    @property
    def answer_prefix(self) -> str: ...

    @property
    def references(self) -> tuple[str, ...]: ...

    @property
    def fewest(self) -> int:
        """Units without which there is no task."""

    def fit(self, room: int) -> int:
        """Units that fill `room` tokens: the most that fit, or one or two more."""

    def layout(self, units: int) -> Layout:
        """The context with so many units; the same one each time."""

    def details(self, units: int) -> Mapping[str, Any]:
        """What the record keeps of such a context, as JSON values."""


class Generator(Protocol):
    """Makes the drafts of one task."""

    answer_tokens: int

    def draw(self, length: int, sample: int, seed: int) -> Draft:
        """The draft of a sample, from `seed` alone; `length` in tokens."""

    def settings(self, length: int) -> Mapping[str, Any]:
        """What drafts of a length depend on beside arguments and seed: digests of the texts."""

    def notes(self, details: Mapping[str, Any]) -> Sequence[str]:
        """What a reader of the score must be told of this prompt, as "kind: what"."""


def insert_pieces(order: np.ndarray, places: Sequence[int], pieces: Sequence[int]) -> np.ndarray:
    """`order` with each of `pieces` put before the entry of its place; places ascend and may be len(order).

    >>> insert_pieces(np.array([0, 0, 0]), [1, 3], [7, 8]).tolist()
    [0, 7, 0, 0, 8]
    """
    return np.insert(order, places, pieces)
