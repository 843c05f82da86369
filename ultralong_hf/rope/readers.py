"""One config.json, as transformers 4 and 5, vLLM and SGLang read it, side by side.

The rules are in reader_rules.py; here they are called by name and compared with transformers 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ultralong_hf.errors import RopeError
from ultralong_hf.rope import reader_rules
from ultralong_hf.rope.reader_rules import ReaderView

Config = Mapping[str, Any]

READERS: dict[str, Callable[[Config, Config], ReaderView]] = {
    "transformers-4": reader_rules.transformers_4,
    "transformers-5": reader_rules.transformers_5,
    "vllm": reader_rules.vllm,
    "sglang": reader_rules.sglang,
}

_ROPE_KEYS = {
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rope_local_base_freq",
    "partial_rotary_factor",
}

# float32 inverse frequencies agree with float64 ones to 2e-7 or so: larger differences are told.
ANGLE_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One reader beside transformers 5; `view` is None where the reader refuses the config.

    `difference` is the largest relative difference of its inverse frequencies: infinite where the numbers of
    pairs differ, None where frequencies depend on the length read. `warnings` are whole sentences.
    """

    reader: str
    view: ReaderView | None
    difference: float | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse frequencies themselves are left out."""
        seen = {} if self.view is None else asdict(self.view)
        seen.pop("inv_freq", None)
        return {
            **seen,
            "reader": self.reader,
            "loads": self.view is not None,
            "max_relative_difference": None if self.difference == math.inf else self.difference,
            "warnings": list(self.warnings),
        }


def read_as(reader: str, config: Config, *, tokenizer_config: Config | None = None) -> ReaderView:
    """The RoPE and window that `reader` (a key of READERS) derives from `config`, the dict of a config.json.

    `tokenizer_config` is the dict of tokenizer_config.json, whose `model_max_length` bounds vLLM's window.
    Raises RopeError for an unknown reader, and where the reader would refuse the config or fail on it.
    """
    if reader not in READERS:
        raise RopeError(f"reader {reader!r} is none of {', '.join(READERS)}.")
    text = config.get("text_config") or config  # multimodal configs keep the language model's part there
    try:
        return READERS[reader](text, tokenizer_config or {})
    except KeyError as missing:
        raise RopeError(f"{reader} does not load this config: its RoPE needs the key {missing}.") from None


def with_class_defaults(written: Config, loaded: Config) -> dict[str, Any]:
    """`written`, the dict of a config.json, with what the file leaves to its config class, from `loaded`.

    Files often leave out a head size or a window that equals the class's default. Keys of RoPE are not filled
    in: what a reader makes of their absence is the question.
    """
    text = written.get("text_config")
    if isinstance(text, Mapping) and isinstance(loaded.get("text_config"), Mapping):
        return {**written, "text_config": with_class_defaults(text, loaded["text_config"])}
    return {k: v for k, v in loaded.items() if k not in _ROPE_KEYS} | dict(written)


def compare_readers(config: Config, *, tokenizer_config: Config | None = None) -> list[Comparison]:
    """Every reader beside transformers 5, each difference told in a sentence.

    Raises RopeError where transformers 5 itself does not load `config`.
    """
    reference = read_as("transformers-5", config, tokenizer_config=tokenizer_config)
    return [_compare(reader, reference, config, tokenizer_config) for reader in READERS]


def _compare(
    reader: str, reference: ReaderView, config: Config, tokenizer_config: Config | None
) -> Comparison:
    try:
        view = read_as(reader, config, tokenizer_config=tokenizer_config)
    except RopeError as refusal:
        return Comparison(reader=reader, view=None, difference=None, warnings=refusal.faults)
    difference, warnings = beside(view, reference)
    return Comparison(reader=reader, view=view, difference=difference, warnings=warnings)


def beside(view: ReaderView, reference: ReaderView) -> tuple[float | None, tuple[str, ...]]:
    """The difference and the warnings of a Comparison of any two views."""
    difference = _largest_difference(view.inv_freq, reference.inv_freq)
    return difference, _told(view, reference, difference)


def _largest_difference(seen: np.ndarray | None, reference: np.ndarray | None) -> float | None:
    if seen is None or reference is None:
        return None
    return float(np.max(np.abs(seen / reference - 1))) if seen.shape == reference.shape else math.inf


def _told(view: ReaderView, reference: ReaderView, difference: float | None) -> tuple[str, ...]:
    name = f"{view.reader} ({view.version})"
    told = [f"{name} {note}." for note in view.notes]
    if view.window != reference.window:
        told.append(
            f"{name} takes a window of {view.window:,} tokens, transformers 5 of {reference.window:,}."
        )
    if difference is None:
        told.append(f"{name}: angles of type {view.rope_type!r} change with the length read; not compared.")
    elif math.isinf(difference):
        told.append(f"{name} turns another number of pairs of dimensions than transformers 5.")
    elif difference > ANGLE_TOLERANCE:
        amount = f"{difference:.2g} times" if difference >= 1 else f"{difference:.2%}"
        told.append(f"{name} derives frequencies up to {amount} off those of transformers 5.")
    if not math.isclose(view.temperature, reference.temperature, rel_tol=1e-9):
        told.append(
            f"{name} multiplies cos and sin by {view.temperature:.4f}, transformers 5 by "
            f"{reference.temperature:.4f}: attention logits differ by the square of the ratio."
        )
    return tuple(told)
