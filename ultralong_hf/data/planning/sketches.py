"""Sketches of documents, and a path through them on which neighbours have words in common.

The aim is that of SPLiCe (arXiv 2312.17296), which fills a row with documents retrieved for each other, and
of in-context pretraining (arXiv 2310.10638), which walks from each document to its nearest unvisited one.
Those use BM25 or embeddings; here it is the distinct tokens that two documents share, estimated from a few
bytes a document, in time that grows as D log D. All numbers are whole and small enough for float32 or float64
to hold sums of them exactly, so that the path is the same on every machine.
"""

from __future__ import annotations

import numpy as np

from ultralong_hf.data.planning.tables import random_bits

SKETCH_BYTES = 32
_SIZE = 2 * SKETCH_BYTES
"""Numbers from -7 to 7 in a sketch, half a byte each: twice the numbers tell more than twice the digits."""
_SPREAD = 2.5
"""Standard deviation of these numbers, of a document whose tokens are unrelated."""
_SAMPLE = 4096
"""Tokens of a document that its sketch looks at: enough for its topic, and a bound on the cost."""
_GROUP = 512
"""Documents among which the nearest is looked for."""
_BATCH = 16
"""Groups that are walked through at once: 16 MiB of likenesses."""
_PROBES = 1024
"""Documents of a group from which the direction to halve it along is found."""
_ITERATIONS = 8
_CHUNK = 1 << 13
"""Documents that are turned into floats at once: few, to stay in the cache."""


def sketch_tokens(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """uint8 [n, SKETCH_BYTES] of n documents whose tokens lie one after the other; each by itself alone.

    Every distinct token adds +1 or -1, by its hash, to one of 64 numbers, by its hash, so that the product of
    two sketches estimates how many tokens their documents share (feature hashing, arXiv 0902.2206). They are
    scaled by the square root of the number of distinct tokens and rounded to half a byte each.
    """
    pairs = np.sort(_sampled_pairs(tokens, lengths))
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]  # np.unique takes 30 times as long
    document = (pairs >> np.uint64(32)).astype(np.int64)
    bits = random_bits(0, "sketch", pairs & np.uint64(0xFFFFFFFF))
    cell = document * _SIZE + (bits % np.uint64(_SIZE)).astype(np.int64)
    sign = 1.0 - 2.0 * (bits >> np.uint64(63))
    sums = np.bincount(cell, weights=sign, minlength=len(lengths) * _SIZE).reshape(-1, _SIZE)
    distinct = np.maximum(np.bincount(document, minlength=len(lengths)), 1)
    return _pack(sums * (_SPREAD / np.sqrt(distinct / _SIZE))[:, None])


