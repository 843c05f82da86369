"""The rules by which four programs derive RoPE and window from a config.json, one function a program.

Each stands in our words, with the file and version it was read from, as a pure function of two dicts: the
config's part on the language model, and the tokenizer's config (empty where there is none). transformers 4
looks at `rope_scaling` and a top-level `rope_theta`, transformers 5 at `rope_parameters`; the servers read
through transformers 5 and then go on by themselves. Where layer types have RoPE of their own (Gemma 3), the
view is that of the full-attention layers. A key that a program cannot do without is a KeyError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ultralong_hf.errors import RopeError
from ultralong_hf.rope.frequencies import attention_temperature, inverse_frequencies

_FULL = "full_attention"
_NESTED_FAMILIES = {"gemma3": 1e6, "gemma3_text": 1e6, "olmo3": 5e5}  # with their default thetas
_DEFAULT_PARTIAL = {"phi": 0.5}  # the part of a head that turns, where it is not the whole
_WITH_ORIGINAL_LENGTH = ("yarn", "llama3", "longrope")

# The keys and types that these families' own checks in transformers 4 allow in rope_scaling, and no others.
_STRICT_IN_4 = {
    "olmo": ({"type", "factor"}, ("linear", "dynamic")),
    "olmo2": ({"type", "factor"}, ("linear", "dynamic")),
    "phi3": ({"type", "short_factor", "long_factor"}, ("longrope",)),
}


@dataclass(frozen=True, kw_only=True)
class ReaderView:
    """What one reader makes of a config.

    `factor` is 1 for plain RoPE; `original_length` is None where the type has none; lengths are in tokens.
    `temperature` multiplies cos and sin. `inv_freq` is float64 [pairs], radians per token as beyond the
    original length, fastest first, or None for a rope type whose angles change with the length read. `notes`
    tells what this reader does that the file does not say.
    """

    reader: str
    version: str
    source: str
    rope_type: str
    theta: float
    factor: float
    original_length: int | None
    window: int
    temperature: float
    notes: tuple[str, ...] = ()
    inv_freq: np.ndarray | None = field(default=None, repr=False, compare=False)


def transformers_4(text: Mapping[str, Any], _tokenizer: Mapping[str, Any]) -> ReaderView:
    """transformers 4.57.6: modeling_rope_utils.py (ROPE_INIT_FUNCTIONS), configuration_*.py of the families.

    `rope_parameters` is kept and never looked at. Where `type` stands beside `rope_type`, the older name
    wins. OLMo and Phi-3 refuse every scaling but the one or two they know; Mistral's yarn needs `head_dim`.
    """
    rope = dict(text.get("rope_scaling") or {})
    rope_type, notes = "default", []
    if rope:
        rope_type = rope["type"] if "type" in rope else rope["rope_type"]
        _check_strict_in_4(text.get("model_type", ""), rope_type, rope)
    elif _parameters_5(text)["rope_type"] != "default":
        notes.append("does not know rope_parameters, and the file has no rope_scaling: reads plain RoPE")
    if rope_type == "yarn" and text.get("model_type") == "mistral" and not text.get("head_dim"):
        raise KeyError("head_dim")
    theta = text.get("rope_theta")
    if theta is None:
        theta = _default_theta(text)
        notes.append(f"finds no rope_theta at the top level of the file: takes its default, {theta:,.0f}")
    if rope_type == "longrope" and "original_max_position_embeddings" in text:
        rope["original_max_position_embeddings"] = text["original_max_position_embeddings"]
    if rope_type in ("yarn", "longrope"):
        rope.setdefault("original_max_position_embeddings", text["max_position_embeddings"])
    rope["partial_rotary_factor"] = _top_level_partial(text)
    return _view(
        text,
        rope | {"rope_type": rope_type, "rope_theta": theta},
        reader="transformers-4",
        version="4.57.6",
        source="modeling_rope_utils.py: ROPE_INIT_FUNCTIONS",
        window=text["max_position_embeddings"],
        temperature=_transformers_temperature(rope_type, rope, text),
        notes=tuple(notes),
    )


def transformers_5(text: Mapping[str, Any], _tokenizer: Mapping[str, Any]) -> ReaderView:
    """transformers 5.23.0: modeling_rope_utils.py (RotaryEmbeddingConfigMixin, ROPE_INIT_FUNCTIONS)."""
    rope = _parameters_5(text)
    return _view(
        text,
        rope,
        reader="transformers-5",
        version="5.23.0",
        source="modeling_rope_utils.py: RotaryEmbeddingConfigMixin, ROPE_INIT_FUNCTIONS",
        window=text["max_position_embeddings"],
        temperature=_transformers_temperature(rope["rope_type"], rope, text),
    )


def vllm(text: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> ReaderView:
    """vLLM 0.33.0, through transformers 5.

    Window (config/model.py, _get_and_verify_max_len): the smaller of `max_position_embeddings` and the
    tokenizer's `model_max_length`; for longrope the original length; for other types but llama3 and yarn, and
    but for Gemma 3, times the factor. Temperature (rotary_embedding/__init__.py, get_rope, and
    yarn_scaling_rope.py): `attention_factor`, else mscale's ratio, else 0.1 ln(factor) + 1. cos and sin of
    yarn are made for factor times the original length. Until 0.29 yarn's window was that length, and
    `attention_factor` and mscale were dropped (as the wheels of 0.29 and 0.30 have it): notes tell where.
    """
    rope = _parameters_5(text)
    rope_type = rope["rope_type"]
    if rope.get("type", rope_type) != rope_type:
        raise RopeError(f"vllm does not load this config: type {rope['type']!r}, rope_type {rope_type!r}.")
    window = _vllm_window(text, rope, tokenizer)
    temperature, notes = _vllm_temperature(rope, text)
    if rope_type == "yarn":
        reach = int(rope["original_max_position_embeddings"] * rope["factor"])
        if window > reach:
            notes += (f"makes cos and sin for {reach:,} tokens alone, and reads past them beyond",)
        if window != reach:
            notes += (f"took {reach:,} tokens for its window until 0.29",)
    return _view(
        text,
        rope,
        reader="vllm",
        version="0.33.0",
        source="config/model.py: _get_and_verify_max_len; rotary_embedding/__init__.py: get_rope",
        window=window,
        temperature=temperature,
        notes=notes,
    )


def sglang(text: Mapping[str, Any], _tokenizer: Mapping[str, Any]) -> ReaderView:
    """SGLang 0.5.23, through transformers 5.

    Window (srt/utils/hf_transformers/common.py, get_context_length): `max_position_embeddings`, times the
    factor unless the type is llama3, an original length is named, or the parameters are per layer type.
    Temperature (srt/layers/rotary_embedding/factory.py, get_rope, and yarn.py): 0.1 ln(factor) + 1, or
    mscale's ratio, times `attn_factor`, a key of its own; `attention_factor` does not get through.
    """
    rope = _parameters_5(text)
    temperature, notes = _sglang_temperature(rope, text)
    scaled = not (_is_nested(text) or "original_max_position_embeddings" in rope)
    return _view(
        text,
        rope,
        reader="sglang",
        version="0.5.23",
        source="hf_transformers/common.py: get_context_length; rotary_embedding/factory.py: get_rope",
        window=int(text["max_position_embeddings"] * (rope.get("factor", 1) if scaled else 1)),
        temperature=temperature,
        notes=notes,
    )


def _check_strict_in_4(model_type: str, rope_type: str, rope: Mapping[str, Any]) -> None:
    if model_type not in _STRICT_IN_4:
        return
    keys, types = _STRICT_IN_4[model_type]
    if set(rope) != keys or rope_type not in types:
        raise RopeError(
            f"transformers-4 does not load this config: for {model_type} it allows a rope_scaling of type "
            f"{' or '.join(types)} alone, with the keys {', '.join(sorted(keys))}, and finds {rope_type!r}."
        )


def _is_nested(text: Mapping[str, Any]) -> bool:
    """Whether the parameters are given per layer type."""
    rope = text.get("rope_parameters") or {}
    return text.get("model_type") in _NESTED_FAMILIES or any(isinstance(v, Mapping) for v in rope.values())


def _default_theta(text: Mapping[str, Any]) -> float:
    return _NESTED_FAMILIES.get(text.get("model_type", ""), 1e4)


def _top_level_partial(text: Mapping[str, Any]) -> float:
    return text.get("partial_rotary_factor", _DEFAULT_PARTIAL.get(text.get("model_type", ""), 1.0))


def _parameters_5(text: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as transformers 5 completes them.

    `rope_scaling`, where it is not empty, replaces `rope_parameters` whole (in nested families it is laid
    over those of the full-attention layers). `rope_theta` and `partial_rotary_factor` come from the top level
    only where the dict has none. An original length at the top level outranks the dict's; without either it
    is the present window.
    """
    older, newer = text.get("rope_scaling") or {}, text.get("rope_parameters") or {}
    nested = _is_nested(text)
    rope = dict(newer.get(_FULL) or {}) | dict(older) if nested else dict(older or newer)
    rope.setdefault("rope_type", rope.get("type", "default"))
    if text.get("model_type") == "phi3" and rope["rope_type"] in ("su", "yarn"):
        rope["rope_type"] = "longrope"  # Phi3Config takes both names for it
    rope.setdefault("rope_theta", text.get("rope_theta", _default_theta(text)))
    rope.setdefault("partial_rotary_factor", _top_level_partial(text))
    if rope["rope_type"] in _WITH_ORIGINAL_LENGTH:
        rope.setdefault("original_max_position_embeddings", text["max_position_embeddings"])
        if "original_max_position_embeddings" in text and not nested:
            rope["original_max_position_embeddings"] = text["original_max_position_embeddings"]
    return rope


