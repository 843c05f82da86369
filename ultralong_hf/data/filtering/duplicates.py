"""Exact and near duplicates: a few bytes a document first, then which documents repeat earlier ones.

Near duplicates are found by MinHash (Broder 1997). The signature of a document is the lowest byte of each of
128 minima of `datasketch`'s permutations over the hashes of its runs of five words (b-bit MinHash, Li and
Koenig 2010), so 128 bytes a document, and the share of equal bytes estimates the Jaccard similarity of two
documents' sets of runs, with a standard deviation of at most 0.045. Candidates are those with a whole band of
the signature in common; each is compared with the first of its band by the whole signature.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ultralong_hf.data.filtering.words import Words, hash_ngrams
from ultralong_hf.errors import MachineError

if TYPE_CHECKING:
    from datasketch import MinHash

PERMUTATIONS = 128
"""As in datasketch's default; datatrove's 14 x 8 is close."""
RUN_WORDS = 5
"""Words a run, as in datatrove's `MinhashConfig.n_grams`."""
LEAST_RECALL = 0.95
"""Bands are as wide as they may be for a pair just at the threshold to share one with this probability."""
_RUNS_AT_ONCE = 256
"""Measured: 161 ns a run; at 1,024, where the table of permuted hashes leaves the cache, 467 ns."""
_PAIRS_AT_ONCE = 1 << 16
_MOST_LEADERS = 16
"""A band that many pages of one template share would otherwise be compared each with each."""


class Repeats(NamedTuple):
    """Which earlier document each document repeats."""

    original: np.ndarray
    """int64 [documents]: the first of those that are alike; the document itself if it repeats none."""
    similarity: np.ndarray
    """float32 [documents]: estimated, with the earlier document that it was compared with; 0 where none."""


def digest_texts(texts: Sequence[str]) -> np.ndarray:
    """BLAKE2b of each text, uint64 [texts, 2]."""
    digests = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts
    )
    return np.frombuffer(digests, np.uint64).reshape(len(texts), 2)


def find_exact_repeats(digests: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Of each document the first eligible one of the same digest; itself if it is that or is not eligible."""
    original = np.arange(len(digests))
    documents = np.flatnonzero(eligible)
    order = documents[np.lexsort((digests[documents, 1], digests[documents, 0]))]
    ordered = digests[order]
    starts = np.flatnonzero(np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])[: len(order)])
    original[order] = np.repeat(order[starts], np.diff(starts, append=len(order)))
    return original


def sign_words(words: Words) -> np.ndarray:
    """MinHash signature of each text of `hash_words(texts)`, uint8 [texts, 128]; zeros where it has no words.

    A text of fewer than five words is one run. Raises MachineError where datasketch is missing.
    """
    runs, first_words = hash_ngrams(words, RUN_WORDS)
    bounds = np.searchsorted(first_words, words.bounds)
    hashes = (runs >> np.uint64(32)).astype(np.uint32)
    signatures = np.zeros((len(words.bounds) - 1, PERMUTATIONS), np.uint8)
    for index in range(len(signatures)):
        own = hashes[bounds[index] : bounds[index + 1]]
        if len(own) == 0:
            own = _hash_short(words, index)
        if len(own):
            signatures[index] = _sign(own)
    return signatures


def estimate_similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of signatures, row by row: 1/256 of unlike bytes are equal by chance."""
    equal = (one == other).mean(axis=-1, dtype=np.float32)
    return np.clip((equal - 1 / 256) / (1 - 1 / 256), 0, 1)


def find_near_repeats(signatures: np.ndarray, eligible: np.ndarray, *, threshold: float) -> Repeats:
    """Documents whose estimated similarity with an earlier one is at least the threshold.

    Within a band, documents are compared with the first; those that are not alike with the first of the rest,
    and so on, up to 16 times. Likeness is passed on: where b is like a, and c like b, all go but a.
    """
    original = np.arange(len(signatures))
    similarity = np.zeros(len(signatures), np.float32)
    documents = np.flatnonzero(eligible & signatures.any(axis=1))
    width = band_width(threshold)
    for start in range(0, PERMUTATIONS - width + 1, width):
        keys = _band_keys(signatures, documents, start, width)
        order = np.argsort(keys, kind="stable")
        _compare_bands(signatures, documents[order], keys[order], threshold, original, similarity)
    while True:
        roots = original[original]
        if np.array_equal(roots, original):
            return Repeats(original, similarity)
        original = roots


def band_width(threshold: float) -> int:
    """Bytes a band: the widest by which a pair at the threshold shares a band with LEAST_RECALL."""

    def recall(width: int) -> float:
        return 1 - (1 - threshold**width) ** (PERMUTATIONS // width)

    return max((width for width in range(1, 17) if recall(width) >= LEAST_RECALL), default=1)


def _compare_bands(
    signatures: np.ndarray,
    documents: np.ndarray,
    keys: np.ndarray,
    threshold: float,
    original: np.ndarray,
    similarity: np.ndarray,
) -> None:
    """Notes in `original` and `similarity` who is like the first of their band, round by round."""
    for _ in range(_MOST_LEADERS):
        if len(documents) == 0:
            break
        is_first = np.concatenate([[True], keys[1:] != keys[:-1]])
        firsts = np.flatnonzero(is_first)
        leaders = np.repeat(documents[firsts], np.diff(firsts, append=len(documents)))
        others = ~is_first
        documents, keys, leaders = documents[others], keys[others], leaders[others]
        estimates = _estimate_pairs(signatures, leaders, documents)
        alike = estimates >= threshold
        nearer = alike & (leaders < original[documents])
        original[documents[nearer]] = leaders[nearer]
        similarity[documents[nearer]] = estimates[nearer]
        documents, keys = documents[~alike], keys[~alike]


def _estimate_pairs(signatures: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    estimates = np.empty(len(one), np.float32)
    for start in range(0, len(one), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        estimates[part] = estimate_similarity(signatures[one[part]], signatures[other[part]])
    return estimates


def _band_keys(signatures: np.ndarray, documents: np.ndarray, start: int, width: int) -> np.ndarray:
    """One uint64 a document, of the bytes of one band. Those equal by chance fall out by comparison."""
    keys = np.zeros(len(documents), np.uint64)
    for place in range(start, start + width):
        keys = (keys ^ signatures[documents, place]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def _hash_short(words: Words, index: int) -> np.ndarray:
    """The one run of a text that is shorter than a run; empty if it has no words."""
    own = words.hashes[words.bounds[index] : words.bounds[index + 1]]
    if len(own) == 0:
        return own
    run, _ = hash_ngrams(Words(own, own, np.array([0, len(own)])), len(own))
    return (run >> np.uint64(32)).astype(np.uint32)


def _sign(hashes: np.ndarray) -> np.ndarray:
    sketch = _empty_sketch().copy()
    for start in range(0, len(hashes), _RUNS_AT_ONCE):
        sketch.update_batch(hashes[start : start + _RUNS_AT_ONCE].tolist())
    return sketch.hashvalues.astype(np.uint8)


@functools.cache
def _empty_sketch() -> MinHash:
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise MachineError(
            f"near_duplicates needs the library datasketch ({error}). "
            "Install it: pip install 'ultralong-hf[filters]'."
        ) from error
    return MinHash(PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
