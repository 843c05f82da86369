"""The exact attention that runs on whole rows of few heads: its choice, and its place in the registry."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from ultralong_hf.errors import MachineError, ParallelError
from ultralong_hf.footprint import ModelShape
from ultralong_hf.parallel.sizes import repeated_kv_heads
from ultralong_hf.parallel.ulysses import rows_are_split, ulysses_attention

logger = logging.getLogger(__name__)

NAME = "sequence_parallel"
"""Ours in transformers' registry of attentions. It is not saved with a model."""

CUDNN = "sdpa_cudnn"
"""torch's scaled_dot_product_attention with cuDNN's kernel before the others."""

WITHOUT_CAUSAL_FLAG = ("eager", "flex_attention")
"""Attentions that are causal by a mask alone."""

HOPPER = (9, 0)
"""The compute capability on which the choice is worth a probe."""

PROBE_LENGTH = 8192
"""Tokens: long enough that the kernel's time is not that of its launch."""

TOLERANCE = 0.05
"""Largest difference, relative to the largest value, of an output or gradient in bfloat16 from sdpa's."""


def install_attention(model: PreTrainedModel, inner: str) -> None:
    """Gives `model` the attention over split rows around `inner`, a name of transformers' registry.

    Where rows are not split, it is `inner` with the masks of `inner`. One `inner` serves all models of a
    process: the last one that was installed.
    """
    if inner in WITHOUT_CAUSAL_FLAG:
        raise ParallelError(
            f"{inner} attention is causal by a mask of tokens x tokens, which split rows do not have. Use "
            "sdpa, flash_attention_2 or flash_attention_3."
        )
    if inner == CUDNN:
        AttentionInterface.register(CUDNN, _cudnn_attention)
        AttentionMaskInterface.register(CUDNN, sdpa_mask)
    model.set_attn_implementation(inner)  # checks it, and fetches kernels of the Hub
    inner = model.config._attn_implementation  # a kernel of the Hub may stand in for flash attention
    make_mask = ALL_MASK_ATTENTION_FUNCTIONS.get(inner)

    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if rows_are_split() or make_mask is None else make_mask(*args, **kwargs)

    AttentionInterface.register(NAME, ulysses_attention(ALL_ATTENTION_FUNCTIONS[inner], inner))
    AttentionMaskInterface.register(NAME, mask)
    model.set_attn_implementation(NAME)


def choose_attention(
    shape: ModelShape, *, ulysses: int, ring: int, device: torch.device, dtype: torch.dtype, present: str
) -> tuple[str, str]:
    """The inner attention, and why, a sentence. `present`: what the model has now.

    On Hopper the fastest of those at hand, which a probe times; elsewhere the model's own.
    """
    if ring > 1:
        return "sdpa", "attention: sdpa, the one that torch's ring goes around."
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) == HOPPER and half:
        candidates = {name: _probe(name, shape, ulysses, device, dtype) for name in _at_hand()}
        return fastest(candidates)
    own = "sdpa" if present in (*WITHOUT_CAUSAL_FLAG, NAME) else present
    return own, f"attention: {own}; only Hopper with a half-precision dtype has others to choose from."


def fastest(candidates: Mapping[str, Callable[[], float]]) -> tuple[str, str]:
    """The candidate with the least seconds, and all times in a sentence. One that raises is left out."""
    seconds: dict[str, float] = {}
    absent: list[str] = []
    for name, measure in candidates.items():
        try:
            seconds[name] = measure()
        except Exception as error:  # a kernel may fail in any way
            lines = str(error).strip().splitlines()
            absent.append(f"{name} does not run here ({lines[0] if lines else type(error).__name__})")
    if not seconds:
        raise MachineError(f"no attention runs here: {'; '.join(absent)}.")
    best = min(seconds, key=lambda name: seconds[name])
    times = ", ".join(f"{name} {value * 1000:.2f} ms" for name, value in sorted(seconds.items()))
    return best, "; ".join([f"attention: {best}, the fastest of {times}", *absent]) + "."


def _at_hand() -> list[str]:
    flash = {"flash_attention_3": is_flash_attn_3_available, "flash_attention_2": is_flash_attn_2_available}
    return [CUDNN, *(name for name, available in flash.items() if available()), "sdpa"]


def _probe(
    name: str, shape: ModelShape, ulysses: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], float]:
    """A function that runs forward and backward, compares both with sdpa's, and gives the seconds."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def measure() -> float:
        generator = torch.Generator(device).manual_seed(0)
        heads = [shape.heads // ulysses, *[repeated_kv_heads(shape.kv_heads, ulysses) // ulysses] * 2]
        tensors = [
            torch.randn(
                1, count, PROBE_LENGTH, shape.head_size, device=device, dtype=dtype, generator=generator
            ).requires_grad_()
            for count in heads
        ]
        expected, answer = _forward_backward("sdpa", tensors), _forward_backward(name, tensors)
        for ours, theirs in zip(answer, expected, strict=True):
            if (ours - theirs).abs().max() > TOLERANCE * theirs.abs().max():
                raise ArithmeticError("its numbers differ from those of sdpa")
        wait()
        start = time.perf_counter()
        for _ in range(3):
            _forward_backward(name, tensors)
        wait()
        return (time.perf_counter() - start) / 3

    return measure


def _forward_backward(name: str, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The output and the three gradients."""
    query, key, value = tensors
    module = SimpleNamespace(
        config=SimpleNamespace(_attn_implementation=name),
        is_causal=True,
        num_key_value_groups=query.shape[1] // key.shape[1],
    )
    # strict, where training falls back to torch's other kernels
    kernel: AbstractContextManager[Any] = nullcontext()
    if name == CUDNN:
        kernel, name = sdpa_kernel(SDPBackend.CUDNN_ATTENTION), "sdpa"
    with kernel:
        output, _ = ALL_ATTENTION_FUNCTIONS[name](module, query, key, value, None, is_causal=True)
        return [output.detach(), *torch.autograd.grad(output.square().sum(), tensors)]


def _cudnn_attention(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel([*order, SDPBackend.MATH], set_priority=True):
        return sdpa_attention_forward(*args, **kwargs)
