"""The order in which uses of documents lie in the store."""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np

from ultralong_hf.data.planning.layout import lay_out_rows
from ultralong_hf.data.planning.sketches import similarity_path
from ultralong_hf.data.planning.spreading import spread_over_rows
from ultralong_hf.data.planning.tables import DocumentTable, Uses, own_numbers, repeated_uses
from ultralong_hf.errors import DocumentError

Order: TypeAlias = Literal["source", "shuffled", "related"]


def order_uses(
    uses: Uses,
    table: DocumentTable,
    *,
    order: Order,
    seed: int,
    target_length: int,
    separator_length: int,
    keep_tail: bool = True,
) -> Uses:
    """The same uses in the order in which `lay_out_rows` shall take them.

    - "source": documents as they come; then, pass by pass, those that are used again.
    - "shuffled": by a hash of seed and document. The c uses of a document lie a c-th of the store apart.
    - "related": documents with similar words next to each other (see `similarity_path`); pass by pass. Rows
      then follow each other by topic, so training should take them in random order.

    No document is twice in one row where `spread_over_rows` can help it; first uses stay in their order in
    "source" and "related". Raises DocumentError for an unknown order, and for "related" without sketches.
    """
    if order not in get_args(Order):
        raise DocumentError(f"order is {order!r}: {', '.join(get_args(Order))}.")
    if order == "shuffled":
        ordered = uses.take(_shuffled(uses, seed))
    else:
        place = np.arange(len(table)) if order == "source" else _related(uses, table)
        ordered = uses.take(np.lexsort((uses.start, place[uses.document], uses.copy)))
    lay_out = partial(
        lay_out_rows, target_length=target_length, separator_length=separator_length, keep_tail=keep_tail
    )
    return spread_over_rows(ordered, lay_out, seed=seed, holds_first=order != "shuffled")


def _shuffled(uses: Uses, seed: int) -> np.ndarray:
    """Indices in order of place in the store, from 0 to 1: (copy + the tokens' own number) / uses of them."""
    place = own_numbers(seed, "order", uses) + uses.copy
    repeated, group = repeated_uses(uses)
    place[repeated] /= np.bincount(group)[group]
    return np.argsort(place, kind="stable")


def _related(uses: Uses, table: DocumentTable) -> np.ndarray:
    """int64 [D]: place of each used document on the path of similar ones."""
    if table.sketch is None:
        raise DocumentError("the order related needs sketches of the documents, and there are none.")
    used = np.unique(uses.document)
    place = np.zeros(len(table), dtype=np.int64)
    place[used[similarity_path(table.sketch[used])]] = np.arange(len(used))
    return place
