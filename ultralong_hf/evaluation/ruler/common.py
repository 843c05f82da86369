"""Common words: a numbered list in which ten words stand more often than the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ultralong_hf.evaluation.ruler.definitions import CommonWords
from ultralong_hf.evaluation.ruler.drafts import Draft, Stream, random_stream
from ultralong_hf.evaluation.ruler.pieces import Layout, PieceEncoder, Pieces
from ultralong_hf.evaluation.ruler.words import all_words

_TOKENS_AN_ENTRY = 5
"""Fewer than an entry with a compound word has: its number two, its word three."""


def number_list(words: Sequence[str]) -> str:
    """ "1. word 2. word" and so on."""
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


class MoreWords(Protocol):
    """A longer list of words."""

    @property
    def digest(self) -> str: ...

    def words(self, count: int) -> tuple[Sequence[str], str | None]:
        """(at least `count` different words where there are so many, what the report says of them)."""


@dataclass(frozen=True, kw_only=True)
class WordSource:
    """Words to list, each once, with their pieces (a blank before each)."""

    pieces: Pieces = field(repr=False)
    stand_in: str | None = None


@dataclass(kw_only=True)
class CommonWordsDraft:
    before: str
    after: str
    answer_prefix: str
    repeats: tuple[int, int]
    fewest: int
    seed: int
    numbers: Pieces = field(repr=False)
    """ " 1.", " 2." and so on."""
    sources: Callable[[], Iterable[WordSource]] = field(repr=False)
    """Lists of words; the first that holds enough of them is used."""
    encoder: PieceEncoder = field(repr=False)
    num_common: int = 10

    def fit(self, room: int) -> int:
        for source in self.sources():
            self._choose(source)
            most = len(source.pieces)
            tokens = self._tokens_by_words[:most]
            fitting = int(np.searchsorted(tokens, room - 1, side="right"))
            if fitting < most:
                break
        return fitting

    def layout(self, units: int) -> Layout:
        entries = self._entries(units)
        order = np.empty(2 * len(entries), dtype=np.int64)
        numbers, words = len(self.numbers), len(self.source.pieces)
        order[0::2] = np.arange(len(entries))
        order[1::2] = numbers + entries
        own = ["1.", f"{self.source.pieces.texts[entries[-1]]}\n"]
        order[0], order[-1] = numbers + words, numbers + words + 1
        return Layout((self.numbers, self.source.pieces, self.encoder.encode(own)), order)

    @property
    def references(self) -> tuple[str, ...]:
        texts = self.source.pieces.texts
        return tuple(texts[index][1:] for index in self._words[: self.num_common].tolist())

    def details(self, units: int) -> Mapping[str, Any]:
        common, uncommon = self.repeats
        return {
            "units": units,
            "repeats": [common, uncommon],
            "entries": int(self._count_entries(np.array(units))),
            "stand_in": self.source.stand_in,
        }

    def _choose(self, source: WordSource) -> None:
        self.source = source
        self._words = random_stream(self.seed, Stream.TEXT).permutation(len(source.pieces))
        self.__dict__.pop("_tokens_by_words", None)

    def _count_entries(self, words: np.ndarray) -> np.ndarray:
        common, uncommon = self.repeats
        return common * np.minimum(words, self.num_common) + uncommon * np.maximum(words - self.num_common, 0)

    @cached_property
    def _tokens_by_words(self) -> np.ndarray:
        """Tokens of a list with 1, 2, ... words."""
        common, uncommon = self.repeats
        lengths = self.source.pieces.lengths[self._words]
        repeats = np.where(np.arange(len(lengths)) < self.num_common, common, uncommon)
        entries = self._count_entries(np.arange(1, len(lengths) + 1))
        reachable = entries <= len(self.numbers)
        numbers = self.numbers.ends[np.minimum(entries, len(self.numbers)) - 1]
        return np.where(reachable, np.cumsum(lengths * repeats) + numbers, np.iinfo(np.int64).max)

    def _entries(self, units: int) -> np.ndarray:
        """The word of each entry."""
        common, uncommon = self.repeats
        words = self._words[:units]
        entries = np.concatenate(
            [np.tile(words[: self.num_common], common), np.tile(words[self.num_common :], uncommon)]
        )
        return random_stream(self.seed, Stream.ORDER, units).permutation(entries)


class CommonWordsGenerator:
    """Drafts of common words. `more_words` has words for lists that wonderwords' do not fill."""

    def __init__(
        self,
        arguments: CommonWords,
        encoder: PieceEncoder,
        more_words: MoreWords,
    ) -> None:
        self.arguments, self._encoder, self._more_words = arguments, encoder, more_words
        self.answer_tokens = arguments.answer_tokens
        self._first = WordSource(pieces=encoder.encode([f" {word}" for word in all_words()]))
        self._more: dict[int, WordSource] = {}
        self._known_numbers = encoder.encode([" 1."])

    def draw(self, length: int, sample: int, seed: int) -> Draft:
        arguments = self.arguments
        short = length < arguments.short_length
        repeats = arguments.short_repeats if short else (arguments.common_repeats, arguments.uncommon_repeats)
        example = arguments.short_example if short else arguments.example
        return CommonWordsDraft(
            before=f"{self._example(example, random_stream(seed, Stream.QUESTION))}\n{arguments.before}",
            after=arguments.after,
            answer_prefix=arguments.answer_prefix,
            repeats=repeats,
            fewest=arguments.num_common + 1,
            seed=seed,
            numbers=self._numbers(length),
            sources=lambda: self._sources(length // (repeats[1] * _TOKENS_AN_ENTRY)),
            encoder=self._encoder,
            num_common=arguments.num_common,
        )

    def settings(self, length: int) -> Mapping[str, Any]:
        return {"more_words": self._more_words.digest}

    def notes(self, details: Mapping[str, Any]) -> Sequence[str]:
        return [details["stand_in"]] if details["stand_in"] else []

    def _numbers(self, length: int) -> Pieces:
        """As many as a list of `length` tokens can have, each with a word of one token."""
        numbers = self._known_numbers
        while numbers.ends[-1] + len(numbers) < length:
            more = range(len(numbers) + 1, len(numbers) + max(256, length // 64) + 1)
            numbers = Pieces.join([numbers, self._encoder.encode([f" {number}." for number in more])])
        self._known_numbers = numbers
        return numbers

    def _sources(self, words: int) -> Iterator[WordSource]:
        yield self._first
        if words not in self._more:
            listed, stand_in = self._more_words.words(words)
            pieces = self._encoder.encode([f" {word}" for word in listed])
            self._more = {words: WordSource(pieces=pieces, stand_in=stand_in)}
        yield self._more[words]

    def _example(self, example: tuple[int, int, int], rng: np.random.Generator) -> str:
        words, common, uncommon = example
        listed = all_words()
        drawn = [listed[index] for index in rng.choice(len(listed), size=words, replace=False).tolist()]
        answer, others = drawn[: self.arguments.num_common], drawn[self.arguments.num_common :]
        entries = answer * common + others * uncommon
        shuffled = [entries[index] for index in rng.permutation(len(entries)).tolist()]
        arguments = self.arguments
        return (
            f"{arguments.before}{number_list(shuffled)}\n{arguments.after} {arguments.answer_prefix} "
            f"{number_list(answer)}"
        )
