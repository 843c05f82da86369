"""Position buckets and means over them; plain arithmetic, shared with evaluation during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SMALLEST_BUCKET = 64


def bucket_edges(length: int, *, smallest: int = SMALLEST_BUCKET) -> list[int]:
    """Edges of position buckets for rows of `length` tokens, powers of two from `smallest` on.

    >>> bucket_edges(1024), bucket_edges(300), bucket_edges(50)
    ([0, 64, 128, 256, 512, 1024], [0, 64, 128, 256, 300], [0, 50])
    """
    if length < 1 or smallest < 1:
        raise ValueError(f"length {length} and smallest {smallest} must both be at least 1.")
    edges = [0]
    edge = smallest
    while edge < length:
        edges.append(edge)
        edge *= 2
    return [*edges, length]


def sum_by_bucket(losses: Any, positions: Any, edges: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(float64 sums [buckets], int64 counts [buckets]); bucket i holds edges[i] <= position < edges[i + 1].

    Sums and counts of several rows or ranks may be added before they are divided. `losses` and `positions`
    are arrays (or CPU tensors) of one shape; positions outside the edges are left out.
    """
    losses = np.asarray(losses, dtype=np.float64).reshape(-1)
    positions = np.asarray(positions, dtype=np.int64).reshape(-1)
    if losses.shape != positions.shape:
        raise ValueError(f"{losses.size} losses do not match {positions.size} positions.")
    if list(edges) != sorted(set(edges)) or len(edges) < 2:
        raise ValueError(f"edges {list(edges)} must be at least two, ascending.")
    bucket = np.searchsorted(np.asarray(edges), positions, side="right") - 1
    inside = (bucket >= 0) & (bucket < len(edges) - 1)
    sums = np.bincount(bucket[inside], weights=losses[inside], minlength=len(edges) - 1)
    return sums, np.bincount(bucket[inside], minlength=len(edges) - 1)


def mean_by_bucket(losses: Any, positions: Any, edges: Sequence[int]) -> list[dict[str, Any]]:
    """Mean loss per bucket that holds tokens: [{"from", "to" (exclusive), "loss": nats, "tokens"}].

    >>> mean_by_bucket([1.0, 3.0, 5.0], [1, 2, 70], [0, 64, 128])
    [{'from': 0, 'to': 64, 'loss': 2.0, 'tokens': 2}, {'from': 64, 'to': 128, 'loss': 5.0, 'tokens': 1}]
    """
    sums, counts = sum_by_bucket(losses, positions, edges)
    return [
        {"from": start, "to": end, "loss": total / count, "tokens": count}
        for start, end, total, count in zip(edges, edges[1:], sums.tolist(), counts.tolist(), strict=False)
        if count
    ]
