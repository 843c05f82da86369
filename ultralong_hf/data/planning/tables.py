"""What the plan of a store works on: documents and their uses as columns, and numbers drawn by hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class DocumentTable:
    """One entry a document, in order of (source, file, row); D documents."""

    source: np.ndarray
    """int32 [D]: index into `labels`."""
    length: np.ndarray
    """int64 [D], tokens."""
    characters: np.ndarray
    """int64 [D]."""
    removed: np.ndarray
    """uint8 [D]: 0 = kept, else the code of the filter that removed it."""
    labels: tuple[str, ...]
    """Name of each source."""
    shares: tuple[float | None, ...]
    """Of each source: the share of tokens it shall have, as its entry says; none: as it comes."""
    sketch: np.ndarray | None = None
    """uint8 [D, SKETCH_BYTES], see `sketch_tokens`; only the order "related" needs it."""

    def __len__(self) -> int:
        return len(self.length)


@dataclass(frozen=True)
class Uses:
    """Tokens `start` to `start + length` of a document, taken once; U uses, in the order of the store."""

    document: np.ndarray
    """int64 [U]: index into the table."""
    copy: np.ndarray
    """int32 [U]: 0 = the first use of these tokens, 1 = the second, ... (not the order in which they lie)."""
    start: np.ndarray
    """int64 [U]: 0 but for documents that the mixture "cut" makes into pieces."""
    length: np.ndarray
    """int64 [U], at least 1."""

    def __len__(self) -> int:
        return len(self.document)

    def take(self, indices: np.ndarray) -> Uses:
        """These uses, in this order."""
        return Uses(*(getattr(self, field.name)[indices] for field in fields(self)))


def repeated_uses(uses: Uses) -> tuple[np.ndarray, np.ndarray]:
    """Indices of uses of tokens that are used more than once, and of each which tokens, 0, 1, ...; int64.

    Uses of the same tokens are together, in the order in which they lie.
    """
    is_repeated = np.zeros(int(uses.document.max(initial=-1)) + 1, dtype=bool)
    is_repeated[uses.document[uses.copy > 0]] = True
    found = np.flatnonzero(is_repeated[uses.document])
    found = found[np.lexsort((uses.start[found], uses.document[found]))]
    document, start = uses.document[found], uses.start[found]
    is_new = (document[1:] != document[:-1]) | (start[1:] != start[:-1])
    return found, np.concatenate([np.zeros(min(len(found), 1), dtype=np.int64), np.cumsum(is_new)])


def own_numbers(seed: int, purpose: str, uses: Uses) -> np.ndarray:
    """float64 in [0, 1): the same for all uses of the same tokens, and dependent on nothing else."""
    return uniform(seed, purpose, random_bits(seed, "piece", uses.document) + uses.start.astype(np.uint64))


def uniform(seed: int, purpose: str, indices: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), 53 bits: of each index one number that depends on it, seed and purpose alone."""
    return (random_bits(seed, purpose, indices) >> np.uint64(11)) * 2.0**-53


def random_bits(seed: int, purpose: str, indices: np.ndarray) -> np.ndarray:
    """uint64 of each index, by the finaliser of SplitMix64 (Steele et al. 2014) on a keyed counter."""
    key = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()
    bits = indices.astype(np.uint64)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits += np.uint64(int.from_bytes(key, "big"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits
