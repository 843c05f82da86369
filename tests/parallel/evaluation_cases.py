"""One evaluation, run by every rank: a tiny model, and what `evaluate` or `predict` gave."""

import os
from contextlib import ExitStack
from typing import Any

from cases import LENGTH, _arguments, collate, tiny_llama, tokenizer, uneven_rows
from datasets import Dataset
from shims import gloo_counts_as_gpu, teach_ring_the_cpu
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from ultralong_hf.parallel.plugin import SequenceParallelPlugin
from ultralong_hf.training.trainer import LongContextTrainer


def shorter_rows(count: int) -> list[dict[str, list[int]]]:
    """Rows of different lengths, some odd."""
    return [
        {key: ids[: LENGTH - 7 * (place % 4)] for key, ids in row.items()}
        for place, row in enumerate(uneven_rows(count))
    ]


def hide_the_first(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    batch = collate(rows)
    batch["attention_mask"][:, 0] = 0
    return batch


def make_trainer(
    kind: str, model: Any, arguments: dict[str, Any], rows: Any, *, padded: bool, longest: int
) -> Trainer:
    more = {"train_dataset": rows, "eval_dataset": rows, "data_collator": None if padded else collate}
    if kind == "plain":
        return Trainer(model=model, args=TrainingArguments(**arguments), **more)
    args = SFTConfig(
        dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, shuffle_dataset=False, **arguments
    )
    kinds = {"trl": (SFTTrainer, {}), "ours": (LongContextTrainer, {"bucket_length": longest})}
    trainer_class, further = kinds[kind]
    return trainer_class(model=model, args=args, processing_class=tokenizer(), **more, **further)


def evaluate(
    output_dir: str,
    *,
    kind: str = "trl",
    parallel: dict[str, Any] | None = None,
    fsdp: bool = False,
    batch: int = 1,
    rows: int = 5,
    padded: bool = False,
    train_first: bool = False,
    predict: bool = False,
    labels: bool = True,
    length: int = LENGTH,
    train_after: bool = False,
    pad_left: bool = False,
) -> dict[str, Any]:
    """Metrics, predictions, and how many tokens of a row reached the model's embeddings.

    `batch`: rows a device group. `train_first`: one step with a learning rate of 0, which FSDP2 needs.
    """
    teach_ring_the_cpu()
    with ExitStack() as stack:
        if fsdp:
            stack.enter_context(gloo_counts_as_gpu())
        model = tiny_llama()
        model.config.max_position_embeddings = length
        plugin = SequenceParallelPlugin(**(parallel or {"size": 1}))
        plugin.resolve(model.config, length)
        arguments = _arguments(output_dir, 1, False, use_cpu=not fsdp)
        arguments |= plugin.fsdp_settings() if fsdp else {}
        arguments |= {"per_device_eval_batch_size": batch, "per_device_train_batch_size": batch}
        arguments |= {"learning_rate": 0.0, "save_strategy": "no"}
        made = shorter_rows(rows) if padded else uneven_rows(rows, length)
        if not labels:
            made = [{"input_ids": row["input_ids"]} for row in made]
        data = Dataset.from_list(made)
        trainer = make_trainer(kind, model, arguments, data, padded=padded, longest=length)
        if pad_left:
            trainer.data_collator = hide_the_first
        plugin.attach(trainer)
        if train_first:
            trainer.train()
        seen: list[int] = []
        embeddings = trainer.model.get_input_embeddings()
        embeddings.register_forward_pre_hook(lambda _, ids: seen.append(ids[0].shape[1]))
        result: dict[str, Any] = {"rank": int(os.environ.get("RANK", "0"))}
        if predict:
            output = trainer.predict(data)
            result |= {"predictions": output.predictions, "label_ids": output.label_ids}
            metrics = output.metrics
        else:
            metrics = trainer.evaluate()
            metrics |= {key: value for key, value in trainer.state.log_history[-1].items() if "eval" in key}
        if train_after:
            trainer.train()
        result["steps"] = [
            (entry["loss"], float(entry["grad_norm"]))
            for entry in trainer.state.log_history
            if "loss" in entry
        ]
        timed = ("runtime", "per_second", "time")
        result["metrics"] = {
            key: value for key, value in metrics.items() if not key.endswith(timed) and key != "epoch"
        }
        result["seen"] = seen
        return result
