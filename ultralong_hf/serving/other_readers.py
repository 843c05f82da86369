"""What TGI and llama.cpp make of a config.json: views to be held beside transformers 5's.

Rules in our words, with the files they were read in; the other four programs' are in rope/reader_rules.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ultralong_hf.rope.frequencies import attention_temperature
from ultralong_hf.rope.reader_rules import ReaderView, transformers_4, transformers_5

LLAMA_CPP_ROPE_FACTORS = ("llama", "mistral", "granite")
"""Families whose conversion writes llama3's factors (conversion/llama.py, and the classes made from it)."""


def tgi(text: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> ReaderView:
    """text-generation-inference 3, through transformers 4's keys (layers/rotary.py: PositionRotaryEmbedding).

    llama3 as written. yarn with betas 32 and 1 whatever the file says, and without `attention_factor`. linear
    scaling is passed over: plain RoPE.
    """
    seen = dict(text)
    rope = dict(seen.get("rope_scaling") or {})
    notes = []
    if rope.get("rope_type", rope.get("type")) == "linear":
        seen["rope_scaling"] = None
        notes.append("passes over linear scaling: plain RoPE")
    else:
        dropped = [key for key in ("beta_fast", "beta_slow", "attention_factor") if rope.get(key) is not None]
        if rope.get("rope_type", rope.get("type")) == "yarn" and dropped:
            notes.append(f"drops {', '.join(f'{key} {rope[key]:g}' for key in dropped)} of yarn")
            seen["rope_scaling"] = {key: value for key, value in rope.items() if key not in dropped}
    view = transformers_4(seen, tokenizer)
    told = tuple(note for note in (*view.notes, *notes))
    return replace(
        view, reader="tgi", version="3", source="server/text_generation_server/layers/rotary.py", notes=told
    )


def llama_cpp(text: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> ReaderView:
    """llama.cpp as of August 2026 (vendored by llama-cpp-python 0.3.36), with the flags of `rope_flags`.

    llama3: the conversion writes a factor a pair, of Llama's own classes alone; of other families it is lost.
    yarn: factor and original length are in the file; the betas are not read back by most architectures and
    must be given as flags; the temperature is 0.1 ln(factor) + 1 times a key of metadata, so that
    `attention_factor` needs an override (src/llama-context.cpp; ggml's rope_yarn).
    """
    view = transformers_5(text, tokenizer)
    notes: tuple[str, ...] = ()
    if view.rope_type == "llama3" and text.get("model_type") not in LLAMA_CPP_ROPE_FACTORS:
        plain = transformers_5({**text, "rope_scaling": None, "rope_parameters": _plain(view)}, tokenizer)
        notes = (
            f"has no llama3 scaling for model_type {text.get('model_type')!r}: its conversion leaves it out",
        )
        view = replace(plain, window=view.window)
    return replace(
        view,
        reader="llama.cpp",
        version="August 2026",
        source="conversion/base.py: set_gguf_parameters; src/llama-context.cpp",
        notes=notes,
    )


def rope_flags(view: ReaderView, rope: Mapping[str, Any], architecture: str) -> list[str]:
    """llama.cpp's flags for the RoPE of a view; none where the file says all of it.

    `rope`: the parameters of the config, for yarn's betas; `architecture`: the GGUF's, such as llama.
    """
    if view.rope_type == "linear":
        return ["--rope-scaling", "linear", "--rope-scale", f"{view.factor:g}"]
    if view.rope_type != "yarn":
        return []
    flags = ["--rope-scaling", "yarn", "--rope-scale", f"{view.factor:g}"]
    flags += ["--yarn-orig-ctx", str(view.original_length), "--yarn-ext-factor", "1"]
    flags += ["--yarn-beta-fast", f"{rope.get('beta_fast') or 32:g}"]
    flags += ["--yarn-beta-slow", f"{rope.get('beta_slow') or 1:g}"]
    default = attention_temperature("yarn", view.factor)
    if abs(view.temperature - default) > 1e-9:
        ratio = view.temperature / default
        flags += ["--override-kv", f"{architecture}.rope.scaling.attn_factor=float:{ratio:.7g}"]
    return flags


def _plain(view: ReaderView) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": view.theta}
