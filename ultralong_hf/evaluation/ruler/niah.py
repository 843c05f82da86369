"""Needles in a haystack of one noise sentence, of needles with other keys, or of essays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ultralong_hf.evaluation.ruler.definitions import DEPTHS, NOISE, Niah
from ultralong_hf.evaluation.ruler.distractors import Distractors, Lines
from ultralong_hf.evaluation.ruler.drafts import Draft, Stream, insert_pieces, random_stream
from ultralong_hf.evaluation.ruler.essays import Essays
from ultralong_hf.evaluation.ruler.pieces import Layout, PieceEncoder, Pieces
from ultralong_hf.evaluation.ruler.words import draw_different


@dataclass(frozen=True, kw_only=True)
class Question:
    """Needles, and what is asked of them."""

    needles: tuple[str, ...]
    """In the order in which they stand in the text."""
    keys: tuple[str, ...]
    query: str
    references: tuple[str, ...]
    asks_one: bool

    @classmethod
    def draw(cls, arguments: Niah, rng: np.random.Generator) -> Question:
        keys = draw_different(arguments.keys, rng, arguments.num_keys)
        values = draw_different(arguments.values, rng, arguments.num_keys * arguments.num_values)
        groups = [
            values[at : at + arguments.num_values] for at in range(0, len(values), arguments.num_values)
        ]
        needles = [
            arguments.needle.format(values=arguments.values, key=key, value=value)
            for key, group in zip(keys, groups, strict=True)
            for value in group
        ]
        asked = rng.choice(len(keys), size=arguments.num_queries, replace=False).tolist()
        return cls(
            needles=tuple(needles[index] for index in rng.permutation(len(needles)).tolist()),
            keys=tuple(keys),
            query=_listed([keys[index] for index in asked]),
            references=tuple(value for index in asked for value in groups[index]),
            asks_one=arguments.num_queries * arguments.num_values == 1,
        )


def _listed(queries: Sequence[str]) -> str:
    """ "a", "a, and b", "a, b, and c"."""
    return f"{', '.join(queries[:-1])}, and {queries[-1]}" if len(queries) > 1 else queries[0]


@dataclass(kw_only=True)
class _NiahDraft:
    before: str
    after: str
    answer_prefix: str
    references: tuple[str, ...]
    question: Question
    seed: int
    needles: Pieces = field(repr=False)

    @property
    def fewest(self) -> int:
        return len(self.question.needles)

    def rng(self, units: int) -> np.random.Generator:
        return random_stream(self.seed, Stream.ORDER, units)


@dataclass(kw_only=True)
class _LinesDraft(_NiahDraft):
    """A needle is a line before one of the haystack's lines, each before another one."""

    def places(self, units: int) -> list[int]:
        """Lines of the haystack before each needle."""
        chosen = self.rng(units).choice(units, size=len(self.needles), replace=False)
        return sorted(chosen.tolist())

    def details(self, units: int) -> Mapping[str, Any]:
        places = self.places(units)
        depths = [round(100 * place / units, 2) for place in places]
        return {"units": units, "needles_at": places, "depths": depths, "keys": list(self.question.keys)}