def _transformers_temperature(rope_type: str, rope: Mapping[str, Any], text: Mapping[str, Any]) -> float:
    if rope_type == "longrope":
        given, scale = rope.get("attention_factor"), _factor({**rope, "rope_type": rope_type}, text)
        return _longrope_temperature(rope, scale) if given is None else float(given)
    if rope_type != "yarn":
        return 1.0
    if rope.get("attention_factor") is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        return _mscale_ratio(rope)
    return attention_temperature("yarn", rope["factor"], rope.get("attention_factor"))


def _sglang_temperature(rope: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[float, tuple[str, ...]]:
    """The temperature, and a note where the file's own does not get through."""
    if rope["rope_type"] not in ("yarn", "longrope"):
        return 1.0, ()
    given = rope.get("attention_factor")
    notes = () if given is None else (f"drops attention_factor {given:g}",)
    if rope["rope_type"] == "longrope":
        return _servers_longrope_temperature(rope, text), notes
    computed = attention_temperature("yarn", rope["factor"])
    if rope.get("mscale") is not None and rope.get("mscale_all_dim") is not None:
        computed = _mscale_ratio(rope)
    return computed * rope.get("attn_factor", 1.0), notes


def _vllm_temperature(rope: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[float, tuple[str, ...]]:
    """The same of vLLM; the notes are of releases before this one."""
    given = rope.get("attention_factor")
    if rope["rope_type"] == "longrope":
        notes = () if given is None else (f"drops attention_factor {given:g}",)
        return _servers_longrope_temperature(rope, text), notes
    if rope["rope_type"] != "yarn":
        return 1.0, ()
    has_mscales = bool(rope.get("mscale") and rope.get("mscale_all_dim"))
    told = [f"{key} {rope[key]:g}" for key in ("attention_factor", "mscale") if rope.get(key) is not None]
    notes = (f"dropped {' and '.join(told)} until 0.29",) if told else ()
    if given is None and has_mscales:
        return _mscale_ratio(rope), notes
    return attention_temperature("yarn", rope["factor"], given), notes


def _servers_longrope_temperature(rope: Mapping[str, Any], text: Mapping[str, Any]) -> float:
    scale = text["max_position_embeddings"] / rope["original_max_position_embeddings"]
    return float(rope.get("long_mscale") or _longrope_temperature(rope, scale))


def _longrope_temperature(rope: Mapping[str, Any], scale: float) -> float:
    """sqrt(1 + ln s / ln L) (LongRoPE, arXiv 2402.13753, as Phi-3 has it)."""
    return math.sqrt(1 + math.log(max(scale, 1.0)) / math.log(rope["original_max_position_embeddings"]))


def _mscale_ratio(rope: Mapping[str, Any]) -> float:
    """DeepSeek's form of yarn's temperature: two of them, divided."""
    grown = 0.1 * math.log(max(rope["factor"], 1.0))
    return (rope["mscale"] * grown + 1) / (rope["mscale_all_dim"] * grown + 1)


def _vllm_window(text: Mapping[str, Any], rope: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
    window = min(text["max_position_embeddings"], tokenizer.get("model_max_length", math.inf))
    if rope["rope_type"] == "longrope":
        return int(text.get("original_max_position_embeddings", window))
    if "gemma3" in text.get("model_type", "") or rope["rope_type"] in ("llama3", "yarn"):
        return int(window)
    return int(window * rope.get("factor", 1.0))


def _view(text: Mapping[str, Any], rope: Mapping[str, Any], **rest: Any) -> ReaderView:
    """A reader's view with the inverse frequencies, whose equations are the same in all four."""
    head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    has_original = rope["rope_type"] in _WITH_ORIGINAL_LENGTH
    return ReaderView(
        rope_type=rope["rope_type"],
        theta=float(rope["rope_theta"]),
        factor=_factor(rope, text),
        original_length=rope["original_max_position_embeddings"] if has_original else None,
        inv_freq=_inverse_frequencies(rope, int(head_dim * rope["partial_rotary_factor"])),
        **rest,
    )


def _factor(rope: Mapping[str, Any], text: Mapping[str, Any]) -> float:
    if rope["rope_type"] == "default":
        return 1.0
    if rope["rope_type"] == "longrope" and rope.get("factor") is None:
        return float(text["max_position_embeddings"] / rope["original_max_position_embeddings"])
    return float(rope["factor"])


def _inverse_frequencies(rope: Mapping[str, Any], rotary_dim: int) -> np.ndarray | None:
    rope_type, theta = rope["rope_type"], float(rope["rope_theta"])
    plain = inverse_frequencies("none", theta=theta, rotary_dim=rotary_dim, scale=1.0, original_length=1)
    if rope_type == "default":
        return plain
    if rope_type == "linear":
        return plain / rope["factor"]
    if rope_type == "longrope":
        return plain / np.asarray(rope["long_factor"], np.float64)
    if rope_type == "llama3":
        return inverse_frequencies(
            "llama3",
            theta=theta,
            rotary_dim=rotary_dim,
            scale=rope["factor"],
            original_length=rope["original_max_position_embeddings"],
            beta_slow=rope["low_freq_factor"],
            beta_fast=rope["high_freq_factor"],
        )
    return _yarn_frequencies(plain, rope, theta) if rope_type == "yarn" else None


def _yarn_frequencies(plain: np.ndarray, rope: Mapping[str, Any], theta: float) -> np.ndarray:
    """YaRN as all four code it: betas 32 and 1 where the file names none, ends rounded unless `truncate` says
    not to. Not `inverse_frequencies`, which always rounds: `truncate` is a key of files, not of ours."""
    original, dims = rope["original_max_position_embeddings"], 2 * len(plain)

    def index_at(turns: float) -> float:
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = index_at(rope.get("beta_fast") or 32.0), index_at(rope.get("beta_slow") or 1.0)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    interpolated = np.clip((np.arange(len(plain)) - first) / ((last - first) or 0.001), 0.0, 1.0)
    return plain * (1 - interpolated) + plain / rope["factor"] * interpolated
