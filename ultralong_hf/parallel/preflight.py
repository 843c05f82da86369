"""A short batch on one process and on the set-up as launched: the same loss and gradient norm, or an error.

Letters: `B` rows, `N` tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from transformers import DefaultFlowCallback
from transformers.trainer_callback import CallbackHandler
from trl import DPOTrainer

from ultralong_hf.data.collator import IGNORED
from ultralong_hf.errors import MachineError, ParallelError
from ultralong_hf.parallel.preflight_report import Numbers, Preflight

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

SHORT = 2048
"""Tokens of a row in the check: room for a few in every part, and for whole rows on one device."""

Batch = dict[str, torch.Tensor]
Loss = Callable[["PreTrainedModel", Batch], tuple[torch.Tensor, int]]
"""A model and a batch of whole rows -> the sum of its losses, and how many they are."""


def check_parallel(trainer: Trainer, *, length: int = SHORT) -> Preflight:
    """Trains one step on short rows as launched, and on one process; raises ParallelError where they differ.

    The trainer is spent afterwards: its settings are changed, and its data. Nothing is saved. `length`: rows
    are cut to it. On one process the loss is the mean cross entropy of the next tokens by torch, or for TRL's
    DPOTrainer its own. All processes must call this.
    """
    accelerator = trainer.accelerator
    if accelerator.num_processes == 1:
        raise ParallelError(
            "The parallel check was launched as one process, so that there is nothing to compare. Launch it "
            "as the training will be: accelerate launch --num_processes N ..."
        )
    collator = _prepare(trainer, length)
    one = None
    if accelerator.process_index == 0:  # under FSDP the only one that is sure to have the weights
        loss = pair_loss(trainer) if isinstance(trainer, DPOTrainer) else next_token_loss
        try:
            one = _on_one_process(trainer, collator, loss)
        except torch.OutOfMemoryError as error:
            raise MachineError(
                "The parallel check trains the whole model on one device, and its memory is too small: "
                f"{str(error).splitlines()[0]} Check the same launch with a smaller model of the same family "
                "(--model), whose heads the devices divide too."
            ) from None
    launched, widest = _as_launched(trainer)
    verdict: list[Preflight | None] = [None]
    if one is not None:
        verdict[0] = Preflight(
            one=one,
            launched=launched,
            processes=accelerator.num_processes,
            degree=_degree(trainer),
            length=collator.longest,
            device_tokens=widest,
            dtype=_compute_dtype(trainer),
        )
    dist.broadcast_object_list(verdict, src=0, device=accelerator.device)
    result = verdict[0]
    assert result is not None
    if faults := result.faults():
        raise ParallelError(*faults)
    return result


def next_token_loss(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, int]:
    """Cross entropy of the next tokens, summed, and the count of labels that are not -100."""
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "shift_labels")}
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    total = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total, int((labels != IGNORED).sum())


def pair_loss(trainer: DPOTrainer) -> Loss:
    """The trainer's own loss on whole batches, of pairs, asking no other process."""

    def loss(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, int]:
        reference = trainer.ref_model
        if reference is not None and any(isinstance(weight, DTensor) for weight in reference.parameters()):
            reference = model  # FSDP has taken it apart; before the first step it is the model itself
        with (
            patch.object(trainer.accelerator, "gather", lambda value: value),
            patch.object(trainer.accelerator, "gather_for_metrics", lambda value: value),
            patch.object(trainer, "ref_model", reference),
        ):
            mean = type(trainer).compute_loss(trainer, model, batch)
        pairs = len(batch["input_ids"]) // 2
        return mean * pairs, pairs

    return loss


