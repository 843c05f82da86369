"""Bytes of one layer for each token of a device: kept for its backward, and most while that runs.

Counted on transformers' own layers (5.23, modeling_llama.py): each term is a tensor that autograd keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ultralong_hf.footprint.setup import Setup
from ultralong_hf.footprint.shape import ModelShape

_FLOAT = 4
_NORM_TEMPORARIES = 5
"""Gradients in float32 of a norm in plain torch: of the product, the mean, the power and their sums."""


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """For each token, but for what is in tiles, which is for all tokens at once."""

    entry: float
    """What the layer begins with: all that a recomputed one keeps."""
    attention: float
    """Kept by attention and its norm."""
    attention_kept: float
    """Of that, output and log-sum-exp, which selective recomputation keeps."""
    attention_backward: float
    """More than is kept, at most, while attention's backward runs."""
    mlp: float
    """Kept by the MLP and its norm, the entry between attention and MLP included."""
    mlp_backward: float
    """More than is kept, at most, while the MLP's or its norm's backward runs."""
    mlp_tiles: float
    """Bytes of one tile, whatever the tokens."""


def layer_bytes(shape: ModelShape, setup: Setup) -> LayerBytes:
    """The bytes of a layer, of the widest in a model whose layers differ."""
    size, value, stream = shape.hidden_size, setup.value_bytes, setup.stream_bytes
    whole_norms = not (setup.liger or setup.tiled)
    norm_input, norm = _norm(size, value, stream, whole=whole_norms)
    kept, output = _attention(shape, setup)
    mlp, mlp_backward = _mlp(shape, setup)
    norm_backward = _NORM_TEMPORARIES * _FLOAT * size
    gradient = stream * size
    tiles = 0.0
    if setup.tiled and shape.has_experts:  # norms alone: transformers runs all experts in one call
        tiles = setup.tiled * 2.0 * norm_backward
    elif setup.tiled:
        tiles = setup.tiled * max(mlp + mlp_backward + gradient, 2 * norm_backward)
        mlp, mlp_backward = 0.0, float(gradient)  # the gradient of its input, whole
    elif whole_norms:
        mlp_backward = max(mlp_backward, norm_backward - mlp)
    return LayerBytes(
        entry=stream * size,
        attention=norm + kept,
        attention_kept=output,
        attention_backward=gradient + _attention_backward(shape, setup),
        mlp=norm_input + norm + mlp,
        mlp_backward=gradient + mlp_backward,
        mlp_tiles=tiles,
    )


def _norm(size: int, value: int, stream: int, *, whole: bool) -> tuple[float, float]:
    """Kept by an RMSNorm: its input, and the rest."""
    if not whole:  # Liger and tiles keep the input, and the result for the projections after it
        return stream * size, value * size
    if stream == _FLOAT:  # input in float32, normalized in float32, result
        return _FLOAT * size, (_FLOAT + value) * size
    return 0, (_FLOAT + 2 * value) * size  # the input's copy in float32 stands for it


def _attention(shape: ModelShape, setup: Setup) -> tuple[float, float]:
    """Kept by attention without its norm; and of that, what selective recomputation keeps."""
    queries, keys, value = shape.query_size, repeated_kv_size(shape, setup), setup.value_bytes
    output = value * queries + _FLOAT * shape.heads
    kept = output + value * (queries + 2 * keys)
    if setup.ulysses > 1:  # the kernel's output, and the same traded back
        kept += value * queries
    if shape.query_key_norms:
        normed = queries + shape.kv_size
        kept += normed * (value if setup.liger else _FLOAT + value)
    return kept + setup.adapter_bytes, output


def _attention_backward(shape: ModelShape, setup: Setup) -> float:
    queries, keys, value = shape.query_size, repeated_kv_size(shape, setup), setup.value_bytes
    gradients = value * (2 * queries + 2 * keys)  # of the output, the queries, keys and values
    if setup.device == "gpu":
        gradients += _FLOAT * queries  # flash attention sums the queries' gradient in float32
        if keys < queries:
            gradients += value * 2 * queries  # keys' and values' for each query head, summed after
    return gradients


def _mlp(shape: ModelShape, setup: Setup) -> tuple[float, float]:
    """Kept by an MLP without its norm; and more than that, at most, in its backward.

    Plain: gate, up, activation, product are kept; the product goes when its gradient has come, and those of
    activation and up are made: 6. Liger keeps three, and writes gradients over two of them: 4.
    """
    width = shape.mlp_width * setup.value_bytes
    kept, more = (3 * width, width) if setup.liger else (4 * width, 2 * width)
    if shape.has_experts:  # tokens in the experts' order, on the way in and out
        routed = 2 * shape.experts_per_token * shape.hidden_size * setup.value_bytes
        return kept + routed, more + routed / 2
    return kept, more


def repeated_kv_size(shape: ModelShape, setup: Setup) -> int:
    """Values of the keys of a token, after Ulysses has repeated them to as many heads as it divides."""
    return math.lcm(shape.kv_heads, setup.ulysses) * shape.head_size
