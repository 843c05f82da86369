"""The size of a tile of logits in TRL's fused LM head."""

from __future__ import annotations

import trl.kernels.chunked_logprob as fused
import trl.trainer.utils as patched

CPU_TOKENS = 512
"""Without Triton a tile is handled by torch operators, each with a float32 copy of it: with TRL's 4,096 x
32,768 they take 4 GiB, whatever the row, and no cache holds them."""

CPU_VOCABULARY = 2048


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
