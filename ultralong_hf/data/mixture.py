"""The length mixtures: which documents a store takes, and how often, by their length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np

from ultralong_hf.errors import DocumentError, LengthError
from ultralong_hf.lengths import parse_length

Shares: TypeAlias = str | Mapping[str, float] | None
"""The name of a preset, or share by source; none: each source's own `share`, or as its tokens come."""

SLIMPAJAMA_SHARES = {
    "CommonCrawl": 0.522,
    "C4": 0.267,
    "GitHub": 0.052,
    "ArXiv": 0.046,
    "Book": 0.042,
    "Wikipedia": 0.038,
    "StackExchange": 0.033,
}
"""Shares of tokens, as the data set's card states them (text)."""

FU_SHARES = {
    "CommonCrawl": 0.53374772,
    "C4": 0.26609933,
    "GitHub": 0.05004782,
    "ArXiv": 0.04290379,
    "Book": 0.0414836,
    "Wikipedia": 0.03402128,
    "StackExchange": 0.03169647,
}
"""SLIMPAJAMA_ORIGINAL_MIX of Fu et al.'s data_engineering/utils.py (text)."""

PRESETS = {"slimpajama": SLIMPAJAMA_SHARES, "fu": FU_SHARES}


@dataclass(frozen=True, kw_only=True)
class LengthMixture:
    """Short documents downsampled, long ones upsampled, by weights that hold within a source or throughout.

    The paper (arXiv 2504.06214) upsamples by length per domain after Fu et al. 2024 (text); that documents
    under 4K tokens are down- and those over 8K upsampled is second-hand; by which factors is open. A document
    between has weight 1. With one source, or "global", a document of weight w is taken w times per epoch on
    average. With several, "per_source" scales the weights of each source until its share of the tokens is as
    it was, or as its `share` says: short to long stay as the weights have it, within the source.
    """

    kind: Literal["per_source", "global"] = "per_source"
    """per_source: each source keeps its share of tokens. global: no such constraint."""
    short_below: int = 4096
    """Tokens. A shorter document has weight `short_keep`. Second-hand."""
    short_keep: float = 0.1
    """From 0 to 1. Open; this is the README of Fu et al. (text)."""
    long_above: int = 8192
    """Tokens. A longer document has weight `long_repeat`. Second-hand."""
    long_repeat: float = 2.0
    """At least 1; 1.5 takes each long document once and half of them twice. Open; ours."""
    shares: Shares = None
    """Of per_source alone: "slimpajama", "fu", or {source: share}."""

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
        if self.kind == "global" and self.shares is not None:
            faults.append("mixture.shares has no meaning with kind global: choose per_source.")
        if faults:
            raise DocumentError(*faults)

    def weights(self, lengths: np.ndarray) -> np.ndarray:
        """float64 of each length in tokens."""
        weights = np.ones(len(lengths))
        weights[lengths < self.short_below] = self.short_keep
        weights[lengths > self.long_above] = self.long_repeat
        return weights


@dataclass(frozen=True, kw_only=True)
class FuMixture:
    """As Fu et al. 2024 coded it (data_engineering/slimpajama_packing.py, down_sample_mode per_source; text).

    Length is characters / `characters_per_token`. A document shorter than `short_below` is kept with
    probability `short_keep`; there is no rule for long ones and nothing is repeated. A source takes documents
    as long as its tokens, so estimated, are not above share x budget: the last one whole, so that it ends a
    little above. Two things differ: what is random is decided by hash and not by numpy's and datasets'
    generators (documents come in an order of the seed, as after their `shuffle(42)`), and without a budget
    it is the largest at which every source can fill its share.
    """

    kind: Literal["fu"] = "fu"
    characters_per_token: float = 3.68
    """LLAMA_CHAR_TO_TOKEN_RATIO in utils.py (text)."""
    short_below: int = 4096
    """Estimated tokens (text)."""
    short_keep: float = 0.1
    """README's command (text). The script's default is 0.2 (text)."""
    shares: Shares = None
    """"fu" is what they coded."""

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.short_keep <= 1:
            faults.append(f"mixture.short_keep is {self.short_keep}: a probability from 0 to 1.")
        if not 0 < self.characters_per_token < math.inf:
            faults.append(f"mixture.characters_per_token is {self.characters_per_token}: above 0.")
        if self.short_below < 0:
            faults.append(f"mixture.short_below is {self.short_below}: at least 0.")
        if faults:
            raise DocumentError(*faults)


