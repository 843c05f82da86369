"""Which documents hold text of a benchmark: n-grams of words in common.

As for GPT-3 (Brown et al. 2020, appendix C): texts are compared as words in lower case without punctuation
(module `words`), 13 at a time, and a text of 8 to 12 words as a whole. Unlike there, a document
that holds a match is left out whole, and n-grams that many documents hold are not excepted; `least_matches`
takes their place. A match is one of 64-bit hashes: a billion words against a million n-grams give a false one
with probability 5e-5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ultralong_hf.data.filtering.benchmarks import BenchmarkText
from ultralong_hf.data.filtering.words import Words, hash_ngrams, hash_words, split_words
from ultralong_hf.errors import DocumentError

NO_MATCH = -1
_SLOTS_PER_NGRAM = 16
"""Of the table that is asked first: so many bytes an n-gram let 1 of 16 others through to the search."""
_MOST_SLOT_BITS = 26


class Matches(NamedTuple):
    """What texts share with the benchmarks."""

    first: np.ndarray
    """int64 [texts]: number of the n-gram that comes first in it, for `describe`; -1 where none."""
    ngrams: np.ndarray
    """int32 [texts]: different n-grams of the benchmarks that the text holds."""


class BenchmarkIndex:
    """The n-grams of benchmark texts, to be found in documents.

    - `ngram`: words of an n-gram.
    - `least_words`: a text of fewer words than `ngram`, but at least these, is an n-gram of its own length;
      shorter ones cannot be found and are counted in `too_short`.

    About 40 bytes a word of the benchmarks are held. Raises DocumentError if no text is long enough.
    """

    def __init__(self, texts: Iterable[BenchmarkText], *, ngram: int = 13, least_words: int = 8) -> None:
        self._texts = list(texts)
        words = hash_words([text for _, text in self._texts])
        self._starts, self._bounds = words.starts, words.bounds
        lengths = np.diff(words.bounds)
        self.too_short = int((lengths < least_words).sum())
        sizes = [*np.unique(lengths[(lengths >= least_words) & (lengths < ngram)]).tolist(), ngram]
        tables = [_table(words, n, lengths if n < ngram else None) for n in sizes]
        counts = [len(keys) for keys, _ in tables]
        self.ngrams = sum(counts)
        """Different ones, whole short texts included."""
        if not self.ngrams:
            raise DocumentError(
                f"no text of the benchmark files has {least_words} words or more: nothing can be found by it."
            )
        self._sizes = np.repeat(sizes, counts)
        self._first_words = np.concatenate([first_words for _, first_words in tables])
        offsets = np.cumsum(counts) - counts
        self._lookups = [
            _Lookup(n, int(offset), keys)
            for n, offset, (keys, _) in zip(sizes, offsets, tables, strict=True)
            if len(keys)
        ]
        self.digest = hashlib.sha256(b"".join(lookup.keys.tobytes() for lookup in self._lookups)).hexdigest()
        """Of all n-grams: it is the same wherever the files lie."""

    def find(self, words: Words) -> Matches:
        """What each text of `hash_words(texts)` shares with the benchmarks."""
        count = len(words.bounds) - 1
        found = [lookup.find(words) for lookup in self._lookups]
        numbers = np.concatenate([number for number, _ in found])
        places = np.concatenate([place for _, place in found])
        owners = np.searchsorted(words.bounds, places, side="right") - 1
        first = np.full(count, NO_MATCH, np.int64)
        order = np.argsort(places, kind="stable")[::-1]  # the first place last, so that it stays
        first[owners[order]] = numbers[order]
        different = np.unique(owners * self.ngrams + numbers) // self.ngrams
        return Matches(first, np.bincount(different, minlength=count).astype(np.int32))

    def describe(self, number: int) -> tuple[str, str]:
        """The words of an n-gram, and the place of the first benchmark text that has it."""
        word, size = int(self._first_words[number]), int(self._sizes[number])
        owner = int(np.searchsorted(self._bounds, word, side="right")) - 1
        place, text = self._texts[owner]
        end = self._starts[word + size] if word + size < self._bounds[owner + 1] else len(text)
        return " ".join(split_words(text[self._starts[word] : end])), place


class _Lookup:
    """Hashes of n-grams of one size, sorted, behind a table of their upper bits."""

    def __init__(self, size: int, offset: int, keys: np.ndarray) -> None:
        self.size = size
        self.offset = offset
        self.keys = keys
        bits = min(_MOST_SLOT_BITS, (len(keys) * _SLOTS_PER_NGRAM).bit_length())
        self._shift = np.uint64(64 - bits)
        self._slots = np.zeros(1 << bits, bool)
        self._slots[keys >> self._shift] = True

    def find(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """Number of each n-gram that is here, and its first word in `words`."""
        hashes, places = hash_ngrams(words, self.size)
        likely = np.flatnonzero(self._slots[hashes >> self._shift])
        hashes, places = hashes[likely], places[likely]
        ranks = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        hit = self.keys[ranks] == hashes
        return ranks[hit] + self.offset, places[hit]


def _table(words: Words, n: int, lengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sorted hashes of n-grams, and the first word of each; given `lengths`, of texts of n words alone."""
    hashes, first_words = hash_ngrams(words, n)
    if lengths is not None:
        owners = np.searchsorted(words.bounds, first_words, side="right") - 1
        hashes, first_words = hashes[lengths[owners] == n], first_words[lengths[owners] == n]
    keys, firsts = np.unique(hashes, return_index=True)
    return keys, first_words[firsts]
