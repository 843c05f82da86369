"""One sequence over many devices: its sizes, accelerate's settings, and a trainer wired in one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.utils import ParallelismConfig, TorchContextParallelConfig, broadcast_object_list
from transformers import PretrainedConfig, Trainer
from trl import DPOTrainer, SFTTrainer

from ultralong_hf.errors import ParallelError, ParallelSizeError
from ultralong_hf.footprint import model_shape
from ultralong_hf.parallel.attention import choose_attention, install_attention
from ultralong_hf.parallel.calls import SplitCalls
from ultralong_hf.parallel.deepspeed import check_deepspeed, deepspeed_config
from ultralong_hf.parallel.evaluation import split_evaluation
from ultralong_hf.parallel.groups import SequenceGroup, hybrid_group, ring_group, ulysses_group
from ultralong_hf.parallel.preference import WHOLE_BATCH_METHODS, split_preference, split_whole_batches
from ultralong_hf.parallel.requirements import (
    Launch,
    balance_faults,
    read_launch,
    require,
    settings_faults,
)
from ultralong_hf.parallel.ring import Rotation, check_ring, set_rotation
from ultralong_hf.parallel.sizes import Sizes
from ultralong_hf.parallel.timeouts import limit_waits
from ultralong_hf.parallel.wiring import check_upstream, install_mesh, split_batches

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
    - `attention`: the attention within, a name of transformers' registry; "auto": on Hopper the fastest.
    - `rotation`: how a ring passes keys and values: "allgather" or, with less memory, "alltoall".

    The surface follows accelerate's pull request 4209 (`sp_backend="torch"`). When a release has it, `attach`
    for Ulysses becomes `ParallelismConfig(sp_size=..., sp_backend="torch")`.
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
        launch: Launch | None = None,
        gpu_memory: int | None = None,
        **needs: Any,
    ) -> Plan:
        """The plan for rows of `length` tokens, from the model's config alone; the plugin keeps it.

        `world_size`, `launch`: none: as the launcher left them in the environment. `gpu_memory`: bytes of a
        device; none: of this machine's, or a process's share of its memory where there is no GPU. `needs`:
        further arguments of `require` and `choose_sizes`, such as setup and settings. Raises
        ParallelError with all that stands against it.
        """
        world_size = world_size or int(os.environ.get("WORLD_SIZE", "1"))
        sizes = require(
            model_config,
            length=length,
            world_size=world_size,
            launch=launch or read_launch(os.environ),
            attention="sdpa" if self.attention == "auto" else self.attention,
            gpus_per_node=self.gpus_per_node or _local_processes(),
            gpu_memory=gpu_memory or _device_memory(),
            size=1 if self.size == "auto" and world_size == 1 else self.size,
            backend=self.backend,
            ulysses_size=self.ulysses_size,
            ring_size=self.ring_size,
            dp_replicate=self.dp_replicate,
            **needs,
        )
        self.plan = Plan(sizes=sizes, length=length)
        return self.plan

    def parallelism_config(self) -> ParallelismConfig | None:
        """accelerate's settings for the plan, as for `TrainingArguments`; none where rows are not split.

        `attach` installs them where they were not given. DeepSpeed needs them given.
        """
        plan = self.resolved
        if plan.size == 1:
            return None
        if plan.backend == "deepspeed":
            return deepspeed_config(plan.size, self.attention)
        return ParallelismConfig(
            dp_replicate_size=plan.sizes.dp_replicate,
            dp_shard_size=plan.sizes.dp_shard,
            cp_size=plan.size,
            cp_handler=TorchContextParallelConfig(cp_comm_strategy=self.rotation),
        )

    def fsdp_settings(self) -> dict[str, Any]:
        """FSDP2, as for `TrainingArguments`: weights, gradients and optimiser are sharded over all devices.

        Checkpoints are whole (FULL_STATE_DICT), so that another degree resumes from them and plain
        transformers loads them. Empty for deepspeed, which shards by itself.
        """
        if self.resolved.backend == "deepspeed":
            return {}
        return {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}}

    def attach(self, trainer: Trainer) -> Trainer:
        """Makes the trainer split its rows, and returns it. To be called before `train()` or `evaluate()`.

        Without a plan, one is made for the trainer's model, and `size` must be a number: how long rows are is
        not known then. The reasons of the plan are printed, once. No exchange waits longer than the trainer's
        `ddp_timeout` from then on.
        """
        plan = self.plan or self._plan_for(trainer)
        reasons = list(plan.reasons)
        if plan.size > 1:
            _check_trainer(trainer)
            if plan.backend == "deepspeed":
                check_deepspeed(trainer.accelerator, plan.size)
            else:
                reasons.append(self._split(trainer, plan))
        if trainer.accelerator.num_processes > 1:
            for reason in reasons:
                trainer.accelerator.print(f"parallel: {reason}")
        limit_waits(trainer.args.ddp_timeout_delta)
        return trainer

    def _split(self, trainer: Trainer, plan: Plan) -> str:
        """Wires Ulysses, ring or both; gives the reason for the attention within."""
        check_upstream()
        config = self.parallelism_config()
        assert config is not None
        install_mesh(trainer.accelerator, config)
        group = self._group(trainer.accelerator, plan)
        inner, reason = self._attention(trainer, plan)
        models: list[Any] = [trainer.model]
        if getattr(trainer, "ref_model", None) is not None:
            models.append(trainer.ref_model)  # type: ignore[attr-defined]
        for model in models:
            install_attention(model, inner)
        split_batches(trainer, group)
        calls = SplitCalls(group, *models)
        split_evaluation(trainer, calls)
        if isinstance(trainer, DPOTrainer):
            split_preference(trainer, group, calls)
        elif hasattr(trainer, WHOLE_BATCH_METHODS):
            split_whole_batches(trainer, group, calls)
        return reason

    def _attention(self, trainer: Trainer, plan: Plan) -> tuple[str, str]:
        """The same on every rank: the first one's choice."""
        if self.attention != "auto":
            return self.attention, f"attention: {self.attention}, as asked."
        model = cast(Any, trainer.model)
        half = torch.bfloat16 if trainer.args.bf16 else torch.float16 if trainer.args.fp16 else model.dtype
        choice: list[Any] = [None]
        if trainer.accelerator.is_main_process:
            choice = [
                choose_attention(
                    model_shape(model.config),
                    ulysses=plan.sizes.ulysses,
                    ring=plan.sizes.ring,
                    device=trainer.accelerator.device,
                    dtype=half,
                    present=model.config._attn_implementation,
                )
            ]
        return broadcast_object_list(choice)[0]

    @property
    def resolved(self) -> Plan:
        """The plan. Raises ParallelSizeError where `resolve` was not called."""
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
        length = 2 * self.size * self.size  # divides whatever the backend; rows are checked as they come
        return self.resolve(cast(Any, trainer.model).config, length, trainer.accelerator.num_processes)

    def _group(self, accelerator: Accelerator, plan: Plan) -> SequenceGroup:
        mesh = accelerator.torch_device_mesh["cp"]
        if plan.backend == "ulysses":
            return ulysses_group(mesh)
        check_ring(accelerator.device)
        set_rotation(self.rotation)
        if plan.backend == "ring":
            return ring_group(mesh)
        return hybrid_group(mesh, ulysses=plan.sizes.ulysses, ring=plan.sizes.ring)


