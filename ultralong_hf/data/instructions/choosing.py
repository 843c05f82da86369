"""All collected conversations -> which are in the blend, and why each other is not: from numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ultralong_hf.data.instructions.collecting import Collected
from ultralong_hf.data.instructions.filtering import CODES, KEPT, REASONS, ConversationFilters
from ultralong_hf.data.instructions.quotas import check_domains, quotas, ranks
from ultralong_hf.data.instructions.sources import BlendSource
from ultralong_hf.recipes.schema import InstructSection


@dataclass
class Choice:
    """What becomes of each conversation, in the order of sources and of their records."""

    source: np.ndarray
    """int32 [conversations]: index of its source."""
    index: np.ndarray
    """int64: its row in the file of the source."""
    tokens: np.ndarray
    """int32"""
    order: np.ndarray
    """uint64: its place in the blend, by size."""
    codes: np.ndarray
    """uint8: 0 for the chosen ones, else a key of REASONS."""
    details: dict[int, dict[str, Any]]

    def of_source(self, source: int) -> np.ndarray:
        """The conversations of a source."""
        return np.flatnonzero(self.source == source)

    def counts(self, source: int) -> dict[str, int]:
        """Reason -> conversations of the source that are left out for it, those reasons that occur."""
        codes = self.codes[self.source == source]
        found = {word: int((codes == code).sum()) for code, word in REASONS.items()}
        return {word: count for word, count in found.items() if count}


def choose(
    sources: Sequence[BlendSource],
    collected: Sequence[Collected],
    section: InstructSection,
    filters: ConversationFilters,
) -> Choice:
    """Too long ones, what the filters leave out, and what is above the quotas; drawn by the seed."""
    parts = [one.columns() for one in collected]
    sizes = [len(part["tokens"]) for part in parts]
    joined = {
        name: np.concatenate([part[name] for part in parts if name in part])
        for name in sorted({name for part in parts for name in part})
    }
    choice = Choice(
        source=np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
        index=np.concatenate([np.arange(size) for size in sizes]),
        tokens=joined["tokens"],
        order=_order(sources, parts, section.seed),
        codes=np.zeros(sum(sizes), np.uint8),
        details={},
    )
    choice.codes[choice.tokens > section.max_length] = CODES["too_long"]
    choice.details = filters.decide(joined, choice.codes)
    _draw(choice, sources, section, _ranks(sources, parts, section.seed, "draw"))
    return choice


def _order(sources: Sequence[BlendSource], parts: list[dict[str, Any]], seed: int) -> np.ndarray:
    """Several sources are mixed; one alone keeps its order."""
    if len(sources) == 1:
        return np.arange(len(parts[0]["tokens"]), dtype=np.uint64)
    return _ranks(sources, parts, seed, "order")


def _draw(choice: Choice, sources: Sequence[BlendSource], section: InstructSection, rank: np.ndarray) -> None:
    kept = [np.flatnonzero((choice.source == n) & (choice.codes == KEPT)) for n in range(len(sources))]
    counts = quotas(
        [len(own) for own in kept],
        domains=[source.entry.domain for source in sources],
        shares=[source.entry.share for source in sources],
        samples=section.samples,
        domain_shares=None if section.domains is None else check_domains(section.domains),
    )
    for own, count in zip(kept, counts, strict=True):
        if count < len(own):
            choice.codes[own[np.argsort(rank[own], kind="stable")[count:]]] = CODES["over_quota"]


def _ranks(
    sources: Sequence[BlendSource], parts: list[dict[str, Any]], seed: int, purpose: str
) -> np.ndarray:
    return np.concatenate(
        [
            ranks(seed, source.records.label, part["file"], part["row"], purpose)
            for source, part in zip(sources, parts, strict=True)
        ]
    )
