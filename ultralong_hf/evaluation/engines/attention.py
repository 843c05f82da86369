"""Attention of a part of a prompt to all that stands before it, without a mask in memory.

transformers gives sdpa a boolean mask [part, tokens so far] there, which keeps torch from its flash kernels
and grows with the prompt. S: tokens of the part, T: tokens so far, the part included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

NAME = "ultralong_sdpa"


@contextmanager
def without_masks(model: PreTrainedModel) -> Iterator[None]:
    """A model of sdpa reads so within; one of another attention as it always does."""
    if model.config._attn_implementation != "sdpa":
        yield
        return
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def attend_lower_right(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """[B, N, S, H] from queries [B, N, S, H], the last of T, and keys and values [B, N or fewer, T, H].

    On a GPU torch's causal_lower_right, which its flash kernel knows. On a CPU, where that would be a mask in
    memory, two parts, each by the flash kernel: all to the keys before the part, causal within it; the
    log-sums of their exponents weigh them together.
    """
    groups = query.shape[1] // key.shape[1]
    parts, total = query.shape[2], key.shape[2]
    if query.device.type != "cpu":
        bias: Any = causal_lower_right(parts, total)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scale, enable_gqa=groups > 1
        )
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    start = total - parts
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    before, before_log = flash(query, key[:, :, :start], value[:, :, :start], 0.0, False, scale=scale)
    within, within_log = flash(query, key[:, :, start:], value[:, :, start:], 0.0, True, scale=scale)
    weight = torch.sigmoid(before_log - within_log)[..., None]
    return within.float().lerp(before.float(), weight).to(query.dtype)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    if attention_mask is not None or not 1 < query.shape[2] < key.shape[2]:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    output = attend_lower_right(query, key, value, options.get("scaling"))
    return output.transpose(1, 2).contiguous(), None


def _mask(
    *,
    q_length: int,
    kv_length: int,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor | None:
    """None where `_attend` needs none: nothing is padded, and the pattern is plainly causal."""
    if attention_mask is None and mask_function is causal_mask_function and 1 < q_length < kv_length:
        return None
    return sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        **options,
    )
