"""Variable tracking: a chain of assignments, one behind the other in a text of noise."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ultralong_hf.evaluation.ruler.definitions import NOISE, VariableTracking
from ultralong_hf.evaluation.ruler.drafts import Draft, Stream, random_stream
from ultralong_hf.evaluation.ruler.pieces import Layout, PieceEncoder, Pieces

_LETTERS, _EXAMPLE_LETTERS = 5, 3
"""Of a variable's name, in the question and in its example."""
_NOISES_A_STEP = 5
"""The example has a multiple of so many noise sentences, as in NVIDIA's search."""
_LEADS = ("", " ", "  ")


@dataclass(frozen=True)
class Chains:
    """Names of variables, by chain, and the value that the first variable of each is given."""

    names: tuple[tuple[str, ...], ...]
    values: tuple[str, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, chains: int, hops: int, letters: int) -> Chains:
        names: dict[str, None] = {}
        while len(names) < chains * (hops + 1):
            drawn = rng.integers(len(string.ascii_uppercase), size=letters).tolist()
            names["".join(string.ascii_uppercase[letter] for letter in drawn)] = None
        listed, size = list(names), hops + 1
        values = rng.choice(np.arange(10_000, 99_999), size=chains, replace=False).tolist()
        return cls(
            tuple(tuple(listed[at : at + size]) for at in range(0, len(listed), size)),
            tuple(map(str, values)),
        )

    def statements(self) -> list[list[str]]:
        """By chain: "VAR A = 12345", then "VAR B = VAR A " and so on; all but the first end with a blank."""
        return [
            [
                f"VAR {names[0]} = {value}",
                *(f"VAR {b} = VAR {a} " for a, b in pairwise(names)),
            ]
            for names, value in zip(self.names, self.values, strict=True)
        ]


