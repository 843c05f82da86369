"""LoRA with trainable embeddings and norms, and the whole model that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ultralong_hf.errors import ModelError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from ultralong_hf.recipes.schema import LoraSection

ADAPTER = "default"
"""The name that PEFT gives to the one adapter."""


def adapter_config(model: PreTrainedModel, section: LoraSection) -> LoraConfig:
    """PEFT's settings: adapters beside frozen weights; embeddings and norms trained in full if so set.

    LoRA alone does not reach the perplexity of full training at long context; with embeddings and norms it
    does (LongLoRA, arXiv 2309.12307, section 3.3 and table 2). They are PEFT's `modules_to_save`: a copy
    trains, the original stays. Tied embeddings stay tied. Raises ModelError for modules that the model lacks.
    """
    from peft import LoraConfig

    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    wanted = [] if isinstance(section.target_modules, str) else section.target_modules
    absent = [name for name in wanted if name.rpartition(".")[2] not in names]
    if absent:
        raise ModelError(
            f"memory.lora.target_modules: {type(model).__name__} has no module {' and none '.join(absent)}."
        )
    whole = embeddings_and_norms(model) if section.trainable_embeddings_and_norms else None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=section.target_modules,
        modules_to_save=whole,
        ensure_weight_tying=bool(whole) and has_tied_embeddings(model),
    )


def embeddings_and_norms(model: PreTrainedModel) -> list[str]:
    """The last parts of their names, such as embed_tokens, input_layernorm and norm."""
    embedding = model.get_input_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if module is embedding or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
    }
    return sorted(names)


def has_tied_embeddings(model: PreTrainedModel) -> bool:
    """Whether the LM head is the embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def merged_weights(model: PeftModel, state: Mapping[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """The weights of the model that base and adapters make, under the base's names and in its dtypes.

    `state`: the whole state dict where the model's own holds parts alone, as under FSDP2. The sums are made
    in float32 on the host; the model is not touched, as PEFT's own merge would.
    """
    state = model.state_dict() if state is None else state
    scaling = {name: module.scaling[ADAPTER] for name, module in _adapted(model).items()}
    merged: dict[str, torch.Tensor] = {}
    prefix = "base_model.model."
    for key, value in state.items():
        name, _, weight = key.rpartition(".")
        if name.endswith(".original_module") or ".lora_" in key:
            continue
        if name.endswith(f".modules_to_save.{ADAPTER}"):
            name = name.removesuffix(f".modules_to_save.{ADAPTER}")
            original = state[f"{name}.original_module.{weight}"]
            value = value.detach().to("cpu", original.dtype)
        elif name.endswith(".base_layer"):
            name = name.removesuffix(".base_layer")
            if weight == "weight":
                low, high = (state[f"{name}.lora_{part}.{ADAPTER}.weight"].detach().cpu() for part in "AB")
                delta = scaling[name] * (high.float() @ low.float())
                value = (value.detach().cpu().float() + delta).to(value.dtype)
        merged[f"{name}.{weight}".removeprefix(prefix)] = value.detach().cpu()
    return merged


def save_merged(model: PeftModel, folder: str, state: Mapping[str, Any] | None = None) -> None:
    """A folder of plain transformers: config and merged weights. See `merged_weights`."""
    base: Any = model.get_base_model()
    base.save_pretrained(folder, state_dict=merged_weights(model, state))


def _adapted(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
