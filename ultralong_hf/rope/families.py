"""Which model families can be stretched, how each writes its RoPE, and what the present RoPE of a config is.

The table is data: `FAMILIES` by model_type, `REFUSED` with the reason. Configs are those of transformers 5,
already standardised, so that `rope_parameters` is there whichever generation of keys the file had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import RopeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The config key of ours: what an extension started from and did, so that the next one starts there again.
RECORD_KEY = "ultralong_rope"

# The layers whose RoPE is stretched where each layer type has its own.
STRETCHED_LAYERS = "full_attention"


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one model_type writes RoPE. All of them turn halves of a head ("rotate_half")."""

    name: str
    # The sub-config that holds the language model, if the config is of a multimodal one.
    sub_config: str | None = None
    # rope_parameters is nested by layer type; layers with a sliding window keep their own.
    per_layer: bool = False
    # transformers takes only "default" and "longrope" for it (Phi3Config.validate_rope), so that a stretch is
    # written as longrope, with one factor a pair.
    factor_lists: bool = False
    # Its rotary embedding returns cos and sin in float32 whatever the model's dtype.
    float32_rotation: bool = False
    # Tokens that models whose makers have already stretched them linearly were trained on before that.
    length_before_linear: int | None = None


FAMILIES: dict[str, Family] = {
    "llama": Family(name="Llama"),  # 2, 3, 3.1, 3.2, and all that use its architecture
    "mistral": Family(name="Mistral"),
    "qwen2": Family(name="Qwen 2.5"),
    "qwen3": Family(name="Qwen 3"),
    "phi": Family(name="Phi"),  # rotates 0.4 or 0.5 of a head
    "phi3": Family(name="Phi-3 and Phi-4", factor_lists=True),
    # 32K, then 128K with a factor of 8: Gemma 3 Technical Report (arXiv 2503.19786), section 2.
    "gemma3_text": Family(name="Gemma 3", per_layer=True, length_before_linear=32_768),
    "gemma3": Family(name="Gemma 3", sub_config="text_config", per_layer=True, length_before_linear=32_768),
    "granite": Family(name="Granite"),
    "olmo": Family(name="OLMo", float32_rotation=True),
    "olmo2": Family(name="OLMo 2", float32_rotation=True),
    "olmo3": Family(name="OLMo 3", per_layer=True, float32_rotation=True),
}

_ALIBI = "has no RoPE: its attention falls off with distance (ALiBi), so there are no frequencies to stretch"
_LEARNED = "has no RoPE: it learned one vector a position, and there are none for positions past its window"
_AXES = "splits its RoPE over time, height and width of images (m-rope), which no stretch of one axis fits"

REFUSED: dict[str, str] = {
    "bloom": _ALIBI,
    "mpt": _ALIBI,
    "gpt2": _LEARNED,
    "gpt_neo": _LEARNED,
    "gpt_bigcode": _LEARNED,
    "opt": _LEARNED,
    "qwen2_vl": _AXES,
    "qwen2_vl_text": _AXES,
    "qwen2_5_vl": _AXES,
    "qwen2_5_vl_text": _AXES,
    "qwen3_vl": _AXES,
    "qwen3_vl_text": _AXES,
}

_REFUSED_TYPES = {
    "longrope": "already has longrope: its factors were searched for one window and fit no longer one",
    "axial": "has axial RoPE, a turn for each axis of an image, which no stretch of one axis fits",
    "proportional": "has proportional RoPE, in which most pairs do not turn; it is not among the methods",
}
_KNOWN_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True, kw_only=True)
class PresentRope:
    """The RoPE that a config has now. Lengths in tokens."""

    theta: float  # before any stretch of ours
    rotary_dim: int
    rope_type: str  # transformers' name of it
    window: int  # max_position_embeddings
    original_length: int | None  # before the first stretch; None where the config does not tell
    extended: bool  # it was stretched, by us or by others; Llama 3.1's own scaling does not count
    recorded: bool  # the stretch was ours


def find_family(config: Mapping[str, Any]) -> Family:
    """The family of a config's dict. Raises RopeError, with the reason, if it cannot be stretched."""
    model_type = config.get("model_type")
    name = f"model_type {model_type!r}"
    if config.get("alibi"):
        raise RopeError(f"{name} {_ALIBI}.")
    if model_type in REFUSED:
        raise RopeError(f"{name} {REFUSED[model_type]}.")
    if model_type not in FAMILIES:
        raise RopeError(
            f"{name} is not among the families whose RoPE is known here: {', '.join(FAMILIES)}. "
            "How its RoPE reads a stretch would have to be checked first."
        )
    return FAMILIES[model_type]


def rope_section(config: PretrainedConfig) -> PretrainedConfig:
    """The part of `config` that holds the RoPE: itself, or a multimodal config's language model."""
    family = find_family({"model_type": config.model_type, "alibi": getattr(config, "alibi", False)})
    return config if family.sub_config is None else getattr(config, family.sub_config)


def read_rope(config: PretrainedConfig) -> PresentRope:
    """The present RoPE of `config`. Raises RopeError if it cannot be stretched."""
    section = rope_section(config)
    family = FAMILIES[config.model_type]
    parameters = rope_parameters_of(section, family)
    rope_type = parameters["rope_type"]
    record = getattr(section, RECORD_KEY, None)
    if "mrope_section" in parameters:
        raise RopeError(f"model_type {config.model_type!r} {_AXES}.")
    if record is None and rope_type not in _KNOWN_TYPES:
        reason = _REFUSED_TYPES.get(rope_type, f"has RoPE of type {rope_type!r}, which is not known here")
        raise RopeError(f"this {family.name} config {reason}. Extend the model it was made from.")
    head_size = getattr(section, "head_dim", None) or section.hidden_size // section.num_attention_heads
    return PresentRope(
        theta=float(parameters["rope_theta"] if record is None else record["rope_theta"]),
        rotary_dim=int(head_size * parameters.get("partial_rotary_factor", 1.0)),
        rope_type=rope_type,
        window=section.max_position_embeddings,
        original_length=_original_length(section, family, parameters),
        extended=record is not None or rope_type in ("linear", "yarn"),
        recorded=record is not None,
    )


def rope_parameters_of(section: PretrainedConfig, family: Family) -> dict[str, Any]:
    """The flat rope_parameters of the layers that are stretched."""
    parameters: dict[str, Any] = section.rope_parameters
    return parameters[STRETCHED_LAYERS] if family.per_layer else parameters


def sliding_window_of(section: PretrainedConfig, family: Family) -> int | None:
    """Tokens that layers which would be stretched look back at, if they do not see everything; else None.

    Gemma 3 and OLMo 3 have a RoPE of their own for such layers, which stays as it is: None.
    """
    window = getattr(section, "sliding_window", None)
    if window is None or family.per_layer or window >= section.max_position_embeddings:
        return None
    layer_types = getattr(section, "layer_types", None)
    return window if layer_types is None or "sliding_attention" in layer_types else None


def _original_length(section: PretrainedConfig, family: Family, parameters: Mapping[str, Any]) -> int | None:
    record = getattr(section, RECORD_KEY, None)
    if record is not None:
        return int(record["original_length"])
    if parameters["rope_type"] in ("llama3", "yarn"):
        return int(parameters["original_max_position_embeddings"])
    if parameters["rope_type"] == "linear":
        return family.length_before_linear
    return int(section.max_position_embeddings)
