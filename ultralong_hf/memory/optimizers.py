"""Optimizers whose state takes less of the device; weights in float32 for those that train in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

OPTIM = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "torchao_8bit": "adamw_torch_8bit",
}
"""`memory.optimizer` -> transformers' `optim`."""

BITSANDBYTES = ("adamw_8bit", "paged_adamw", "paged_adamw_8bit")
PAGED = ("paged_adamw", "paged_adamw_8bit")

_HALVES = (torch.bfloat16, torch.float16)


def keep_master_weights(model: nn.Module) -> int:
    """Trained weights in half precision become float32; how many numbers those are.

    A step of 3e-5 is lost in a bfloat16 weight of 0.02, whose neighbours are 1.2e-4 away.
    """
    count = 0
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype in _HALVES:
            weight.data = weight.data.float()
            count += weight.numel()
    return count


class OptimizerOffload(TrainerCallback):
    """The optimizer's state lies in host memory but for its step.

    Then no activations are on the device, so that the state and they take the same place. FSDP2's shards are
    moved too. A state dict holds the state as ever.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        OffloadedState(getattr(optimizer, "optimizer", optimizer))


class OffloadedState:
    """Moves the state of `optimizer` to the host now and after each step, and back before it is used."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._hosts: dict[torch.Tensor, torch.Tensor] = {}
        self._away = False
        optimizer.register_step_pre_hook(lambda *_: self.fetch())
        optimizer.register_step_post_hook(lambda *_: self.put_away())
        optimizer.register_state_dict_pre_hook(lambda *_: self.fetch())
        self.put_away()

    def put_away(self) -> None:
        """Copies the state to the host, and frees its memory on the device. The tensors stay, empty."""
        if self._away:
            return
        for tensor in self._tensors():
            host = self._hosts.get(tensor)
            if host is None:
                host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type != "cpu")
                self._hosts[tensor] = host
            host.copy_(tensor, non_blocking=True)
            # on the same stream, so that nobody gets the memory before the copy is done
            tensor.untyped_storage().resize_(0)
        self._away = True

    def fetch(self) -> None:
        """The way back."""
        if not self._away:
            return
        for tensor, host in self._hosts.items():
            tensor.untyped_storage().resize_(host.nbytes)
            tensor.copy_(host, non_blocking=True)
        self._away = False

    def _tensors(self) -> list[torch.Tensor]:
        """Those as large as a weight; counters of steps stay."""
        values = [value for state in self._optimizer.state.values() for value in state.values()]
        tensors = [value.to_local() if isinstance(value, DTensor) else value for value in values]
        return [value for value in tensors if isinstance(value, torch.Tensor) and value.numel() > 1]
