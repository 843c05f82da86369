"""A short batch on one process and on the set-up as launched: the same loss and gradient norm, or an error.

Letters: `B` rows, `N` tokens of a row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import DefaultFlowCallback
from transformers.trainer_callback import CallbackHandler

from ultralong_hf.data.collator import IGNORED
from ultralong_hf.errors import ParallelError
from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

logger = logging.getLogger(__name__)

SHORT = 2048
"""Tokens of a row in the check: room for a few in every part, and for whole rows on one device."""

TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (1e-2, 5e-2), "float16": (1e-2, 5e-2)}
"""Compute dtype -> relative differences of the loss and of the gradient norm that are taken for rounding.
Two to five times what the order of summation alone makes; the mildest fault known to us, positions that
count within a part, changes a trained model's loss by more."""

_CUT = " Labels must be shifted before rows are split: the last token of a part has its next one elsewhere."
_TWICE = " Some devices hold the same ones."
_OTHERWISE = " Tokens see others than they should, count otherwise, or stand at other positions."

Batch = dict[str, torch.Tensor]
Loss = Callable[["PreTrainedModel", Batch], tuple[torch.Tensor, torch.Tensor]]
"""A model and a batch of whole rows -> the sum of its losses, and how many they are."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What one step gave."""

    loss: float
    gradient_norm: float
    counted: int
    """Tokens that count for the loss, over all devices."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """One process and the set-up as launched, side by side."""

    one: Numbers
    launched: Numbers
    processes: int
    degree: int
    """Devices that are said to share a row."""
    length: int
    """Tokens of the longest row of the check."""
    device_tokens: int
    """Tokens of a row that reached the model on a device, at most."""
    dtype: str

    def faults(self) -> list[str]:
        """What is wrong with the set-up, a sentence each; empty where its numbers are right."""
        loss_tolerance, norm_tolerance = TOLERANCES[self.dtype]
        faults = []
        if self.device_tokens * self.degree > self.length:
            faults.append(
                f"rows of {self.length:,} tokens are not split: {self.degree} devices are to share them, but "
                f"one got {self.device_tokens:,}. Attach the plugin to the trainer before it trains."
            )
        one, launched = self.one, self.launched
        if launched.counted != one.counted:
            faults.append(
                f"{launched.counted:,} tokens count for the loss on {self.processes} processes and "
                f"{one.counted:,} on one." + (_CUT if launched.counted < one.counted else _TWICE)
            )
        if not _near(one.loss, launched.loss, loss_tolerance):
            faults.append(
                f"the loss is {launched.loss:.7g} on {self.processes} processes and {one.loss:.7g} on one."
                + (self._ratio(one.loss, launched.loss) or _OTHERWISE)
            )
        if not _near(one.gradient_norm, launched.gradient_norm, norm_tolerance):
            faults.append(
                f"the gradient norm is {launched.gradient_norm:.7g} on {self.processes} processes and "
                f"{one.gradient_norm:.7g} on one." + self._ratio(one.gradient_norm, launched.gradient_norm)
            )
        return faults

    def lines(self) -> list[str]:
        """The table for the terminal."""
        what = f"{format_length(self.length)} tokens a row, {self.dtype}"
        rows = [("", "one process", f"{self.processes} processes")]
        for name, key in (("loss", "loss"), ("gradient norm", "gradient_norm")):
            rows.append((name, f"{getattr(self.one, key):.7g}", f"{getattr(self.launched, key):.7g}"))
        rows.append(("tokens counted", f"{self.one.counted:,}", f"{self.launched.counted:,}"))
        rows.append(("tokens a device", f"{self.length:,}", f"{self.device_tokens:,}"))
        return [f"parallel check, {what}", *(f"{a:<16}{b:>16}{c:>16}" for a, b, c in rows)]

    def _ratio(self, one: float, launched: float) -> str:
        """A sentence, with a space before it, where one number is a multiple of the other; else empty."""
        if not (math.isfinite(launched) and one > 0 and launched > 0):
            return ""
        for factor in {self.degree, self.processes} - {1}:
            if math.isclose(launched / one, factor, rel_tol=0.02):
                return f" That is {factor} times too much: summed over devices where it should be averaged."
            if math.isclose(one / launched, factor, rel_tol=0.02):
                return f" That is {factor} times too little: divided by the devices once too often."
        return ""


def check_parallel(trainer: Trainer, *, loss: Loss | None = None, length: int = SHORT) -> Preflight:
    """Trains one step on short rows as launched, and on one process; raises ParallelError where they differ.

    The trainer is spent afterwards: its settings are changed, and its data. Nothing is saved. `loss`: that of
    the trainer; none: the mean cross entropy of the next tokens. `length`: rows are cut to it. All processes
    must call this.
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
        one = _on_one_process(trainer, collator, loss or next_token_loss)
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


def next_token_loss(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy of the next tokens, summed, and the count of labels that are not -100."""
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "shift_labels")}
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    total = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total, (labels != IGNORED).sum()


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
    groups = trainer.accelerator.num_processes // degree
    count = groups * args.per_device_train_batch_size * args.gradient_accumulation_steps
    trainer.train_dataset = _first_rows(trainer.train_dataset, count)
    collator = _Shortened(trainer.data_collator, length, 2 * degree)
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


def _on_one_process(trainer: Trainer, collator: _Shortened, loss: Loss) -> Numbers:
    """Loss and gradient norm of all rows of the step, whole, in the plain model on this device."""
    model, device = cast("PreTrainedModel", trainer.model), trainer.accelerator.device
    rows: Any = trainer.train_dataset
    size = trainer.args.per_device_train_batch_size
    summed, counted = 0.0, 0
    with _plain(model, device):
        for start in range(0, len(rows), size):
            batch = {key: value.to(device) for key, value in collator(rows[start : start + size]).items()}
            with trainer.accelerator.autocast():
                total, count = loss(model, batch)
            total.backward()
            summed += float(total.detach())
            counted += int(count)
        norms = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
    norm = float(torch.stack(norms).norm())
    return Numbers(loss=summed / max(counted, 1), gradient_norm=norm / max(counted, 1), counted=counted)


@contextmanager
def _plain(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """The model on `device`, in training, with torch's own attention; as it was, and without gradients, "
    "after."""
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
    widest = counted = 0

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal widest, counted
        widest = max(widest, kwargs["input_ids"].shape[1])
        labels = kwargs.get("shift_labels")
        labels = kwargs["labels"][:, 1:] if labels is None else labels
        counted += int((labels != IGNORED).sum())

    assert trainer.model is not None
    handle = trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        trainer.train()
    finally:
        handle.remove()
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    device = trainer.accelerator.device
    most, total = torch.tensor(widest, device=device), torch.tensor(counted, device=device)
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


def _near(expected: float, found: float, tolerance: float) -> bool:
    return math.isfinite(found) and math.isclose(expected, found, rel_tol=tolerance)
