"""What a run of `prepare` was asked for, checked and opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.data.documents import Source, open_sources
from ultralong_hf.data.filtering.filters import Filters, parse_filters
from ultralong_hf.data.mixture import CutMixture, Mixture, mixture_settings, parse_mixture
from ultralong_hf.data.planning.choice import choose_documents
from ultralong_hf.data.planning.sketches import sketch_tokens
from ultralong_hf.data.planning.source_shares import resolve_shares
from ultralong_hf.data.planning.tables import DocumentTable
from ultralong_hf.data.reading.bad_records import RecordPolicy
from ultralong_hf.data.separators import ResolvedSeparator, Separator, parse_separator, resolve_separator
from ultralong_hf.data.storing.settings import Settings
from ultralong_hf.data.tokenization import digest_of_json, load_tokenizer
from ultralong_hf.errors import DocumentError
from ultralong_hf.lengths import parse_budget, parse_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD_BYTES = 256 * 1024**2
SKETCH = "sketch"
"""Column of the index, for the order "related"."""


@dataclass(frozen=True)
class Job:
    """Settings, and what they stand for."""

    settings: Settings
    sources: list[Source]
    separator: ResolvedSeparator
    filters: Filters | None
    policy: RecordPolicy
    """For bad records; `records` gives one to count with."""
    engine: str
    workers: int | None

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.settings.dtype)

    @property
    def new_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer to be saved with the store: the one that has a new token."""
        return self.separator.tokenizer if self.separator.is_new else None

    def records(self) -> RecordPolicy:
        """A policy that has counted nothing yet."""
        return RecordPolicy(self.policy.on_error, self.policy.max_bad_share)

    def annotate(
        self, texts: list[str], tokens: list[np.ndarray], lengths: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The columns of the index that filters and order need."""
        columns = self.filters.annotate(texts) if self.filters else {}
        if self.settings.order == "related":
            columns[SKETCH] = sketch_tokens(np.concatenate(tokens), lengths)
        return columns


def open_job(
    sources: Any,
    *,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str],
    target_length: int | str,
    separator: Separator | str | Mapping[str, Any] | None = "<s>",
    text_column: str = "text",
    filters: Filters | Mapping[str, Any] | None = None,
    mixture: Mixture | Mapping[str, Any] | str | None = None,
    min_document_length: int = 0,
    token_budget: int | str | None = None,
    epochs: float = 1,
    order: str = "source",
    keep_tail: bool = True,
    on_error: str = "skip",
    max_bad_share: float = 0.05,
    engine: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    rows_per_shard: int | None = None,
) -> Job:
    """The arguments of `prepare_dataset`, checked. Sources are opened, not read."""
    if workers is not None and workers < 1:
        raise DocumentError(f"workers is {workers}: at least 1, or none for one a core.")
    resolved = resolve_separator(parse_separator(separator), load_tokenizer(tokenizer))
    encoder = resolved.encoder
    length, filtering = parse_length(target_length), parse_filters(filters)
    opened = open_sources(sources, text_column=text_column)
    settings = Settings(
        target_length=length,
        dtype=encoder.dtype.name,
        tokenizer_sha256=digest_of_json(encoder.json),
        separator={
            "kind": resolved.separator.kind,
            "value": resolved.separator.value,
            "token_ids": list(resolved.ids),
        },
        sources=[source.fingerprint for source in opened],
        labels=[source.label for source in opened],
        shares=[source.share for source in opened],
        filters=filtering.settings() if filtering else None,
        mixture=mixture_settings(parse_mixture(mixture)),
        min_document_length=min_document_length,
        token_budget=None if token_budget is None else parse_budget(token_budget),
        epochs=float(epochs),
        order=order,
        keep_tail=keep_tail,
        seed=seed,
        rows_per_shard=rows_per_shard or max(1, SHARD_BYTES // (length * encoder.dtype.itemsize)),
    )
    _check_plan(settings)
    policy = RecordPolicy(on_error, max_bad_share)  # type: ignore[arg-type]
    return Job(settings, opened, resolved, filtering, policy, engine, workers)


def _check_plan(settings: Settings) -> None:
    """Raises DocumentError for what the plan of the rows would refuse, before hours of tokenizing."""
    sources = len(settings.sources)
    table = DocumentTable(
        source=np.empty(0, np.int32),
        length=np.empty(0, np.int64),
        characters=np.empty(0, np.int64),
        removed=np.empty(0, np.uint8),
        labels=tuple(settings.labels),
        shares=tuple(settings.shares),
    )
    mixture = parse_mixture(settings.mixture)
    choose_documents(
        table,
        mixture,
        min_length=settings.min_document_length,
        token_budget=settings.token_budget,
        epochs=settings.epochs,
        seed=settings.seed,
    )
    shares = None if mixture is None or isinstance(mixture, CutMixture) else mixture.shares
    if shares is not None or any(share is not None for share in settings.shares):
        resolve_shares(shares, settings.labels, settings.shares, np.ones(sources))
