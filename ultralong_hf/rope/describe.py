"""What the RoPE of a model does to each pair of dimensions, now and after each way of stretching it.

A pair turns by `inv_freq` radians a token: once in `wavelength` tokens, and `length / wavelength` times
within a length. It is *kept* where its frequency is that of plain RoPE, *interpolated* where it is slower by
the whole scale, and on the *ramp* between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ultralong_hf.errors import ModelError, RopeError
from ultralong_hf.lengths import parse_length
from ultralong_hf.rope.families import FAMILIES, RECORD_KEY, STRETCHED_LAYERS, find_family
from ultralong_hf.rope.folder import find_model
from ultralong_hf.rope.frequencies import (
    METHODS,
    angle_error,
    attention_temperature,
    check_method,
    inverse_frequencies,
)
from ultralong_hf.rope.reader_rules import ReaderView
from ultralong_hf.rope.readers import read_as
from ultralong_hf.rope.stretch import Stretch, plan_stretch, stretched_frequencies

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

COMPARED_METHODS = tuple(method for method in METHODS if method != "none")

State = Literal["kept", "ramp", "interpolated"]

# Frequencies that agree to this are the same: float32 keeps 6e-8.
_SAME = 1e-6

# Errors of angles are the worst of so many positions, as in `angle_error`.
_NEIGHBOURHOOD = 1024


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One pair of dimensions. `wavelength` in tokens; `slower` is how many times slower than plain RoPE.

    `turns_original` are those of plain RoPE within the original length, `turns_target` those of this RoPE
    within the length that it is meant for.
    """

    index: int
    wavelength: float
    slower: float
    turns_original: float
    turns_target: float
    state: State


@dataclass(frozen=True, kw_only=True)
class Rope:
    """One RoPE: the model's own (of one layer type), or what a method would make of it.

    `plain` and `inv_freq` are float64 [pairs], radians per token, before and after the stretch. `length` is
    the length it is meant for; `temperature` multiplies cos and sin.
    """

    name: str
    rope_type: str
    theta: float
    scale: float
    original_length: int
    length: int
    temperature: float
    plain: np.ndarray = field(repr=False)
    inv_freq: np.ndarray = field(repr=False)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs, fastest first."""
        return tuple(self._pair(i) for i in range(len(self.inv_freq)))

    @cached_property
    def angle_error_float32(self) -> float:
        """Radians by which float32 angles, as transformers computes them, are off at the end of `length`."""
        return angle_error(self.inv_freq, self.length - 1)

    @cached_property
    def angle_error_exact(self) -> float:
        """The same with `exact_angles=True`: the angles of exact.py beside float64 ones."""
        return _exact_angle_error(self.inv_freq, self.length - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, a dict a pair."""
        shown = ("name", "rope_type", "theta", "scale", "original_length", "length", "temperature")
        return {key: getattr(self, key) for key in shown} | {
            "angle_error_float32": self.angle_error_float32,
            "angle_error_exact": self.angle_error_exact,
            "pairs": [dict(vars(pair)) for pair in self.pairs],
        }

    def _pair(self, index: int) -> Pair:
        plain, stretched = float(self.plain[index]), float(self.inv_freq[index])
        slower = plain / stretched
        return Pair(
            index=index,
            wavelength=2 * math.pi / stretched,
            slower=slower,
            turns_original=self.original_length * plain / (2 * math.pi),
            turns_target=self.length * stretched / (2 * math.pi),
            state=_state(slower, self.scale),
        )


