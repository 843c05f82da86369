"""The places of accelerate and transformers that no public name reaches, all in this file.

When accelerate's pull request 4209 ships (`sp_backend="torch"`), this file goes, with ulysses.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ParallelismConfig
from packaging.version import Version
from transformers import Trainer

from ultralong_hf.errors import MachineError, ParallelSizeError
from ultralong_hf.parallel.groups import SequenceGroup

OLDEST = {"torch": "2.9", "accelerate": "1.15", "transformers": "5.23"}
"""The releases in which these places were read."""

HOOK = "_prepare_context_parallel_inputs"
"""Trainer's method that gives the context of a forward and backward, and the inputs for it."""


def check_upstream() -> None:
    """Raises MachineError where a place is not as it was: rows would stay whole without a word."""
    for name, oldest in OLDEST.items():
        if Version(version(name)) < Version(oldest):
            raise MachineError(f"rows are split with {name} {oldest} or newer, and this is {version(name)}.")
    absent = [
        f"{owner.__name__}.{name}"
        for owner, name in (
            (Trainer, HOOK),
            (Accelerator, "_prepare_cp"),
            (ParallelismConfig, "get_device_mesh"),
        )
        if not hasattr(owner, name)
    ]
    if absent:
        raise MachineError(
            f"transformers {version('transformers')} and accelerate {version('accelerate')} have no "
            f"{' and no '.join(absent)} any more, where rows are split. Use accelerate 1.15 and "
            "transformers 5.23."
        )


def install_mesh(accelerator: Accelerator, config: ParallelismConfig) -> None:
    """Gives the accelerator the sizes and their mesh, which it may have from its launcher already.

    They replicate batches among the devices that share rows, shard weights over them under FSDP2, and scale
    the loss. Raises ParallelSizeError where the launcher said otherwise.
    """
    present = accelerator.parallelism_config
    if present is None or present.total_size == 1:
        # After construction, so that DDP serves too: accelerate itself takes cp_size with FSDP2 only.
        accelerator.state.parallelism_config = config
        accelerator.state.device_mesh = config.get_device_mesh(accelerator.device.type)
    elif present._sizes != config._sizes:
        raise ParallelSizeError(
            f"accelerate was told {_told(present)}, and the plan says {_told(config)}. Give the sizes in one "
            "of the two places."
        )
    # accelerate's own patches attention again, and drops masks that ours does not build
    accelerator._prepare_cp = lambda *args: args


def split_batches(trainer: Trainer, group: SequenceGroup) -> None:
    """From now on the trainer's batches are split, and `trainer.sequence_group` is `group`."""

    def prepare(
        model: torch.nn.Module, inputs: dict[str, Any]
    ) -> tuple[Callable[[], AbstractContextManager[None]], dict[str, Any]]:
        part = group.shard(inputs)
        group.check_same(inputs["input_ids"])
        return group.attention, part

    setattr(trainer, HOOK, prepare)
    trainer.sequence_group = group  # type: ignore[attr-defined]


def _told(config: ParallelismConfig) -> str:
    return ", ".join(f"{name}_size {size}" for name, size in config._sizes.items() if size > 1)
