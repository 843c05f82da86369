"""What rows that are split over devices need, checked from plain values before a model is loaded.

Each `..._faults` returns sentences, one for each thing that is wrong, with what to change; `require` raises
them together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ultralong_hf.errors import ParallelError, ParallelSizeError
from ultralong_hf.footprint import model_shape
from ultralong_hf.parallel.sizes import Backend, Sizes, choose_sizes

_USE = "ACCELERATE_USE_PARALLELISM_CONFIG"
_PREFIX = "PARALLELISM_CONFIG_"

_MASKS_ROWS_APART = {
    "packing": "documents of a packed row must not see each other, which split rows cannot express",
    "eval_packing": "documents of a packed row must not see each other, which split rows cannot express",
    "padding_free": "samples of a flattened batch must not see each other, which split rows cannot express",
    "label_smoothing_factor": "labels are then shifted within each device's tokens",
    "neftune_noise_alpha": "its noise is scaled by the tokens of a row, of which each device sees a part",
}
"""Keys of TRL's configs that give wrong numbers, or none, where rows are split."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What the launcher left for this process. See `read_launch`."""

    parallelism_in_force: bool = False
    """Whether accelerate reads the sizes below; it drops them otherwise, without a word."""
    cp_size: int = 1
    sp_size: int = 1
    deepspeed: bool = False
    zero_stage: int | None = None
    """None: not DeepSpeed, or not a number."""
    fsdp_version: int | None = None
    """None: not FSDP, or the script says it."""
    cpu: bool = False
    """accelerate's distributed type is MULTI_CPU."""


def require(
    config: Any,
    *,
    length: int,
    world_size: int,
    launch: Launch | None = None,
    attention: str = "sdpa",
    settings: Mapping[str, Any] | None = None,
    mask_documents: bool = False,
    lengths_vary: bool = False,
    **wish: Any,
) -> Sizes:
    """The sizes for this model and launch, or a ParallelError with everything that stands against them.

    `config`: the model's. `attention`: its `attn_implementation`. `settings`: the stage's keys of TRL.
    `lengths_vary`: batches are padded to their longest sample, `length` is the longest there can be.
    `wish`: the other arguments of `choose_sizes`.
    """
    balance = balance_faults(config, settings.get("router_aux_loss_coef")) if settings is not None else []
    launch, settings = launch or Launch(), settings or {}
    if settings.get("deepspeed"):
        launch = replace(launch, deepspeed=True, zero_stage=_stage_of(settings["deepspeed"]))
    faults = launch_faults(launch)
    try:
        sizes = choose_sizes(model_shape(config), length=length, world_size=world_size, **wish)
    except ParallelSizeError as error:
        faults += error.faults
        faults += layer_faults(config)
        raise ParallelError(*faults) from None
    if sizes.degree > 1:
        faults += backend_faults(sizes, launch)
        faults += layer_faults(config) + balance
        faults += attention_faults(config, attention, sizes.backend)
        faults += settings_faults(settings, mask_documents=mask_documents)
        if lengths_vary:
            faults += padding_faults(settings.get("pad_to_multiple_of"), sizes.parts)
    if faults:
        raise ParallelError(*faults)
    return sizes


def read_launch(
    environment: Mapping[str, str], launcher: Sequence[str] | None = None, *, cpu: bool = False
) -> Launch:
    """What the environment of a process, and the words of the launcher that started it, say.

    `launcher`: none: the command line of the process that started this one. `accelerate launch` hands its
    `--parallelism_config_*` on only with `--use_parallelism_config` (accelerate 1.15, utils/launch.py), so
    that without it they stand in the launcher's words alone.
    """
    sizes = {name: _integer(environment.get(f"{_PREFIX}{name.upper()}")) for name in ("cp_size", "sp_size")}
    in_force = environment.get(_USE, "false").lower() == "true"
    if not in_force:
        launcher = _words_of_launcher() if launcher is None else launcher
        for name in sizes:
            sizes[name] = max(sizes[name], _integer(_option(launcher, f"--parallelism_config_{name}")))
    deepspeed = environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    version = environment.get("FSDP_VERSION") if environment.get("ACCELERATE_USE_FSDP") == "true" else None
    return Launch(
        parallelism_in_force=in_force,
        cp_size=sizes["cp_size"],
        sp_size=sizes["sp_size"],
        deepspeed=deepspeed,
        zero_stage=_zero_stage(environment) if deepspeed else None,
        fsdp_version=None if version is None else _integer(version),
        cpu=cpu,
    )


