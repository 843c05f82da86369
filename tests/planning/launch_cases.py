"""One process of a launch by a YAML of accelerate, with its environment."""

import os
from contextlib import nullcontext
from unittest.mock import patch

from shims import gloo_counts_as_gpu
from torch.distributed.tensor import DTensor

from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer

KEPT = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")


def train_as_launched(folder, environment, size):
    """Two steps of the lab's CPT; what accelerate and the plugin made of the launch, and the losses."""
    keys = {
        "data.target_length": 256,
        "data.eval_rows": 0,
        "data.output_dir": f"{folder}/store",
        "rope.scale": 2,
        "parallel.size": size,
        "evaluation.lengths": [256],
        "cpt.output_dir": f"{folder}/cpt",
        "cpt.use_cpu": size == 1,
        "cpt.max_steps": 2,
        "cpt.optim": "sgd",
        "cpt.warmup_steps": 0,
        "cpt.logging_steps": 1,
        "cpt.eval_strategy": "no",
        "cpt.save_strategy": "no",
        "cpt.disable_tqdm": True,
    }
    environment = {key: value for key, value in environment.items() if key.startswith(KEPT)}
    shim = gloo_counts_as_gpu() if size > 1 else nullcontext()
    with shim, patch.dict(os.environ, environment):
        trainer = cpt_trainer(load_recipe("lab", keys))
        trainer.train()
        accelerator, config = trainer.accelerator, trainer.accelerator.parallelism_config
        sharding = accelerator.state.fsdp_plugin if accelerator.is_fsdp2 else None
        weight = next(trainer.model.parameters())
        return {
            "fsdp2": accelerator.is_fsdp2,
            "mesh": (config.cp_size, config.dp_shard_size, config.dp_replicate_size) if config else None,
            "sharded over": weight.device_mesh.size() if isinstance(weight, DTensor) else 1,
            "whole state": str(getattr(sharding, "state_dict_type", None)),
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        }
