"""Batches of samples of mixed lengths without a mask of their padding.

Letters: `B` samples, `N` tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ultralong_hf.errors import BatchError

Collator = Callable[[Any], dict[str, torch.Tensor]]


class WithoutPaddingMask:
    """`collator` with an `attention_mask` [B, N] of ones, for causal models.

    One token of padding makes transformers' sdpa build a mask of N x N and leave the fused kernels. Padding
    at the end of a sample needs none: the tokens before it do not see it, and its own labels are -100. Raises
    BatchError for padding elsewhere. TRL's count `num_tokens` then includes padding.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, samples: Any) -> dict[str, torch.Tensor]:
        batch = self.collator(samples)
        mask = batch.get("attention_mask")
        if mask is None:
            return batch
        if bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise BatchError(
                "the batch has padding before tokens, which would see it. Pad at the end of samples: "
                "tokenizer.padding_side = 'right'."
            )
        return {**batch, "attention_mask": torch.ones_like(mask)}
