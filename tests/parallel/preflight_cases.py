"""Set-ups for the pre-flight check, right ones and broken ones; what each rank found."""

import os
from contextlib import nullcontext
from typing import Any

import torch
from cases import LENGTH, collate, tiny_llama, tokenizer, uneven_rows
from datasets import Dataset
from peft import LoraConfig
from preference_cases import pairs, word_tokenizer
from shims import gloo_counts_as_gpu, teach_ring_the_cpu
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from ultralong_hf.errors import UltraLongError
from ultralong_hf.parallel.plugin import SequenceParallelPlugin
from ultralong_hf.parallel.preflight import check_parallel


def check(
    output_dir: str,
    *,
    parallel: dict[str, Any] | None = None,
    broken: str | None = None,
    fsdp: bool = False,
    rows: int = 8,
    batch: int = 1,
    length: int = 48,
    lora: bool = False,
    arguments: dict[str, Any] | None = None,
) -> Any:
    """The Preflight, or the faults, of an SFTTrainer on a tiny Llama. `broken`: a name of `BREAKS`."""
    teach_ring_the_cpu()
    with gloo_counts_as_gpu() if fsdp else nullcontext():
        llama = tiny_llama(attention_dropout=0.1)
        args = SFTConfig(
            output_dir=output_dir,
            per_device_train_batch_size=batch,
            learning_rate=0.5,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not fsdp,
            activation_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            **({"fsdp": True, "fsdp_config": {"version": 2}} if fsdp else {}),
            **{"bf16": False, **(arguments or {})},
        )
        trainer = SFTTrainer(
            model=llama,
            args=args,
            train_dataset=Dataset.from_list(uneven_rows(rows)),
            data_collator=collate,
            processing_class=tokenizer(),
            peft_config=LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.5) if lora else None,
        )
        if parallel:
            plugin = SequenceParallelPlugin(**parallel)
            plugin.resolve(llama.config, LENGTH, int(os.environ.get("WORLD_SIZE", "1")))
            plugin.attach(trainer)
        if broken:
            BREAKS[broken](trainer)
        return outcome(trainer, length)


def check_pairs(
    output_dir: str,
    *,
    parallel: dict[str, Any],
    fsdp: bool = False,
    lora: bool = False,
    local_positions: bool = False,
    padded: bool = True,
) -> Any:
    """As `check`, of TRL's DPOTrainer, whose reference is the model that it starts from.

    `padded`: batches have a length that splits; else that of the longest pair, which is odd.
    `local_positions`: they count within each device's part.
    """
    teach_ring_the_cpu()
    with gloo_counts_as_gpu() if fsdp else nullcontext():
        llama = tiny_llama()
        plugin = SequenceParallelPlugin(**parallel)
        plan = plugin.resolve(llama.config, LENGTH)
        args = DPOConfig(
            output_dir=output_dir,
            per_device_train_batch_size=2,
            report_to="none",
            disable_tqdm=True,
            bf16=False,
            use_cpu=not fsdp,
            activation_checkpointing=False,
            max_length=None,
            pad_to_multiple_of=plan.sizes.parts if padded else None,
            dataloader_pin_memory=False,
            **(plugin.fsdp_settings() if fsdp else {}),
        )
        trainer = DPOTrainer(
            model=llama,
            ref_model=None if lora else tiny_llama(),
            args=args,
            train_dataset=Dataset.from_list(pairs(4) if padded else odd_pairs()),
            processing_class=word_tokenizer(),
            peft_config=LoraConfig(r=4, target_modules=["q_proj"]) if lora else None,
        )
        plugin.attach(trainer)
        if local_positions:
            llama.register_forward_pre_hook(without_positions, with_kwargs=True)
        return outcome(trainer, 48 if padded else LENGTH)


def odd_pairs() -> list[dict[str, str]]:
    """Pairs whose longest is one word shorter."""
    return [{**pair, "prompt": pair["prompt"].rpartition(" ")[0]} for pair in pairs(4)]


def without_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The model counts them itself, from the first token that comes to it."""
    return args, {**kwargs, "position_ids": None}


def outcome(trainer: Any, length: int) -> Any:
    """What the check returns, or the faults that it raises."""
    try:
        return check_parallel(trainer, length=length)
    except UltraLongError as error:
        return error.faults


def change_shards(trainer: Any, change: Any) -> None:
    """Lets `change` spoil each shard of a batch."""
    prepare = trainer._prepare_context_parallel_inputs

    def spoiled(model: Any, inputs: Any) -> Any:
        context, shard = prepare(model, inputs)
        return context, change(trainer.sequence_group, inputs, dict(shard))

    trainer._prepare_context_parallel_inputs = spoiled


def local_positions(group: Any, whole: Any, shard: Any) -> Any:
    shard["position_ids"] = torch.arange(shard["input_ids"].shape[1]).expand_as(shard["input_ids"])
    return shard


def wrong_layout(group: Any, whole: Any, shard: Any) -> Any:
    """Head and tail to an attention that takes parts for contiguous."""
    from ultralong_hf.parallel.sharding import shard_batch

    return shard_batch(whole, rank=group.rank, size=group.size, layout="head_tail")


def labels_shifted_after_the_cut(group: Any, whole: Any, shard: Any) -> Any:
    shard["shift_labels"] = torch.nn.functional.pad(shard["labels"], (0, 1), value=-100)[:, 1:]
    return shard


def other_rows_on_each_device(group: Any, whole: Any, shard: Any) -> Any:
    shard["input_ids"] = shard["input_ids"].roll(group.rank, dims=1)
    return shard


def loss_summed_over_devices(trainer: Any) -> None:
    step = trainer.compute_loss
    degree = trainer.sequence_group.size
    trainer.compute_loss = lambda *args, **kwargs: step(*args, **kwargs) * degree


def mean_of_the_parts_means(trainer: Any) -> None:
    step = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, num_items_in_batch=None: step(model, inputs)


def attention_within_the_part(trainer: Any) -> None:
    prepare = trainer._prepare_context_parallel_inputs
    trainer._prepare_context_parallel_inputs = lambda *args: (nullcontext, prepare(*args)[1])


def rows_not_split(trainer: Any) -> None:
    """Every device has whole rows, as a flag that accelerate drops leaves them."""
    trainer._prepare_context_parallel_inputs = lambda model, inputs: (nullcontext, inputs)


BREAKS = {
    "local positions": lambda trainer: change_shards(trainer, local_positions),
    "wrong layout": lambda trainer: change_shards(trainer, wrong_layout),
    "labels shifted after the cut": lambda trainer: change_shards(trainer, labels_shifted_after_the_cut),
    "other rows on each device": lambda trainer: change_shards(trainer, other_rows_on_each_device),
    "mean of the parts' means": mean_of_the_parts_means,
    "loss summed over devices": loss_summed_over_devices,
    "attention within the part": attention_within_the_part,
    "rows not split": rows_not_split,
}
