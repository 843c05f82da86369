"""TRL's fused LM head: the size of its tiles of logits, or logits of all tokens at once in place of it.

Letters: `B` rows, `S` tokens, `V` entries of the vocabulary.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
import trl.kernels.chunked_logprob as fused
import trl.trainer.utils as patched
from torch import Tensor, nn
from trl.trainer.utils import FusedCausalLMOutput

CPU_TOKENS = 512
"""Without Triton a tile is handled by torch operators, each with a float32 copy of it: with TRL's 4,096 x
32,768 they take 4 GiB, whatever the row, and no cache holds them."""

CPU_VOCABULARY = 2048
_IGNORED = -100
"""The label of a token that does not count."""


def set_lm_head_tile(tokens: int | None, device_type: str) -> None:
    """Sets the tokens whose logits exist at a time, for all of TRL's trainers of this process.

    None: TRL's own on a GPU, fewer on a CPU, where the vocabulary is cut finer too. The loss and the
    gradients are the same up to rounding.
    """
    if device_type == "cpu":
        tokens = tokens or CPU_TOKENS
        patched._CHUNKED_LOGPROB_CHUNK_SIZE = CPU_VOCABULARY
    if tokens is not None:
        fused.TOKEN_CHUNK_SIZE = tokens


def keep_whole_logits(model: Any) -> None:
    """Where TRL asks `model` for its fused LM head, logits of all tokens are made in its place, once.

    `model`: a causal language model that TRL has given its fused head. It saves computing the head again in
    the backward, for B x S x V logits in float32, their log-softmax and a gradient. Loss, entropy and
    accuracy are the same up to rounding.
    """
    fused_forward = model.forward

    @functools.wraps(type(model).forward)  # `generate` looks at the names of its arguments
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            given = {
                "labels": labels,
                "shift_labels": shift_labels,
                "num_items_in_batch": num_items_in_batch,
            }
            given = {name: value for name, value in given.items() if value is not None}
            return fused_forward(*args, **given, **kwargs)
        outputs = fused_forward(*args, **{**kwargs, "use_cache": False})
        logits, aux_loss = outputs.logits, getattr(outputs, "aux_loss", None)
        del outputs
        if shift_labels is not None:
            return _score(logits, shift_labels, shift_labels.shape[1], num_items_in_batch, self, aux_loss)
        assert labels is not None
        # padded, so that no gradient of a slice is filled up with zeros
        following = nn.functional.pad(labels[:, 1:], (0, 1), value=_IGNORED)
        return _score(logits, following, labels.shape[1] - 1, num_items_in_batch, self, aux_loss)

    model.forward = types.MethodType(forward, model)


def _score(
    logits: Tensor,
    labels: Tensor,
    shown: int,
    count: Tensor | int | None,
    model: Any,
    aux_loss: Tensor | None,
) -> FusedCausalLMOutput:
    """The fused head's fields of logits [B, S, V] and labels [B, S] of their places; `shown` of each row."""
    labels = labels.to(logits.device)
    counted = labels != _IGNORED
    every = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    del logits
    log_probs = every.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(~counted, 0)
    entropy, is_top1 = torch.zeros_like(log_probs), torch.zeros_like(counted)
    with torch.no_grad():
        rows, own = every.flatten(0, 1), log_probs.flatten()
        for at in range(0, len(rows), CPU_TOKENS):  # tiles, so that what lies between is small
            tile, places = rows[at : at + CPU_TOKENS], slice(at, at + CPU_TOKENS)
            entropy.view(-1)[places] = -(tile.exp() * tile).sum(dim=-1)
            is_top1.view(-1)[places] = tile.amax(dim=-1) == own[places]
    fields = (log_probs, entropy.masked_fill(~counted, 0), is_top1 & counted, counted)
    log_probs, entropy, is_top1, counted = (field[:, :shown] for field in fields)
    loss = -log_probs.sum() / (counted.sum().clamp(min=1) if count is None else count)
    if aux_loss is not None:
        loss = loss + getattr(model.config.get_text_config(), "router_aux_loss_coef", 0.0) * aux_loss
    return FusedCausalLMOutput(
        loss=loss,
        log_probs=log_probs,
        entropy=entropy,
        is_top1=is_top1,
        label_mask=counted,
        aux_loss=aux_loss,
    )
