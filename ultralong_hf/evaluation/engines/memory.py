"""What fits: the size of a prefill pass, bytes of the KV cache, free memory."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ultralong_hf.evaluation.engines.attention import NAME as UNMASKED

PREFILL_CHUNK = 8_192
# Where sdpa takes a [chunk, tokens so far] mask (attention.py tells where it does not), the chunk shrinks to
# keep it under this; a longer one also computes more attention that the mask throws away.
MASK_BYTES = 256 * 1024**2
MASKED_CHUNK = 1_024


def prefill_chunk(length: int, attention: str, *, start: int = 0) -> int:
    """Tokens a forward pass while reading a prompt of `length` tokens from its token `start` on.

    Flash attention builds no mask, nor does sdpa for a prompt that is read at once or within
    `attention.without_masks`; else it takes a boolean [chunk, length] one (256 tokens at 1M).
    """
    if "flash" in attention or attention == UNMASKED or (start == 0 and length <= PREFILL_CHUNK):
        return PREFILL_CHUNK
    return max(64, min(MASKED_CHUNK, MASK_BYTES // length))


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
