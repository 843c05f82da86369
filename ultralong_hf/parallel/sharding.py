"""Which tokens of a batch each device holds, and how they come together again.

Letters: `B` rows, `N` tokens of a row (global), `P` devices that share a row.

Contiguous, for Ulysses: device r holds part r of P. Head and tail, for the ring: a row is cut into 2 R parts
and ring member r holds parts r and 2 R - 1 - r, so that causal attention costs all members the same. With
`ring_size` R below P, as a hybrid has it, P / R neighbours split a member's tokens evenly and in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F

from ultralong_hf.data.collator import IGNORED
from ultralong_hf.errors import BatchError, ParallelSizeError

Layout = Literal["contiguous", "head_tail"]

PACKED_KEYS = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_lengths", "seq_idx")
"""What padding-free collators add: documents that must not see each other, which no slice can keep apart."""


def shard_bounds(length: int, shards: int, rank: int) -> range:
    """Positions of one rank; contiguous, equal. Raises ParallelSizeError if `shards` do not divide `length`.

    >>> shard_bounds(12, 3, 1)
    range(4, 8)
    """
    _check_divides(length, shards)
    part = length // shards
    return range(rank * part, (rank + 1) * part)


def shard_ranges(
    length: int, *, rank: int, size: int, layout: Layout = "contiguous", ring_size: int | None = None
) -> list[range]:
    """Positions of one rank, in the order in which it holds them.

    `ring_size`: members of the ring under head_tail; none: all `size` devices.

    >>> shard_ranges(12, rank=0, size=3, layout="head_tail")
    [range(0, 2), range(10, 12)]
    """
    if layout == "contiguous":
        return [shard_bounds(length, size, rank)]
    ring = ring_size or size
    neighbours = size // ring
    _check_divides(length, 2 * ring * neighbours)
    member, place = divmod(rank, neighbours)
    head, tail = shard_bounds(length, 2 * ring, member), shard_bounds(length, 2 * ring, 2 * ring - 1 - member)
    part = 2 * len(head) // neighbours
    start, stop = place * part, (place + 1) * part
    pieces = [head[start:stop], tail[max(start - len(head), 0) : max(stop - len(head), 0)]]
    return [piece for piece in pieces if piece]


def shard_batch(
    inputs: Mapping[str, Any],
    *,
    rank: int,
    size: int,
    layout: Layout = "contiguous",
    ring_size: int | None = None,
) -> dict[str, Any]:
    """The part of a batch that rank `rank` of `size` holds. Every tensor [B, N] or [B, N, ...] is sliced.

    `shift_labels` are made of `labels` before the cut, so that the last token of a part keeps its target in
    the next one. `position_ids` are global. Padding may stand at the end of a row only, where causal
    attention needs no mask for it. Raises BatchError for what cannot be cut, ParallelSizeError for lengths
    that do not divide. What is given stays as it is.
    """
    batch = dict(inputs)
    if not isinstance(batch.get("input_ids"), torch.Tensor):
        raise BatchError(f"the batch has no input_ids, only {sorted(batch)}: its rows cannot be split.")
    rows, length = batch["input_ids"].shape
    ranges = shard_ranges(length, rank=rank, size=size, layout=layout, ring_size=ring_size)
    _check_padding(batch)
    batch["position_ids"] = _global_positions(batch, rows, length)
    if "labels" in batch and "shift_labels" not in batch:
        batch["shift_labels"] = F.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
    return {
        key: take_ranges(value, ranges) if _has_sequence(value, rows, length) else value
        for key, value in batch.items()
    }


def take_ranges(tensor: torch.Tensor, ranges: list[range], dim: int = 1) -> torch.Tensor:
    """The given positions of dimension `dim`, one range after the other, in memory of their own."""
    parts = [tensor.narrow(dim, part.start, len(part)) for part in ranges]
    return torch.cat(parts, dim=dim) if len(parts) > 1 else parts[0].contiguous()


def gather_sequence(
    tensor: torch.Tensor,
    group: dist.ProcessGroup,
    dim: int = 1,
    *,
    layout: Layout = "contiguous",
    ring_size: int | None = None,
) -> torch.Tensor:
    """Every rank's part of dimension `dim` in the order of the row, on all ranks: undoes `shard_batch`.

    Differentiable: a rank gets the sum of all ranks' gradients for its own part.
    """
    gathered = _Gather.apply(tensor, group, dim)
    if layout == "contiguous":
        return gathered
    size, length = dist.get_world_size(group), gathered.shape[dim]
    held = [
        part
        for rank in range(size)
        for part in shard_ranges(length, rank=rank, size=size, layout=layout, ring_size=ring_size)
    ]
    starts = [0]
    for part in held:
        starts.append(starts[-1] + len(part))
    in_order = sorted(range(len(held)), key=lambda index: held[index].start)
    return take_ranges(gathered, [range(starts[i], starts[i + 1]) for i in in_order], dim)


class _Gather(torch.autograd.Function):
    """All-gather along a dimension; backward sends each rank its parts of all gradients, which it adds."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup, dim: int) -> torch.Tensor:
        ctx.group, ctx.dim = group, dim
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, tensor, group=group)
        return torch.cat(parts, dim=dim)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # no reduce_scatter_tensor: torch 2.13 deprecates it for a name that 2.9 does not have
        sent = torch.stack(grads[0].chunk(dist.get_world_size(ctx.group), dim=ctx.dim))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=ctx.group)
        return received.sum(dim=0), None, None


def _check_divides(length: int, shards: int) -> None:
    if length % shards == 0:
        return
    below, above = length // shards * shards, (length // shards + 1) * shards
    better = f"{below:,} or {above:,}" if below else f"{above:,}"
    raise ParallelSizeError(
        f"rows of {length:,} tokens do not split into {shards} parts. Use {better} tokens, or pad rows to a "
        f"multiple of {shards} (pad_to_multiple_of)."
    )


def _check_padding(batch: Mapping[str, Any]) -> None:
    """Masks that say more than that padding stands at the end of rows are refused."""
    packed = [key for key in PACKED_KEYS if batch.get(key) is not None]
    if packed:
        raise BatchError(
            f"the batch has {packed[0]}: its documents must not see each other, which rows that are split "
            "over devices cannot express. Turn packing and padding_free off."
        )
    mask = batch.get("attention_mask")
    if mask is None:
        return
    if mask.dim() != 2:
        raise BatchError(
            f"the attention_mask has the shape {tuple(mask.shape)}. Rows that are split over devices know "
            "causal attention alone: give a mask [rows, tokens] of padding, or none."
        )
    if mask.shape[1] > 1 and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise BatchError(
            "the attention_mask hides tokens before others. Pad at the end of rows (padding_side='right')."
        )


def _global_positions(batch: Mapping[str, Any], rows: int, length: int) -> torch.Tensor:
    """0 to N - 1 in every row, [B, N]. Others mean documents, which would see each other: refused."""
    positions = torch.arange(length, device=batch["input_ids"].device).expand(rows, -1)
    given = batch.get("position_ids")
    if given is None:
        return positions
    differs = given != positions if given.shape[-1] == length and given.dim() == 2 else torch.tensor(True)
    mask = batch.get("attention_mask")
    if mask is not None and differs.dim() == 2:
        differs = differs & mask.bool()  # collators count the positions of padding as they like
    if bool(differs.any()):
        raise BatchError(
            "the position_ids do not count from 0 to the end of each row, as those of packed documents do. "
            "Rows that are split over devices know causal attention over the whole row alone."
        )
    return positions


def _has_sequence(value: Any, rows: int, length: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 1 and tuple(value.shape[:2]) == (rows, length)