class _Shortened:
    """A collator whose batches are cut to `length` tokens, or to the most that `parts` divide.

    Which tokens count is set anew, so that mistakes show: those at the edges of parts do, and devices have
    different numbers of them.
    """

    def __init__(self, collator: Callable[[Any], Batch], length: int, parts: int) -> None:
        self.collator = collator
        self.length = max(length // parts, 1) * parts
        self.longest = 0
        """Tokens of the longest batch so far."""

    def __call__(self, rows: Any) -> Batch:
        batch = self.collator(rows)
        width = batch["input_ids"].shape[1]
        kept = min(width, self.length)
        self.longest = max(self.longest, kept)
        batch = {
            key: value[:, :kept] if value.dim() > 1 and value.shape[1] == width else value
            for key, value in batch.items()
        }
        if "labels" in batch:
            labels = batch["input_ids"].clone()
            labels[:, 1 : kept // 4 : 2] = IGNORED
            if "attention_mask" in batch:
                labels[batch["attention_mask"] == 0] = IGNORED
            batch["labels"] = labels
        return batch


def _prepare(trainer: Trainer, length: int) -> _Shortened:
    """Short rows for exactly one step, nothing random, nothing written, and no step taken."""
    args, degree = trainer.args, _degree(trainer)
    args.dataloader_num_workers = 0
    args.max_steps = args.logging_steps = 1
    args.learning_rate = args.weight_decay = 0.0
    args.warmup_steps = 0
    args.save_strategy = args.eval_strategy = "no"
    args.eval_on_start = args.load_best_model_at_end = args.logging_first_step = False
    args.logging_strategy = "steps"
    args.max_grad_norm = args.max_grad_norm or 1.0  # the norm is measured only where it is clipped
    if hasattr(args, "loss_type") and isinstance(args.loss_type, str):
        args.loss_type = "nll"
    trainer.callback_handler = CallbackHandler(
        [DefaultFlowCallback()], trainer.model, trainer.processing_class, None, None
    )
    assert trainer.model is not None
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
    collator = _Shortened(trainer.data_collator, length, 2 * degree)
    groups = trainer.accelerator.num_processes // degree
    count = groups * args.per_device_train_batch_size * args.gradient_accumulation_steps
    rows = _first_rows(trainer.train_dataset, count)
    trainer.train_dataset = [_shortened_pair(row, collator.length) for row in rows]
    trainer.data_collator = collator
    return collator


def _first_rows(dataset: Any, count: int) -> list[Any]:
    """As many rows, from the start; over and over where there are fewer."""
    if hasattr(dataset, "__len__"):
        rows = [dataset[index] for index in range(min(count, len(dataset)))]
    else:
        rows = [row for row, _ in zip(dataset, range(count), strict=False)]
    if not rows:
        raise ParallelError("The training data hold no rows, so that there is nothing to check with.")
    return [rows[index % len(rows)] for index in range(count)]


def _shortened_pair(row: Any, length: int) -> Any:
    """A prompt and its two answers, cut where they are furthest from each other; other rows as they are."""
    if "prompt_ids" not in row:
        return row
    chosen, rejected = (row[key][: length // 2] for key in ("chosen_ids", "rejected_ids"))
    room = length - max(len(chosen), len(rejected))
    return {**row, "prompt_ids": row["prompt_ids"][-room:], "chosen_ids": chosen, "rejected_ids": rejected}


def _on_one_process(trainer: Trainer, collator: _Shortened, loss: Loss) -> Numbers:
    """Loss and gradient norm of all rows of the step, whole, in the plain model on this device."""
    model, device = cast("PreTrainedModel", trainer.model), trainer.accelerator.device
    rows: Any = trainer.train_dataset
    size = trainer.args.per_device_train_batch_size
    summed, losses = 0.0, 0
    with _plain(model, device), _Watch(model) as watch:
        for start in range(0, len(rows), size):
            batch = {key: value.to(device) for key, value in collator(rows[start : start + size]).items()}
            with trainer.accelerator.autocast():
                total, count = loss(model, batch)
            total.backward()
            summed += float(total.detach())
            losses += count
        norms = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
    norm = float(torch.stack(norms).norm())
    return Numbers(loss=summed / losses, gradient_norm=norm / losses, counted=watch.counted or losses)


class _Watch:
    """What comes to a model: the most tokens of a row, and how many of them count for the loss."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.widest = 0
        self.counted = 0

    def __enter__(self) -> _Watch:
        self.handle = self.model.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *error: Any) -> None:
        self.handle.remove()

    def _note(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.widest = max(self.widest, kwargs["input_ids"].shape[1])
        labels = kwargs.get("shift_labels")
        if labels is None and "labels" in kwargs:
            labels = kwargs["labels"][:, 1:]
        if labels is not None and torch.is_grad_enabled():  # not where the model is its own reference
            self.counted += int((labels != IGNORED).sum())


@contextmanager
def _plain(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """The model on `device`, in training, with torch's own attention; afterwards as it was."""
    attention, home, training = model.config._attn_implementation, model.device, model.training
    model.set_attn_implementation("sdpa")
    model.train()
    torch.nn.Module.to(model, device)
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        model.set_attn_implementation(attention)
        model.train(training)
        torch.nn.Module.to(model, home)


def _as_launched(trainer: Trainer) -> tuple[Numbers, int]:
    """Loss and gradient norm of one step of the trainer, and the most tokens of a row that a device got."""
    assert trainer.model is not None
    with _Watch(trainer.model) as watch:
        trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    device = trainer.accelerator.device
    most, total = torch.tensor(watch.widest, device=device), torch.tensor(watch.counted, device=device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    dist.all_reduce(total)
    numbers = Numbers(loss=entry["loss"], gradient_norm=float(entry["grad_norm"]), counted=int(total))
    return numbers, int(most)


def _degree(trainer: Trainer) -> int:
    """Devices that share a row, as accelerate has it."""
    config = trainer.accelerator.parallelism_config
    return 1 if config is None else config.cp_size * config.sp_size * config.tp_size


def _compute_dtype(trainer: Trainer) -> str:
    """The dtype that the model computes in."""
    mixed = {"bf16": "bfloat16", "fp16": "float16"}.get(trainer.accelerator.mixed_precision)
    assert trainer.model is not None
    return mixed or str(next(trainer.model.parameters()).dtype).removeprefix("torch.")
