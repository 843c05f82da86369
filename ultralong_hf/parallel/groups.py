"""The devices that share a row: what each holds of it, and how attention runs over all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ultralong_hf.errors import BatchError
from ultralong_hf.parallel.ring import ring_attention
from ultralong_hf.parallel.sharding import Layout, gather_sequence, shard_batch, shard_ranges
from ultralong_hf.parallel.ulysses import split_rows


@dataclass(frozen=True, kw_only=True)
class SequenceGroup:
    """The `size` devices that share a row with this one, which is number `rank` of them.

    A trainer that the plugin is attached to has it as `trainer.sequence_group`.
    """

    rank: int
    size: int
    group: dist.ProcessGroup
    ulysses: dist.ProcessGroup | None = None
    """Those of them that trade heads for tokens; none: this one alone."""
    ring: DeviceMesh | None = None
    """Those of them that pass keys and values around, one mesh dimension; none: this one alone."""

    @property
    def ring_size(self) -> int:
        return self.ring.size() if self.ring is not None else 1

    @property
    def layout(self) -> Layout:
        return "head_tail" if self.ring is not None else "contiguous"

    def ranges(self, length: int) -> list[range]:
        """Positions of a row of `length` tokens that this device holds, in its order."""
        return shard_ranges(
            length, rank=self.rank, size=self.size, layout=self.layout, ring_size=self.ring_size
        )

    def shard(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """This device's part of a batch; see `shard_batch`."""
        return shard_batch(
            inputs, rank=self.rank, size=self.size, layout=self.layout, ring_size=self.ring_size
        )

    def check_same(self, rows: torch.Tensor) -> None:
        """Raises BatchError, on all devices of the group, unless each was given the same whole `rows` [B, N].

        Else the parts would be of different rows, and the loss a number like any other.
        """
        places = torch.arange(1, rows.numel() + 1, device=rows.device)
        digest = torch.stack([(rows.flatten() * places).sum(), *torch.tensor(rows.shape).to(rows.device)])
        both = torch.cat([digest, -digest])  # the greatest and the least in one exchange
        dist.all_reduce(both, op=dist.ReduceOp.MAX, group=self.group)
        if not torch.equal(both[:3], -both[3:]):
            raise BatchError(
                f"the {self.size} devices that share rows were given different ones. Let every process read "
                "the dataset in the same order: no sharding by rank, no shuffle without a common seed."
            )

    def gather(self, tensor: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """Whole rows of all devices' parts; see `gather_sequence`."""
        return gather_sequence(tensor, self.group, dim, layout=self.layout, ring_size=self.ring_size)

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Within, the model's attention spans the whole row. Forward and backward both belong in it."""
        ring = ring_attention(self.ring) if self.ring is not None else nullcontext()
        with split_rows(self.ulysses), ring:
            yield


def ulysses_group(mesh: DeviceMesh) -> SequenceGroup:
    """All devices of `mesh`, one dimension, trade heads for tokens."""
    group = mesh.get_group()
    return SequenceGroup(rank=mesh.get_local_rank(), size=mesh.size(), group=group, ulysses=group)


def ring_group(mesh: DeviceMesh) -> SequenceGroup:
    """All devices of `mesh`, one dimension, form a ring."""
    return SequenceGroup(rank=mesh.get_local_rank(), size=mesh.size(), group=mesh.get_group(), ring=mesh)


def hybrid_group(mesh: DeviceMesh, *, ulysses: int, ring: int) -> SequenceGroup:
    """Neighbours of `mesh`, one dimension, trade heads in groups of `ulysses`; `ring` such groups form rings.

    Neighbouring ranks are of one node, so the all-to-all stays within it. Every process must call this: it
    makes process groups.
    """
    shape = (dist.get_world_size() // mesh.size(), ring, ulysses)
    whole = init_device_mesh(mesh.device_type, shape, mesh_dim_names=("replica", "ring", "ulysses"))
    return SequenceGroup(
        rank=mesh.get_local_rank(),
        size=mesh.size(),
        group=mesh.get_group(),
        ulysses=whole["ulysses"].get_group(),
        ring=whole["ring"],
    )
