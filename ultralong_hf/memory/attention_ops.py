"""Attention's forward kept through a checkpoint, so that the backward does not run it again.

At 1M tokens attention is 95 % of the work, and its backward needs the forward's output and log-sum-exp alone
(FlashAttention, arXiv 2205.14135, section 3.1). They are kept where the torch operator gives them, below
autograd: in the recomputation the operator is not run, its results are handed out, and autograd makes its
node from them. So it is the same for each kernel, under Ulysses, whose all-to-alls stand around the
operator, and in torch's ring, which runs within it.

torch's own `create_selective_checkpoint_contexts` does the same for tensors that stay on the device; these
two modes put them into a storage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ultralong_hf.errors import MachineError
from ultralong_hf.memory.storage import Storage

_ATEN = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_flash_attention_forward",
    "_efficient_attention_forward",
    "_cudnn_attention_forward",
)
"""The operators behind torch's scaled_dot_product_attention and its variants."""

_FLASH = ("flash_attn", "_flash_attn", "vllm_flash_attn")
"""How the operators' namespaces of flash-attn 2 and 3 begin; those of Hub kernels end with a hash."""


def is_attention_forward(op: Any) -> bool:
    """Whether a torch operator is the forward of an attention kernel."""
    if op.namespace == "aten":
        return op._schema.name.removeprefix("aten::") in _ATEN
    name = op._schema.name.partition("::")[2]
    return op.namespace.startswith(_FLASH) and name.endswith(("fwd", "forward"))


def keep_attention(storage: Storage | None, implementation: str) -> Callable[[], tuple[Any, Any]]:
    """The `context_fn` of torch.utils.checkpoint that keeps attention's results, in `storage` if there is.

    Raises MachineError, in the first forward, where `implementation` runs no operator that it knows.
    """

    def contexts() -> tuple[TorchDispatchMode, TorchDispatchMode]:
        results: list[Any] = []
        return _Keep(results, storage, implementation), _HandOut(results, storage)

    return contexts


class _Keep(TorchDispatchMode):
    """The first run of a layer."""

    def __init__(self, results: list[Any], storage: Storage | None, implementation: str) -> None:
        super().__init__()
        self._results, self._storage, self._implementation = results, storage, implementation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if is_attention_forward(func):
            put = self._storage.put if self._storage is not None else torch.Tensor.detach
            self._results.append(tree_map_only(torch.Tensor, put, output))
        return output

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        super().__exit__(kind, value, trace)
        if kind is None and not self._results:
            raise MachineError(
                f"memory.recompute all_but_attention: a layer ran no attention operator that can be kept, "
                f"with attention {self._implementation}. Use sdpa without a mask, flash_attention_2 or "
                "flash_attention_3, or set memory.recompute to all."
            )


class _HandOut(TorchDispatchMode):
    """The second run."""

    def __init__(self, results: list[Any], storage: Storage | None) -> None:
        super().__init__()
        self._results, self._storage = results, storage
        self._place = 0

    def __enter__(self) -> Any:
        self._place = 0
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not is_attention_forward(func):
            return func(*args, **(kwargs or {}))
        output = self._results[self._place]
        if output is None:
            raise RuntimeError(
                "a layer is in its backward a second time, but its attention was kept for one."
            )
        self._results[self._place] = None
        self._place += 1
        if self._storage is None:
            return output
        return tree_map_only((torch.Tensor, *self._storage.stand_ins), self._storage.get, output)
