"""Lines of a haystack of needles: "One of the special magic numbers for KEY is: VALUE." again and again.

A line is laid out of pieces: its wording, an adjective and a noun or a uuid, and a number or a uuid. Numbers
and uuids are drawn once a length, more of them than its lines; each prompt has them in an order of its own,
none twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ultralong_hf.evaluation.ruler.definitions import Kind, Niah
from ultralong_hf.evaluation.ruler.drafts import Stream, random_stream
from ultralong_hf.evaluation.ruler.pieces import PieceEncoder, Pieces
from ultralong_hf.evaluation.ruler.words import draw_different, word_lists

_PROBES, _LEAST_SHARE, _SPARE = 64, 0.9, 16
"""Of a few lines the mean number of tokens is taken; a text of nine tenths of it a line, and some lines more,
has more of them than any."""


@dataclass(frozen=True)
class Lines:
    """Lines in pieces. rows: int64 [lines, pieces a line], indices through all tables one after the other."""

    tables: tuple[Pieces, ...] = field(repr=False)
    rows: np.ndarray = field(repr=False)
    ends: np.ndarray = field(repr=False)
    """int64 [lines], tokens up to and with each line."""


@dataclass(frozen=True)
class Pool:
    """Numbers or uuids as pieces, a blank before each and the line's end, if it is there, behind it."""

    pieces: Pieces = field(repr=False)
    places: dict[str, int] = field(repr=False)

    @classmethod
    def made(cls, texts: list[str], end: str, encoder: PieceEncoder) -> Pool:
        pieces = encoder.encode([f" {text}{end}" for text in texts])
        return cls(pieces, {text: place for place, text in enumerate(texts)})

    def places_of(self, texts: Collection[str]) -> list[int]:
        return [self.places[text] for text in texts if text in self.places]


class Distractors:
    """Draws lines of one task."""

    def __init__(self, arguments: Niah, encoder: PieceEncoder, *, seed: int) -> None:
        self._encoder, self._seed, self._arguments = encoder, seed, arguments
        mark = "\0"
        wording = arguments.needle.format(values=arguments.values, key=mark, value=mark)
        before, between, self._end = (part.rstrip() for part in wording.split(mark))
        self._wording = encoder.encode([before, between])
        nouns, adjectives, _ = word_lists()
        self._adjectives = {word: index for index, word in enumerate(adjectives)}
        self._nouns = {word: index for index, word in enumerate(nouns)}
        self._words: tuple[Pieces, ...] = ()
        if arguments.keys == "words":
            first = encoder.encode([f" {word}" for word in adjectives])
            self._words = (first, encoder.encode([f"-{word}" for word in nouns]))
        self._pools: dict[int, tuple[Pool, ...]] = {}

    def draw(self, length: int, seed: int, keys: Collection[str], values: Collection[str]) -> Lines:
        """More lines than `length` tokens hold, none with one of these keys or values."""
        most = int(length / (_LEAST_SHARE * self._mean_tokens)) + _SPARE
        pools, rng = self._pool(most), random_stream(seed, Stream.TEXT)
        parts = [*self._words, *(pool.pieces for pool in pools)]
        columns = [rng.integers(len(part), size=most) for part in self._words]
        columns += [rng.permutation(most) for _ in pools]
        kept = self._differ(columns, pools, keys, values)
        tables = (self._wording, *parts)
        firsts = np.cumsum([len(table) for table in tables])
        shifted = [column[kept] + first for column, first in zip(columns, firsts, strict=False)]
        before, between = (np.full(int(kept.sum()), index) for index in range(2))
        rows = np.stack([before, *shifted[:-1], between, shifted[-1]], axis=1)
        lengths = np.concatenate([table.lengths for table in tables])[rows].sum(axis=1)
        return Lines(tables, rows, np.cumsum(lengths))

    @cached_property
    def _mean_tokens(self) -> float:
        """Of a line."""
        parts = [*self._words, *(pool.pieces for pool in self._make_pools(_PROBES))]
        return len(self._wording.ids) + sum(float(part.lengths.mean()) for part in parts)

    def _pool(self, size: int) -> tuple[Pool, ...]:
        """Keys, where they are no words, and values: `size` of each."""
        if size not in self._pools:
            self._pools = {size: self._make_pools(size)}
        return self._pools[size]

    def _make_pools(self, size: int) -> tuple[Pool, ...]:
        rng = random_stream(self._seed, Stream.TEXT, size)
        kinds: list[tuple[Kind, str]] = [(self._arguments.values, f"{self._end}\n")]
        if not self._words:
            kinds.insert(0, (self._arguments.keys, ""))
        return tuple(Pool.made(draw_different(kind, rng, size), end, self._encoder) for kind, end in kinds)

    def _differ(
        self,
        columns: list[np.ndarray],
        pools: tuple[Pool, ...],
        keys: Collection[str],
        values: Collection[str],
    ) -> np.ndarray:
        """bool [lines]: which have neither one of the keys nor one of the values."""
        differ = ~np.isin(columns[-1], pools[-1].places_of(values))
        if not self._words:
            return differ & ~np.isin(columns[0], pools[0].places_of(keys))
        for adjective, noun in (split for key in keys for split in self._splits(key)):
            differ &= (columns[0] != adjective) | (columns[1] != noun)
        return differ

    def _splits(self, key: str) -> list[tuple[int, int]]:
        """(adjective, noun) of a key; both may have hyphens of their own."""
        parts = key.split("-")
        halves = [("-".join(parts[:at]), "-".join(parts[at:])) for at in range(1, len(parts))]
        return [
            (self._adjectives[first], self._nouns[second])
            for first, second in halves
            if first in self._adjectives and second in self._nouns
        ]
