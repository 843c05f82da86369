"""How devices share the rows of a stage: the plan, made before the model is loaded, and what TRL needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import torch

from ultralong_hf.parallel.attention import WITHOUT_CAUSAL_FLAG
from ultralong_hf.parallel.plugin import SequenceParallelPlugin
from ultralong_hf.parallel.requirements import read_launch
from ultralong_hf.planning.candidates import wish_setup
from ultralong_hf.planning.wish import of_recipe, stage_batch
from ultralong_hf.recipes import Recipe
from ultralong_hf.training.models import load_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def plan_stage(
    recipe: Recipe, stage: str, model: PreTrainedModel | str | None, *, length: int, padded: bool = False
) -> SequenceParallelPlugin:
    """The plugin of `recipe.parallel`, with its plan for rows of `length` tokens by the model's config alone.

    `padded`: batches are as long as their longest sample, at most `length`, and are padded to what splits.
    Raises ParallelError with all that stands against the set-up, before any weights are read.
    """
    config = getattr(model, "config", None) or load_config(recipe.model, cast("str | None", model))
    settings = getattr(recipe, stage)
    wish = of_recipe(recipe, stage=stage, config=config)
    on_cpu = bool(settings.get("use_cpu")) or not torch.cuda.is_available()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if padded:  # so that it divides whatever the size
        length = -(-length // (2 * world_size)) * 2 * world_size
    plugin = SequenceParallelPlugin(**recipe.parallel.plugin_arguments())
    if plugin.attention == "auto" and recipe.model.attn_implementation in WITHOUT_CAUSAL_FLAG:
        plugin.attention = recipe.model.attn_implementation
    plugin.resolve(
        config,
        length,
        world_size,
        launch=read_launch(os.environ, cpu=bool(settings.get("use_cpu"))),
        settings=settings,
        mask_documents=stage == "cpt" and recipe.data.mask_documents,
        lengths_vary=padded and settings.get("pad_to_multiple_of") is not None,
        setup=wish_setup(wish, recipe.memory, gpus=world_size, on_cpu=on_cpu),
        batch=wish.batch,
    )
    return plugin


def parallel_settings(
    plugin: SequenceParallelPlugin, values: dict[str, Any], *, padded: bool
) -> dict[str, Any]:
    """What the plan adds to `values`, a stage's arguments of TRL: sharding of the model, padding of batches.

    On several GPUs the model is sharded by FSDP2 unless the recipe or the launcher says otherwise.
    """
    added: dict[str, Any] = {}
    launched = any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))
    several_gpus = torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several_gpus and not launched and not {"fsdp", "deepspeed", "use_cpu"} & values.keys():
        added |= plugin.fsdp_settings()
    if (
        plugin.resolved.backend == "deepspeed"
    ):  # it needs them before the trainer is made; attach adds the others'
        added["parallelism_config"] = plugin.parallelism_config()
    parts = plugin.resolved.sizes.parts
    if padded and parts > 1 and values.get("pad_to_multiple_of") is None:
        added["pad_to_multiple_of"] = parts
    return added


def batch_settings(recipe: Recipe, stage: str, plugin: SequenceParallelPlugin) -> dict[str, int]:
    """Gradient accumulation, where the recipe says the rows of a step over all devices."""
    batch = stage_batch(recipe, stage)
    if batch is None:
        return {}
    groups = int(os.environ.get("WORLD_SIZE", "1")) // plugin.resolved.sizes.degree
    return {"gradient_accumulation_steps": batch.accumulation(groups)}
