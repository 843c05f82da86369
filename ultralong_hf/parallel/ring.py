"""The ring: each device keeps its queries, and the keys and values of all come past.

The attention is torch's context parallelism, the one that accelerate's `cp_size` uses, as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import set_rotate_method

from ultralong_hf.errors import MachineError

Rotation = Literal["allgather", "alltoall"]
"""How keys and values come past: all at once after the first step, or from the neighbour at each step."""


@contextmanager
def ring_attention(mesh: DeviceMesh) -> Iterator[None]:
    """Within, forward and backward, torch's scaled_dot_product_attention goes around the ring of `mesh`.

    Queries, keys and values are [B, heads, tokens of this device in head-and-tail order, head size].
    """
    # torch shards buffers on entry, and learns from their length that the order is head and tail. Batches
    # are sharded already, so it gets the shortest buffer that can be.
    buffer = torch.empty(2 * mesh.size(), device=mesh.device_type)
    with context_parallel(mesh, buffers=[buffer], buffer_seq_dims=[0], no_restore_buffers={buffer}):
        yield


def check_ring(device: torch.device) -> None:
    """Raises MachineError on a CPU, where torch 2.13 has no ring around its attention."""
    if device.type != "cpu":
        return
    from torch.distributed.tensor.experimental._context_parallel import _attention

    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    if operator not in _attention.custom_ops:
        raise MachineError(
            "rings need GPUs: torch has none around its attention for CPUs. Use backend ulysses, or one "
            "device."
        )


def set_rotation(rotation: Rotation) -> None:
    """Sets it for all rings of this process; torch knows one setting only."""
    set_rotate_method(rotation)