@dataclass(frozen=True, kw_only=True)
class RopeDescription:
    """The RoPE of a model, `own`, one entry per layer type that has its own, full attention first.

    `methods` is what each method would make of it for the target length, and empty without one. `notes` are
    sentences on what an extension would start from.
    """

    model: str
    window: int
    target_length: int | None
    own: tuple[Rope, ...]
    methods: tuple[Rope, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """Text: the RoPE in words, then a line a pair; with a target, the methods side by side."""
        from ultralong_hf.rope.tables import description_table

        return description_table(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `ultralong inspect --json` prints them."""
        return {
            "model": self.model,
            "window": self.window,
            "target_length": self.target_length,
            "own": [rope.to_dict() for rope in self.own],
            "methods": [rope.to_dict() for rope in self.methods],
            "notes": list(self.notes),
        }

    def plot(self, path: str | PathLike[str]) -> Path:
        """Draws wavelengths and slow-downs a pair into the PNG file `path`, and returns it."""
        from ultralong_hf.rope.drawing import draw_rope

        return draw_rope(self, Path(path))


def describe_rope(
    model: str | PathLike[str] | PretrainedConfig | PreTrainedModel,
    target_length: int | str | None = None,
    *,
    methods: tuple[str, ...] = COMPARED_METHODS,
) -> RopeDescription:
    """The RoPE of `model`, a path, a hub id, a config or a model; only its config is looked at.

    With `target_length` (tokens, or a text such as "1M"), also what `extend_context` would make of it by each
    of `methods`. Raises ModelError where no config can be read, RopeError for a model without RoPE, or, with
    a target, for one that cannot be extended so.
    """
    for method in methods:
        check_method(method)
    name, config = load_config(model)
    values = config.to_dict()
    own = _own_ropes(values)
    target = None if target_length is None else parse_length(target_length)
    stretches = [] if target is None else [plan_stretch(config, target, method=m) for m in methods]
    return RopeDescription(
        model=name,
        window=_text(values)["max_position_embeddings"],
        target_length=target,
        own=own,
        methods=tuple(_stretched_rope(stretch) for stretch in stretches),
        notes=tuple(dict.fromkeys(note for stretch in stretches for note in stretch.notes)),
    )


def load_config(
    model: str | PathLike[str] | PretrainedConfig | PreTrainedModel,
) -> tuple[str, PretrainedConfig]:
    """A name to print, and the config, of a path, hub id, config or model. Raises ModelError without one."""
    from transformers import AutoConfig, PretrainedConfig

    if isinstance(model, PretrainedConfig):
        return model.name_or_path or model.model_type, model
    inner = getattr(model, "config", None)
    if isinstance(inner, PretrainedConfig):
        return load_config(inner)
    if not isinstance(model, str | PathLike):
        raise ModelError(f"{type(model).__name__} is no model: give a path, a hub id, a config or a model.")
    folder = find_model(model, with_weights=False)
    try:
        return str(model), AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, KeyError, and the validation errors of strict configs
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"{folder / 'config.json'} is no config that transformers can read. It says: {reason}"
        ) from error


def _stretched_rope(stretch: Stretch) -> Rope:
    return Rope(
        name=stretch.method,
        rope_type=stretch.method,
        theta=stretch.theta,
        scale=stretch.scale,
        original_length=stretch.original_length,
        length=stretch.target_length,
        temperature=attention_temperature(stretch.method, stretch.scale),
        plain=_plain(stretch.theta, stretch.rotary_dim),
        inv_freq=stretched_frequencies(stretch),
    )


def _own_ropes(values: Mapping[str, Any]) -> tuple[Rope, ...]:
    """The RoPE that a config's dict has now; per layer type where they differ, full attention first."""
    text = _text(values)
    parameters = text.get("rope_parameters")
    if not parameters:
        find_family(values)  # tells of ALiBi and learned positions
        raise RopeError(f"model_type {values.get('model_type')!r} has no rope_parameters: it has no RoPE.")
    nested = {key: value for key, value in parameters.items() if isinstance(value, Mapping)}
    if not nested:
        return (_own_rope("own", text),)
    ropes = []
    for layer in sorted(nested, key=lambda layer: (layer != STRETCHED_LAYERS, layer)):
        # A reader looks at the full-attention layers; each layer type takes their place in turn.
        alone = {**text, "rope_scaling": None, "rope_parameters": {STRETCHED_LAYERS: nested[layer]}}
        ropes.append(_own_rope(f"own, {layer}", alone, stretched=layer == STRETCHED_LAYERS))
    return tuple(ropes)


def _own_rope(name: str, text: Mapping[str, Any], *, stretched: bool = True) -> Rope:
    view = read_as("transformers-5", text)
    if view.inv_freq is None:
        raise RopeError(
            f"RoPE of type {view.rope_type!r} has angles that change with the length read, or that are not "
            "known here: there is no table of it."
        )
    # A stretch by another base (ntk) is plain RoPE to transformers; what it started from is in our record.
    record = text.get(RECORD_KEY) if stretched else None
    theta = record["rope_theta"] if record else view.theta
    return Rope(
        name=name,
        rope_type=record["method"] if record else view.rope_type,
        theta=theta,
        scale=record["scale"] if record else view.factor,
        original_length=record["original_length"] if record else _original_length(view, text),
        length=view.window,
        temperature=view.temperature,
        plain=_plain(theta, 2 * len(view.inv_freq)),
        inv_freq=view.inv_freq,
    )


def _original_length(view: ReaderView, text: Mapping[str, Any]) -> int:
    """Tokens before the scaling that a model came with; linear scaling itself does not say."""
    if view.rope_type == "linear":
        family = FAMILIES.get(text.get("model_type", ""))
        return (family and family.length_before_linear) or round(view.window / view.factor)
    return view.original_length or view.window


def _text(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values.get("text_config") or values


def _plain(theta: float, rotary_dim: int) -> np.ndarray:
    return inverse_frequencies("none", theta=theta, rotary_dim=rotary_dim, scale=1.0, original_length=1)


def _state(slower: float, scale: float) -> State:
    if math.isclose(slower, 1.0, rel_tol=_SAME):
        return "kept"
    return "interpolated" if math.isclose(slower, scale, rel_tol=_SAME) else "ramp"


def _exact_angle_error(inv_freq: np.ndarray, position: int) -> float:
    """As `angle_error`, of ExactRotaryEmbedding's angles, whole turns aside."""
    import torch

    from ultralong_hf.rope.exact import exact_angles, turn_phases

    stored = np.asarray(inv_freq).astype(np.float32)
    positions = np.arange(max(0, position - _NEIGHBOURHOOD + 1), position + 1)
    ours = exact_angles(torch.from_numpy(positions)[None], turn_phases(torch.from_numpy(stored)))[0]
    # Products of 24-bit numbers, positions below 2^24, are exact in float64.
    off = ours.double().numpy() - positions[:, None] * stored.astype(np.float64)
    return float(np.abs((off + math.pi) % (2 * math.pi) - math.pi).max())
