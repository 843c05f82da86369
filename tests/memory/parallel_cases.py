"""One training case, run by every rank: a tiny Llama with keys of the memory section, and what came out."""

import functools
import os
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from cases import LENGTH, _arguments, _trl_trainer, tiny_llama, weights_of
from shims import gloo_counts_as_gpu, teach_ring_the_cpu
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from ultralong_hf.memory.adapters import merged_weights
from ultralong_hf.memory.attention_ops import is_attention_forward
from ultralong_hf.memory.checkpointing import set_checkpointing
from ultralong_hf.memory.lm_head import keep_whole_logits
from ultralong_hf.memory.optimizers import OffloadedState
from ultralong_hf.memory.storage import DiskStorage
from ultralong_hf.memory.tiling import tile_modules
from ultralong_hf.parallel.plugin import SequenceParallelPlugin


class Operators(TorchDispatchMode):
    """Counts attention's forwards and the collectives that really run, below the modes of checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if is_attention_forward(func):
            self.ran["attention"] += 1
        elif func.namespace == "c10d" and "alltoall" in func.__name__:
            self.ran["all-to-all"] += 1
        return func(*args, **(kwargs or {}))


def train(
    folder: str,
    *,
    parallel: dict[str, Any] | None = None,
    fsdp: bool = False,
    tile: int | None = None,
    recompute: str | None = None,
    disk: bool = False,
    offload_parameters: bool = False,
    offload_optimizer: bool = False,
    adam: bool = False,
    lora: bool = False,
    whole_logits: bool = False,
) -> dict[str, Any]:
    """Losses, gradient norms and weights of three steps, and what ran. `recompute` none: no checkpoints."""
    teach_ring_the_cpu()
    with ExitStack() as stack:
        if fsdp:
            stack.enter_context(gloo_counts_as_gpu())
        model = tiny_llama()
        plugin = SequenceParallelPlugin(**(parallel or {"size": 1}))
        plan = plugin.resolve(model.config, LENGTH)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        arguments = _arguments(folder, 3, recompute is not None, use_cpu=not fsdp)
        arguments |= plugin.fsdp_settings() if fsdp else {}
        arguments |= {"per_device_train_batch_size": 2 * plan.size // world, "save_strategy": "no"}
        if adam:
            arguments |= {"optim": "adamw_torch", "learning_rate": 0.01}
        if offload_parameters:
            arguments["fsdp_config"] |= {"cpu_offload": True}
            unpinned = functools.partialmethod(CPUOffloadPolicy.__init__, pin_memory=False)
            stack.enter_context(patch.object(CPUOffloadPolicy, "__init__", unpinned))  # which needs a GPU
        if tile:
            tile_modules(model, tile)
        storage = DiskStorage(folder, least_bytes=256) if disk else None
        if recompute is not None:
            set_checkpointing(model, recompute=recompute, storage=storage)
        trainer = _trl_trainer(model, arguments, lora=lora, parts=None)
        heads: list[int] = []
        if whole_logits:
            keep_whole_logits(trainer.model)
            trainer.model.lm_head.register_forward_hook(lambda *call: heads.append(call[2].shape[1]))
        plugin.attach(trainer)
        offloaded: list[int] = []
        if offload_optimizer:
            trainer.add_callback(_Offload(offloaded))
        operators = stack.enter_context(Operators())
        trainer.train()
        history = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
        return {
            "losses": [entry["loss"] for entry in history],
            "grad_norms": [float(entry["grad_norm"]) for entry in history],
            "weights": weights_of(trainer.model),
            "ran": dict(operators.ran),
            "heads": heads,
            "stored": storage.stored_bytes if storage else 0,
            "sharded": any(isinstance(weight, DTensor) for weight in trainer.model.parameters()),
            "between_steps": offloaded,
            "merged": _merged(trainer) if lora else {},
        }


def _merged(trainer: Any) -> dict[str, torch.Tensor]:
    """As a trainer saves it: the first rank has the whole state."""
    state = trainer.accelerator.get_state_dict(trainer.model)
    return merged_weights(trainer.model, state) if trainer.accelerator.is_main_process else {}


class _Offload(TrainerCallback):
    """As OptimizerOffload; notes the bytes of the optimizer's state after each step."""

    def __init__(self, bytes_between: list[int]) -> None:
        self.bytes_between = bytes_between

    def on_train_begin(self, args, state, control, **kwargs):
        self.optimizer = kwargs["optimizer"].optimizer
        OffloadedState(self.optimizer)

    def on_step_end(self, args, state, control, **kwargs):
        total = 0
        for values in self.optimizer.state.values():
            for value in values.values():
                if isinstance(value, DTensor):
                    value = value.to_local()
                if isinstance(value, torch.Tensor) and value.numel() > 1:
                    total += value.untyped_storage().nbytes()
        self.bytes_between.append(total)
