"""A watch over every tensor that torch makes, and trainings under it."""

import os
from contextlib import nullcontext
from typing import Any

import torch
from cases import tiny_llama, tokenizer
from shims import gloo_counts_as_gpu, teach_ring_the_cpu
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

N = 512
"""Tokens of a row. The part of one of four devices, 128, is above every other size of the tiny model."""
BATCH = 2


class SquareError(AssertionError):
    """A tensor whose size grows with the square of the tokens."""


class NoSquares(TorchDispatchMode):
    """Raises SquareError where an operation returns a tensor with two dimensions of `least` to `most`.

    Those are the sizes that count tokens: a device's part of a row, to all tokens of a batch. TRL's loss has
    tiles of 32,768 of the vocabulary, whatever the tokens. Operations of backward are seen too: on a CPU they
    run in the same thread.
    """

    def __init__(self, least: int, most: int) -> None:
        super().__init__()
        self.least, self.most = least, most
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # so that the operations within, on this rank's parts, come by
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self.seen += 1
                if sum(self.least <= size <= self.most for size in value.shape) >= 2:
                    raise SquareError(f"{func} made {tuple(value.shape)}")
        return result


def rows(padded: bool) -> list[dict[str, list[int]]]:
    """Four rows; padded: every second one is shorter, so that it is filled up at its end."""
    generator = torch.Generator().manual_seed(0)
    lengths = [N, N - 37] * 2 if padded else [N] * 4
    return [
        {"input_ids": torch.randint(3, 96, (length,), generator=generator).tolist()} for length in lengths
    ]


def run(
    output_dir: str,
    *,
    parallel: dict[str, Any] | None = None,
    fsdp: bool = False,
    padded: bool = False,
    padding_mask: bool = True,
    attention: str = "sdpa",
    checkpointing: bool = False,
    evaluate: bool = False,
) -> Any:
    """Tensors seen in a training step, or an evaluation, of TRL's trainer.

    `padding_mask`: the collator of padded batches is TRL's own, not that of our fine-tuning. Where a square
    was made, its text.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from ultralong_hf.data.collator import LongContextCollator
    from ultralong_hf.parallel.plugin import SequenceParallelPlugin
    from ultralong_hf.training.padding import WithoutPaddingMask

    teach_ring_the_cpu()
    with gloo_counts_as_gpu() if fsdp else nullcontext():
        model = tiny_llama(attn_implementation=attention)
        collator: Any = LongContextCollator(N)
        if padded:
            collator = DataCollatorForLanguageModeling(pad_token_id=0, pad_to_multiple_of=64)
            if not padding_mask:
                collator = WithoutPaddingMask(collator)
        dataset = Dataset.from_list([{**row, "labels": row["input_ids"]} for row in rows(padded)])
        args = SFTConfig(
            output_dir=output_dir,
            max_steps=1,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            report_to="none",
            disable_tqdm=True,
            bf16=False,
            use_cpu=not fsdp,
            activation_checkpointing=checkpointing,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            **({"fsdp": True, "fsdp_config": {"version": 2}} if fsdp else {}),
        )
        trainer = SFTTrainer(
            model=model,
            args=args,
            train_dataset=dataset,
            eval_dataset=dataset,
            data_collator=collator,
            processing_class=tokenizer(),
        )
        if parallel:
            plugin = SequenceParallelPlugin(**parallel)
            plugin.resolve(model.config, N)
            plugin.attach(trainer)
        watch = NoSquares(N // int(os.environ.get("WORLD_SIZE", "1")), BATCH * N)
        try:
            with watch:
                trainer.evaluate() if evaluate else trainer.train()
        except SquareError as error:
            return str(error)
        return watch.seen


def run_pairs(output_dir: str, *, parallel: dict[str, Any] | None = None) -> Any:
    """As `run`, a training step and an evaluation of our preference trainer, on pairs of mixed lengths."""
    from datasets import Dataset
    from preference_cases import word_tokenizer
    from trl import DPOConfig

    from ultralong_hf.parallel.plugin import SequenceParallelPlugin
    from ultralong_hf.training.preference import PreferenceTrainer

    teach_ring_the_cpu()
    # a word each is a token; t1 and the like would be found within t12
    prompts = [" ".join(f"t{20 + n % 70}" for n in row["input_ids"][10:]) for row in rows(padded=True)]
    pairs = Dataset.from_list(
        [{"prompt": text, "chosen": " t25 t26 t27", "rejected": " t28"} for text in prompts]
    )
    trainer = PreferenceTrainer(
        model=tiny_llama(),
        ref_model=tiny_llama(seed=1),
        args=DPOConfig(
            output_dir=output_dir,
            max_steps=1,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            report_to="none",
            disable_tqdm=True,
            bf16=False,
            use_cpu=True,
            max_length=None,
            save_strategy="no",
            dataloader_pin_memory=False,
        ),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=word_tokenizer(),
        longest=N,
    )
    if parallel:
        plugin = SequenceParallelPlugin(**parallel)
        plugin.resolve(trainer.model.config, N)
        plugin.attach(trainer)
    # a device's part of the longest row, which may be a little shorter than that of N tokens
    watch = NoSquares(N // int(os.environ.get("WORLD_SIZE", "1")) - 16, 2 * BATCH * N)
    try:
        with watch:
            trainer.train()
            trainer.evaluate()
    except SquareError as error:
        return str(error)
    return watch.seen