def place_statements(lines: int, chains: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """int64: -1 for a line of noise, else the number of a statement, chain after chain.

    The statements of a chain of so many stand in order, each before a different line of those there are; the
    next chain is put among both.
    """
    order = np.full(lines, -1, dtype=np.int64)
    first = 0
    for count in chains:
        places = np.sort(rng.choice(len(order), size=count, replace=False))
        order = np.insert(order, places, np.arange(first, first + count))
        first += count
    return order


def short_context(units: int, chains: Chains, rng: np.random.Generator) -> str:
    """The context where noise sentences are no more than a chain's statements: they are taken apart then."""
    parts = [part for _ in range(units) for part in f"{NOISE}\n".split(".")]
    lines = [f"{part}." if part.strip() else part for part in parts]
    statements = chains.statements()
    order = place_statements(len(lines), [len(chain) for chain in statements], rng)
    flat, noise = [text for chain in statements for text in chain], iter(lines)
    joined = " ".join(flat[index] if index >= 0 else next(noise) for index in order.tolist())
    return joined.replace(". \n", ".\n")


@dataclass(kw_only=True)
class TrackingDraft:
    before: str
    after: str
    answer_prefix: str
    references: tuple[str, ...]
    chains: Chains
    seed: int
    noise: Pieces = field(repr=False)
    """The noise sentence behind each of _LEADS, then the same at the end of the context."""
    encoder: PieceEncoder = field(repr=False)
    fewest: int = 1

    def fit(self, room: int) -> int:
        lines = [f" {text.rstrip()}" for chain in self.chains.statements() for text in chain]
        return int((room - self.encoder.encode(lines).lengths.sum()) // self.noise.lengths[1])

    def layout(self, units: int) -> Layout:
        if self._is_short(units):
            text = short_context(units, self.chains, self._rng(units))
            return Layout((self.encoder.encode([f"{text}\n"]),), np.zeros(1, dtype=np.int64))
        order = self._order(units)
        flat = [text for chain in self.chains.statements() for text in chain]
        trailing = np.array([text.endswith(" ") for text in flat])
        leads = np.ones(len(order), dtype=np.int64)
        leads[1:] += (order[:-1] >= 0) & trailing[order[:-1]]
        leads[0] = 0
        statement = order >= 0
        own = [
            f"{_LEADS[lead]}{flat[index].rstrip()}"
            for index, lead in zip(order[statement].tolist(), leads[statement].tolist(), strict=True)
        ]
        pieces = leads.copy()
        pieces[-1] += len(_LEADS)
        pieces[statement] = len(self.noise) + np.arange(len(own))
        return Layout((self.noise, self.encoder.encode(own)), pieces)

    def details(self, units: int) -> Mapping[str, Any]:
        kept: dict[str, Any] = {"units": units, "value": self.chains.values[0]}
        if not self._is_short(units):
            order = self._order(units)
            places = np.flatnonzero(order >= 0) - np.arange(int((order >= 0).sum()))
            kept["depths"] = [round(100 * place / units, 2) for place in places.tolist()]
        return kept

    def _is_short(self, units: int) -> bool:
        return units <= len(self.chains.names[0])

    def _order(self, units: int) -> np.ndarray:
        return place_statements(units, [len(names) for names in self.chains.names], self._rng(units))

    def _rng(self, units: int) -> np.random.Generator:
        return random_stream(self.seed, Stream.ORDER, units)


class TrackingGenerator:
    """Drafts of variable tracking. The example is the same in all but the variables' names, as NVIDIA's."""

    def __init__(self, arguments: VariableTracking, encoder: PieceEncoder, *, seed: int) -> None:
        self.arguments, self._encoder, self._seed = arguments, encoder, seed
        self.answer_tokens = arguments.answer_tokens
        ends = ("\n", "\n\n")
        self._noise = encoder.encode([f"{lead}{NOISE}{end}" for end in ends for lead in _LEADS])
        self._example_units = self._most_example_units()

    def draw(self, length: int, sample: int, seed: int) -> Draft:
        rng = random_stream(seed, Stream.QUESTION)
        arguments = self.arguments
        example = self._example(self._example_units, rng)
        chains = Chains.draw(rng, arguments.chains, arguments.hops, _LETTERS)
        after, answer_prefix = self._question(chains)
        return TrackingDraft(
            before=f"{example}\n\n\n\n{arguments.before}",
            after=after,
            answer_prefix=answer_prefix,
            references=chains.names[0],
            chains=chains,
            seed=seed,
            noise=self._noise,
            encoder=self._encoder,
        )

    def settings(self, length: int) -> Mapping[str, Any]:
        return {}

    def notes(self, details: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def _question(self, chains: Chains) -> tuple[str, str]:
        query, variables = chains.values[0], len(chains.names[0])
        return (
            self.arguments.after.format(query=query),
            self.arguments.answer_prefix.format(query=query, num_variables=variables),
        )

    def _example(self, units: int, names: np.random.Generator) -> str:
        """Context, question and answer; places and value depend on the run's seed, names are drawn."""
        rng = random_stream(self._seed, Stream.ORDER, units)
        hops = min(10, self.arguments.hops)
        chains = Chains.draw(names, self.arguments.chains, hops, _EXAMPLE_LETTERS)
        chains = Chains(chains.names, Chains.draw(rng, self.arguments.chains, hops, _EXAMPLE_LETTERS).values)
        if units <= len(chains.names[0]):
            context = short_context(units, chains, rng)
        else:
            flat = [text for chain in chains.statements() for text in chain]
            order = place_statements(units, [len(names) for names in chains.names], rng)
            context = " ".join(flat[index] if index >= 0 else f"{NOISE}\n" for index in order.tolist())
        after, answer_prefix = self._question(chains)
        answer = " ".join(chains.names[0])
        return f"{self.arguments.before}{context}\n{after} {answer_prefix} {answer}"

    def _most_example_units(self) -> int:
        units = _NOISES_A_STEP
        room = self.arguments.example_tokens - self.arguments.answer_tokens
        while self._encoder.count(self._example(units + _NOISES_A_STEP, np.random.default_rng(0))) <= room:
            units += _NOISES_A_STEP
        return units
