"""One preference training, run by every rank: TRL's DPOTrainer on a tiny model, and what came out."""

import os
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from cases import LENGTH, _arguments, tiny_llama, tokenizer, weights_of
from datasets import Dataset
from peft import LoraConfig
from shims import gloo_counts_as_gpu, teach_ring_the_cpu
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from ultralong_hf.parallel.groups import SequenceGroup
from ultralong_hf.parallel.plugin import SequenceParallelPlugin
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training.orpo import orpo_trainer
from ultralong_hf.training.preference import PreferenceTrainer, preference_trainer


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = tokenizer()
    words.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    return words


def pairs(count: int) -> list[dict[str, str]]:
    """Long prompts, and answers of different lengths; some begin in one device's part, end in another's."""
    generator = torch.Generator().manual_seed(2)

    def text(words: int) -> str:
        return " ".join(
            f"t{number}" for number in torch.randint(3, 96, (words,), generator=generator).tolist()
        )

    return [
        {
            "prompt": text(LENGTH // 2 - 9 * (n % 3)),
            "chosen": " " + text(3 + 5 * n),
            "rejected": " " + text(20 - n),
        }
        for n in range(count)
    ]


def train_pairs(
    output_dir: str,
    *,
    parallel: dict[str, Any] | None = None,
    fsdp: bool = False,
    batch: int = 1,
    steps: int = 3,
    accumulate: int = 1,
    checkpointing: bool = False,
    reference: str = "separate",
    evaluates: bool = False,
    alone: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Losses, gradient norms, rewards and the like of all steps, and the weights after them.

    `batch`: pairs of a forward pass over all data-parallel groups. `reference`: "separate", another model
    with other weights; "adapter", the model without its LoRA; "precomputed", by the model before it trains,
    which is PreferenceTrainer's.
    """
    teach_ring_the_cpu()
    with ExitStack() as stack:
        if alone:
            stack.enter_context(patch.object(SequenceGroup, "attention", lambda self: nullcontext()))
        if fsdp:
            stack.enter_context(gloo_counts_as_gpu())
        model = tiny_llama()
        plugin = SequenceParallelPlugin(**(parallel or {"size": 1}))
        plan = plugin.resolve(model.config, LENGTH)
        arguments = _arguments(output_dir, steps, checkpointing, use_cpu=not fsdp)
        arguments |= plugin.fsdp_settings() if fsdp else {}
        arguments |= {
            "per_device_train_batch_size": batch * plan.size // int(os.environ.get("WORLD_SIZE", "1")),
            "per_device_eval_batch_size": batch * plan.size // int(os.environ.get("WORLD_SIZE", "1")),
            "gradient_accumulation_steps": accumulate,
            "learning_rate": 0.05,
            "save_strategy": "no",
            "max_length": None,
            "precompute_ref_log_probs": reference == "precomputed",
        }
        rows = Dataset.from_list(pairs(4))
        beside = tiny_llama(seed=1) if reference == "separate" else None
        if reference == "precomputed" and fsdp:  # where the policy is not sharded until it trains
            beside = tiny_llama()
        ours = {"longest": LENGTH} if reference == "precomputed" else {}
        trainer = (PreferenceTrainer if ours else DPOTrainer)(
            model=model,
            ref_model=beside,
            args=DPOConfig(**arguments, **options),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=word_tokenizer(),
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            if reference == "adapter"
            else None,
            **ours,
        )
        plugin.attach(trainer)
        if ours:
            trainer.precompute_reference()
        seen: list[int] = []
        for member in (model, trainer.ref_model):
            if member is not None:
                member.get_input_embeddings().register_forward_pre_hook(
                    lambda _, ids: seen.append(ids[0].shape[1])
                )
        trainer.train()
        if evaluates:
            trainer.evaluate()
        timed = ("runtime", "per_second", "time", "learning_rate", "epoch", "step")
        return {
            "history": [
                {key: float(value) for key, value in entry.items() if not key.endswith(timed)}
                for entry in trainer.state.log_history
                if "loss" in entry or "eval_loss" in entry
            ],
            "weights": weights_of(trainer.model),
            "seen": seen,
            "sharded": any(isinstance(weight, DTensor) for weight in trainer.model.parameters()),
        }


def run_stage(
    folder: str, stage: str = "preference", **overrides: Any
) -> tuple[list[float], dict[str, torch.Tensor], int]:
    """Losses and gradient norms of a stage of the lab, weights after it, devices that share a row."""
    own = {
        "output_dir": f"{folder}/{stage}",
        "max_steps": 2,
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
    }
    keys = {f"{stage}.{key}": value for key, value in own.items()}
    make = {"preference": preference_trainer, "orpo": orpo_trainer}[stage]
    trainer = make(load_recipe("lab", {**keys, **overrides}), model="lab")
    trainer.train()
    trainer.save_model()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    numbers = [float(entry[key]) for key in ("loss", "grad_norm") for entry in history]
    numbers += [float(entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry]
    group = getattr(trainer, "sequence_group", None)
    return numbers, weights_of(trainer.model), group.size if group else 1
