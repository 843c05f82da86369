"""The exact attention that runs on whole rows of few heads, and its place in transformers' registry."""

from __future__ import annotations

from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ultralong_hf.errors import ParallelSizeError
from ultralong_hf.parallel.ulysses import rows_are_split, ulysses_attention

NAME = "sequence_parallel"
"""Ours in transformers' registry of attentions. It is not saved with a model."""

WITHOUT_CAUSAL_FLAG = ("eager", "flex_attention")
"""Attentions that are causal by a mask alone."""


def install_attention(model: PreTrainedModel, inner: str) -> None:
    """Gives `model` the attention over split rows around `inner`, a name of transformers' registry.

    Where rows are not split, it is `inner` with the masks of `inner`.
    """
    if inner in WITHOUT_CAUSAL_FLAG:
        raise ParallelSizeError(
            f"{inner} attention is causal by a mask of tokens x tokens, which rows that are split cannot hold. "
            "Use sdpa, flash_attention_2 or flash_attention_3."
        )
    model.set_attn_implementation(inner)  # checks it, and fetches kernels of the Hub
    make_mask = ALL_MASK_ATTENTION_FUNCTIONS.get(inner)

    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if rows_are_split() or make_mask is None else make_mask(*args, **kwargs)

    AttentionInterface.register(NAME, ulysses_attention(ALL_ATTENTION_FUNCTIONS[inner], inner))
    AttentionMaskInterface.register(NAME, mask)
    model.set_attn_implementation(NAME)
