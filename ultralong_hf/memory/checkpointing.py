"""Which layers are recomputed in the backward, what they keep, and where that lies meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from ultralong_hf.memory.attention_ops import keep_attention
from ultralong_hf.memory.storage import DiskStorage, HostStorage, Storage

Place = Literal["device", "host", "disk"]
Recompute = Literal["all", "all_but_attention"]


def make_storage(place: Place, folder: str | None, device: torch.device) -> Storage | None:
    """The storage for `place`; none where activations stay on the device, as `host` means on a CPU."""
    if place == "disk":
        return DiskStorage(folder)
    if place == "host" and device.type != "cpu":
        return HostStorage(device)
    return None


def set_checkpointing(
    model: PreTrainedModel, *, every: int = 1, recompute: Recompute = "all", storage: Storage | None = None
) -> None:
    """What `model.activation_checkpointing_enable`, which a Trainer calls, does from now on.

    Every `every`-th layer is checkpointed by torch.utils.checkpoint, without reentrance, the first included;
    the others keep their activations. `storage`: takes the inputs of checkpointed layers and, with
    `all_but_attention`, what attention gave. Arguments of the caller for torch's checkpoint are kept.
    """
    new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    name = new if hasattr(model, new) else old  # as transformers 5.17 has it
    enable = getattr(type(model), name)

    def set_up(
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        kwargs = {**(activation_checkpointing_kwargs or {}), "use_reentrant": False}
        if recompute == "all_but_attention":
            kwargs["context_fn"] = keep_attention(storage, model.config._attn_implementation)
        enable(model, kwargs, every_n_layers=max(every, every_n_layers), offload=offload)
        if storage is not None:
            modules: Iterable[Any] = model.modules()
            for module in modules:
                if hasattr(module, "_gradient_checkpointing_func"):
                    module._gradient_checkpointing_func = _stored(
                        module._gradient_checkpointing_func, storage
                    )

    setattr(model, name, set_up)


def _stored(checkpoint: Callable[..., Any], storage: Storage) -> Callable[..., Any]:
    """`checkpoint` whose saved inputs lie in `storage`. The hooks do not reach into the layer."""

    def run(function: Callable[..., Any], *args: Any) -> Any:
        storage.begin_layer()
        with saved_tensors_hooks(storage.put, storage.get):
            return checkpoint(function, *args)

    return run
