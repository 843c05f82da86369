"""The order in which uses of documents lie in the store."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from ultralong_hf.data.sketches import similarity_path
from ultralong_hf.data.tables import DocumentTable, Uses, random_bits
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
    if order not in ("source", "shuffled", "related"):
        raise DocumentError(f"order is {order!r}: source, shuffled or related.")
    if order == "related":
        if table.sketch is None:
            raise DocumentError("the order related needs sketches, which were not made.")
        rank = similarity_path(table.sketch)
    elif order == "shuffled":
        rank = random_bits(seed, "order", np.arange(len(table)))
    else:
        rank = np.arange(len(table))
    return uses.take(np.lexsort((uses.start, rank[uses.document], uses.copy)))
