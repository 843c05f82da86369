"""What the keys of a recipe's memory section need, checked from plain values before a model is loaded."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.memory.optimizers import BITSANDBYTES, PAGED
from ultralong_hf.recipes.schema import MemorySection

_WITHOUT_OPERATOR = ("eager", "flex_attention")
"""Attentions of which no torch operator gives the output and the log-sum-exp."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where a stage will run."""

    gpu: bool
    sharded: bool
    """By FSDP2."""
    deepspeed: bool = False
    attention: str = "sdpa"
    checkpoint_bytes: int = 0
    """What all processes of this machine keep of activations at once."""


def memory_faults(
    memory: MemorySection, stage: str, settings: Mapping[str, Any], around: Surroundings
) -> list[str]:
    """A sentence for each thing that cannot work, and what to change. `settings`: the stage's keys of TRL."""
    return [
        *_checkpoint_faults(memory, stage, settings, around),
        *_head_faults(memory, stage),
        *_storage_faults(memory, around),
        *_optimizer_faults(memory, stage, settings, around),
        *_adapter_faults(memory, around),
    ]


def _head_faults(memory: MemorySection, stage: str) -> list[str]:
    if memory.lm_head == "fused":
        return []
    faults = []
    if stage not in ("cpt", "sft"):
        faults.append(
            f"memory.lm_head whole is for the stages cpt and sft: {stage} computes its loss from TRL's fused "
            "head. Set it to fused."
        )
    if memory.lm_head_tile is not None:
        faults.append(
            "memory.lm_head whole makes the logits of all tokens at once, so that memory.lm_head_tile says "
            "nothing. Leave one of them out."
        )
    return faults


def _checkpoint_faults(
    memory: MemorySection, stage: str, settings: Mapping[str, Any], around: Surroundings
) -> list[str]:
    wanted = [
        key
        for key, default in (("checkpoint_every", 1), ("checkpoint_storage", "device"), ("recompute", "all"))
        if getattr(memory, key) != default
    ]
    faults = []
    on = settings.get("activation_checkpointing", settings.get("gradient_checkpointing", True))
    if wanted and not on:
        faults.append(
            f"memory.{wanted[0]} is set, but {stage}.activation_checkpointing is false: no layer is "
            f"checkpointed. Set {stage}.activation_checkpointing to true."
        )
    twice = [
        f"{stage}.{name}: {{{key}: ...}}"
        for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")
        for key in ("offload", "every_n_layers", "selective")
        if isinstance(settings.get(name), dict) and settings[name].get(key)
    ]
    if settings.get("activation_offloading"):
        twice.append(f"{stage}.activation_offloading")
    if wanted and twice:
        faults.append(
            f"memory.{wanted[0]} and {' and '.join(twice)} both say how layers are checkpointed. Leave the "
            f"latter out of section {stage}."
        )
    if memory.recompute == "all_but_attention" and around.attention in _WITHOUT_OPERATOR:
        faults.append(
            f"memory.recompute all_but_attention cannot keep {around.attention} attention, which is no "
            "operator of torch. Set model.attn_implementation to sdpa, flash_attention_2 or "
            "flash_attention_3, or memory.recompute to all."
        )
    return faults


def _storage_faults(memory: MemorySection, around: Surroundings) -> list[str]:
    folder = memory.checkpoint_folder
    if memory.checkpoint_storage != "disk":
        if folder is None:
            return []
        return [
            f"memory.checkpoint_folder is {folder}, but memory.checkpoint_storage is "
            f"{memory.checkpoint_storage}. Set the latter to disk, or leave the folder out."
        ]
    place = Path(folder or tempfile.gettempdir())
    if not place.is_dir() or not os.access(place, os.W_OK):
        return [f"memory.checkpoint_folder {place} is no folder that can be written to. Make it first."]
    free = shutil.disk_usage(place).free
    if around.checkpoint_bytes > free:
        return [
            f"memory.checkpoint_folder {place} has {free >> 20:,} MiB free, and a step's activations take "
            f"{around.checkpoint_bytes >> 20:,} MiB there. Use a larger disk, or memory.checkpoint_every 2."
        ]
    return []


def _optimizer_faults(
    memory: MemorySection, stage: str, settings: Mapping[str, Any], around: Surroundings
) -> list[str]:
    faults = []
    name = memory.optimizer
    if name and settings.get("optim"):
        faults.append(
            f"memory.optimizer {name} and {stage}.optim {settings['optim']} both name an optimizer. Leave"
            " one out."
        )
    library = "bitsandbytes" if name in BITSANDBYTES else "torchao" if name == "torchao_8bit" else None
    if library and importlib.util.find_spec(library) is None:
        faults.append(f"memory.optimizer {name} needs {library}, which is not here: pip install {library}.")
    if name in BITSANDBYTES and around.sharded:
        faults.append(
            f"memory.optimizer {name} cannot be used with FSDP2, whose shards bitsandbytes reads as whole "
            "weights (its issue 1633). Use torchao_8bit."
        )
    if name in PAGED and not around.gpu:
        faults.append(
            f"memory.optimizer {name} needs a GPU, and torch sees none here. Use adamw or adamw_8bit."
        )
    if memory.offload_optimizer and name in (*PAGED, "torchao_8bit"):
        faults.append(
            f"memory.offload_optimizer cannot move the state of {name}, which is "
            f"{'paged already' if name in PAGED else 'of a tensor class of torchao'}. Set one of the two."
        )
    if memory.offload_parameters and not around.sharded:
        faults.append(
            "memory.offload_parameters is FSDP2's, and this is no launch with FSDP2. On GPUs, launch with "
            "accelerate launch --use_fsdp --fsdp_version 2, which runs on one GPU too; else leave it out."
        )
    if (memory.offload_parameters or memory.offload_optimizer) and around.deepspeed:
        faults.append(
            "memory.offload_parameters and memory.offload_optimizer are not for DeepSpeed, which has its own:"
            " set offload_optimizer and offload_param in its config."
        )
    return faults


def _adapter_faults(memory: MemorySection, around: Surroundings) -> list[str]:
    if memory.lora is None:
        return []
    faults = []
    if around.deepspeed:
        faults.append(
            "memory.lora is not for DeepSpeed, where TRL checkpoints layers reentrantly and the base's "
            "weights are not gathered for a merge. Launch with FSDP2."
        )
    names = memory.lora.target_modules
    if isinstance(names, list) and not names:
        faults.append("memory.lora.target_modules is empty. Name modules such as q_proj, or all-linear.")
    if "lm_head" in names:
        faults.append(
            "memory.lora.target_modules holds lm_head, whose adapter TRL's fused LM head would not see. Leave"
            " it out."
        )
    return faults
