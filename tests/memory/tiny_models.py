"""A small Llama, and what a step of it needs and gives."""

from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 64


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.1,  # so that attention counts
        "attn_implementation": "sdpa",
    }
    return LlamaForCausalLM(LlamaConfig(**{**values, **changes})).train()


def tokens(length: int = 96, rows: int = 1) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, ids: torch.Tensor, **autocast: Any) -> dict[str, torch.Tensor]:
    """The loss and all gradients of one forward and backward."""
    model.zero_grad()
    with torch.autocast("cpu", **{"enabled": False, **autocast}):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach(), **grads}


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Of any loss or gradient, relative to its norm."""
    assert ours.keys() == theirs.keys()
    assert len(ours) > 1
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


class SavedBytes(saved_tensors_hooks):
    """Within a forward: bytes of the tensors that it keeps for the backward, each storage once."""

    def __init__(self) -> None:
        self._storages: dict[int, tuple[torch.Tensor, int]] = {}
        self._ignored: set[int] = set()
        super().__init__(self._pack, lambda tensor: tensor)

    def ignoring(self, model: nn.Module) -> "SavedBytes":
        """Weights are there anyway."""
        self._ignored = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        return self

    def __enter__(self) -> "SavedBytes":
        super().__enter__()
        return self

    @property
    def total(self) -> int:
        return sum(size for _, size in self._storages.values())

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._ignored:
            self._storages[storage.data_ptr()] = (
                tensor,
                storage.nbytes(),
            )  # kept, so that no address is reused
        return tensor