@dataclass(frozen=True, kw_only=True)
class CutMixture:
    """Every document cut into pieces of `length` tokens, the last one shorter; nothing is dropped by it.

    The baselines "cut at 4K" and "cut at 128K" of Fu et al. 2024 (section 3, second-hand) truncate documents
    into chunks of that length, with the mixture over sources and lengths as it comes. So each piece is a
    document of its own here: separators stand between pieces, and shuffling spreads them, which is what makes
    "cut at 4K" a baseline without long dependencies. In the order "source" the pieces lie in sequence.
    """

    kind: Literal["cut"] = "cut"
    length: int = 4096
    """Tokens: "cut at 4K". "128K" is their other baseline."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise DocumentError(f"mixture.length is {self.length}: at least 1.")


Mixture: TypeAlias = LengthMixture | FuMixture | CutMixture
_KINDS: dict[str, type[LengthMixture] | type[FuMixture] | type[CutMixture]] = {
    "per_source": LengthMixture,
    "global": LengthMixture,
    "fu": FuMixture,
    "cut": CutMixture,
}
_LENGTH_FIELDS = ("short_below", "long_above", "length")


def parse_mixture(value: Mixture | Mapping[str, Any] | str | None) -> Mixture | None:
    """A mixture from a recipe's mapping of its fields, or from its kind alone; none for none.

    >>> parse_mixture({"kind": "cut", "length": "128K"})
    CutMixture(kind='cut', length=131072)

    Raises DocumentError for an unknown kind or field and for a value without sense.
    """
    if value is None or isinstance(value, LengthMixture | FuMixture | CutMixture):
        return value
    if not isinstance(value, str | Mapping):
        raise DocumentError(f"mixture is {value!r}: give a mapping with the kind {_known_kinds()}.")
    given = {"kind": value} if isinstance(value, str) else dict(value)
    kind = given.setdefault("kind", "per_source")
    if kind == "none" and len(given) == 1:
        return None
    if kind not in _KINDS:
        raise DocumentError(f"mixture.kind is {kind!r}. Known: {_known_kinds()}.")
    known = [field.name for field in fields(_KINDS[kind])]
    if unknown := sorted(set(given) - set(known)):
        raise DocumentError(f"mixture has unknown keys {unknown}. Known to {kind}: {', '.join(known)}.")
    _check_types(given)
    return _KINDS[kind](**given)


def mixture_settings(mixture: Mixture | None) -> dict[str, Any] | None:
    """All that decides the choice, as the manifest holds it."""
    return asdict(mixture) if mixture else None


def _known_kinds() -> str:
    return ", ".join([*_KINDS, "none"])


def _check_types(given: dict[str, Any]) -> None:
    """Makes numbers of texts such as "4K". Raises DocumentError, an entry a fault."""
    faults = []
    for key, value in given.items():
        if key in _LENGTH_FIELDS and isinstance(value, str):
            try:
                given[key] = parse_length(value)
            except LengthError as error:
                faults.append(f"mixture.{key}: {error}")
        elif key == "shares":
            faults += _share_faults(value)
        elif key != "kind" and (isinstance(value, bool) or not isinstance(value, int | float)):
            faults.append(f"mixture.{key} is {value!r}: a number is needed.")
    if faults:
        raise DocumentError(*faults)


def _share_faults(shares: Any) -> list[str]:
    if shares is None or (isinstance(shares, str) and shares in PRESETS):
        return []
    if not isinstance(shares, Mapping):
        return [f"mixture.shares is {shares!r}: {', '.join(PRESETS)}, or a mapping of source to share."]
    return [
        f"mixture.shares.{name} is {share!r}: a number above 0 is needed."
        for name, share in shares.items()
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf
    ]
