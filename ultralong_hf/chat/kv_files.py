"""A document's KV cache as a file: safetensors, with a header that says what it belongs to."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ultralong_hf.chat.kv_pool import Held
from ultralong_hf.errors import ChatError
from ultralong_hf.evaluation.engines.kv_cache import RoomyLayer

FORMAT = "ultralong-kv-1"
_TOLD = {
    "model": "another model",
    "dtype": "the model in another precision",
    "tokenizer": "another tokenizer",
    "template": "another chat template or prompt style",
    "documents": "other documents, or the same in another order",
    "ids": "other tokens",
}


def save(held: Held, tokens: int, binding: Mapping[str, str], path: str | Path) -> Path:
    """The first `tokens` of a cache; whole or not at all. Raises ChatError."""
    path = Path(path)
    tensors = {}
    for index, layer in enumerate(held.cache.layers):
        if not isinstance(layer, RoomyLayer):
            raise ChatError(
                "This model has layers that keep no keys (a sliding window, or linear attention): "
                "its caches cannot be saved."
            )
        for name, states in zip(("keys", "values"), layer.held(0, tokens), strict=True):
            tensors[f"layers.{index}.{name}"] = states.cpu().contiguous()
    header = {
        **binding,
        "format": FORMAT,
        "tokens": str(tokens),
        "ids": _digest(held.ids[:tokens]),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
        os.close(descriptor)
        try:
            save_file(tensors, partial, metadata=header)
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise ChatError(f"The cache cannot be written to {path.name}: {error.strerror}.") from error
    return path


def open_checked(path: str | Path, binding: Mapping[str, str], ids: np.ndarray) -> Any:
    """The opened file. Raises ChatError unless it is of this model, tokenizer, template and documents."""
    name = Path(path).name
    try:
        file = safe_open(str(path), framework="pt")
        header = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ChatError(
            f"{name} cannot be read as a saved cache: it is missing, damaged or no such file."
        ) from error
    if header.get("format") != FORMAT:
        raise ChatError(f"{name} is no saved cache of this program.")
    for key, value in {**binding, "ids": _digest(ids)}.items():
        if header.get(key) != value:
            raise ChatError(f"{name} was saved for {_TOLD[key]}: it is not used here. Ask to read them anew.")
    return file


def fill(file: Any, held: Held, model: PreTrainedModel) -> None:
    """Raises ChatError where shapes are not those of the model."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for index, layer in enumerate(held.cache.layers):
        states = []
        for name in ("keys", "values"):
            try:
                tensor = file.get_tensor(f"layers.{index}.{name}")
            except SafetensorError as error:
                raise ChatError("The saved cache lacks layers that this model has.") from error
            if tensor.ndim != 3 or tensor.shape[::2] != (heads, size) or tensor.shape[1] > held.capacity:
                raise ChatError("The saved cache has other shapes than this model's.")
            states.append(tensor)
        if not isinstance(layer, RoomyLayer):
            raise ChatError("This model's caches cannot be loaded: it has layers that keep no keys.")
        layer.fill(states[0], states[1], _layer_device(model, index))


def _layer_device(model: PreTrainedModel, index: int) -> torch.device:
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None or index >= len(layers):
        return model.device
    return next(iter(layers[index].parameters())).device


def _digest(ids: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i4").tobytes()).hexdigest()
