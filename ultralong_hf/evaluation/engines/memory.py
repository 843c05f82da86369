"""What fits: the size of a prefill pass, bytes of the KV cache, free memory."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

PREFILL_CHUNK = 8_192
# A pass that continues a prompt reads [chunk, tokens so far] of a mask and skips nothing of it: a long one
# computes attention that is thrown away.
CONTINUED_CHUNK = 1_024
# From the second chunk on, sdpa takes a [chunk, tokens so far] mask; the chunk shrinks to keep it under this.
MASK_BYTES = 256 * 1024**2


def prefill_chunk(length: int, attention: str, *, start: int = 0) -> int:
    """Tokens a forward pass while reading a prompt of `length` tokens from its token `start` on.

    Flash attention builds no mask. sdpa builds none for a prompt read at once, else a boolean [chunk, length]
    one, which is kept under MASK_BYTES (256 tokens at 1M).
    """
    if "flash" in attention or (start == 0 and length <= PREFILL_CHUNK):
        return PREFILL_CHUNK
    return max(64, min(CONTINUED_CHUNK, MASK_BYTES // length))


def kv_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of keys and values that a token leaves in the cache, of all layers, in the model's dtype."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(head_size) * model.dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device: the GPU's, or the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # accelerate brings it

    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