def launch_faults(launch: Launch) -> list[str]:
    """What is wrong whatever the recipe says."""
    faults = []
    for name, size in (("cp_size", launch.cp_size), ("sp_size", launch.sp_size)):
        if size > 1 and not launch.parallelism_in_force:
            faults.append(
                f"the launcher was given parallelism_config_{name} {size}, but accelerate drops it without "
                "--use_parallelism_config: every device would hold whole rows. Leave it out and set "
                f"parallel.size to {size} in the recipe."
            )
    if launch.cp_size > 1 and launch.sp_size > 1:
        faults.append(
            f"the launcher was given both cp_size {launch.cp_size} and sp_size {launch.sp_size}, which "
            "accelerate cannot combine. Leave both out and set parallel.backend to hybrid in the recipe."
        )
    return faults


def backend_faults(sizes: Sizes, launch: Launch) -> list[str]:
    """What in the launch does not go with the chosen backend and degree."""
    faults = []
    launched = launch.cp_size * launch.sp_size
    if launch.parallelism_in_force and launched not in (1, sizes.degree):
        faults.append(
            f"the launcher says that {launched} devices share a row, the recipe says {sizes.degree}. Leave "
            "--use_parallelism_config out of the launch: the recipe's parallel section stands for it."
        )
    if launch.cpu and sizes.ring > 1:
        faults.append(
            f"backend {sizes.backend} needs GPUs: torch has no ring around its attention for CPUs. Set "
            "parallel.backend to ulysses, or parallel.size to 1."
        )
    if sizes.backend == "deepspeed":
        faults += _deepspeed_faults(sizes, launch)
    elif launch.deepspeed:
        faults.append(
            f"backend {sizes.backend} needs FSDP2 or DDP, but this was launched with DeepSpeed. Launch "
            "without --use_deepspeed, or set parallel.backend to deepspeed."
        )
    if launch.fsdp_version == 1:
        faults.append(
            "rows are split under FSDP version 2 only, but this was launched with version 1. Launch with "
            "--fsdp_version 2."
        )
    return faults


