"""Evaluation and prediction with rows that are split, in any TRL or transformers trainer.

No trainer of TRL 1.16 splits rows there, and a transformers 5.23 Trainer returns each row as often as devices
share it. Here each device computes its part of a row, and every metric and prediction is that of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import recursively_apply
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from ultralong_hf.data.collator import IGNORED
from ultralong_hf.parallel.calls import SplitCalls
from ultralong_hf.parallel.wiring import HOOK


def split_evaluation(trainer: Trainer, calls: SplitCalls) -> None:
    """From now on `evaluate` and `predict` of the trainer split rows, by `calls` of its models."""
    predict, loop = trainer.prediction_step, trainer.evaluation_loop
    own_loss = type(trainer).compute_loss is not Trainer.compute_loss
    gather = RowGatherer(trainer.accelerator)

    def prediction_step(
        model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        wide = own_loss or not prediction_loss_only
        with _whole_batches(trainer), gather.as_accelerators_own(), calls.on(wide=wide):
            return predict(model, gather.without_repeats(inputs), prediction_loss_only, *args, **kwargs)

    def evaluation_loop(*args: Any, **kwargs: Any) -> Any:
        trainer.gather_function = gather
        shard_before_training(trainer)
        output = loop(*args, **kwargs)
        let_training_wrap(trainer)
        return output

    trainer.prediction_step = prediction_step  # type: ignore[method-assign]
    trainer.evaluation_loop = evaluation_loop  # type: ignore[method-assign]


def shard_before_training(trainer: Trainer) -> None:
    """Shards a model under FSDP2 that has not trained yet; accelerate 1.15 wants an optimizer with it."""
    model = trainer.model
    if not trainer.accelerator.is_fsdp2 or trainer.is_in_train or isinstance(model, FSDPModule):
        return
    assert isinstance(model, torch.nn.Module)
    stand_in = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer.model = trainer.model_wrapped = trainer.accelerator.prepare(model, stand_in)[0]


def let_training_wrap(trainer: Trainer) -> None:
    """After an evaluation before training: DDP is still to wrap the model.

    transformers 5.23 has accelerate 1.15 prepare it for evaluation, without DDP, and accelerate then takes it
    for prepared: each process would train on its own rows, without a word.
    """
    if not trainer.is_in_train and trainer.model_wrapped is trainer.model and not trainer.is_fsdp_enabled:
        trainer.model._is_accelerate_prepared = False  # type: ignore[assignment]


class RowGatherer:
    """Like `accelerator.gather_for_metrics`, but of devices that share rows only one is asked.

    Rows come in the order of the dataset, without those that fill up its last batch. Numbers come one a
    data-parallel group.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        names = accelerator.parallelism_config.dp_dim_names
        # the processes that have other rows than this one; the last group's are neighbours
        self._groups = [accelerator.torch_device_mesh[name].get_group() for name in names]

    def __call__(self, data: Any) -> Any:
        return recursively_apply(self._gather, data)

    def without_repeats(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch, in which rows that only fill up the dataset's last batch count for nothing."""
        kept, labels = self._rows_of_last_batch(), inputs.get("labels")
        if not self._groups or kept is None or not isinstance(labels, torch.Tensor):
            return inputs
        place = 0
        for group in self._groups:
            place = place * dist.get_world_size(group) + dist.get_rank(group)
        number = place * len(labels) + torch.arange(len(labels), device=labels.device)
        repeated = (number >= kept).view(-1, *[1] * (labels.dim() - 1))
        return {**inputs, "labels": labels.masked_fill(repeated, IGNORED)}

    def as_accelerators_own(self) -> AbstractContextManager[None]:
        """Within, this is `accelerator.gather_for_metrics`."""
        return _replaced(self._accelerator, "gather_for_metrics", self)

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        mine = (tensor if tensor.dim() else tensor[None]).contiguous()
        for group in reversed(self._groups):
            parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
            dist.all_gather(parts, mine, group=group)
            mine = torch.cat(parts)
        return mine[: self._rows_of_last_batch()] if tensor.dim() else mine

    def _rows_of_last_batch(self) -> int | None:
        """Rows of the dataset in the last batch of all groups, where they do not fill it; else none."""
        state = self._accelerator.gradient_state
        return state.remainder if state.end_of_dataloader and state.remainder > 0 else None


@contextmanager
def _whole_batches(trainer: Trainer) -> Iterator[None]:
    """Within, the trainer hands whole batches to its model, and averages each over its own tokens.

    So does one process. The loop then averages the batches' losses over rows.
    """
    whole = _replaced(trainer, HOOK, lambda model, inputs: (nullcontext, inputs))
    with whole, _replaced(trainer.args, "average_tokens_across_devices", False):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within, attribute `name` of the instance `owner` is `value`."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
