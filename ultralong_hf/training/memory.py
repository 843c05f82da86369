"""How the memory section of a recipe reaches a stage: what is refused, TRL's arguments, and the model."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import is_peft_model

from ultralong_hf.errors import KernelError, RecipeError
from ultralong_hf.memory.adapters import adapter_config
from ultralong_hf.memory.checkpointing import make_storage, set_checkpointing
from ultralong_hf.memory.lm_head import keep_whole_logits, set_lm_head_tile
from ultralong_hf.memory.optimizers import OPTIM, OptimizerOffload, keep_master_weights
from ultralong_hf.memory.requirements import Surroundings, memory_faults
from ultralong_hf.memory.tiling import AUTO_TILES, tile_modules, tile_tokens
from ultralong_hf.recipes import Recipe
from ultralong_hf.training.models import load_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from ultralong_hf.parallel.plugin import SequenceParallelPlugin

logger = logging.getLogger(__name__)


def require_memory(
    recipe: Recipe, stage: str, model: PreTrainedModel | str | None, plugin: SequenceParallelPlugin
) -> None:
    """Raises RecipeError with all that stands against the memory section, before weights are read."""
    settings = getattr(recipe, stage)
    config = getattr(model, "config", None) or load_config(recipe.model, cast("str | None", model))
    gpu = torch.accelerator.is_available() and not settings.get("use_cpu")
    around = Surroundings(
        gpu=gpu,
        sharded=_is_sharded(settings, gpu),
        deepspeed=bool(settings.get("deepspeed")) or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true",
        attention=recipe.model.attn_implementation,
        checkpoint_bytes=_checkpoint_bytes(recipe, settings, config, plugin, gpu),
    )
    faults = memory_faults(recipe.memory, stage, settings, around)
    if faults:
        raise RecipeError(*(f"{recipe.origin}: {fault}" for fault in faults))


def memory_settings(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the memory section adds to `values`, a stage's arguments of TRL."""
    memory = recipe.memory
    added: dict[str, Any] = {}
    if memory.optimizer is not None:
        added["optim"] = OPTIM[memory.optimizer]
    if memory.offload_parameters:
        added["fsdp"] = True
        added["fsdp_config"] = {"version": 2, **(values.get("fsdp_config") or {}), "cpu_offload": True}
        # accelerate gives processes a group for tensors of the host where it reads this
        os.environ["FSDP_OFFLOAD_PARAMS"] = "true"
    return added


def adapters(model: Any, recipe: Recipe) -> dict[str, Any]:
    """The argument of TRL's trainers that puts adapters into the model, where the recipe has some."""
    if recipe.memory.lora is None or is_peft_model(model):
        return {}
    return {"peft_config": adapter_config(model, recipe.memory.lora)}


def prepare_model(model: Any, recipe: Recipe, args: Any, plugin: SequenceParallelPlugin, length: int) -> None:
    """Tiles and checkpoints of `model`, which a trainer has not taken yet.

    `length`: tokens of a row, of which a device holds its part.
    """
    memory, device = recipe.memory, args.device
    set_lm_head_tile(memory.lm_head_tile, device.type)
    base = model.get_base_model() if is_peft_model(model) else model
    tokens = math.ceil(length / plugin.resolved.size) * args.per_device_train_batch_size
    tile = tile_tokens(base.config.get_text_config().hidden_size, memory.mlp_tile)
    if memory.tiled_mlp is True or (memory.tiled_mlp == "auto" and tokens > AUTO_TILES * tile):
        names = tile_modules(base, tile)
        if memory.tiled_mlp is True and not any(name.endswith("mlp") for name in names):
            raise KernelError(
                f"memory.tiled_mlp knows no MLP of {type(base).__name__}: it looks for gate_proj, up_proj and"
                " down_proj. Set it to false or auto."
            )
    if args.activation_checkpointing and _own_checkpointing(memory):
        storage = make_storage(memory.checkpoint_storage, memory.checkpoint_folder, device)
        if memory.checkpoint_storage == "host" and storage is None:
            logger.warning("memory.checkpoint_storage host changes nothing on a CPU, whose memory it is.")
        set_checkpointing(base, every=memory.checkpoint_every, recompute=memory.recompute, storage=storage)


def prepare_head(trainer: Trainer, recipe: Recipe) -> None:
    """Logits of all tokens in place of TRL's fused LM head, where the recipe wants them."""
    if recipe.memory.lm_head == "whole":
        model = cast(Any, trainer.model)
        keep_whole_logits(model.get_base_model() if is_peft_model(model) else model)


def prepare_optimizer(trainer: Trainer, recipe: Recipe) -> None:
    """Weights in float32 for the optimizer, and the place of its state, before it is made."""
    args = trainer.args
    # under FSDP2 accelerate does it, shard by shard
    if recipe.memory.master_weights and (args.bf16 or args.fp16) and not trainer.is_fsdp_enabled:
        keep_master_weights(cast(Any, trainer.model))
    if not recipe.memory.offload_optimizer or recipe.memory.offload_parameters:
        return
    if trainer.args.device.type == "cpu":
        logger.warning("memory.offload_optimizer changes nothing on a CPU, whose memory it is.")
        return
    trainer.add_callback(OptimizerOffload())


def _own_checkpointing(memory: Any) -> bool:
    """Whether transformers' own, of every layer, is not what is wanted."""
    place = memory.checkpoint_storage
    return place != "device" or memory.recompute != "all" or memory.checkpoint_every > 1


def _is_sharded(settings: Mapping[str, Any], gpu: bool) -> bool:
    """Whether FSDP will shard the model: see `parallel_settings`."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" or settings.get("fsdp"):
        return True
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    other = settings.get("deepspeed") or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    return gpu and several and not other and settings.get("fsdp") is not False


def _checkpoint_bytes(
    recipe: Recipe, settings: Mapping[str, Any], config: Any, plugin: SequenceParallelPlugin, gpu: bool
) -> int:
    """Bytes of the activations that the processes of this machine put away in a step."""
    text, plan = config.get_text_config(), plugin.resolved
    tokens = math.ceil(plan.length / plan.size) * settings.get("per_device_train_batch_size", 8)
    layers = math.ceil(text.num_hidden_layers / recipe.memory.checkpoint_every)
    half = settings.get("bf16", not settings.get("use_cpu")) or recipe.model.dtype in ("bfloat16", "float16")
    value = 2 if half and _is_sharded(settings, gpu) else 4
    tensors = 2 if recipe.memory.recompute == "all_but_attention" else 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return processes * layers * tokens * text.hidden_size * value * tensors
