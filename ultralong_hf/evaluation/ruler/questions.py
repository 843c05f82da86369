"""Questions about one or two of many numbered documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ruler.definitions import Questions
from ultralong_hf.evaluation.ruler.drafts import Draft, Stream, random_stream
from ultralong_hf.evaluation.ruler.pieces import Layout, PieceEncoder, Pieces

_CHARACTERS_A_TOKEN = 5
"""More than there are, so that the first guess of how many documents fill a prompt is seldom too low."""


@dataclass(frozen=True)
class Question:
    """A question with its documents, as indices."""

    query: str
    answers: tuple[str, ...]
    needed: tuple[int, ...]
    """Are always there."""
    related: tuple[int, ...] = ()
    """Come before all others: those of the same article."""


@dataclass(frozen=True)
class Library:
    """Questions, and documents that each stand once. `stand_in`: what the report says of it, if anything."""

    questions: Sequence[Question] = field(repr=False)
    documents: Sequence[str] = field(repr=False)
    stand_in: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        digest = hashlib.sha256()
        for question in self.questions:
            fields = [question.query, question.answers, question.needed, question.related]
            digest.update(json.dumps(fields).encode())
        for document in self.documents:
            digest.update(b"%d " % len(document) + document.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class Documents:
    """The library's documents as pieces, a blank line behind each; tokenized when they are first needed."""

    def __init__(self, texts: Sequence[str], encoder: PieceEncoder) -> None:
        self._texts, self._encoder = texts, encoder
        self._rows = np.full(len(texts), -1)
        self.table = encoder.encode([])
        """Those needed so far. A row of it stays where it is."""

    def __len__(self) -> int:
        return len(self._texts)

    @cached_property
    def mean_characters(self) -> float:
        return sum(map(len, self._texts)) / len(self._texts)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """int64, where in the table the documents of these indices are."""
        missing = indices[self._rows[indices] < 0]
        if len(missing):
            made = self._encoder.encode([f"{self._texts[index].strip()}\n\n" for index in missing.tolist()])
            self._rows[missing] = len(self.table) + np.arange(len(made))
            self.table = Pieces.join([self.table, made])
        return self._rows[indices]


@dataclass(kw_only=True)
class QuestionDraft:
    before: str
    after: str
    answer_prefix: str
    references: tuple[str, ...]
    question: Question
    seed: int
    titles: Titles = field(repr=False)
    documents: Documents = field(repr=False)
    chosen: np.ndarray = field(repr=False)
    """int64: every document once, those of the question first."""
    rows: np.ndarray | None = field(default=None, repr=False)
    """Where in the table of documents the first of `chosen` are."""

    @property
    def fewest(self) -> int:
        return len(self.question.needed)

    def fit(self, room: int) -> int:
        count = int(max(room, 0) * _CHARACTERS_A_TOKEN / self.documents.mean_characters) + 1
        while True:
            self.rows = self.documents.rows(self.chosen[:count])
            lengths = self.documents.table.lengths[self.rows]
            total = int(lengths.sum())
            if total > room or count >= len(self.chosen):
                break
            count *= 2
        lengths = np.tile(lengths, max(room, 0) // total + 1)
        tokens = np.cumsum(lengths) + self.titles.first(len(lengths)).ends[: len(lengths)]
        return int(np.searchsorted(tokens, room, side="right"))

    def layout(self, units: int) -> Layout:
        assert self.rows is not None, "fit() chooses the documents"
        titles = self.titles.first(units)
        order = np.empty(2 * units, dtype=np.int64)
        order[0::2] = np.arange(units)
        order[1::2] = len(titles) + self.rows[self._documents(units)]
        return Layout((titles, self.documents.table), order)

    def details(self, units: int) -> Mapping[str, Any]:
        stands = np.isin(self.chosen[self._documents(units)], self.question.needed)
        return {
            "units": units,
            "needed_at": (np.flatnonzero(stands) + 1).tolist(),
            "repeats": units > len(self.chosen),
        }

    def _documents(self, units: int) -> np.ndarray:
        """The place in `chosen` of the document with each number."""
        places = np.arange(units) % len(self.chosen)
        return random_stream(self.seed, Stream.ORDER, units).permutation(places)


class Titles:
    """ "Document 1:" and so on, each with its line end."""

    def __init__(self, encoder: PieceEncoder) -> None:
        self._encoder = encoder
        self._known = encoder.encode([])

    def first(self, count: int) -> Pieces:
        """At least so many of them."""
        if len(self._known) < count:
            numbers = range(len(self._known) + 1, max(count, 2 * len(self._known)) + 1)
            titles = [Questions.document.format(number=number, text="") for number in numbers]
            self._known = Pieces.join([self._known, self._encoder.encode(titles)])
        return self._known


class QuestionGenerator:
    """Drafts of a question task: sample i asks question i of the library; behind its last comes its first.

    Raises EvaluationError for a library without a question.
    """

    def __init__(self, arguments: Questions, encoder: PieceEncoder, library: Library) -> None:
        if not library.questions:
            raise EvaluationError(f"The questions of {arguments.dataset} hold none that has an answer.")
        self.arguments, self._encoder, self._library = arguments, encoder, library
        self.answer_tokens = arguments.answer_tokens
        self._documents = Documents(library.documents, encoder)
        self._titles = Titles(encoder)

    def draw(self, length: int, sample: int, seed: int) -> Draft:
        question = self._library.questions[sample % len(self._library.questions)]
        rng = random_stream(seed, Stream.TEXT)
        own = list(dict.fromkeys((*question.needed, *rng.permutation(question.related).astype(int).tolist())))
        is_other = np.ones(len(self._documents), dtype=bool)
        is_other[own] = False
        return QuestionDraft(
            before=self.arguments.before,
            after=self.arguments.after.format(query=question.query),
            answer_prefix=self.arguments.answer_prefix,
            references=question.answers,
            question=question,
            seed=seed,
            titles=self._titles,
            documents=self._documents,
            chosen=np.concatenate([np.array(own, dtype=np.int64), rng.permutation(np.flatnonzero(is_other))]),
        )

    def settings(self, length: int) -> Mapping[str, Any]:
        return {"documents": self._library.digest}

    def notes(self, details: Mapping[str, Any]) -> Sequence[str]:
        notes = [self._library.stand_in] if self._library.stand_in else []
        if details["repeats"]:
            notes.append(f"repeated text: there are {len(self._documents):,} documents, which come again")
        return notes
