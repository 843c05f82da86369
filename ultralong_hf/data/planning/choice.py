"""Which documents a store takes, and how often: filters, least length, mixture, budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ultralong_hf.data.mixture import CutMixture, FuMixture, LengthMixture, Mixture
from ultralong_hf.data.planning.levels import take_to_level, take_tokens
from ultralong_hf.data.planning.source_shares import resolve_shares
from ultralong_hf.data.planning.tables import DocumentTable, Uses, random_bits, uniform
from ultralong_hf.errors import DocumentError

REASONS = ("", "empty", "removed", "too_short", "mixture", "share", "budget")
"""Why a document is not used: it has no token; a filter removed it; it is shorter than min_length; the
mixture's weight left it out; so did the scaling to its source's share; so did the token budget."""
_USED, _EMPTY, _REMOVED, _TOO_SHORT, _MIXTURE, _SHARE, _BUDGET = range(len(REASONS))


@dataclass(frozen=True)
class Drops:
    """What was read and not used, by reason. Tokens: of the table = of first uses + of all drops."""

    documents: dict[str, int]
    """By each of REASONS but the first."""
    tokens: dict[str, int]
    """The same; a document that the budget or a share cut short counts here with what was cut off."""
    filters: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Documents and tokens by the code of the filter that removed them; their sums are under "removed"."""


class Choice(NamedTuple):
    uses: Uses
    """In order of document, copy and start."""
    drops: Drops
    notices: list[str]
    """What a user should know: a budget that could not be met, a source that gives nothing."""


def choose_documents(
    table: DocumentTable,
    mixture: Mixture | None,
    *,
    min_length: int = 0,
    token_budget: int | None = None,
    epochs: float = 1.0,
    seed: int,
) -> Choice:
    """The uses of documents that make a store.

    A document has a weight by its length (1 without a mixture). Its uses come at the levels u, 1 + u, 2 + u,
    ... divided by its weight, u drawn from [0, 1) by a hash of seed and index; those up to the level `epochs`
    are taken. So a document of weight 0.1 is taken in one of ten cases and one of weight 2 twice, by its hash
    alone. Where tokens are bound to a number, by `token_budget` (tokens of documents, without separators) or
    by the shares of sources, the level is where the uses below it have so many, and the last use is cut to
    meet it exactly; a rest below `min_length` is left out. Without a budget the sources share the tokens that
    the weights alone would give. A source may so be repeated more often than its weights say.

    `epochs` bounds the tokens from above as the budget does: whichever is less. Raises DocumentError for
    values without sense and for a source with a share of its own that has no document to fill it.
    """
    _check(table, mixture, min_length, token_budget, epochs)
    state = np.full(len(table), _USED, dtype=np.uint8)
    state[table.length < max(min_length, 1)] = _TOO_SHORT
    state[table.removed > 0] = _REMOVED
    state[table.length == 0] = _EMPTY
    choosing = _Choosing(table, state, token_budget, epochs, max(min_length, 1), seed)
    if isinstance(mixture, FuMixture):
        choosing.take_like_fu(mixture)
    elif _is_bound_by_shares(table, mixture):
        choosing.take_by_shares(mixture)
    else:
        choosing.take_by_weights(mixture)
    uses = choosing.uses()
    if isinstance(mixture, CutMixture):
        uses = _cut(uses, mixture.length)
    return Choice(uses, choosing.drops(), choosing.notices)


