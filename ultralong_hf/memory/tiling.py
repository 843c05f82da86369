"""MLPs and norms in tiles of a row, so that the activations of one tile exist at a time.

The idea is ALST's TiledMLP (arXiv 2506.13996, section 3.1.1), which DeepSpeed and Liger have as code. Theirs
runs the MLP three times a step where layers are checkpointed, and adds up weight gradients in the weights
themselves, tile by tile, which hooks of DDP and FSDP2 see too often. Here the input is kept before the MLP
runs, so that torch's recomputation of the layer stops there, and the weights' gradients are results of one
autograd node. Whatever is in the module runs as it is: Liger's kernels, adapters, casts.

Letters: `T` tokens (of all rows of a batch), `C` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import get_device_states, set_device_states

LEAST_TILE = 1024
"""Tokens: below this, the launches of a tile cost more than its memory is worth."""

AUTO_TILES = 4
"""`auto` tiles rows of more tiles than this; shorter ones have little to save."""

_HALVES = (torch.bfloat16, torch.float16)


def tile_tokens(hidden_size: int, asked: int | None = None) -> int:
    """Tokens of a tile: those asked for, else the hidden size (ALST's rule), at least `LEAST_TILE`."""
    return asked or max(hidden_size, LEAST_TILE)


def tile_modules(model: nn.Module, tile: int) -> list[str]:
    """Makes the gated MLPs of `model`, and its norms over the hidden size, run in tiles of `tile` tokens.

    Gives the names of the modules, none where it knows no module of the model. Outputs and gradients are
    those of the whole, up to the order of additions.
    """
    hidden = model.config.get_text_config().hidden_size  # type: ignore[operator,union-attr]
    names = [
        name for name, module in model.named_modules() if is_gated_mlp(module) or _is_norm(module, hidden)
    ]
    for name in names:
        tile_module(model.get_submodule(name), tile)
    return names


def tile_module(module: nn.Module, tile: int) -> None:
    """Makes a module that treats each token by itself run in tiles. Again: with another tile."""
    if not hasattr(module, "_whole_forward"):
        # bound methods, so that a deep copy of the module has its own
        module._whole_forward = module.forward  # type: ignore[assignment]
        module.forward = MethodType(_tiled_forward, module)
    module._tile = tile  # type: ignore[assignment]


def is_gated_mlp(module: nn.Module) -> bool:
    """Whether it is the MLP of Llama, Qwen, Mistral, Gemma, Phi-3 and their like, of one expert or of all."""
    children = dict(module.named_children())
    return "down_proj" in children and (
        {"gate_proj", "up_proj"} <= children.keys() or "gate_up_proj" in children
    )


def _is_norm(module: nn.Module, hidden_size: int) -> bool:
    weight = getattr(module, "weight", None)
    named = type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
    return named and isinstance(weight, torch.Tensor) and weight.shape == (hidden_size,)


def _tiled_forward(module: Any, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if args or kwargs or hidden.numel() // hidden.shape[-1] <= module._tile:
        return module._whole_forward(hidden, *args, **kwargs)
    if not torch.is_grad_enabled():
        return _run_tiles(module, hidden)
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    kept = _KeepInput.apply(hidden, *trained)
    if kept.grad_fn is None:
        return _run_tiles(module, hidden)
    return _RunTiles.apply(module, kept.grad_fn, hidden.requires_grad, kept, *trained)


class _KeepInput(torch.autograd.Function):
    """The identity that saves its input.

    It is a node of its own because a checkpointed layer recomputes up to the last tensor that is saved: with
    this one before the MLP, the MLP is not run again for nothing.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, *trained: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden)
        ctx.set_materialize_grads(False)
        ctx.trained = len(trained)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0], *[None] * ctx.trained


class _RunTiles(torch.autograd.Function):
    """The module over tiles; `kept` is the node that holds its input."""

    @staticmethod
    def forward(
        ctx: Any, module: Any, kept: Any, wants_input: bool, hidden: torch.Tensor, *trained: torch.Tensor
    ) -> torch.Tensor:
        ctx.module, ctx.kept, ctx.wants_input = module, kept, wants_input
        ctx.autocast = _autocast_now(hidden.device.type)
        ctx.random = _random_state(module, hidden)
        output = _run_tiles(module, hidden)
        # Under autocast they are copies without a gradient, of weights that others may share. The cache
        # would also hold a second copy of the whole model until the end of the forward.
        torch.clear_autocast_cache()
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (hidden,) = ctx.kept.saved_tensors
        # those of now: FSDP2 puts gathered weights in the place of shards
        trained = [weight for weight in ctx.module.parameters() if weight.requires_grad]
        torch.clear_autocast_cache()
        with ctx.autocast(), _replayed(ctx.random):
            input_grad, weight_grads = _tile_gradients(ctx.module, hidden, trained, grads[0], ctx.wants_input)
        ctx.kept = None
        return None, None, None, input_grad, *weight_grads


def _run_tiles(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The module's output, without a graph of it."""
    output: torch.Tensor | None = None
    with torch.no_grad():
        for place, piece in _tiles(hidden, module._tile):
            part = module._whole_forward(piece)
            if output is None:
                output = part.new_empty(*hidden.shape[:-1], part.shape[-1])
            output.view(-1, part.shape[-1])[place] = part.view(-1, part.shape[-1])
    assert output is not None
    return output


def _tile_gradients(
    module: Any, hidden: torch.Tensor, trained: list[torch.Tensor], grad: torch.Tensor, wants_input: bool
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """Gradients of the input (none where it is not wanted) and of the trained weights."""
    input_grad = torch.empty_like(hidden, memory_format=torch.contiguous_format) if wants_input else None
    # sums over many tiles lose bits in half precision
    sums = [
        torch.zeros_like(weight, dtype=torch.float32 if weight.dtype in _HALVES else weight.dtype)
        for weight in trained
    ]
    rows = grad.reshape(-1, grad.shape[-1])
    for place, piece in _tiles(hidden, module._tile):
        piece = piece.detach().requires_grad_(wants_input)
        with torch.enable_grad():
            output = module._whole_forward(piece)
        wanted = [piece, *trained] if wants_input else trained
        found = list(torch.autograd.grad(output, wanted, rows[place].view_as(output), allow_unused=True))
        del output
        if input_grad is not None:
            part = found.pop(0)
            input_grad.view(-1, input_grad.shape[-1])[place] = part.view(-1, part.shape[-1])
        for total, part in zip(sums, found, strict=True):
            if part is not None:
                total += part
    return input_grad, [total.to(weight.dtype) for total, weight in zip(sums, trained, strict=True)]


def _tiles(hidden: torch.Tensor, tile: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """(tokens, those of hidden [1, tile, C] or [tile, C]) of each tile."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    for start in range(0, len(flat), tile):
        place = slice(start, min(start + tile, len(flat)))
        yield place, flat[place] if hidden.dim() == 2 else flat[None, place]


def _autocast_now(device_type: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes the context of autocast that is in force now."""
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    cached = torch.is_autocast_cache_enabled()

    def context() -> AbstractContextManager[Any]:
        return torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cached)

    return context


def _random_state(module: nn.Module, hidden: torch.Tensor) -> Any:
    """The random states before the forward, where the module has dropout; else None."""
    if not any(isinstance(part, nn.Dropout) and part.training and part.p for part in module.modules()):
        return None
    return torch.get_rng_state(), get_device_states(hidden)


@contextmanager
def _replayed(state: Any) -> Iterator[None]:
    """Within, random numbers are those after `state`; then they go on as without."""
    if state is None:
        with nullcontext():
            yield
        return
    cpu, (devices, on_devices) = state
    with torch.random.fork_rng(devices):
        torch.set_rng_state(cpu)
        set_device_states(devices, on_devices)
        yield
