"""What is in a store: tokens by source and length before and after the mixture, repeats, documents a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from ultralong_hf.data.planning.layout import Layout
from ultralong_hf.data.planning.tables import DocumentTable, Uses

LENGTH_EDGES = (0, *(1024 * 2**n for n in range(13)))
"""Tokens: a bucket reaches from its edge to before the next, the last one on: 0, 1K, 2K, 4K ... 4M."""


def composition(table: DocumentTable, uses: Uses, layout: Layout) -> dict[str, Any]:
    """For the manifest and `ultralong inspect`; all numbers are ints or floats of Python.

    A bucket is that of a document's whole length, of pieces too. `before`: all documents, as read;
    `after`: the uses, so that repeats count each time.
    """
    bucket = np.searchsorted(LENGTH_EDGES, table.length, side="right") - 1
    cell = table.source * len(LENGTH_EDGES) + bucket
    before = _tabulate(cell, table.length, len(table.labels))
    after = _tabulate(cell[uses.document], uses.length, len(table.labels))
    return {
        "edges": list(LENGTH_EDGES),
        "sources": [
            {
                "label": label,
                "before": {"documents": before[0][n].tolist(), "tokens": before[1][n].tolist()},
                "after": {"documents": after[0][n].tolist(), "tokens": after[1][n].tolist()},
            }
            for n, label in enumerate(table.labels)
        ],
        "repeats": _repeats(uses, layout),
        "documents_per_row": _spread(layout.documents_per_row()),
        "separators_per_row": _spread(layout.separators_per_row()),
    }


def _tabulate(cell: np.ndarray, tokens: np.ndarray, sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts and tokens, int64 [sources, buckets]."""
    shape = (sources, len(LENGTH_EDGES))
    documents = np.bincount(cell, minlength=shape[0] * shape[1])
    # sums of float64 are exact below 2^53 tokens
    sums = np.bincount(cell, weights=tokens, minlength=shape[0] * shape[1]).astype(np.int64)
    return documents.reshape(shape), sums.reshape(shape)


def _repeats(uses: Uses, layout: Layout) -> dict[str, Any]:
    is_repeat = uses.copy > 0
    tokens, all_tokens = int(uses.length[is_repeat].sum()), int(uses.length.sum())
    return {
        "documents": len(np.unique(uses.document[is_repeat])),
        "uses": int(is_repeat.sum()),
        "tokens": tokens,
        "share_of_tokens": tokens / all_tokens if all_tokens else 0.0,
        "most_uses_of_a_document": int(uses.copy.max(initial=-1)) + 1,
        "within_rows": len(layout.repeats_within_rows()),
    }


def _spread(counts: np.ndarray) -> dict[str, float]:
    """Least, median and most; 0 of no rows."""
    if len(counts) == 0:
        return {"min": 0, "median": 0, "max": 0}
    return {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())}
