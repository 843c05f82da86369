"""Texts -> hashes of their words and n-grams: what near duplicates and decontamination compare.

A word is a run of letters, digits and combining marks (Unicode categories L, N and M), each folded to lower
case alone; everything else separates. Chinese and Japanese characters are a word each, since nothing
separates their words. So "Don't  STOP" and "don t stop" are the same three words. No accents are removed and
no compatibility forms are folded.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_BLOCK_CHARACTERS = 1 << 17
"""Read at once: some ten arrays of a block stay near the cache, whatever a document's length."""
_LONGEST_STEP_BACK = 1 << 10
"""A longer document is cut between words; a word of more letters than this is cut anywhere."""
_CODE_POINTS = 0x32400
"""Letters end here as of Unicode 16; what lies beyond (tags, private use) separates words."""
_WORD_CHARACTERS = (
    (0x3040, 0x3100),
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),
    (0x20000, _CODE_POINTS),
)
"""Kana and ideographs: from, to. Each is a word."""
_BASE = 0x9E3779B97F4A7C15
_NGRAM_BASE = np.uint64(0xD6E8FEB86659FD93)


class Words(NamedTuple):
    """The words of a batch of texts, one after the other."""

    hashes: np.ndarray
    """uint64 [words]"""
    starts: np.ndarray
    """int64 [words]: character of its own text at which each begins."""
    bounds: np.ndarray
    """int64 [texts + 1]: those of text i are bounds[i] to bounds[i + 1]."""


def split_words(text: str) -> list[str]:
    """The words of a text as text, the slow way; `hash_words` sees the same ones."""
    words, letters, alone = [], "", False
    for character in text:
        folded, is_alone = _fold(ord(character))
        if letters and (not folded or is_alone or alone):
            words.append(letters)
            letters = ""
        letters, alone = letters + (chr(folded) if folded else ""), is_alone
    return [*words, letters] if letters else words


def hash_words(texts: Sequence[str]) -> Words:
    """Hashes of the words of each text; they depend on nothing but the word."""
    hashes, starts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    counts = np.zeros(len(texts) + 1, np.int64)
    for block in _blocks(texts):
        found, places = _hash_block("\n".join(piece for _, _, piece in block))
        lengths = np.array([len(piece) + 1 for _, _, piece in block])
        ends = np.cumsum(lengths)
        owners = np.searchsorted(ends, places, side="right")
        shift = np.array([offset for _, offset, _ in block]) - (ends - lengths)
        np.add.at(counts, np.array([index for index, _, _ in block])[owners] + 1, 1)
        hashes.append(found)
        starts.append(places + shift[owners])
    return Words(np.concatenate(hashes), np.concatenate(starts), np.cumsum(counts))


def hash_ngrams(words: Words, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every n words in a row that belong to one text, and the index of the first word of each."""
    total = len(words.hashes) - n + 1
    if total <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    hashes = words.hashes[:total].copy()
    for place in range(1, n):
        hashes *= _NGRAM_BASE
        hashes += words.hashes[place : place + total]
    complete = np.ones(total, bool)
    for back in range(1, n):
        broken = words.bounds[1:-1] - back
        complete[broken[(broken >= 0) & (broken < total)]] = False
    return _mix(hashes[complete]), np.flatnonzero(complete)


def _blocks(texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
    """Groups of (text, character, piece), of about as many characters each."""
    block: list[tuple[int, int, str]] = []
    size = 0
    for index, text in enumerate(texts):
        for start, piece in _pieces(text):
            if block and size + len(piece) > _BLOCK_CHARACTERS:
                yield block
                block, size = [], 0
            block.append((index, start, piece))
            size += len(piece) + 1
    if block:
        yield block


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    while len(text) - start > _BLOCK_CHARACTERS:
        end = start + _BLOCK_CHARACTERS
        back = next((n for n in range(_LONGEST_STEP_BACK) if not _fold(ord(text[end - n - 1]))[0]), 0)
        yield start, text[start : end - back]
        start = end - back
    yield start, text[start:]


def _hash_block(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and starts of the words of a text of at most about a block.

    The hash of letters c0 c1 ... is the sum of value(c_i) * base**i modulo 2**64, read off the running sum
    over the whole block and divided by base**start.
    """
    values_of, alone_of = _tables()
    powers, inverses = _powers(1 << max(len(text), _BLOCK_CHARACTERS * 2).bit_length())
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    points = np.minimum(points, _CODE_POINTS - 1)
    values, alone = values_of[points], alone_of[points]
    edges = np.empty(len(points) + 1, bool)  # True where a word may begin or end
    edges[0] = edges[-1] = True
    letters = values != 0
    np.not_equal(letters[1:], letters[:-1], out=edges[1:-1])
    edges[1:-1] |= alone[1:] | alone[:-1]
    places = np.flatnonzero(edges)
    is_word = letters[places[:-1]]
    starts, ends = places[:-1][is_word], places[1:][is_word]
    sums = np.zeros(len(points) + 1, np.uint64)
    np.cumsum(values * powers[: len(points)], out=sums[1:])
    return _mix((sums[ends] - sums[starts]) * inverses[starts]), starts


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: a bijection of uint64 whose every output bit hangs on every input bit."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _fold(point: int) -> tuple[int, bool]:
    """A code point in lower case, 0 if it is no part of a word; and whether it is a word by itself."""
    if point >= _CODE_POINTS - 1 or unicodedata.category(chr(point))[0] not in "LNM":
        return 0, False
    return ord(chr(point).lower()[0]), any(low <= point < high for low, high in _WORD_CHARACTERS)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Of each code point: its value (0 if it is no part of a word), and whether it is a word by itself."""
    folded = [_fold(point) for point in range(_CODE_POINTS)]
    points = np.array([point for point, _ in folded], np.uint64)
    values = np.where(points > 0, _mix(points), np.uint64(0))
    return values, np.array([alone for _, alone in folded])


@functools.cache
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers of the base from 0 to size - 1, and their inverses, modulo 2**64."""
    inverse = pow(_BASE, -1, 1 << 64)
    return tuple(  # type: ignore[return-value]
        np.concatenate([[np.uint64(1)], np.multiply.accumulate(np.full(size - 1, base, np.uint64))])
        for base in (_BASE, inverse)
    )
