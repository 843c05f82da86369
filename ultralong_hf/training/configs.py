"""A section of a recipe -> TRL's config: our defaults, the recipe's keys, and what the stages set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from trl import DPOConfig, GRPOConfig, SFTConfig

from ultralong_hf.errors import MachineError, ModelError, RecipeError
from ultralong_hf.parallel.plugin import SequenceParallelPlugin
from ultralong_hf.recipes import Recipe
from ultralong_hf.recipes.trl_keys import trl_class
from ultralong_hf.training.memory import memory_settings
from ultralong_hf.training.parallel import batch_settings, parallel_settings

_ALWAYS: dict[str, Any] = {"max_length": None, "remove_unused_columns": False}
# TRL's own preparation takes 114 MiB for each row of 1M tokens.
_PREPARED: dict[str, Any] = {**_ALWAYS, "dataset_kwargs": {"skip_prepare_dataset": True}}

_CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "cpt": (SFTConfig, _PREPARED),
    "sft": (SFTConfig, _PREPARED),
    "preference": (DPOConfig, _ALWAYS),
    "orpo": (trl_class("experimental.orpo.ORPOConfig"), _ALWAYS),
    "grpo": (GRPOConfig, {"remove_unused_columns": False, "shuffle_dataset": False}),
}
"""Stage -> TRL's config, and the keys of it that the stage sets itself."""


def stage_config(
    recipe: Recipe, stage: str, *, evaluates: bool, plugin: SequenceParallelPlugin | None = None
) -> Any:
    """TRL's config of `stage`. With held-out samples, one evaluation runs before the first step.

    `plugin`: with its plan, which says how the model is sharded and batches are padded. Raises RecipeError
    with what TRL says of values that do not go together or not on this machine.
    """
    section = getattr(recipe, stage)
    config, always = _CONFIGS[stage]
    values = {**_defaults(recipe, stage, section), "eval_on_start": evaluates, **section, **always}
    if plugin is not None:
        values |= batch_settings(recipe, stage, plugin)
        values |= parallel_settings(plugin, values, padded=stage == "sft")
    values |= memory_settings(recipe, values)
    try:
        args = config(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{recipe.origin}, section {stage}: {str(error).strip()}") from error
    _check_offload(args, stage)
    _check_processes(args)
    return args


def _check_offload(args: Any, stage: str) -> None:
    """Both ways of holding activations in host memory end in an error of torch's where there is no device."""
    if torch.accelerator.is_available():
        return
    kwargs = args.activation_checkpointing_kwargs
    if isinstance(kwargs, dict) and kwargs.get("offload"):
        key = "activation_checkpointing_kwargs: {offload: true}"
    elif getattr(args, "activation_offloading", False):
        key = "activation_offloading"
    else:
        return
    raise MachineError(
        f"{stage}.{key} needs a GPU, and torch sees none here: activations are in host memory already. "
        "Leave it out; the result is the same."
    )


def _check_processes(args: TrainingArguments) -> None:
    """accelerate takes each process for the only one where it finds neither a GPU nor use_cpu."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != args.world_size:
        raise MachineError(
            f"This was launched as {launched} processes, but accelerate sees {args.world_size}: each would "
            "train and save alone. Without GPUs add --use_cpu."
        )


def output_folder(recipe: Recipe, stage: str) -> Path:
    """Where `stage` leaves its model, and its checkpoints under it."""
    section = getattr(recipe, stage)
    return Path(section.get("output_dir") or f"outputs/{Path(recipe.origin).stem}/{stage}")


def finished_folder(recipe: Recipe, stage: str) -> str:
    """The folder with the model that `stage` left. Raises ModelError where there is none."""
    folder = output_folder(recipe, stage)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no model yet: run examples/{stage}.py with this recipe first, or name a model "
            "to start from (--model PATH)."
        )
    return str(folder)


def _defaults(recipe: Recipe, stage: str, section: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "output_dir": str(output_folder(recipe, stage)),
        "dataloader_pin_memory": torch.accelerator.is_available(),  # torch warns where there is none
    }
    if stage in ("cpt", "preference", "orpo"):
        values["per_device_eval_batch_size"] = 1  # the library's 8 rows of 1M tokens fit nowhere
    if section.get("packing") or section.get("padding_free"):
        # a batch is one row then, and accelerate tells what it has filled up by rows
        values["per_device_eval_batch_size"] = 1
    if "gradient_checkpointing" not in section:  # on as in TRL, under the name that is not deprecated
        values["activation_checkpointing"] = True
    return values
