"""A recipe's sections -> how a step of a stage is trained, as plain numbers."""

from __future__ import annotations

from typing import Any

from ultralong_hf.footprint import ModelShape, Setup
from ultralong_hf.recipes.schema import LoraSection, MemorySection, ModelSection

TILES_BEFORE_AUTO = 4
"""`tiled_mlp: auto` begins above so many tiles of a device's row (memory/tiling.py)."""

LEAST_TILE = 1024
CPU_TILE, CPU_WIDTH = 512, 2048
"""Tokens and entries of the vocabulary that the LM head takes at once on a CPU (memory/lm_head.py)."""
GPU_TILE, GPU_WIDTH = 4096, 32_768
"""TRL 1.16: kernels/chunked_logprob.py, trainer/utils.py."""

_STATE_BYTES = {"sgd": 0, "adafactor": 0, "adagrad": 4, "lion_32bit": 4}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}


def stage_setup(
    shape: ModelShape,
    *,
    model: ModelSection,
    memory: MemorySection,
    settings: dict[str, Any],
    length: int,
    processes: int = 1,
    device: str = "gpu",
    rotation: Any = "allgather",
    default_rows: int = 8,
) -> Setup:
    """The setup of one stage before its sizes are chosen: rows are whole, weights in one piece.

    `settings`: the stage's keys of TRL. `default_rows`: transformers' batch size. `device`: gpu or cpu.
    """
    precision = _precision(model, memory, settings, processes, device)
    trained, frozen, adapter_bytes = (None, 0, 0)
    if memory.lora is not None:
        trained, frozen, adapter_bytes = _lora(shape, memory.lora, precision["value_bytes"])
        precision["weight_bytes"] = 4
    on_cpu = device == "cpu"
    tile = _tile(shape, memory)
    return Setup(
        length=length,
        rows=int(settings.get("per_device_train_batch_size", default_rows)),
        rotation=rotation,
        device="cpu" if on_cpu else "gpu",
        **precision,
        state_bytes=_state_bytes(memory, settings, precision["weight_bytes"]),
        trained=trained,
        frozen=frozen,
        adapter_bytes=adapter_bytes,
        accumulates=int(settings.get("gradient_accumulation_steps", 1)) > 1,
        liger=model.liger_kernels,
        tile=tile,
        tile_above=TILES_BEFORE_AUTO * tile if tile and memory.tiled_mlp == "auto" else 0,
        whole_logits=memory.lm_head == "whole",
        lm_head_tile=memory.lm_head_tile or (CPU_TILE if on_cpu else GPU_TILE),
        lm_head_width=CPU_WIDTH if on_cpu else GPU_WIDTH,
        checkpoint_every=_checkpoint_every(memory, settings),
        storage=_storage(memory, settings),
        keeps_attention=memory.recompute == "all_but_attention" or _kwargs(settings).get("selective") is True,
        offload_optimizer=memory.offload_optimizer,
        offload_parameters=memory.offload_parameters,
    )


def _precision(
    model: ModelSection, memory: MemorySection, settings: dict[str, Any], processes: int, device: str
) -> dict[str, Any]:
    """Bytes of weights and activations, and how weights are spread."""
    half = settings.get("bf16", not settings.get("fp16", False) and not settings.get("use_cpu", False))
    half = bool(half) or bool(settings.get("fp16"))
    loaded = _BYTES[model.dtype]
    if processes == 1 and (device == "cpu" or not memory.offload_parameters):
        sharding = "none"
    elif device == "cpu" or settings.get("fsdp") is False:
        sharding = "ddp"
    else:
        sharding = "fsdp"
    if not half:
        weight = value = stream = loaded
    elif sharding == "fsdp":  # accelerate keeps trained weights in float32 (utils/fsdp_utils.py)
        weight, value, stream = 4, 2, 2
    elif memory.master_weights == "float32" or loaded == 4:
        weight, value, stream = 4, 2, 4
    else:
        weight, value, stream = 2, 2, 2
    return {
        "sharding": sharding,
        "weight_bytes": weight,
        "frozen_bytes": loaded,
        "value_bytes": value,
        "stream_bytes": stream,
    }


def _state_bytes(memory: MemorySection, settings: dict[str, Any], weight_bytes: int) -> float:
    name = memory.optimizer or str(settings.get("optim", "adamw_torch_fused"))
    if "8bit" in name or ("8bit" in str(settings.get("optim", "")) and memory.optimizer is None):
        return 2 + 2 * 4 / 256  # two bytes, and a float32 for each of their blocks of 256
    return _STATE_BYTES.get(name, 2 * weight_bytes)


def _lora(shape: ModelShape, lora: LoraSection, value_bytes: int) -> tuple[int, int, int]:
    """Weights that train, weights that do not, and bytes that a token takes more in a layer."""
    size, queries, keys = shape.hidden_size, shape.query_size, shape.kv_size
    width = shape.mlp_width
    sizes = {
        "q_proj": (size, queries),
        "k_proj": (size, keys),
        "v_proj": (size, keys),
        "o_proj": (queries, size),
        "gate_proj": (size, width),
        "up_proj": (size, width),
        "down_proj": (width, size),
    }
    names = list(sizes) if lora.target_modules == "all-linear" else lora.target_modules
    adapted = [sizes[name] for name in names if name in sizes]
    trained = shape.layers * lora.rank * sum(a + b for a, b in adapted)
    if lora.trainable_embeddings_and_norms:
        trained += shape.embedding_parameters + (2 * shape.layers + 1) * size
    return trained, shape.parameters, value_bytes * lora.rank * len(adapted)


def _tile(shape: ModelShape, memory: MemorySection) -> int | None:
    if memory.tiled_mlp is False:
        return None
    return memory.mlp_tile or max(shape.hidden_size, LEAST_TILE)


def _kwargs(settings: dict[str, Any]) -> dict[str, Any]:
    for key in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        if isinstance(settings.get(key), dict):
            return dict(settings[key])
    return {}


def _checkpoint_every(memory: MemorySection, settings: dict[str, Any]) -> int:
    on = settings.get("activation_checkpointing", settings.get("gradient_checkpointing", True))
    if not on:
        return 0
    return max(memory.checkpoint_every, int(_kwargs(settings).get("every_n_layers", 1)))


def _storage(memory: MemorySection, settings: dict[str, Any]) -> Any:
    offloads = _kwargs(settings).get("offload") or settings.get("activation_offloading")
    if memory.checkpoint_storage == "device" and offloads:
        return "host"
    return memory.checkpoint_storage
