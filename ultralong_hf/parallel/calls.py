"""Calls with whole batches on models that split rows: each device computes its part, all get whole outputs.

The code around the call, such as a loss over whole sequences, then runs as in one process, on every device.

Letters: `B` rows, `N` tokens of a row (global), `S` tokens of this device, `P` devices that share a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers.utils import ModelOutput
from trl.trainer.utils import FusedCausalLMOutput

from ultralong_hf.data.collator import IGNORED
from ultralong_hf.errors import BatchError
from ultralong_hf.parallel.groups import SequenceGroup
from ultralong_hf.parallel.ulysses import rows_are_split

_LABELS = ("labels", "shift_labels")


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What a call was given."""

    rows: int
    length: int
    shifted: bool
    """Labels came as `shift_labels`, so that outputs a token are [B, N], not [B, N - 1]."""
    num_items: Any
    """Tokens over which the caller wants the loss to be averaged, if it says."""


class SplitCalls:
    """While `on`, calls of `models` with whole batches are split over `group`."""

    def __init__(self, group: SequenceGroup, *models: torch.nn.Module) -> None:
        self.group = group
        self._active: list[bool] = []
        self._calls: list[_Call] = []
        for model in models:
            model.register_forward_pre_hook(self._split, with_kwargs=True)
            model.register_forward_hook(self._join)

    @contextmanager
    def on(self, *, wide: bool = True) -> Iterator[None]:
        """`wide`: outputs of more than a number a token, such as logits, are made whole too."""
        self._active.append(wide)
        try:
            if rows_are_split():  # a training step, which keeps attention so until its backward is done
                yield
            else:
                with self.group.attention():
                    yield
        finally:
            self._active.pop()
            self._calls.clear()

    def _split(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self._active:
            return None
        if args or not isinstance(kwargs.get("input_ids"), torch.Tensor):
            raise BatchError(f"the model was called without input_ids by name, only {sorted(kwargs)}.")
        rows, length = kwargs["input_ids"].shape
        parts = self.group.size * (2 if self.group.layout == "head_tail" else 1)
        batch = pad_rows(kwargs, -length % parts)
        if "num_items_in_batch" not in batch and any(batch.get(key) is not None for key in _LABELS):
            # as Trainer counts them: an equal share for each device
            batch["num_items_in_batch"] = count_labels(kwargs) / self.group.size
        call = _Call(
            rows=rows,
            length=length,
            shifted=kwargs.get("shift_labels") is not None,
            num_items=kwargs.get("num_items_in_batch"),
        )
        self._calls.append(call)
        self.group.check_same(kwargs["input_ids"])
        return args, {**self.group.shard(batch), "use_cache": False}

    def _join(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        if not self._active:
            return None
        call = self._calls.pop()
        if isinstance(output, FusedCausalLMOutput):
            return self._whole_scores(output, call)
        assert isinstance(output, ModelOutput)
        whole = {
            key: self._mean(value) if key == "loss" else self._whole(value, call)
            for key, value in output.items()
        }
        return type(output)(**whole)

    def _whole_scores(self, output: FusedCausalLMOutput, call: _Call) -> FusedCausalLMOutput:
        """All fields of TRL's fused LM head in one exchange; gradients flow back to the parts."""
        fields = {
            key: value
            for key, value in output.items()
            if isinstance(value, torch.Tensor) and value.dim() == 2
        }
        together = torch.stack([value.float() for value in fields.values()], dim=2)
        length = call.length if call.shifted else call.length - 1
        columns = self.group.gather(together)[:, :length].unbind(2)
        whole = {
            key: column.to(value.dtype, copy=True)
            for (key, value), column in zip(fields.items(), columns, strict=True)
        }
        counted = whole["label_mask"].sum().clamp(min=1) if call.num_items is None else call.num_items
        loss = -whole["log_probs"].sum() / counted
        return FusedCausalLMOutput(loss=loss, aux_loss=output.aux_loss, **whole)

    def _whole(self, value: Any, call: _Call) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(self._whole(item, call) for item in value)
        if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.shape[0] != call.rows:
            return value
        if value.dim() > 2 and not self._active[-1]:
            return value
        return self.group.gather(value)[:, : call.length]

    def _mean(self, loss: torch.Tensor | None) -> torch.Tensor | None:
        """Of the devices' losses; each is its sum over an equal share of the count. Without a gradient."""
        if loss is None:
            return None
        total = loss.detach().clone()
        dist.all_reduce(total, group=self.group.group)
        return total / self.group.size


def pad_rows(inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """`count` positions at the end of every tensor [B, N] or [B, N, ...]: label -100, else 0.

    Under causal attention nothing before them sees them. Positions count on.
    """
    rows, length = inputs["input_ids"].shape
    padded = dict(inputs)
    for key, value in inputs.items():
        if count and isinstance(value, torch.Tensor) and tuple(value.shape[:2]) == (rows, length):
            fill = IGNORED if key in _LABELS else 0
            padded[key] = F.pad(value, (0, 0) * (value.dim() - 2) + (0, count), value=fill)
            if key == "position_ids":
                padded[key][:, length:] = torch.arange(length, length + count, device=value.device)
    return padded


def count_labels(inputs: Mapping[str, Any]) -> torch.Tensor:
    """Next tokens that count for the loss of whole rows; at least one."""
    shifted = inputs.get("shift_labels")
    targets = inputs["labels"][:, 1:] if shifted is None else shifted
    return (targets != IGNORED).sum().clamp(min=1)
