"""Small tables of documents for the tests of choice, order and layout."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ultralong_hf.data.planning.tables import DocumentTable, Uses


def table(lengths, *, source=None, labels=None, shares=None, characters=None, removed=None, sketch=None):
    """Documents of these lengths in tokens, all of one source unless told."""
    lengths = np.array(lengths, dtype=np.int64)
    source = np.zeros(len(lengths), np.int32) if source is None else np.array(source, dtype=np.int32)
    labels = labels or tuple(f"source {n}" for n in range(int(source.max(initial=0)) + 1))
    return DocumentTable(
        source=source,
        length=lengths,
        characters=4 * lengths if characters is None else np.array(characters, dtype=np.int64),
        removed=np.zeros(len(lengths), np.uint8) if removed is None else np.array(removed, dtype=np.uint8),
        labels=tuple(labels),
        shares=tuple(shares) if shares else (None,) * len(labels),
        sketch=sketch,
    )


def uses_of(documents, lengths, starts=None):
    """Uses of these documents in this order; `lengths` by document, or of each use if there are `starts`."""
    documents = np.array(documents, dtype=np.int64)
    starts = [0] * len(documents) if starts is None else starts
    seen: dict[tuple[int, int], int] = {}
    copies = []
    for key in zip(documents.tolist(), starts, strict=True):
        copies.append(seen.get(key, 0))
        seen[key] = copies[-1] + 1
    lengths = np.array(lengths, dtype=np.int64)
    length = lengths if any(starts) else lengths[documents]
    return Uses(documents, np.array(copies, dtype=np.int32), np.array(starts, dtype=np.int64), length)


@st.composite
def tables(draw, *, max_length=60, max_documents=40):
    """Up to three sources, with empty and removed documents among theirs."""
    sources = draw(st.integers(1, 3))
    count = draw(st.integers(0, max_documents))

    def column(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    return table(
        column(st.integers(0, max_length)),
        source=sorted(column(st.integers(0, sources - 1))),
        labels=[f"source {n}" for n in range(sources)],
        removed=column(st.sampled_from([0, 0, 0, 0, 1, 7])),
    )
