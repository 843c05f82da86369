"""What an extension does, decided before anything is touched, and the config keys that say it.

`plan_stretch` checks the arguments against the present RoPE; `config_changes` turns the plan into keys of
transformers 5; `both_key_generations` adds those of transformers 4 to the dict of a config.json.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import RopeError
from ultralong_hf.lengths import format_length, parse_length
from ultralong_hf.rope.families import (
    FAMILIES,
    RECORD_KEY,
    STRETCHED_LAYERS,
    Family,
    PresentRope,
    read_rope,
    rope_section,
    sliding_window_of,
)
from ultralong_hf.rope.frequencies import (
    attention_temperature,
    check_method,
    check_ramp,
    inverse_frequencies,
    ntk_theta,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Keys beside max_position_embeddings by which configs give a window; vLLM takes the smallest of those present
# (vllm/transformers_utils/model_arch_config_convertor.py).
_OTHER_WINDOW_KEYS = (
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """An extension, checked. Lengths in tokens, betas in turns within `original_length`."""

    method: str
    scale: float
    original_length: int
    target_length: int
    theta: float
    rotary_dim: int
    beta_slow: float
    beta_fast: float
    attention_factor: float | None  # yarn's, where one was given in place of 0.1 ln s + 1
    exact_angles: bool
    notes: tuple[str, ...]  # what a user should know: whole sentences


def plan_stretch(
    config: PretrainedConfig,
    target_length: int | str,
    *,
    method: str = "yarn",
    scale: float | None = None,
    original_length: int | str | None = None,
    beta_slow: float = 1.0,
    beta_fast: float = 4.0,
    attention_factor: float | None = None,
    exact_angles: bool = False,
) -> Stretch:
    """The extension of `config` to `target_length`; the config is only read. See `extend_context`.

    Raises RopeError or LengthError for a family that cannot be stretched and for arguments out of range.
    """
    check_method(method)
    check_ramp(beta_slow, beta_fast)
    present = read_rope(config)
    target = parse_length(target_length)
    if target < present.window:
        raise RopeError(
            f"target length {target:,} is below the present window of {present.window:,} tokens: "
            "extending only lengthens. Give a longer target, or start from the model as it was."
        )
    original = _original_length(present, original_length)
    factor = _scale(scale, target, original)
    if attention_factor is not None and method != "yarn":
        raise RopeError(f"attention_factor belongs to method 'yarn'; {method!r} has no temperature.")
    if attention_factor is not None and not (math.isfinite(attention_factor) and attention_factor > 0):
        raise RopeError(f"attention_factor {attention_factor!r} must be finite and above 0.")
    stretch = Stretch(
        method=method,
        scale=factor,
        original_length=original,
        target_length=target,
        theta=present.theta,
        rotary_dim=present.rotary_dim,
        beta_slow=float(beta_slow),
        beta_fast=float(beta_fast),
        attention_factor=None if attention_factor is None else float(attention_factor),
        exact_angles=exact_angles,
        notes=_notes(config, present, original, original_length is not None, method),
    )
    stretched_frequencies(stretch)  # raises for a rotary_dim that the method cannot stretch
    return stretch


def stretched_frequencies(stretch: Stretch) -> Any:
    """The inverse frequencies of the stretched layers: float64 [rotary_dim // 2]."""
    return inverse_frequencies(
        stretch.method,
        theta=stretch.theta,
        rotary_dim=stretch.rotary_dim,
        scale=stretch.scale,
        original_length=stretch.original_length,
        beta_slow=stretch.beta_slow,
        beta_fast=stretch.beta_fast,
    )


def config_changes(config: PretrainedConfig, stretch: Stretch) -> dict[str, Any]:
    """Keys of `rope_section(config)` to set, as transformers 5 has them; the old RoPE is replaced whole."""
    family, section = FAMILIES[config.model_type], rope_section(config)
    parameters = _rope_parameters(stretch, family)
    present = section.rope_parameters
    partial = (present[STRETCHED_LAYERS] if family.per_layer else present).get("partial_rotary_factor")
    if partial is not None:
        parameters["partial_rotary_factor"] = partial
    if family.per_layer:
        parameters = {**copy.deepcopy(present), STRETCHED_LAYERS: parameters}
    changes: dict[str, Any] = {
        "rope_parameters": parameters,
        "max_position_embeddings": stretch.target_length,
        RECORD_KEY: {
            "method": stretch.method,
            "scale": stretch.scale,
            "original_length": stretch.original_length,
            "rope_theta": stretch.theta,
            "exact_angles": stretch.exact_angles,
        },
    }
    # transformers prefers this key, where it is there, to the one inside rope_parameters.
    if hasattr(section, "original_max_position_embeddings"):
        changes["original_max_position_embeddings"] = stretch.original_length
    for key in _OTHER_WINDOW_KEYS:
        window = getattr(section, key, None)
        if isinstance(window, int) and window < stretch.target_length and key not in section.attribute_map:
            changes[key] = stretch.target_length
    return changes


def is_stretched(config: PretrainedConfig, target_length: int | str, **arguments: Any) -> bool:
    """Whether `config` was stretched just so. The arguments, and what is raised, are of `plan_stretch`."""
    section = rope_section(config)
    if getattr(section, RECORD_KEY, None) is None:
        return False
    changes = config_changes(config, plan_stretch(config, target_length, **arguments))
    return all(_without_old_type(getattr(section, key, None)) == value for key, value in changes.items())


def _without_old_type(value: Any) -> Any:
    """The older spelling of `rope_type`, which transformers takes over from a config.json that has both."""
    if not isinstance(value, dict):
        return value
    return {key: _without_old_type(one) for key, one in value.items() if key != "type"}


def both_key_generations(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, the dict of a config.json, with the keys of transformers 4 beside its `rope_parameters`.

    Those are `rope_scaling` (with "rope_type", and "type" for readers before 2024-07), `rope_theta`,
    `partial_rotary_factor`, and for Gemma 3 `rope_local_base_freq`. A multimodal config gets them in its
    text_config. Idempotent; a config of no family in FAMILIES, or without `rope_parameters`, comes back as it
    is.
    """
    result = copy.deepcopy(dict(config))
    family = FAMILIES.get(result.get("model_type", ""))
    if family is None:
        return result
    section = result if family.sub_config is None else result.get(family.sub_config, {})
    parameters = section.get("rope_parameters")
    if not parameters:
        return result
    stretched = parameters[STRETCHED_LAYERS] if family.per_layer else parameters
    old_type = stretched.pop("type", "default")
    rope_type = stretched.setdefault("rope_type", old_type)
    section["rope_theta"] = stretched["rope_theta"]
    if "partial_rotary_factor" in stretched:
        section["partial_rotary_factor"] = stretched["partial_rotary_factor"]
    if family.name == "Gemma 3":
        section["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
    scaling = {k: v for k, v in stretched.items() if k not in ("rope_theta", "partial_rotary_factor")}
    section["rope_scaling"] = None if rope_type == "default" else {**scaling, "type": rope_type}
    return result


def _original_length(present: PresentRope, given: int | str | None) -> int:
    if given is not None:
        return parse_length(given)
    if present.original_length is None:
        raise RopeError(
            f"the config has RoPE of type {present.rope_type!r} and does not say how long its window was "
            "before that. Give original_length, the tokens the model was first trained on."
        )
    return present.original_length


def _scale(given: float | None, target: int, original: int) -> float:
    scale = target / original if given is None else float(given)
    if not (math.isfinite(scale) and scale >= 1):
        told = "" if given is not None else f" = target {target:,} / original length {original:,}"
        raise RopeError(f"scale {scale:g}{told} would shorten the window: it must be finite and at least 1.")
    return scale


def _notes(
    config: PretrainedConfig, present: PresentRope, original: int, original_given: bool, method: str
) -> tuple[str, ...]:
    notes = []
    if present.extended and not original_given:
        notes.append(
            f"the model was extended before, to {format_length(present.window)} tokens: this extension "
            f"starts again from the length before that, {format_length(original)}, and replaces the earlier."
        )
    if method == "none" and present.rope_type != "default" and not present.recorded:
        notes.append(f"method 'none' takes away the model's own RoPE scaling ({present.rope_type}).")
    window = sliding_window_of(rope_section(config), FAMILIES[config.model_type])
    if window is not None:
        notes.append(
            f"sliding_window {window:,} stays as it is: in those layers a token still sees only that far "
            "back, whatever the RoPE. Set it to null in the config for full attention."
        )
    return tuple(notes)


def _rope_parameters(stretch: Stretch, family: Family) -> dict[str, Any]:
    """rope_parameters of the stretched layers: each rope_type with the keys transformers 5 wants of it."""
    if stretch.method == "none" or (stretch.scale == 1 and stretch.attention_factor is None):
        return {"rope_type": "default", "rope_theta": stretch.theta}
    if stretch.method == "ntk":
        # transformers has no static type for it; "dynamic" changes the base with the length read. A new base
        # is the whole method, and every reader understands it.
        theta = ntk_theta(stretch.theta, stretch.scale, stretch.rotary_dim)
        return {"rope_type": "default", "rope_theta": theta}
    if family.factor_lists:
        return _factor_lists(stretch)
    common = {"rope_theta": stretch.theta, "factor": stretch.scale}
    if stretch.method == "linear":
        return {"rope_type": "linear", **common}
    common["original_max_position_embeddings"] = stretch.original_length
    if stretch.method == "llama3":
        betas = {"low_freq_factor": stretch.beta_slow, "high_freq_factor": stretch.beta_fast}
        return {"rope_type": "llama3", **common, **betas}
    yarn = {"rope_type": "yarn", **common, "beta_slow": stretch.beta_slow, "beta_fast": stretch.beta_fast}
    if stretch.attention_factor is not None:
        yarn["attention_factor"] = stretch.attention_factor
    return yarn


def _factor_lists(stretch: Stretch) -> dict[str, Any]:
    """The stretch as longrope, whose short and long factors are the same: how much slower each pair turns."""
    kept = inverse_frequencies(
        "none", theta=stretch.theta, rotary_dim=stretch.rotary_dim, scale=1.0, original_length=1
    )
    factors = [float(factor) for factor in kept / stretched_frequencies(stretch)]
    return {
        "rope_type": "longrope",
        "rope_theta": stretch.theta,
        "factor": stretch.scale,
        "original_max_position_embeddings": stretch.original_length,
        "short_factor": factors,
        "long_factor": list(factors),
        "attention_factor": attention_temperature(stretch.method, stretch.scale, stretch.attention_factor),
    }
