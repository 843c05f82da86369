"""All that decides the bytes of a store, as its manifest holds it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, get_args

from ultralong_hf.data.planning.ordering import Order
from ultralong_hf.errors import DocumentError, StoreError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """JSON-able values. Two runs with equal settings over the same documents give the same bytes."""

    target_length: int
    """Tokens of a row."""
    dtype: str
    """Of the ids: uint16 or uint32."""
    tokenizer_sha256: str
    separator: dict[str, Any]
    """kind, value and token_ids."""
    sources: list[str | None]
    """Fingerprint of each; None: known only by its texts."""
    labels: list[str]
    """What reports call each source."""
    shares: list[float | None]
    """Of the tokens, as wanted for each source."""
    filters: dict[str, Any] | None
    mixture: dict[str, Any] | None
    min_document_length: int
    """Tokens; shorter documents are dropped."""
    token_budget: int | None
    """Tokens."""
    epochs: float
    order: str
    keep_tail: bool
    """Whether the rest of a document that a row cuts begins the next row."""
    seed: int
    rows_per_shard: int

    def __post_init__(self) -> None:
        faults = []
        if self.order not in get_args(Order):
            faults.append(f"order is {self.order!r}: one of {', '.join(get_args(Order))}.")
        if self.min_document_length < 0:
            faults.append(f"min_document_length is {self.min_document_length}: at least 0 tokens.")
        if self.rows_per_shard < 1:
            faults.append(f"rows_per_shard is {self.rows_per_shard}: at least 1.")
        if faults:
            raise DocumentError(*faults)

    @property
    def separator_ids(self) -> tuple[int, ...]:
        return tuple(self.separator["token_ids"])

    @property
    def is_known_by_fingerprint(self) -> bool:
        """Whether equal settings alone say that the documents are the same."""
        return all(self.sources)

    @property
    def goes_straight(self) -> bool:
        """Whether rows can be written as documents come: each is taken once, in order, and only once read."""
        is_choosing = self.filters or self.mixture or self.token_budget or self.min_document_length > 1
        takes_all = not is_choosing and self.epochs == 1 and not any(self.shares)
        return takes_all and self.order == "source" and self.keep_tail and self.is_known_by_fingerprint

    def to_dict(self) -> dict[str, Any]:
        """As it comes back from JSON."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Settings that a manifest holds."""
        return cls(**values)


def check_same(place: str, there: dict[str, Any], now: dict[str, Any], advice: str) -> None:
    """Raises StoreError with each setting that differs from those of what is at `place`.

    The labels of sources, which are names of folders, may differ: unless shares are given by them.
    """
    free = () if (now["mixture"] or {}).get("shares") else ("labels",)
    if faults := [
        f"{place} was made with another {key}: {there.get(key)!r} there, {value!r} now. {advice}"
        for key, value in now.items()
        if there.get(key) != value and key not in free
    ]:
        raise StoreError(*faults)
