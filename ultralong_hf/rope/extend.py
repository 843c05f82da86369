"""`extend_context`: a config, a loaded model or a model folder, stretched to a longer window."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ModelError
from ultralong_hf.rope.families import FAMILIES, find_family, rope_section
from ultralong_hf.rope.folder import (
    CONFIG,
    carry_files,
    edit_json,
    find_model,
    finish_model_folder,
    follow_window,
    longer_generation,
    read_json,
    whole_folder,
)
from ultralong_hf.rope.reader_rules import ReaderView
from ultralong_hf.rope.readers import ANGLE_TOLERANCE, Comparison, compare_readers, read_as
from ultralong_hf.rope.stretch import both_key_generations, config_changes, plan_stretch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    Outcome = tuple[Any, list[str]]  # what extend_context returns, and what it says
    OutputDir = str | os.PathLike[str] | None


class RopeWarning(UserWarning):
    """What to know about an extension that was made as asked. `notes` holds it, a sentence or two a note."""

    def __init__(self, *notes: str) -> None:
        super().__init__("\n".join(notes))
        self.notes: tuple[str, ...] = notes


def extend_context(
    model: Any,
    target_length: int | str,
    *,
    method: str = "yarn",
    scale: float | None = None,
    original_length: int | str | None = None,
    beta_slow: float = 1.0,
    beta_fast: float = 4.0,
    attention_factor: float | None = None,
    exact_angles: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
) -> Any:
    """`model` with its window stretched to `target_length` tokens, an int or a text such as "1M".

    - A PretrainedConfig gives a new one; the one given is unchanged.
    - A PreTrainedModel is changed in place and returned, its rotary buffers rebuilt.
    - A path or hub id gives the new config.

    With `output_dir` a model folder is written too, whole or not at all. Of a path or id it holds everything
    but pickles and subfolders, the weights hard-linked (copied across file systems) and never read; of a
    config or a model, what `save_pretrained` writes. Its config.json has the keys of transformers 4 and 5.

    `method` is yarn (transformers' form, with a temperature), llama3 (the YaRN paper's ramp over turns,
    without), ntk, linear or none; `inverse_frequencies` has the formulas. `scale` is target_length /
    original_length unless given; `original_length` is the window before any stretch, which the config tells
    (for Llama 3.1: 8,192). `beta_slow` and `beta_fast` are in turns within it, for yarn and llama3.
    `attention_factor` replaces yarn's temperature 0.1 ln scale + 1. With `exact_angles` a model gets rotary
    embeddings without float32's rounding (`install_exact_angles`); a config records the wish.

    An earlier stretch is replaced whole, never added to. What a user should know, such as a reader that takes
    the new config otherwise, is told in one RopeWarning. `trust_remote_code` is never on.
    Raises RopeError and LengthError for what cannot be stretched so, ModelError for what cannot be read or
    written.
    """
    arguments = {
        "method": method,
        "scale": scale,
        "original_length": original_length,
        "beta_slow": beta_slow,
        "beta_fast": beta_fast,
        "attention_factor": attention_factor,
        "exact_angles": exact_angles,
    }
    if isinstance(model, str | os.PathLike):
        result, notes = _extend_folder(model, target_length, arguments, output_dir)
    elif hasattr(model, "config") and hasattr(model, "modules"):
        result, notes = _extend_model(model, target_length, arguments, output_dir)
    elif hasattr(model, "model_type") and hasattr(model, "to_dict"):
        result, notes = _extend_config(model, target_length, arguments, output_dir)
    else:
        raise ModelError(
            f"a {type(model).__name__} cannot be extended: give a path, a hub id, or a transformers config "
            "or model."
        )
    if notes:
        warnings.warn(RopeWarning(*notes), stacklevel=2)
    return result


def _extend_config(
    config: PretrainedConfig, target_length: int | str, arguments: dict[str, Any], output_dir: OutputDir
) -> Outcome:
    stretch = plan_stretch(config, target_length, **arguments)
    extended = copy.deepcopy(config)
    _apply(extended, config_changes(config, stretch))
    if output_dir is not None:
        with whole_folder(output_dir) as folder:
            extended.save_pretrained(folder)
            finish_model_folder(folder)
    return extended, [*stretch.notes, *_reader_notes(both_key_generations(extended.to_dict()))]


def _extend_model(
    model: PreTrainedModel, target_length: int | str, arguments: dict[str, Any], output_dir: OutputDir
) -> Outcome:
    from ultralong_hf.rope.exact import install_exact_angles, rebuild_rotary, remove_exact_angles

    stretch = plan_stretch(model.config, target_length, **arguments)
    window_before = rope_section(model.config).max_position_embeddings
    _apply(model.config, config_changes(model.config, stretch))
    remove_exact_angles(model)
    rebuild_rotary(model)
    if stretch.exact_angles:
        install_exact_angles(model)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        limits = {"max_length": generation.max_length}
        generation.max_length = longer_generation(limits, window_before, stretch.target_length)["max_length"]
    if output_dir is not None:
        with whole_folder(output_dir) as folder:
            model.save_pretrained(folder)
            finish_model_folder(folder)
    return model, [*stretch.notes, *_reader_notes(both_key_generations(model.config.to_dict()))]


def _extend_folder(
    model: str | os.PathLike[str], target_length: int | str, arguments: dict[str, Any], output_dir: OutputDir
) -> Outcome:
    source = find_model(model, with_weights=output_dir is not None)
    written = read_json(source / CONFIG)
    find_family(
        written
    )  # before transformers reads it, which wants remote code for families it does not know
    config = _load_config(source)
    stretch = plan_stretch(config, target_length, **arguments)
    changes = config_changes(config, stretch)
    window_before = rope_section(config).max_position_embeddings
    _apply(config, changes)
    changed = _change_written(written, changes)
    notes = [*stretch.notes, *_reader_notes(changed)]
    if output_dir is not None:
        with whole_folder(output_dir) as folder:
            notes += carry_files(source, folder)
            edit_json(folder / CONFIG, lambda _: changed)
            follow_window(folder, window_before=window_before, target_length=stretch.target_length)
    return config, notes


def _apply(config: PretrainedConfig, changes: dict[str, Any]) -> None:
    section = rope_section(config)
    for key, value in changes.items():
        setattr(section, key, copy.deepcopy(value))


def _change_written(written: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The dict of the new config.json: the one that was there, so that nothing else in it moves."""
    result = copy.deepcopy(written)
    family = FAMILIES[result["model_type"]]
    section = result if family.sub_config is None else result.setdefault(family.sub_config, {})
    section.update(changes)
    return both_key_generations(result)


def _load_config(source: Path) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, KeyError, and the validation errors of strict configs
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{source / CONFIG} is not a config transformers can read: {reason}") from error
    return config


def _reader_notes(config: dict[str, Any]) -> list[str]:
    """What readers make of the dict of a config.json otherwise than transformers 5 does: whole sentences."""
    reference = read_as("transformers-5", config)
    return [
        warning
        for comparison in compare_readers(config)
        if not _agrees(comparison, reference)
        for warning in comparison.warnings
    ]


def _agrees(comparison: Comparison, reference: ReaderView) -> bool:
    view, difference = comparison.view, comparison.difference
    if view is None or difference is None or difference > ANGLE_TOLERANCE:
        return False
    return (view.window, view.temperature) == (reference.window, reference.temperature)
