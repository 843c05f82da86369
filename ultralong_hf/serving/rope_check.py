"""Whether a server computes the RoPE that the model has in transformers 5, in which it was trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ultralong_hf.errors import ReleaseError, RopeError
from ultralong_hf.lengths import format_length
from ultralong_hf.rope.frequencies import attention_temperature
from ultralong_hf.rope.reader_rules import ReaderView
from ultralong_hf.rope.readers import ANGLE_TOLERANCE, beside, read_as, with_class_defaults
from ultralong_hf.serving.other_readers import llama_cpp, tgi

Config = Mapping[str, Any]
_OTHERS: dict[str, Callable[[Config, Config], ReaderView]] = {"tgi": tgi, "llama.cpp": llama_cpp}
READERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "transformers": "transformers-5",
    "tgi": "tgi",
    "llama.cpp": "llama.cpp",
}
"""Engine -> the reader of its configs."""


def read_for(engine: str, config: Config, tokenizer: Config) -> tuple[ReaderView, ReaderView]:
    """The engine's view of a config.json, and transformers 5's.

    Raises ReleaseError where one of them does not load it.
    """
    try:
        values = {key: value for key, value in config.items() if key != "model_type"}
        from transformers import AutoConfig

        loaded = AutoConfig.for_model(config["model_type"], **values).to_dict()
        whole = with_class_defaults(config, loaded)
        reference = read_as("transformers-5", whole, tokenizer_config=tokenizer)
        reader = READERS[engine]
        if reader not in _OTHERS:
            return read_as(reader, whole, tokenizer_config=tokenizer), reference
        return _OTHERS[reader](whole.get("text_config") or whole, tokenizer), reference
    except (RopeError, KeyError, ValueError, TypeError) as error:
        raise ReleaseError(f"{engine} cannot serve this config: {' '.join(str(error).split())}") from error


def rope_faults(
    engine: str, view: ReaderView, reference: ReaderView, length: int
) -> tuple[list[str], list[str]]:
    """(faults, notes): what makes the engine another model than the one trained, and what to know."""
    difference, _ = beside(view, reference)
    faults = []
    if difference is not None and difference > ANGLE_TOLERANCE:
        faults.append(_frequency_fault(engine, view, reference, difference))
    if not math.isclose(view.temperature, reference.temperature, rel_tol=1e-6) and engine != "llama.cpp":
        faults.append(_temperature_fault(engine, view, reference))
    if view.window < length <= reference.window:
        faults.append(
            f"{engine} takes {view.window:,} tokens from this model's files, transformers "
            f"{reference.window:,}: the tokenizer's model_max_length is smaller. "
            "`ultralong publish` puts it right."
        )
    elif length > view.window:
        faults.append(
            f"{engine} takes {view.window:,} tokens at most from this model's files, {length:,} were asked "
            f"for: `ultralong extend MODEL --target {format_length(length)}` writes a longer window, which "
            "then has to be trained and measured."
        )
    reach = view.original_length and int(view.original_length * view.factor)
    if engine == "vllm" and view.rope_type == "yarn" and reach and length > reach:
        faults.append(
            f"vllm makes cos and sin of yarn for {reach:,} tokens (factor times original length) and reads "
            f"past them beyond: serve {format_length(reach)} or less (--length)."
        )
    notes = [] if faults else [f"{engine} {note}." for note in view.notes]
    return faults, notes


def _frequency_fault(engine: str, view: ReaderView, reference: ReaderView, difference: float) -> str:
    amount = "another number of" if math.isinf(difference) else f"up to {difference:.2g} times off"
    why = f" ({'; '.join(view.notes)})" if view.notes else ""
    return (
        f"{engine} would turn this model by other frequencies, {amount} those it was trained with{why}: its "
        f"{reference.rope_type} RoPE cannot be expressed there. Use another engine."
    )


def _temperature_fault(engine: str, view: ReaderView, reference: ReaderView) -> str:
    remedy = "Use another engine."
    if engine == "sglang" and view.rope_type == "yarn":
        factor = reference.temperature / attention_temperature("yarn", view.factor)
        remedy = (
            f'Put "attn_factor": {factor:.7g} beside attention_factor into rope_parameters and rope_scaling '
            "of config.json, which SGLang multiplies by and transformers passes over. Or use vLLM."
        )
    return (
        f"{engine} would multiply cos and sin by {view.temperature:.4f}, the model was trained with "
        f"{reference.temperature:.4f}. {remedy}"
    )
