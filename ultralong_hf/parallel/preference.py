"""Preference training with rows that are split: TRL's DPOTrainer, and our ORPO on TRL's loss.

Its loss is over whole sequences: a log-probability each, the reference model's too, and masks that TRL does
not split (dpo_trainer.py of TRL 1.16 ends in an error of sizes under context parallelism). So the trainer
keeps whole batches, and only what its models compute is split: their log-probabilities come back whole, on
every device, and the loss is TRL's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from transformers import Trainer
from trl import DPOTrainer

from ultralong_hf.errors import ParallelError
from ultralong_hf.parallel.calls import SplitCalls
from ultralong_hf.parallel.evaluation import RowGatherer
from ultralong_hf.parallel.groups import SequenceGroup
from ultralong_hf.parallel.wiring import HOOK

T = TypeVar("T")

WHOLE_BATCH_METHODS = "whole_batch_methods"
"""A trainer's attribute: names of its methods whose loss is over whole rows and calls the model by name."""


def split_preference(trainer: DPOTrainer, group: SequenceGroup, calls: SplitCalls) -> None:
    """From now on the trainer's policy and reference split rows, by `calls` of both.

    Each device's gradient is of its own tokens, times the devices that share them, so that the mean over all
    processes, which DDP and FSDP take, is the gradient of the whole. Raises ParallelError for reference
    log-probabilities that the trainer has computed in its construction, told of shared rows: it mixes
    them up.
    """
    told = trainer.args.parallelism_config or os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG") == "true"
    if told and "ref_chosen_logps" in (getattr(trainer.train_dataset, "column_names", None) or []):
        raise ParallelError(
            "this DPOTrainer was told of shared rows in its construction, and mixes up the log-probabilities "
            "that precompute_ref_log_probs computes there (TRL 1.16). Leave parallelism_config out of its "
            "arguments and its launch, since attach adds it, or use preference_trainer."
        )

    _keep_batches_whole(trainer, group)
    trainer.compute_loss = _split(trainer.compute_loss, calls)  # type: ignore[method-assign]
    trainer.compute_ref_log_probs = _split(trainer.compute_ref_log_probs, calls)  # type: ignore[method-assign]
    precompute, gather = trainer._precompute_ref_logps, RowGatherer(trainer.accelerator)

    def precompute_split(*args: Any, **kwargs: Any) -> Any:
        with gather.as_accelerators_own():
            return precompute(*args, **kwargs)

    trainer._precompute_ref_logps = precompute_split  # type: ignore[method-assign]
    trainer._tp_size *= group.size  # TRL's word for processes with the same batch, when it counts tokens


def split_whole_batches(trainer: Trainer, group: SequenceGroup, calls: SplitCalls) -> None:
    """From now on the trainer's WHOLE_BATCH_METHODS split rows in the calls of its model."""
    _keep_batches_whole(trainer, group)
    for name in getattr(trainer, WHOLE_BATCH_METHODS):
        setattr(trainer, name, _split(getattr(trainer, name), calls))


def _keep_batches_whole(trainer: Trainer, group: SequenceGroup) -> None:
    setattr(trainer, HOOK, lambda model, inputs: (group.attention, inputs))


def _split(method: Callable[..., T], calls: SplitCalls) -> Callable[..., T]:
    def split(*args: Any, **kwargs: Any) -> T:
        with calls.on():
            return method(*args, **kwargs)

    return split
