"""One training case, run by every rank: a tiny model, a few steps, what came out."""

import os
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from peft import LoraConfig
from shims import gloo_counts_as_gpu, teach_ring_the_cpu
from tokenizers import Tokenizer, models
from torch.distributed.tensor import DTensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from ultralong_hf.parallel.groups import SequenceGroup
from ultralong_hf.parallel.plugin import SequenceParallelPlugin

VOCABULARY = 96
LENGTH = 64


def tiny_llama(*, heads: int = 4, kv_heads: int = 2, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8 * heads,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        initializer_range=0.1,  # so that attention counts
        **changes,
    )
    return LlamaForCausalLM(config)


def tiny_mixtral() -> MixtralForCausalLM:
    """Four experts, of which each token has two."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        initializer_range=0.1,
    )
    return MixtralForCausalLM(config)


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t2")),
        pad_token="t0",
        eos_token="t1",
    )


def uneven_rows(count: int, length: int = LENGTH) -> list[dict[str, list[int]]]:
    """Rows with labels that count in few places, and at very different numbers of them in each part."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for number in range(count):
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator)
        kept = torch.rand(length, generator=generator) < torch.linspace(0.1, 0.9, length)
        kept[: length // 4 * (number % 2)] = False  # in odd rows the first of four ranks has nothing
        rows.append({"input_ids": ids.tolist(), "labels": torch.where(kept, ids, -100).tolist()})
    return rows


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    batch = {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return batch


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Whole weights on every rank, whether DDP or FSDP2 holds them."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in model.state_dict().items()
    }


def train(
    output_dir: str,
    *,
    parallel: dict[str, Any] | None = None,
    fsdp: bool = False,
    batch: int = 1,
    steps: int = 3,
    accumulate: int = 1,
    checkpointing: bool | dict[str, Any] = False,
    lora: bool = False,
    kv_heads: int = 2,
    heads: int = 4,
    padded: bool = False,
    trainer_class: str = "trl",
    adam: bool = False,
    resume: str | None = None,
    save: bool = False,
    alone: bool = False,
    experts: bool = False,
) -> dict[str, Any]:
    """Losses and gradient norms of all steps, and the weights after them.

    `batch`: rows of a forward pass over all data-parallel groups. `parallel`: arguments of
    SequenceParallelPlugin; none: rows are not split. `alone`: devices do not share attention, to show that
    the comparison would notice. SGD, so that the scale of gradients shows in the weights; `adam` where
    the optimiser must have a state. `experts`: a mixture of experts, without their balancing loss.
    """
    teach_ring_the_cpu()
    with ExitStack() as stack:
        if alone:
            stack.enter_context(patch.object(SequenceGroup, "attention", lambda self: nullcontext()))
        if fsdp:
            stack.enter_context(gloo_counts_as_gpu())
        model = tiny_mixtral() if experts else tiny_llama(heads=heads, kv_heads=kv_heads)
        plugin = SequenceParallelPlugin(**(parallel or {"size": 1}))
        plan = plugin.resolve(model.config, LENGTH)
        arguments = _arguments(output_dir, steps, checkpointing, use_cpu=not fsdp)
        arguments |= plugin.fsdp_settings() if fsdp else {}
        arguments |= {
            "per_device_train_batch_size": batch * plan.size // int(os.environ.get("WORLD_SIZE", "1")),
            "gradient_accumulation_steps": accumulate,
            "save_strategy": "steps" if save else "no",
            "save_steps": 2,
            **({"optim": "adamw_torch", "learning_rate": 0.01} if adam else {}),
            **({"router_aux_loss_coef": 0.0} if experts else {}),
        }
        make = _trl_trainer if trainer_class == "trl" else _plain_trainer
        trainer = make(model, arguments, lora=lora, parts=plan.sizes.parts if padded else None)
        plugin.attach(trainer)
        seen: set[int] = set()
        model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.add(ids[0].shape[1]))
        trainer.train(resume_from_checkpoint=resume)
        if save:
            trainer.save_model(f"{output_dir}/final")
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        return {
            "losses": [entry["loss"] for entry in history],
            "grad_norms": [float(entry["grad_norm"]) for entry in history],
            "weights": weights_of(trainer.model),
            "tokens": seen,
            "sharded": any(isinstance(weight, DTensor) for weight in trainer.model.parameters()),
        }


def _arguments(
    output_dir: str, steps: int, checkpointing: bool | dict[str, Any], *, use_cpu: bool
) -> dict[str, Any]:
    return {
        "output_dir": output_dir,
        "max_steps": steps,
        "optim": "sgd",
        "learning_rate": 0.2,
        "max_grad_norm": 1e9,  # norms are logged, and gradients not scaled to one length
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "use_cpu": use_cpu,
        "activation_checkpointing": bool(checkpointing),
        "activation_checkpointing_kwargs": checkpointing if isinstance(checkpointing, dict) else None,
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    }


def _trl_trainer(model: Any, arguments: dict[str, Any], *, lora: bool, parts: int | None) -> SFTTrainer:
    args = SFTConfig(
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        shuffle_dataset=False,
        pad_to_multiple_of=parts,
        **arguments,
    )
    rows = uneven_rows(8)
    if parts is not None:
        rows = [
            {key: ids[: LENGTH - 5 * place] for key, ids in row.items()} for place, row in enumerate(rows)
        ]
    return SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        data_collator=collate if parts is None else None,
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if lora else None,
    )


def _plain_trainer(model: Any, arguments: dict[str, Any], **_: Any) -> Trainer:
    return Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=Dataset.from_list(uneven_rows(8)),
        data_collator=collate,
    )