def _sampled_pairs(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """uint64: document << 32 | token, of each document at most _SAMPLE tokens, evenly spread."""
    ends = np.cumsum(lengths)
    counts = lengths.copy()
    runs, done = [], 0
    for index in np.flatnonzero(lengths > _SAMPLE):
        begin, end = int(ends[index] - lengths[index]), int(ends[index])
        runs += [tokens[done:begin], tokens[begin : end : -(-(end - begin) // _SAMPLE)]]
        counts[index], done = len(runs[-1]), end
    runs.append(tokens[done:])
    document = np.repeat(np.arange(len(lengths), dtype=np.uint64), counts)
    return document << np.uint64(32) | np.concatenate(runs)


def similarity_path(sketch: np.ndarray) -> np.ndarray:
    """int64 [n]: all documents, each once, in an order in which similar ones are near each other.

    The documents are halved along the direction in which they differ most, and the halves again, down to
    groups of at most 512; in each, from the one least like the others to the nearest that is left, and so on.
    """
    order = np.arange(len(sketch))
    if len(sketch) == 0:
        return order
    vectors = _directions(sketch)
    groups = [(0, len(sketch))]
    while max(end - begin for begin, end in groups) > _GROUP:
        groups = [half for begin, end in groups for half in _halve(vectors, order, begin, end)]
    for first in range(0, len(groups), _BATCH):
        _walk(vectors, order, groups[first : first + _BATCH])
    return order


def _directions(sketch: np.ndarray) -> np.ndarray:
    """uint8 [n, bytes]: sketches less what all have in common, their common words; all of one length."""
    chunks = [slice(begin, begin + _CHUNK) for begin in range(0, len(sketch), _CHUNK)]
    sums = [_unpack(sketch[chunk]).sum(axis=0, dtype=np.float64) for chunk in chunks]
    common = np.rint(np.sum(sums, axis=0) * (16 / len(sketch)))
    square = max(float(common @ common), 1.0)
    result = np.empty_like(sketch)
    for chunk in chunks:
        part = _unpack(sketch[chunk]).astype(np.float64)
        part = np.rint(16 * (part - (part @ common / square)[:, None] * common))
        norm = np.sqrt((part * part).sum(axis=1))
        result[chunk] = _pack(part * (_SPREAD * _SIZE**0.5 / np.maximum(norm, 1))[:, None])
    return result


def _pack(numbers: np.ndarray) -> np.ndarray:
    """uint8 [n, bytes] of float64 [n, size], rounded and cut to -7 .. 7."""
    nibbles = (np.rint(numbers).clip(-7, 7) + 8).astype(np.uint8)
    return nibbles[:, :SKETCH_BYTES] | nibbles[:, SKETCH_BYTES:] << 4


def _unpack(packed: np.ndarray) -> np.ndarray:
    """float32 [n, size], whole."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - 8


def _halve(vectors: np.ndarray, order: np.ndarray, begin: int, end: int) -> list[tuple[int, int]]:
    """Both halves of a group, whose part of `order` is put so."""
    own = order[begin:end]
    axis = _widest_axis(_unpack(vectors[own[:: -(-len(own) // _PROBES)]])).astype(np.float32)
    place = np.concatenate(
        [_unpack(vectors[own[at : at + _CHUNK]]) @ axis for at in range(0, len(own), _CHUNK)]
    )
    half = len(own) // 2
    middle = np.partition(place, half)[half]
    is_left = place < middle
    is_left[np.flatnonzero(place == middle)[: half - int(is_left.sum())]] = True
    order[begin:end] = np.concatenate([own[is_left], own[~is_left]])
    return [(begin, begin + half), (begin + half, end)]


def _widest_axis(vectors: np.ndarray) -> np.ndarray:
    """float64 [size], whole: about the first principal axis, by power iteration from the widest number."""
    centred = vectors - np.rint(vectors.mean(axis=0, dtype=np.float64))
    covariance = centred.T @ centred
    axis = covariance[np.argmax(covariance.diagonal())]
    for _ in range(_ITERATIONS):
        axis = np.rint(axis * (127 / max(np.abs(axis).max(), 1.0)))
        axis = covariance @ axis
    return np.rint(axis * (127 / max(np.abs(axis).max(), 1.0)))


def _walk(vectors: np.ndarray, order: np.ndarray, groups: list[tuple[int, int]]) -> None:
    """Puts each group's part of `order` on its path from neighbour to neighbour, all groups in step."""
    size = max(end - begin for begin, end in groups)
    members = np.full((len(groups), size), -1)
    for number, (begin, end) in enumerate(groups):
        members[number, : end - begin] = order[begin:end]
    is_there = members >= 0
    points = _unpack(vectors[members.ravel()]).reshape(*members.shape, _SIZE) * is_there[:, :, None]
    likeness = points @ points.transpose(0, 2, 1)
    every = np.arange(len(groups))
    current = np.where(is_there, likeness.sum(axis=2, dtype=np.float64), np.inf).argmin(axis=1)
    # what is not there comes after all that is, what was visited never again
    bar = np.where(is_there, 0, -1e9).astype(np.float32)
    path = np.empty_like(members)
    for step in range(size):
        path[:, step] = members[every, current]
        bar[every, current] = -np.inf
        current = (likeness[every, current] + bar).argmax(axis=1)
    for number, (begin, end) in enumerate(groups):
        order[begin:end] = path[number, : end - begin]