def layer_faults(config: Any) -> list[str]:
    """Layers that causal attention over the whole row does not express: windows, chunks, recurrent states."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if not kinds and getattr(text, "sliding_window", None):  # Mistral, for one, has no layer_types
        kinds = {"sliding_attention"}
    if not kinds and getattr(text, "attention_chunk_size", None):
        kinds = {"chunked_attention"}
    found = [f"layers of {kind}" for kind in sorted(kinds - {"full_attention"})]
    if hasattr(text, "is_decoder") and hasattr(text, "add_cross_attention"):  # BERT's family
        found.append("the attention and the positions of an encoder")
    if hasattr(text, "keep_window_size"):  # Doge
        found.append("a mask of its own")
    if not found:
        return []
    return [
        f"the model {text.model_type} has {' and '.join(found)}. Split rows know causal attention over all "
        "tokens alone, so that it would train wrongly without a word. Use a model of full attention, or set "
        "parallel.size to 1."
    ]


def balance_faults(config: Any, coefficient: float | None) -> list[str]:
    """Experts' load-balancing loss, which is no sum over tokens; TRL adds it to every model that has one.

    `coefficient`: TRL's `router_aux_loss_coef`; none: the config's.
    """
    text = config.get_text_config()
    if coefficient is None:
        coefficient = getattr(text, "router_aux_loss_coef", 0.0)
    if not hasattr(text, "output_router_logits") or not coefficient:
        return []
    return [
        f"the experts of the model {text.model_type} have a balancing loss (router_aux_loss_coef "
        f"{coefficient:g}), which each device would compute from its own part of a row. Set "
        "router_aux_loss_coef to 0, or parallel.size to 1."
    ]


def attention_faults(config: Any, attention: str, backend: Backend) -> list[str]:
    """Attention that cannot run on split rows."""
    faults = []
    if attention in ("eager", "flex_attention"):
        faults.append(
            f"attention {attention} needs a mask of N x N or of blocks, which split rows do not have. Set "
            "model.attn_implementation to sdpa, flash_attention_2 or flash_attention_3."
        )
    elif backend in ("ring", "hybrid") and attention not in ("sdpa", "sdpa_cudnn"):
        faults.append(
            f"backend {backend} has torch's ring, which goes around sdpa alone: {attention} would attend "
            "within each device's part. Set parallel.attention to auto or sdpa, or parallel.backend to "
            "ulysses."
        )
    model_class = _model_class(config)
    if model_class is not None and not model_class._supports_attention_backend:
        faults.append(
            f"{model_class.__name__} computes attention in its own layers, not through transformers' "
            "attention registry, so that it cannot be split. Set parallel.size to 1."
        )
    return faults


def settings_faults(settings: Mapping[str, Any], *, mask_documents: bool = False) -> list[str]:
    """Keys of a stage that mask parts of a row from each other, or change the loss at the edges of parts."""
    faults = [
        f"{key} cannot be used with rows that are split over devices: {why}. Leave it out, or set "
        "parallel.size to 1."
        for key, why in _MASKS_ROWS_APART.items()
        if settings.get(key)
    ]
    loader = settings.get("accelerator_config")
    dispatches = loader.get("dispatch_batches") if isinstance(loader, Mapping) else None
    if dispatches or getattr(loader, "dispatch_batches", None):
        faults.append(
            "accelerator_config.dispatch_batches cannot be used with rows that are split over devices: "
            "accelerate then gives the devices of a row different ones. Leave it out."
        )
    if mask_documents:
        faults.append(
            "data.mask_documents cannot be used with rows that are split over devices: each would see "
            "its own part of a document alone. Set it to false, or parallel.size to 1."
        )
    return faults


def padding_faults(pad_to_multiple_of: int | None, parts: int) -> list[str]:
    """Batches of mixed lengths split evenly only if they are padded so."""
    if pad_to_multiple_of and pad_to_multiple_of % parts == 0:
        return []
    found = f"pad_to_multiple_of is {pad_to_multiple_of}" if pad_to_multiple_of else "nothing pads them so"
    return [
        f"samples of mixed lengths must be padded to a multiple of {parts} to be split, but {found}. "
        f"Set pad_to_multiple_of to {parts}."
    ]


def _deepspeed_faults(sizes: Sizes, launch: Launch) -> list[str]:
    if not launch.deepspeed:
        return [
            "backend deepspeed needs a launch with --use_deepspeed --zero_stage 3. Launch so, or set "
            "parallel.backend to ulysses, which needs no DeepSpeed."
        ]
    if launch.zero_stage is None or launch.zero_stage >= 3:
        return []
    return [
        f"backend deepspeed at ZeRO stage {launch.zero_stage} makes gradients {sizes.degree} times too large "
        "(DeepSpeed 0.19.8, its issue 5248). Launch with --zero_stage 3, or set parallel.backend to ulysses."
    ]


def _zero_stage(environment: Mapping[str, str]) -> int | None:
    """Of the config file where there is one, as accelerate has it; 2 is accelerate's default."""
    path = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path == "none":
        return _integer(environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE"), 2)
    return _stage_of(path)


def _stage_of(deepspeed: str | Mapping[str, Any]) -> int | None:
    """The ZeRO stage of a DeepSpeed config, or of a file that holds one; DeepSpeed's default is 0."""
    if isinstance(deepspeed, str):
        deepspeed = json.loads(Path(deepspeed).read_text(encoding="utf-8"))
    assert isinstance(deepspeed, Mapping)
    stage = deepspeed.get("zero_optimization", {}).get("stage", 0)
    return stage if isinstance(stage, int) else None


def _words_of_launcher() -> list[str]:
    """accelerate and torchrun start the processes of a node from their own."""
    import psutil

    try:
        return psutil.Process(os.getppid()).cmdline()
    except psutil.Error:  # gone, or another user's
        return []


def _option(words: Sequence[str], name: str) -> str | None:
    """The value after `name` or `name=` among the words of a command line."""
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _integer(text: str | None, default: int = 1) -> int:
    return int(text) if text is not None and text.isdecimal() else default


def _model_class(config: Any) -> Any:
    """The causal language model of a config; None for a config that transformers has no such model for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        return None
    return found[0] if isinstance(found, tuple) else found