@dataclass(kw_only=True)
class NoiseDraft(_LinesDraft):
    noise: Pieces = field(repr=False)

    def fit(self, room: int) -> int:
        return int((room - self.needles.lengths.sum()) // self.noise.lengths[0])

    def layout(self, units: int) -> Layout:
        lines = np.zeros(units, dtype=np.int64)
        order = insert_pieces(lines, self.places(units), range(1, 1 + len(self.needles)))
        return Layout((self.noise, self.needles), order)


@dataclass(kw_only=True)
class DistractorsDraft(_LinesDraft):
    """The haystack's lines are needles too, with other keys and values."""

    lines: Lines = field(repr=False)

    def fit(self, room: int) -> int:
        room -= int(self.needles.lengths.sum())
        return int(np.searchsorted(self.lines.ends, room, side="right"))

    def layout(self, units: int) -> Layout:
        rows, tables = self.lines.rows[:units], (*self.lines.tables, self.needles)
        first = sum(map(len, self.lines.tables))
        places = [place * rows.shape[1] for place in self.places(units)]
        order = insert_pieces(rows.ravel(), places, range(first, first + len(self.needles)))
        return Layout(tables, order)


@dataclass(kw_only=True)
class EssayDraft(_NiahDraft):
    """Units are words from the essays' beginning; needles stand between sentences, at some of 40 depths."""

    essays: Essays = field(repr=False)
    encoder: PieceEncoder = field(repr=False)
    depths: tuple[int, ...]
    """Of each needle, percent of the sentences, ascending."""

    def fit(self, room: int) -> int:
        return self.essays.fit(room - int(self.needles.lengths.sum()) - 1)

    def layout(self, units: int) -> Layout:
        sentences, cut = self.essays.cut(units)
        count = sentences + bool(cut)
        places = [int(count * (depth / 100)) for depth in self.depths]
        table = self.essays.sentences
        # Pieces of this prompt alone: its first sentence, the last one's part, and the needles.
        own = [f" {text}" for text in (self.essays.text(0), cut, *self.question.needles)]
        first, last = len(table), len(table) + 1
        order = np.arange(sentences, dtype=np.int64) % len(table)
        order = np.append(order, last) if cut else order
        order = insert_pieces(order, places, range(len(table) + 2, len(table) + 2 + len(self.depths)))
        order[0] = first if order[0] == 0 else order[0]
        if order[-1] < len(table):  # the last sentence is whole: it ends the line in a piece of its own
            own[1], order[-1] = table.texts[order[-1]], last
        own[order[0] - len(table)] = own[order[0] - len(table)][1:]
        own[order[-1] - len(table)] += "\n"
        return Layout((table, self.encoder.encode(own)), order)

    def details(self, units: int) -> Mapping[str, Any]:
        return {
            "units": units,
            "depths": list(self.depths),
            "keys": list(self.question.keys),
            "repeats": units > self.essays.words,
        }


class NiahGenerator:
    """Drafts of one of the eight needle tasks. `essays` are needed where they are the haystack."""

    def __init__(
        self, arguments: Niah, encoder: PieceEncoder, *, seed: int, essays: Essays | None = None
    ) -> None:
        self.arguments, self._encoder, self._essays = arguments, encoder, essays
        self.answer_tokens = arguments.answer_tokens
        haystack = arguments.haystack
        self._noise = encoder.encode([f"{NOISE}\n"]) if haystack == "noise" else None
        self._distractors = Distractors(arguments, encoder, seed=seed) if haystack == "needle" else None

    def draw(self, length: int, sample: int, seed: int) -> Draft:
        rng = random_stream(seed, Stream.QUESTION)
        question = Question.draw(self.arguments, rng)
        behind = " {}" if self._essays else "{}\n"
        wording = {**self._wording(question), "question": question, "seed": seed}
        wording["needles"] = self._encoder.encode([behind.format(needle) for needle in question.needles])
        if self._noise is not None:
            return NoiseDraft(**wording, noise=self._noise)
        if self._distractors is not None:
            lines = self._distractors.draw(length, seed, question.keys, question.references)
            return DistractorsDraft(**wording, lines=lines)
        assert self._essays is not None, "an essay task needs essays"
        depths = sorted(rng.choice(DEPTHS, size=len(question.needles), replace=False).tolist())
        return EssayDraft(**wording, essays=self._essays, encoder=self._encoder, depths=tuple(depths))

    def settings(self, length: int) -> Mapping[str, Any]:
        return {"essays": self._essays.digest(length)} if self._essays else {}

    def notes(self, details: Mapping[str, Any]) -> Sequence[str]:
        if self._essays is None:
            return ()
        notes = [self._essays.stand_in] if self._essays.stand_in else []
        if details["repeats"]:
            notes.append(f"repeated text: the essays have {self._essays.tokens:,} tokens and begin again")
        return notes

    def _wording(self, question: Question) -> dict[str, Any]:
        arguments = self.arguments
        if question.asks_one:
            texts = arguments.before_one, arguments.after_one, arguments.answer_prefix_one
            values = arguments.values[:-1]
        else:
            texts = arguments.before, arguments.after, arguments.answer_prefix
            values = arguments.values
        before, after, prefix = (text.format(values=values, query=question.query) for text in texts)
        return {"before": before, "after": after, "answer_prefix": prefix, "references": question.references}
