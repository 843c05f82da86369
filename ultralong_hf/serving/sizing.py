"""What serving one sequence of a length takes of GPUs: weights, keys and values, a chunk of prefill.

Estimates: a server that starts says itself how many tokens of KV cache it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ultralong_hf.errors import ReleaseError
from ultralong_hf.footprint.shape import ModelShape
from ultralong_hf.planning.gpus import Gpu

KV_BYTES = {"bf16": 2.0, "fp8": 1.0, "q8_0": 34 / 32}
"""Type of the KV cache -> bytes a value. q8_0: blocks of 32 values of 8 bits with a scale of 16 bits."""
UTILIZATION = 0.92
"""Share of a GPU's memory that a server may take: vLLM's default."""
BESIDE = 2 * 2**30
"""Bytes beside weights, cache and a chunk: CUDA's context, NCCL, graphs. Assumed."""
MOST_GPUS = 64


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One way to place a model. Bytes are those of one GPU."""

    gpus: int
    tensor_parallel: int
    pipeline_parallel: int
    context_parallel: int
    """GPUs of the tensor-parallel group that share a sequence's cache by tokens; 1: none do."""
    kv_type: str
    weights: int
    cache: int
    """Of one sequence of the length."""
    chunk: int
    """Activations of a chunk of prefill."""
    budget: int
    sequences: int
    """Sequences of the full length whose cache fits at once."""

    @property
    def fits(self) -> bool:
        return self.sequences >= 1


def kv_bytes_per_token(shape: ModelShape, bytes_per_value: float = 2.0) -> float:
    """Bytes of keys and values of one token in all layers, as if each looked back over everything.

    >>> from ultralong_hf.planning.shapes import KNOWN
    >>> kv_bytes_per_token(KNOWN["meta-llama/Llama-3.1-8B-Instruct"]) / 1024
    128.0
    """
    return 2 * shape.kv_size * shape.layers * bytes_per_value


def kv_bytes(shape: ModelShape, length: int, bytes_per_value: float = 2.0) -> float:
    """Of a sequence; layers with a window keep no more than it."""
    windows = shape.windows or (None,) * shape.layers
    kept = sum(length if window is None else min(length, window) for window in windows)
    return 2 * shape.kv_size * kept * bytes_per_value


def best_fit(
    shape: ModelShape,
    gpu: Gpu,
    length: int,
    *,
    gpus: int | None,
    chunk: int,
    weight_bytes: int,
    kv_types: tuple[str, ...],
    context_parallel: bool = False,
    pipeline: bool = True,
    tensor: bool = True,
) -> Fit:
    """The placement on `gpus`; None: on the least that fit, with the first of `kv_types` that fits a node.

    `context_parallel`, `pipeline`, `tensor`: what the server can do. Where nothing fits, what comes nearest
    is returned, and `fits` is false. Raises ReleaseError for a number of GPUs that the heads do not divide.
    """
    options = {"context_parallel": context_parallel, "pipeline": pipeline, "tensor": tensor}
    last: Fit | None = None
    for count, kv_type in _tries(gpus, gpu.per_node, kv_types):
        fit = _place(shape, gpu, length, count, chunk, weight_bytes, kv_type, **options)
        if fit is None:
            continue
        if fit.fits:
            return fit
        last = fit if last is None or fit.budget - fit.cache > last.budget - last.cache else last
    if last is None:
        raise ReleaseError(
            f"{gpus} GPUs do not share {shape.heads} heads and {shape.layers} layers evenly: "
            "take a power of two."
        )
    return last


def _place(
    shape: ModelShape,
    gpu: Gpu,
    length: int,
    gpus: int,
    chunk: int,
    weight_bytes: int,
    kv_type: str,
    *,
    context_parallel: bool,
    pipeline: bool,
    tensor: bool,
) -> Fit | None:
    """Tensor parallelism within a node, stages of layers over nodes; None: it does not divide."""
    sizes = _split(shape, gpus, gpu.per_node, pipeline, tensor)
    if sizes is None:
        return None
    tp, pp = sizes
    groups = shape.heads // shape.kv_heads
    dcp = tp // shape.kv_heads if tp > shape.kv_heads else 1
    if not context_parallel or groups % dcp:
        dcp = 1
    own_heads = math.ceil(shape.kv_heads / tp)  # beyond one a GPU, servers keep copies
    cache = kv_bytes(shape, length, KV_BYTES[kv_type]) * own_heads / shape.kv_heads / pp / dcp
    weights = math.ceil(weight_bytes / tp / pp)
    activations = chunk_bytes(shape, chunk, tp)
    budget = int(gpu.memory * UTILIZATION) - BESIDE - weights - activations
    return Fit(
        gpus=gpus,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        context_parallel=dcp,
        kv_type=kv_type,
        weights=weights,
        cache=math.ceil(cache),
        chunk=activations,
        budget=budget,
        sequences=max(0, int(budget // cache)),
    )


def chunk_bytes(shape: ModelShape, chunk: int, tensor_parallel: int) -> int:
    """Activations of a chunk of prefill in bfloat16 at their fullest: the MLP's, and 4 hidden states."""
    return 2 * chunk * (4 * shape.hidden_size + 3 * math.ceil(shape.mlp_width / tensor_parallel))


def _split(
    shape: ModelShape, gpus: int, per_node: int, pipeline: bool, tensor: bool
) -> tuple[int, int] | None:
    """The largest tensor-parallel size within a node that divides the heads, and the stages beside it."""
    for tp in range(min(gpus, per_node) if tensor else 1, 0, -1):
        if gpus % tp or shape.heads % tp or (tp > shape.kv_heads and tp % shape.kv_heads):
            continue
        if tp <= shape.kv_heads and shape.kv_heads % tp:
            continue
        stages = gpus // tp
        if stages == 1 or (pipeline and stages <= shape.layers):
            return tp, stages
    return None


def _tries(gpus: int | None, per_node: int, kv_types: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """GPUs and types in the order of preference: the wider type on all of a node before a narrower one."""
    counts = [2**power for power in range(MOST_GPUS.bit_length())] if gpus is None else [gpus]
    for node in (True, False):
        for kv_type in kv_types:
            yield from ((count, kv_type) for count in counts if (count <= per_node) == node)
