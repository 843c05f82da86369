"""Ulysses: heads for tokens. Each device trades its tokens of all heads for all tokens of its heads, runs any
exact attention on whole rows, and trades back.

Letters: `B` rows, `S` tokens of this device, `N` = P S tokens of the row, `H` query heads, `K` key/value
heads, `D` head size, `P` devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ultralong_hf.errors import ParallelError, ParallelSizeError

Attention = Callable[..., tuple[torch.Tensor, Any]]
"""One of transformers' registry: (module, query [B, H, S, D], key, value, mask, ...) -> [B, S, H, D]."""

_groups: list[dist.ProcessGroup | None] = []
# A plain list, no context variable: backward, with the recomputation of checkpoints, has a thread of its own.


@contextmanager
def split_rows(group: dist.ProcessGroup | None) -> Iterator[None]:
    """Within, forward and backward, rows are split, and `group` trades heads for tokens; none: a ring alone.

    Outside, attention is the plain one.
    """
    _groups.append(group)
    try:
        yield
    finally:
        _groups.pop()


def rows_are_split() -> bool:
    """Whether `split_rows` is in force."""
    return bool(_groups)


def ulysses_attention(inner: Attention, implementation: str) -> Attention:
    """`inner`, the attention that transformers calls `implementation`, as one over rows that are split.

    Rows that are split have causal attention over all tokens. Raises, when called, ParallelError for a mask,
    which would know this device's tokens alone, and ParallelSizeError for heads that do not divide.
    """

    def forward(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        if not rows_are_split():
            return inner(_View(module, implementation), query, key, value, attention_mask, **kwargs)
        if attention_mask is not None:
            raise ParallelError(
                f"{type(module).__name__} makes an attention mask of its own, of this device's tokens. Rows "
                "that are split know causal attention over the whole row alone. Use another model, or one "
                "device."
            )
        group = _groups[-1]
        if group is not None:
            size = dist.get_world_size(group)
            key, value = (repeat_heads(tensor, size) for tensor in (key, value))
            query, key, value = (heads_for_tokens(tensor, group) for tensor in (query, key, value))
        view = _View(module, implementation, num_key_value_groups=query.shape[1] // key.shape[1])
        kwargs.pop("position_ids", None)  # of this device's tokens alone
        kwargs["is_causal"] = True
        output, _ = inner(view, query, key, value, None, **kwargs)
        return output if group is None else tokens_for_heads(output, group), None

    return forward


def repeat_heads(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """[B, K, S, D] with each head repeated, side by side, to the least count that `size` divides."""
    heads = tensor.shape[1]
    return tensor.repeat_interleave(math.lcm(heads, size) // heads, dim=1)


def heads_for_tokens(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[B, H, S, D] of this device's tokens -> [B, H / P, N, D] of its heads."""
    return _trade(tensor, group, gives=1, takes=2)


def tokens_for_heads(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[B, N, H / P, D] of this device's heads -> [B, S, H, D] of its tokens."""
    return _trade(tensor, group, gives=1, takes=2)


def _trade(tensor: torch.Tensor, group: dist.ProcessGroup, *, gives: int, takes: int) -> torch.Tensor:
    size = dist.get_world_size(group)
    if size == 1:
        return tensor
    if tensor.shape[gives] % size:
        raise ParallelSizeError(
            f"{size} devices do not divide the {tensor.shape[gives]} attention heads. Use a size that does, "
            "or backend hybrid or ring."
        )
    return _AllToAll.apply(tensor, group, gives, takes)


class _AllToAll(torch.autograd.Function):
    """Cuts dimension `gives` into P parts, sends part p to device p, and joins what comes along `takes`.

    The gradient takes the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup, gives: int, takes: int
    ) -> torch.Tensor:
        ctx.group, ctx.gives, ctx.takes = group, gives, takes
        return _all_to_all(tensor, group, gives, takes)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _all_to_all(grads[0], ctx.group, ctx.takes, ctx.gives), None, None, None


def _all_to_all(tensor: torch.Tensor, group: dist.ProcessGroup, gives: int, takes: int) -> torch.Tensor:
    sent = torch.stack(tensor.chunk(dist.get_world_size(group), dim=gives))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    del sent  # 1 GiB for the queries of 131,072 tokens of an 8B model
    return torch.cat(received.unbind(), dim=takes)


class _View:
    """An attention module as the inner attention must see it: fewer heads, and its own implementation's name.

    transformers' attentions read `num_key_value_groups` off the module and, for flash attention,
    `config._attn_implementation`.
    """

    def __init__(self, module: nn.Module, implementation: str, **changes: Any) -> None:
        self._module = module
        self._changes = {"config": _Config(module.config, implementation), **changes}

    def __getattr__(self, name: str) -> Any:
        changes = self.__dict__["_changes"]
        return changes[name] if name in changes else getattr(self.__dict__["_module"], name)


class _Config:
    """A config under another attention implementation."""

    def __init__(self, config: Any, implementation: str) -> None:
        self._config = config
        self._attn_implementation = implementation

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_config"], name)
