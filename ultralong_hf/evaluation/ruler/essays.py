"""Essays as RULER reads them: one text of words and blanks, cut into sentences, its first words taken."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from itertools import islice, pairwise

import numpy as np

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ruler.pieces import PieceEncoder, Pieces

# RULER asks NLTK's punkt model, which is a download; where a sentence ends decides no more than the place of
# a needle, by some words.
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
SENTENCES_A_CALL = 20_000
LONGEST_SENTENCE = 200
"""Words: text without sentence ends (tables, code) is cut there, so that needles find their depths."""


class Essays:
    """Sentences of a text, tokenized once; it begins again at its end as often as needed.

    `tokens`: read documents until there are so many. `stand_in`: what the report says if these are not the
    essays that RULER takes.
    """

    def __init__(
        self, documents: Iterable[str], encoder: PieceEncoder, tokens: int, *, stand_in: str | None = None
    ) -> None:
        self.stand_in = stand_in
        self._encoder = encoder
        self.sentences = _read(documents, encoder, tokens)
        counts = [text.count(" ") for text in self.sentences.texts]
        self._word_ends = np.cumsum(np.array(counts, dtype=np.int64))

    def digest(self, length: int) -> str:
        """SHA-256 of the ids that a prompt of `length` tokens can hold."""
        ids = np.ascontiguousarray(self.sentences.ids[:length], dtype="<i4")
        return hashlib.sha256(ids.tobytes()).hexdigest()

    @property
    def tokens(self) -> int:
        return len(self.sentences.ids)

    @property
    def words(self) -> int:
        return int(self._word_ends[-1])

    def text(self, sentence: int) -> str:
        """The sentence, without the blank before it."""
        return self.sentences.texts[sentence][1:]

    def fit(self, room: int) -> int:
        """Words from the beginning on that fill `room` tokens."""
        if room <= 0:
            return 0
        rounds, rest = divmod(room, self.tokens)
        whole = int(np.searchsorted(self.sentences.ends, rest, side="right"))
        used = int(self.sentences.ends[whole - 1]) if whole else 0
        words = self.text(whole).split(" ")
        fitting, most = 0, len(words) - 1
        while fitting < most:  # words of the next sentence
            middle = (fitting + most + 1) // 2
            if self._encoder.count(" " + " ".join(words[:middle])) <= rest - used:
                fitting = middle
            else:
                most = middle - 1
        return rounds * self.words + (int(self._word_ends[whole - 1]) if whole else 0) + fitting

    def cut(self, words: int) -> tuple[int, str]:
        """(whole sentences, the beginning of the next one) that have so many words together."""
        rounds, rest = divmod(words, self.words)
        whole = int(np.searchsorted(self._word_ends, rest, side="right"))
        over = rest - (int(self._word_ends[whole - 1]) if whole else 0)
        cut = " ".join(self.text(whole).split(" ")[:over]) if over else ""
        return rounds * len(self.sentences) + whole, cut


def _read(documents: Iterable[str], encoder: PieceEncoder, tokens: int) -> Pieces:
    """Sentences, a blank before each, of as many documents as make `tokens`."""
    tables: list[Pieces] = []
    texts = (f" {sentence}" for document in documents for sentence in split_sentences(document))
    while sum(len(table.ids) for table in tables) < tokens and (
        some := list(islice(texts, SENTENCES_A_CALL))
    ):
        tables.append(encoder.encode(some))
    if not tables:
        raise EvaluationError("The essays hold no text: give text files that are not empty.")
    return Pieces.join(tables)


def split_sentences(document: str) -> list[str]:
    """Sentences of a document, its blanks and line ends made single blanks.

    >>> split_sentences('He came.  "Why?" she\\nsaid. Then 2 left')
    ['He came.', '"Why?" she said.', 'Then 2 left']
    """
    text = " ".join(document.split())
    starts = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text) + 1]
    sentences = [text[start : end - 1] for start, end in pairwise(starts)]
    return [part for sentence in sentences for part in _parts(sentence)]


def _parts(sentence: str) -> list[str]:
    words = sentence.split(" ") if sentence else []
    return [" ".join(words[at : at + LONGEST_SENTENCE]) for at in range(0, len(words), LONGEST_SENTENCE)]
