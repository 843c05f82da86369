"""One sequence over many devices: its sizes, accelerate's settings, and a trainer wired in one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.utils import ParallelismConfig, TorchContextParallelConfig
from transformers import PretrainedConfig, Trainer

from ultralong_hf.errors import ParallelSizeError
from ultralong_hf.parallel.attention import install_attention
from ultralong_hf.parallel.footprint import model_shape
from ultralong_hf.parallel.groups import SequenceGroup, hybrid_group, ring_group, ulysses_group
from ultralong_hf.parallel.ring import Rotation, set_rotation
from ultralong_hf.parallel.sizes import Sizes, choose_sizes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was chosen, and why."""

    sizes: Sizes
    length: int
    """Tokens of a row."""

    @property
    def backend(self) -> str:
        return self.sizes.backend

    @property
    def size(self) -> int:
        """Devices that share a row."""
        return self.sizes.degree

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.sizes.reasons


class SequenceParallelPlugin:
    """Splits each row of a batch over several devices.

    - `size`: devices that share a row, or "auto": the least that fit the memory.
    - `backend`: "ulysses" trades heads for tokens, "ring" passes keys and values around, "hybrid" does the
      one within a node and the other across, "deepspeed" is accelerate's ALST, "auto" chooses.
    - `ulysses_size`, `ring_size`: the factors of a hybrid.
    - `dp_replicate`: copies of the model's shards; 1: all devices hold parts of one.
    - `gpus_per_node`: none: as many as the launcher started here.
    - `attention`: the attention within, a name of transformers' registry, or "auto".
    - `rotation`: how a ring passes keys and values: "allgather" or, with less memory, "alltoall".

    The surface follows accelerate's pull request 4209 (`sp_backend="torch"`). When a release has it, `attach`
    becomes `ParallelismConfig(sp_size=..., sp_backend="torch")`, and ulysses.py and attention.py go.
    """

    def __init__(
        self,
        size: int | Literal["auto"] = "auto",
        backend: str = "auto",
        *,
        ulysses_size: int | None = None,
        ring_size: int | None = None,
        dp_replicate: int = 1,
        gpus_per_node: int | None = None,
        attention: str = "auto",
        rotation: Rotation = "allgather",
    ) -> None:
        self.size = size
        self.backend = backend
        self.ulysses_size = ulysses_size
        self.ring_size = ring_size
        self.dp_replicate = dp_replicate
        self.gpus_per_node = gpus_per_node
        self.attention = attention
        self.rotation: Rotation = rotation
        self.plan: Plan | None = None

    def resolve(
        self,
        model_config: PretrainedConfig,
        length: int,
        world_size: int | None = None,
        *,
        gpu_memory: int | None = None,
        batch_size: int = 1,
        offload: bool = False,
    ) -> Plan:
        """The plan for rows of `length` tokens; the plugin keeps it.

        `world_size`: none: that of the launcher. `gpu_memory`: bytes of a device; none: of this machine's.
        `batch_size`: rows at once. `offload`: activation checkpoints are kept off the device. Raises
        ParallelSizeError for sizes that do not divide.
        """
        sizes = choose_sizes(
            model_shape(model_config),
            length=length,
            world_size=world_size or int(os.environ.get("WORLD_SIZE", "1")),
            gpus_per_node=self.gpus_per_node or _local_world_size(),
            gpu_memory=gpu_memory or _gpu_memory(),
            size=self.size,
            backend=self.backend,
            ulysses_size=self.ulysses_size,
            ring_size=self.ring_size,
            dp_replicate=self.dp_replicate,
            batch_size=batch_size,
            offload=offload,
        )
        self.plan = Plan(sizes=sizes, length=length)
        return self.plan

    def parallelism_config(self) -> ParallelismConfig | None:
        """accelerate's settings for the plan, as for `TrainingArguments`; none where rows are not split."""
        plan = self._resolved()
        if plan.size == 1:
            return None
        return ParallelismConfig(
            dp_replicate_size=plan.sizes.dp_replicate,
            dp_shard_size=plan.sizes.dp_shard,
            cp_size=plan.size,
            cp_handler=TorchContextParallelConfig(cp_comm_strategy=self.rotation),
        )

    def attach(self, trainer: Trainer) -> Trainer:
        """Makes the trainer split its rows, and returns it. To be called before `train()` or `evaluate()`.

        Without a plan, one is made for the trainer's model, and `size` must be a number: how long rows are is
        not known then.
        """
        plan = self.plan or self._plan_for(trainer)
        for reason in plan.reasons:
            logger.info("%s", reason)
        if plan.size == 1:
            return trainer
        _install_mesh(trainer.accelerator, self.parallelism_config())
        group = self._group(trainer.accelerator, plan)
        inner = "sdpa" if self.attention == "auto" else self.attention
        for model in (trainer.model, getattr(trainer, "ref_model", None)):
            if model is not None:
                install_attention(cast(Any, model), inner)
        _split_batches(trainer, group)
        return trainer

    def _resolved(self) -> Plan:
        if self.plan is None:
            raise ParallelSizeError(
                "The sizes are not chosen yet: call resolve(model.config, length) with the tokens of a row."
            )
        return self.plan

    def _plan_for(self, trainer: Trainer) -> Plan:
        if self.size == "auto":
            raise ParallelSizeError(
                "size auto depends on how long rows are: call resolve(model.config, length) before attach."
            )
        length = self.size * 2 * self.size  # divides whatever the backend; rows are checked as they come
        config = cast(Any, trainer.model).config
        return self.resolve(config, length, trainer.accelerator.num_processes)

    def _group(self, accelerator: Accelerator, plan: Plan) -> SequenceGroup:
        mesh = accelerator.torch_device_mesh["cp"]
        if plan.backend == "ulysses":
            return ulysses_group(mesh)
        set_rotation(self.rotation)
        if plan.backend == "ring":
            return ring_group(mesh)
        return hybrid_group(mesh, ulysses=plan.sizes.ulysses, ring=plan.sizes.ring)


def _local_world_size() -> int | None:
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    return torch.cuda.device_count() or None


def _gpu_memory() -> int | None:
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _install_mesh(accelerator: Accelerator, config: ParallelismConfig | None) -> None:
    """Gives the accelerator the sizes and their mesh, which it may have from its launcher already."""
    assert config is not None
    present = accelerator.parallelism_config
    if present is not None and present.total_size > 1:
        if present._sizes != config._sizes:
            raise ParallelSizeError(
                f"accelerate was told {_told(present)}, and this plugin says {_told(config)}. Give the sizes "
                "in one of the two places."
            )
    else:
        # After construction, so that DDP serves too: accelerate itself takes cp_size with FSDP2 only.
        accelerator.state.parallelism_config = config
        accelerator.state.device_mesh = config.get_device_mesh(accelerator.device.type)
    # accelerate's own patches attention again, and drops masks that ours does not build.
    accelerator._prepare_cp = lambda *args: args


def _told(config: ParallelismConfig) -> str:
    return ", ".join(f"{name}_size {size}" for name, size in config._sizes.items() if size > 1)


def _split_batches(trainer: Trainer, group: SequenceGroup) -> None:
    """The trainer's own hook around forward and backward, and the group for whoever needs it."""

    def prepare(
        model: torch.nn.Module, inputs: dict[str, Any]
    ) -> tuple[Callable[[], AbstractContextManager[None]], dict[str, Any]]:
        return group.attention, group.shard(inputs)

    trainer._prepare_context_parallel_inputs = prepare  # type: ignore[method-assign]
    trainer.sequence_group = group  # type: ignore[attr-defined]
