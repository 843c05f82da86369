"""One training case, run by every rank: a tiny model, a few steps, what came out."""

from contextlib import nullcontext
from typing import Any

import torch
from shims import gloo_counts_as_gpu, teach_ring_the_cpu
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
        **changes,
    )
    return LlamaForCausalLM(config)


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

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
    from torch.distributed.tensor import DTensor

    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in model.state_dict().items()
    }


def train(
    output_dir: str,
    *,
    parallel: dict[str, Any] | None = None,
    fsdp: bool = False,
    rows: int = 8,
    batch: int = 1,
    steps: int = 3,
    accumulate: int = 1,
    checkpointing: bool = False,
    lora: bool = False,
    model: dict[str, Any] | None = None,
    resume: str | None = None,
    save_steps: int = 0,
    arguments: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Losses and gradient norms of all steps, and the weights after them.

    `batch`: rows of a step over all data-parallel groups. `parallel`: arguments of SequenceParallelPlugin;
    none: rows are not split. SGD, so that the scale of gradients shows in the weights.
    """
    import os

    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from ultralong_hf.parallel.plugin import SequenceParallelPlugin

    teach_ring_the_cpu()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    with gloo_counts_as_gpu() if fsdp else nullcontext():
        llama = tiny_llama(**(model or {}))
        plugin = SequenceParallelPlugin(**parallel) if parallel else None
        degree = 1
        if plugin:
            degree = plugin.resolve(llama.config, LENGTH, world).size
        args = SFTConfig(
            output_dir=output_dir,
            max_steps=steps,
            per_device_train_batch_size=batch * degree // world,
            gradient_accumulation_steps=accumulate,
            optim="sgd",
            learning_rate=0.5,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="steps" if save_steps else "no",
            save_steps=save_steps or 500,
            report_to="none",
            disable_tqdm=True,
            bf16=False,
            use_cpu=not fsdp,
            activation_checkpointing=checkpointing,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            remove_unused_columns=False,
            shuffle_dataset=False,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
            **({"fsdp": True, "fsdp_config": {"version": 2}} if fsdp else {}),
            **(arguments or {}),
        )
        trainer = SFTTrainer(
            model=llama,
            args=args,
            train_dataset=Dataset.from_list(uneven_rows(rows)),
            data_collator=collate,
            processing_class=tokenizer(),
            peft_config=_lora() if lora else None,
        )
        if plugin:
            plugin.attach(trainer)
        trainer.train(resume_from_checkpoint=resume)
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        return {
            "losses": [entry["loss"] for entry in history],
            "grad_norms": [float(entry["grad_norm"]) for entry in history],
            "weights": weights_of(trainer.model),
        }


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True, lora_dropout=0.0)
