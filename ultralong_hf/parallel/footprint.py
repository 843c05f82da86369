"""What sequence parallelism must know of a model: its shape, and what training it takes of a device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

STATE_BYTES = 16
"""A parameter in training: float32 weight and gradient, two float32 moments of Adam. accelerate's FSDP2 keeps
trained weights in float32 under bf16 (utils/fsdp_utils.py, fsdp2_prepare_model)."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What sizes depend on, of a decoder with gated MLPs."""

    heads: int
    kv_heads: int
    head_size: int
    layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool = False
    experts: int = 1
    """Above 1 the parameters are counted too low, so that no size can be chosen for such a model."""

    @property
    def parameters(self) -> int:
        """Weights of a dense model; norms and biases, under 0.1 %, are left out."""
        attention = self.hidden_size * self.head_size * 2 * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.layers * layer + embeddings


def model_shape(config: Any) -> ModelShape:
    """The shape of a transformers config, of its text part where it has several."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    experts = (getattr(text, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    return ModelShape(
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocab_size=text.vocab_size,
        tied_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
        experts=max((count for count in experts if count), default=1),
    )


def peak_bytes(
    shape: ModelShape,
    *,
    length: int,
    degree: int,
    weight_shards: int,
    batch_size: int = 1,
    offload: bool = False,
) -> int:
    """Estimate of a device's peak in bf16 training with activation checkpointing and the fused loss.

    The sum of the training state, sharded; the inputs of all layers unless they are offloaded; one layer's
    activations and their gradients while it is recomputed; two gathered layers; the LM head in float32.
    A layer's activations in bf16, for each token: 6 of hidden size (inputs, norms, residuals), 3 each of
    queries, keys and values (projected, rotated, exchanged) and 7 of the MLP's (gate, up, activation, product
    and three gradients). Qwen3-8B at 1M on 8 GPUs with offload comes to 53.5 GB; TRL's example of that
    (docs/source/long_context_training.md) reports 56.2 GB.
    """
    tokens = batch_size * math.ceil(length / degree)
    query, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    state = STATE_BYTES * shape.parameters // weight_shards
    inputs = 0 if offload else 2 * shape.layers * shape.hidden_size * tokens
    working = 2 * (6 * shape.hidden_size + 3 * query + 6 * kv + 7 * shape.intermediate_size) * tokens
    embeddings = shape.vocab_size * shape.hidden_size
    layer = (shape.parameters - embeddings * (1 if shape.tied_embeddings else 2)) // shape.layers
    return state + inputs + working + 2 * 2 * layer + 4 * embeddings