def _check_trainer(trainer: Trainer) -> None:
    """Raises ParallelError where the loss would not be the mean over all tokens."""
    arguments: Mapping[str, Any] = vars(trainer.args)
    faults = settings_faults(arguments)
    text = cast(Any, trainer.model).config.get_text_config()
    if getattr(trainer, "aux_loss_enabled", getattr(text, "output_router_logits", False)):
        faults += balance_faults(text, getattr(trainer, "router_aux_loss_coef", None))
    if not trainer.args.average_tokens_across_devices:
        faults.append(
            "average_tokens_across_devices must be true: each device has other tokens of the same row."
        )
    owner = next(cls for cls in type(trainer).__mro__ if "compute_loss" in vars(cls))
    causal = getattr(trainer.model, "loss_type", None) == "ForCausalLM" and trainer.model_accepts_loss_kwargs
    if trainer.compute_loss_func is not None:
        faults.append("compute_loss_func cannot be used with split rows: it sees one device's tokens alone.")
    elif owner is Trainer and not causal:
        faults.append(
            f"{type(trainer.model).__name__} computes its loss from one device's tokens, not as a sum over "
            "tokens that all devices' share. Use a causal language model of transformers."
        )
    elif hasattr(trainer, WHOLE_BATCH_METHODS):
        pass  # its loss is over whole rows, on every device
    elif owner.__module__.startswith("trl.") and owner not in (SFTTrainer, DPOTrainer):
        faults.append(
            f"{owner.__name__} computes its loss from one device's tokens. Rows can be split in SFTTrainer, "
            "DPOTrainer, transformers' Trainer and our orpo_trainer."
        )
    if faults:
        raise ParallelError(*faults)


def _local_processes() -> int | None:
    """Processes on this node; one a GPU."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    return torch.cuda.device_count() or None


def _device_memory() -> int:
    """Bytes of a GPU, or of this machine shared among its processes."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (_local_processes() or 1)
