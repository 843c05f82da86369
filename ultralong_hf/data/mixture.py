"""Which documents are taken, and how often, by their length in tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ultralong_hf.errors import DocumentError


@dataclass(frozen=True, kw_only=True)
class LengthMixture:
    """Short documents downsampled, long ones upsampled.

    The paper (arXiv 2504.06214) upsamples by length per domain after Fu et al. 2024 (text); that documents
    under 4K tokens are down- and those over 8K upsampled is second-hand; by which factors is open. Fu et
    al.'s code repeats nothing and keeps a document under 4,096 tokens with probability 0.1 (README) or 0.2
    (default) (text). No mixture at all takes every document once.
    """

    short_below: int = 4096
    """Tokens. A shorter document is kept with probability `short_keep`. Second-hand."""
    short_keep: float = 0.1
    """Probability. Open; this is the README of Fu et al. (text)."""
    long_above: int = 8192
    """Tokens. A longer document is taken `long_repeat` times. Second-hand."""
    long_repeat: float = 2.0
    """Times, at least 1; 1.5 takes each long document once and half of them twice. Open; ours."""

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.short_keep <= 1:
            faults.append(f"mixture.short_keep is {self.short_keep}: a probability from 0 to 1.")
        if not 1 <= self.long_repeat < math.inf:
            faults.append(f"mixture.long_repeat is {self.long_repeat}: at least 1 (1 = once).")
        if not 0 <= self.short_below <= self.long_above:
            faults.append(
                f"mixture.short_below is {self.short_below} and long_above {self.long_above}: "
                "0 <= short_below <= long_above."
            )
        if faults:
            raise DocumentError(*faults)

    @property
    def passes(self) -> int:
        """How often the corpus is gone through: copies of a document lie a pass apart, not side by side."""
        return math.ceil(self.long_repeat)

    def copies(self, document: int, length: int, *, seed: int) -> int:
        """How often the document with this index and length (tokens) is taken.

        Decided by a hash of seed and index, so that it depends on nothing that came before.
        """
        if self.short_below <= length <= self.long_above:
            return 1
        chance = _uniform(seed, document)
        if length < self.short_below:
            return int(chance < self.short_keep)
        whole = math.floor(self.long_repeat)
        return whole + int(chance < self.long_repeat - whole)


def parse_mixture(value: LengthMixture | Mapping[str, Any] | None) -> LengthMixture | None:
    """A LengthMixture from a recipe's mapping of its fields; raises DocumentError for unknown fields."""
    if value is None or isinstance(value, LengthMixture):
        return value
    if not isinstance(value, Mapping):
        raise DocumentError(f"mixture is {value!r}: give a mapping of {_field_names()}, or none.")
    if unknown := sorted(set(value) - {f.name for f in fields(LengthMixture)}):
        raise DocumentError(f"mixture has unknown keys {unknown}. Known: {_field_names()}.")
    if wrong := sorted(k for k, v in value.items() if isinstance(v, bool) or not isinstance(v, int | float)):
        raise DocumentError(*(f"mixture.{key} is {value[key]!r}: a number is needed." for key in wrong))
    return LengthMixture(**value)


def _field_names() -> str:
    return ", ".join(f.name for f in fields(LengthMixture))


def _uniform(seed: int, document: int) -> float:
    """A number in [0, 1) with 53 random bits, from seed and index alone."""
    digest = hashlib.blake2b(f"{seed}:{document}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