@dataclass
class _Choosing:
    """The choice as it is made."""

    table: DocumentTable
    state: np.ndarray
    """uint8 [D], indices into REASONS; of documents not used after all, why."""
    token_budget: int | None
    epochs: float
    least: int
    """Tokens of the shortest use."""
    seed: int
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.copies = np.zeros(len(self.table), dtype=np.int32)
        """Uses as a whole."""
        self.cuts: dict[int, int] = {}
        """Document -> tokens of one more use."""
        self.bound = _SHARE
        """What else than the weights left documents out."""

    def take_by_weights(self, mixture: Mixture | None) -> None:
        """By the weights alone, or in the order of their levels up to the budget."""
        usable, lengths, weights, uniforms = self._weigh(mixture)
        copies = take_to_level(self.epochs, weights, uniforms)
        self.copies[usable] = copies
        available = int(copies @ lengths)
        if self._within_budget(available) < available:
            self._fill(usable, self._within_budget(available), lengths, weights, uniforms)

    def take_by_shares(self, mixture: Mixture | None) -> None:
        """Each source up to its share of the tokens."""
        usable, lengths, weights, uniforms = self._weigh(mixture)
        source = self.table.source[usable]
        weighted = self._by_source(source, weights * lengths)
        shares = self._shares(mixture, self.table.length, weighted)
        total = self._within_budget(round(self.epochs * weighted.sum()))
        for index, tokens in enumerate(_apportion(total, shares)):
            if tokens:
                own = np.flatnonzero(source == index)
                self._fill(usable[own], tokens, lengths[own], weights[own], uniforms[own])

    def take_like_fu(self, mixture: FuMixture) -> None:
        """Each source, in an order of the seed, until its estimated tokens are above its share."""
        usable = np.flatnonzero(self.state == _USED)
        estimates = self.table.characters / mixture.characters_per_token
        chance = uniform(self.seed, "mixture", usable)
        is_kept = (estimates[usable] >= mixture.short_below) | (chance <= mixture.short_keep)
        self.state[usable[~is_kept]] = _MIXTURE
        kept = usable[is_kept]
        kept = kept[np.argsort(random_bits(self.seed, "fu", kept), kind="stable")]
        source = self.table.source[kept]
        available = self._by_source(source, estimates[kept])
        shares = self._shares(mixture, estimates, available)
        if not shares.any():
            return
        fillable = np.divide(available, shares, out=np.full(len(shares), np.inf), where=shares > 0)
        total = float(fillable.min())
        if self.token_budget is not None:
            self.bound, total = _BUDGET, self.token_budget
            self.notices += [
                f"token_budget is {self.token_budget:,}, of which source {self.table.labels[index]} has a "
                f"share of {shares[index]:.1%}, but it gives about {available[index]:,.0f} tokens."
                for index in np.flatnonzero(fillable < total)
            ]
        for index, budget in enumerate(shares * total):
            own = kept[source == index]
            before = np.cumsum(estimates[own]) - estimates[own]
            self.copies[own[before <= budget]] = 1

    def uses(self) -> Uses:
        counts = self.copies.copy()
        cut = np.array(list(self.cuts), dtype=np.int64)
        counts[cut] += 1
        ends = np.cumsum(counts, dtype=np.int64)
        document = np.repeat(np.arange(len(counts)), counts)
        copy = (np.arange(len(document)) - (ends - counts)[document]).astype(np.int32)
        length = self.table.length[document].astype(np.int64)
        length[ends[cut] - 1] = list(self.cuts.values())
        return Uses(document, copy, np.zeros(len(document), dtype=np.int64), length)

    def drops(self) -> Drops:
        is_used = self.copies > 0
        partly = {d: int(self.table.length[d]) - tokens for d, tokens in self.cuts.items() if not is_used[d]}
        is_used[list(partly)] = True
        state = np.where(self.state == _USED, self.bound, self.state)
        state[is_used] = _USED
        documents = np.bincount(state, minlength=len(REASONS))
        tokens = {r: int(self.table.length[state == r].sum()) for r in range(1, len(REASONS))}
        tokens[self.bound] += sum(partly.values())
        removed = self.table.removed * (state == _REMOVED)
        codes = np.unique(removed[removed > 0]).tolist()
        filters = {c: (int((removed == c).sum()), int(self.table.length[removed == c].sum())) for c in codes}
        return Drops(
            {REASONS[r]: int(documents[r]) for r in tokens}, {REASONS[r]: tokens[r] for r in tokens}, filters
        )

    def _weigh(self, mixture: Mixture | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Indices, lengths, weights and numbers of the documents that can be used."""
        usable = np.flatnonzero(self.state == _USED)
        lengths = self.table.length[usable]
        weights = mixture.weights(lengths) if isinstance(mixture, LengthMixture) else np.ones(len(lengths))
        uniforms = uniform(self.seed, "mixture", usable)
        self.state[usable[take_to_level(self.epochs, weights, uniforms) == 0]] = _MIXTURE
        return usable, lengths, weights, uniforms

    def _within_budget(self, available: int) -> int:
        """Tokens to take of those that the documents give; a notice if the budget is above them."""
        if self.token_budget is None or self.token_budget == available:
            return available
        if self.token_budget > available:
            self.notices.append(
                f"token_budget is {self.token_budget:,}, but the documents give {available:,} tokens in "
                f"{self.epochs:g} epochs: give more documents or more epochs."
            )
            return available
        self.bound = _BUDGET
        return self.token_budget

    def _fill(
        self, indices: np.ndarray, tokens: int, lengths: np.ndarray, weights: np.ndarray, uniforms: np.ndarray
    ) -> None:
        copies, cut = take_tokens(tokens, lengths, weights, uniforms)
        self.copies[indices] = copies
        if cut and cut[1] >= self.least:
            self.cuts[int(indices[cut[0]])] = cut[1]

    def _by_source(self, source: np.ndarray, amounts: np.ndarray) -> np.ndarray:
        return np.bincount(source, weights=amounts, minlength=len(self.table.labels))

    def _shares(self, mixture: Mixture | None, lengths: np.ndarray, available: np.ndarray) -> np.ndarray:
        """float64 [sources]. A source that has nothing to give has none, if none was asked for."""
        table = self.table
        named = mixture.shares if isinstance(mixture, LengthMixture | FuMixture) else None
        before = self._by_source(table.source, lengths * (table.removed == 0))
        shares = resolve_shares(named, table.labels, table.shares, before)
        is_dry = (available == 0) & (shares > 0)
        dry = [table.labels[index] for index in np.flatnonzero(is_dry)]
        is_asked = np.array([named is not None or share is not None for share in table.shares], dtype=bool)
        if (is_dry & is_asked).any():
            raise DocumentError(
                f"no document is left to fill the share of {', '.join(dry)}: filters, min_length and the "
                "mixture leave out all of them."
            )
        if dry:
            self.notices.append(f"filters, min_length and the mixture leave nothing of {', '.join(dry)}.")
            shares[is_dry] = 0
        return shares / shares.sum() if shares.any() else shares


def _check(
    table: DocumentTable, mixture: Mixture | None, min_length: int, token_budget: int | None, epochs: float
) -> None:
    faults = []
    if min_length < 0:
        faults.append(f"min_document_length is {min_length}: at least 0.")
    if token_budget is not None and token_budget < 1:
        faults.append(f"token_budget is {token_budget}: at least 1, or none.")
    if not 0 < epochs < math.inf:
        faults.append(f"epochs is {epochs}: above 0.")
    if isinstance(mixture, FuMixture) and epochs != 1:
        faults.append(f"epochs is {epochs}: the mixture fu repeats nothing, so 1.")
    if isinstance(mixture, LengthMixture) and mixture.kind == "global" and _has_shares(table):
        faults.append("the mixture global does not keep the sources' shares: choose per_source or none.")
    if faults:
        raise DocumentError(*faults)


def _has_shares(table: DocumentTable) -> bool:
    return any(share is not None for share in table.shares)


def _is_bound_by_shares(table: DocumentTable, mixture: Mixture | None) -> bool:
    if len(table) == 0:
        return False
    if isinstance(mixture, LengthMixture) and mixture.shares is not None:
        return True
    keeps_shares = isinstance(mixture, LengthMixture) and mixture.kind == "per_source"
    return len(table.labels) > 1 and (keeps_shares or _has_shares(table))


def _apportion(total: int, shares: np.ndarray) -> list[int]:
    """Whole numbers that sum to `total`, each within 1 of its share of it."""
    ends = np.round(np.cumsum(shares) * total).astype(np.int64)
    return np.diff(ends, prepend=0).tolist()


def _cut(uses: Uses, length: int) -> Uses:
    """Each use as pieces of this length, the last one shorter."""
    pieces = -(-uses.length // length)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    whole = uses.take(np.repeat(np.arange(len(uses)), pieces))
    start = number * length
    return Uses(whole.document, whole.copy, start, np.minimum(whole.length - start, length))
