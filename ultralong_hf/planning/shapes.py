"""Shapes of models known without their files: those that the presets name, and the published runs'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralong_hf.errors import ModelError
from ultralong_hf.footprint import ModelShape, model_shape
from ultralong_hf.lab.names import model_location

_LLAMA_8B: dict[str, Any] = {
    "heads": 32,
    "kv_heads": 8,
    "head_size": 128,
    "layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
_QWEN3: dict[str, Any] = {"kv_heads": 8, "head_size": 128, "vocab_size": 151936, "query_key_norms": True}

KNOWN: dict[str, ModelShape] = {
    "meta-llama/Llama-3.1-8B": ModelShape(**_LLAMA_8B),
    "meta-llama/Llama-3.1-8B-Instruct": ModelShape(**_LLAMA_8B),
    "Qwen/Qwen3-0.6B": ModelShape(
        **_QWEN3, heads=16, layers=28, hidden_size=1024, intermediate_size=3072, tied_embeddings=True
    ),
    "Qwen/Qwen3-8B": ModelShape(**_QWEN3, heads=32, layers=36, hidden_size=4096, intermediate_size=12288),
    "Qwen/Qwen3-32B": ModelShape(**_QWEN3, heads=64, layers=64, hidden_size=5120, intermediate_size=25600),
    "Qwen/Qwen3-30B-A3B": ModelShape(
        **{**_QWEN3, "kv_heads": 4},
        heads=32,
        layers=48,
        hidden_size=2048,
        intermediate_size=6144,
        experts=128,
        experts_per_token=8,
        expert_size=768,
    ),
}
"""Hub id -> shape, as in the models' own config.json. Every other model is read from its config."""


def read_shape(model: Any, *, trust_remote_code: bool = False) -> tuple[str, ModelShape, list[str]]:
    """Name, shape, and what is worth a note, of a model folder, config.json, Hub id, config or mapping.

    An id of the table needs no file and no network. Raises ModelError for what cannot be read.
    """
    if isinstance(model, ModelShape):
        return "a shape", model, []
    if isinstance(model, Mapping):
        model = _config_of(dict(model))
    if hasattr(model, "get_text_config"):
        return getattr(model, "name_or_path", "") or model.model_type, *_counted(model)
    name = str(model)
    if name in KNOWN and not Path(name).exists():
        return name, KNOWN[name], []
    return name, *_counted(_load(model_location(name), trust_remote_code))


def _load(name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    path = Path(name)
    if path.name == "config.json" and path.is_file():
        path = path.parent
    try:
        return AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        known = ", ".join(KNOWN)
        raise ModelError(
            f"{name}: no config of a model can be read there: {str(error).strip().splitlines()[0]} Give a "
            f"folder with a config.json, or one of {known}."
        ) from error


def _config_of(values: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    kind = values.pop("model_type", None)
    try:
        return AutoConfig.for_model(kind, **values)
    except (ValueError, TypeError) as error:
        raise ModelError(f"the mapping is no config of a model: {error}.") from error


def _counted(config: Any) -> tuple[ModelShape, list[str]]:
    """The shape, and notes: how far its weights are from those of the model class, what is estimated."""
    shape = model_shape(config)
    notes = []
    exact = _count(config)
    if exact is None:
        notes.append("transformers has no causal model for this config: its weights are counted as Llama's.")
    elif abs(exact - shape.parameters) > 0.01 * exact:
        notes.append(
            f"the model has {exact / 1e9:.2f}B weights, the formula of gated MLPs says "
            f"{shape.parameters / 1e9:.2f}B: its layers are others, so that figures of this plan are rough."
        )
    return shape, notes


def _count(config: Any) -> int | None:
    """Weights of the model class, built without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, TypeError, AttributeError, ImportError, KeyError):
        return None
    return sum(parameter.numel() for parameter in model.parameters())
