"""Bytes that devices sharing a row send each other, by formula.

Letters: `N` tokens of a row, `P` = U R devices that share it, `S` = N / P tokens of one, `H` query heads, `K`
key/value heads, `D` head size, `b` bytes of a value.
"""

from __future__ import annotations

from typing import NamedTuple

from ultralong_hf.footprint import ModelShape
from ultralong_hf.parallel.sizes import repeated_kv_heads

GRADIENT_BYTES = 4
"""torch's ring adds gradients of keys and values up in float32 (2.13, _context_parallel, convert_to_f32)."""


class LayerBytes(NamedTuple):
    """Sent by one device for the attention of one layer and row; what it receives is as much."""

    forward: int
    backward: int
    """Recomputation under activation checkpointing, which is another forward, not included."""


def layer_bytes(
    shape: ModelShape, *, length: int, ulysses: int, ring: int, value_bytes: int = 2
) -> LayerBytes:
    """What Ulysses over `ulysses` devices and a ring over `ring` such groups send; 1 for none of it.

    Ulysses (arXiv 2309.14509, section 3): queries, keys, values and the output are traded once, and 1 / U of
    them stays: S D b (2 H + 2 K') (U - 1) / U, K' = K repeated to the least multiple of U. Backward the same.

    Ring (arXiv 2310.01889, section 3): keys and values go R - 1 steps: 2 (R - 1) S' D b K', S' = N / R tokens
    and K' / U heads a device; backward again, and their float32 gradients all R steps.
    """
    heads = repeated_kv_heads(shape.kv_heads, ulysses)
    tokens = length // (ulysses * ring)
    traded = tokens * shape.head_size * value_bytes * (2 * shape.heads + 2 * heads) * (ulysses - 1) // ulysses
    ringed = 2 * (length // ring) * shape.head_size * (heads // ulysses)
    passed = ringed * value_bytes * (ring - 1)
    returned = ringed * GRADIENT_BYTES * ring if ring > 1 else 0
    return LayerBytes(forward=traded + passed, backward=traded + passed + returned)
