"""The shape of a decoder with gated MLPs, dense or with experts, as far as memory and work depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WINDOWED = ("sliding_attention", "chunked_attention")
"""Names in `layer_types` of transformers' configs of layers that see a part of the row."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What sizes depend on. Sizes in values, not bytes."""

    heads: int
    kv_heads: int
    head_size: int
    layers: int
    hidden_size: int
    intermediate_size: int
    """Of a dense layer's MLP."""
    vocab_size: int
    tied_embeddings: bool = False
    query_key_norms: bool = False
    """Queries and keys have an RMSNorm each, as in Qwen3."""
    attention_biases: bool = False
    """Of the projections of queries, keys and values."""
    experts: int = 1
    """Of a layer; 1: its MLP is dense."""
    experts_per_token: int = 1
    expert_size: int = 0
    """Intermediate size of one expert."""
    shared_expert_size: int = 0
    """Intermediate size of what every token passes beside its experts."""
    dense_layers: int = 0
    """Layers with a dense MLP in a model that has experts."""
    windows: tuple[int | None, ...] = ()
    """Tokens that a layer's attention looks back, for each layer; None: all. Empty: all of all layers."""
    linear_layers: int = 0
    """Layers with a recurrent state in place of attention. They are counted as if they were attention."""

    @property
    def query_size(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Of keys, and again of values."""
        return self.kv_heads * self.head_size

    @property
    def embedding_parameters(self) -> int:
        """Of the input embeddings, and again of the LM head."""
        return self.vocab_size * self.hidden_size

    @property
    def attention_parameters(self) -> int:
        """Of one layer's attention, its norm included."""
        projections = 2 * self.hidden_size * (self.query_size + self.kv_size)
        biases = self.query_size + 2 * self.kv_size if self.attention_biases else 0
        return projections + biases + self.hidden_size + (2 * self.head_size if self.query_key_norms else 0)

    @property
    def dense_mlp_parameters(self) -> int:
        return 3 * self.hidden_size * self.intermediate_size + self.hidden_size

    @property
    def expert_mlp_parameters(self) -> int:
        """Of a layer with experts: all of them, the router, and what is shared."""
        experts = self.experts * (3 * self.hidden_size * self.expert_size + self.hidden_size)
        return experts + 3 * self.hidden_size * self.shared_expert_size + self.hidden_size

    @property
    def has_experts(self) -> bool:
        return self.experts > 1

    @property
    def layer_parameters(self) -> int:
        """Of the largest layer."""
        mlp = self.expert_mlp_parameters if self.has_experts else self.dense_mlp_parameters
        return self.attention_parameters + mlp

    @property
    def parameters(self) -> int:
        embeddings = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        dense = self.dense_layers if self.has_experts else self.layers
        return (
            embeddings
            + self.hidden_size
            + self.layers * self.attention_parameters
            + dense * self.dense_mlp_parameters
            + (self.layers - dense) * (self.expert_mlp_parameters if self.has_experts else 0)
        )

    @property
    def multiplied_parameters(self) -> int:
        """Those that a token is multiplied with: of its experts alone, and not of the embedding table."""
        expert = 3 * self.hidden_size * (self.experts_per_token * self.expert_size + self.shared_expert_size)
        expert += self.hidden_size * self.experts
        dense = self.dense_layers if self.has_experts else self.layers
        attention = 2 * self.hidden_size * (self.query_size + self.kv_size)
        mlps = dense * 3 * self.hidden_size * self.intermediate_size + (self.layers - dense) * expert
        return self.layers * attention + mlps + self.embedding_parameters

    @property
    def mlp_width(self) -> int:
        """Values of a token between the MLP's projections, of all experts it passes; the widest layer's."""
        if not self.has_experts:
            return self.intermediate_size
        routed = self.experts_per_token * self.expert_size + self.shared_expert_size
        return max(routed, self.intermediate_size if self.dense_layers else 0)

    def attended(self, length: int) -> float:
        """Pairs of tokens that see each other, summed over layers: half a square, or a band of a window."""
        windows = self.windows or (None,) * self.layers
        return sum(_pairs(length, window) for window in windows)


def _pairs(length: int, window: int | None) -> float:
    """Causal pairs; a token sees itself. The diagonal's half is left out, as is usual: N^2 / 2."""
    if window is None or window >= length:
        return length * length / 2
    return window * length - window * window / 2


def model_shape(config: Any) -> ModelShape:
    """The shape of a transformers config, of its text part where it has several."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    experts = _first(text, "num_local_experts", "num_experts", "n_routed_experts", default=1)
    intermediate = _first(text, "intermediate_size", default=4 * text.hidden_size)
    expert_size = _first(text, "moe_intermediate_size", default=intermediate) if experts > 1 else 0
    shared = _first(text, "shared_expert_intermediate_size", default=0)
    if not shared:
        shared = expert_size * _first(text, "n_shared_experts", default=0)
    kinds = list(getattr(text, "layer_types", None) or ())
    return ModelShape(
        heads=heads,
        kv_heads=_first(text, "num_key_value_heads", default=heads),
        head_size=_first(text, "head_dim", default=text.hidden_size // heads),
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=intermediate,
        vocab_size=text.vocab_size,
        tied_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
        query_key_norms=text.model_type in _NORMS_QUERIES,
        attention_biases=bool(getattr(text, "attention_bias", False)) or text.model_type in _ALWAYS_BIASED,
        experts=experts,
        experts_per_token=_first(text, "num_experts_per_tok", "top_k_experts", default=1),
        expert_size=expert_size,
        shared_expert_size=shared if experts > 1 else 0,
        dense_layers=_dense_layers(text) if experts > 1 else 0,
        windows=_windows(text, kinds),
        linear_layers=sum(kind not in (*WINDOWED, "full_attention") for kind in kinds),
    )


_NORMS_QUERIES = ("qwen3", "qwen3_moe", "gemma3_text", "olmo2", "olmo3")
_ALWAYS_BIASED = ("qwen2", "qwen2_moe")


def _first(text: Any, *names: str, default: int) -> int:
    """The first of the attributes that is there and not 0."""
    return next((int(value) for name in names if (value := getattr(text, name, None))), default)


def _dense_layers(text: Any) -> int:
    """DeepSeek's first layers, and those between Qwen's sparse ones."""
    first = _first(text, "first_k_dense_replace", default=0)
    only = getattr(text, "mlp_only_layers", None) or ()
    step = _first(text, "decoder_sparse_step", default=1)
    layers = range(first, text.num_hidden_layers)
    return first + sum(layer in only or (layer + 1) % step != 0 for layer in layers)


def _windows(text: Any, kinds: list[str]) -> tuple[int | None, ...]:
    size = getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None)
    if not kinds:  # Mistral, for one, has no layer_types
        return (size,) * text.num_hidden_layers if size else ()
    if not size or not set(kinds) & set(WINDOWED):
        return ()
    return tuple(size if kind in WINDOWED else None for kind in kinds)
