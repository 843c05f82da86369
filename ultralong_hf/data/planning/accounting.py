"""What has become of every document and token, so that nothing goes astray unseen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultralong_hf.data.planning.choice import Drops
    from ultralong_hf.data.planning.layout import Layout
    from ultralong_hf.data.planning.tables import DocumentTable

_NAMES = {
    "empty": "empty",
    "removed": "dropped_by_filters",
    "too_short": "dropped_too_short",
    "mixture": "dropped_by_mixture",
    "share": "dropped_by_shares",
    "budget": "dropped_by_budget",
}
"""Reason of `choose_documents` -> what the manifest calls it."""


@dataclass(frozen=True)
class Account:
    """Documents and tokens of a store, as the manifest tells them.

    read = tokens of all documents, each once, + those of repeats + those of the separators put between uses
         = packed + separators (both in rows) + dropped, the sum of all that begins with `dropped_`.
    """

    documents: dict[str, int]
    tokens: dict[str, int]
    rows: int

    def to_dict(self) -> dict[str, Any]:
        return {"documents": self.documents, "tokens": self.tokens, "rows": self.rows}


def open_account(table: DocumentTable, drops: Drops, layout: Layout, *, empty_records: int) -> Account:
    """The account of a plan. AssertionError if it does not close: the fault is ours.

    `empty_records`: documents without a character, which were read but are not in the table.
    """
    uses = layout.uses
    is_repeat = uses.copy > 0
    of_documents = int(table.length.sum())
    of_repeats = int(uses.length[is_repeat].sum())
    dropped = {_NAMES[reason]: drops.tokens[reason] for reason in _NAMES if reason != "empty"}
    totals = layout.totals()
    dropped |= {"dropped_cut_tails": totals.dropped_tails, "dropped_tail": totals.dropped_last_row}
    tokens = {
        "read": of_documents + of_repeats + totals.of_separators,
        "packed": totals.packed,
        "separators": totals.separators,
        "dropped": sum(dropped.values()),
        **dropped,
        "of_documents": of_documents,
        "of_repeats": of_repeats,
        "of_separators": totals.of_separators,
    }
    assert tokens["read"] == tokens["packed"] + tokens["separators"] + tokens["dropped"], tokens
    unused = {_NAMES[reason]: drops.documents[reason] for reason in _NAMES}
    unused["empty"] += empty_records
    documents = {
        "read": len(table) + empty_records,
        "used": len(table) + empty_records - sum(unused.values()),
        "dropped": sum(unused.values()),
        **unused,
        "repeats": int(is_repeat.sum()),
    }
    return Account(documents, tokens, layout.rows)
