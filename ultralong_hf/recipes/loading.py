"""A recipe file, or a preset, and overrides of it -> a checked Recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path as FilePath
from typing import Any

from ultralong_hf.errors import RecipeError
from ultralong_hf.lengths import format_length
from ultralong_hf.recipes.checking import Faults, Path, build, check_keys, convert, nearest
from ultralong_hf.recipes.located_yaml import LocatedYaml
from ultralong_hf.recipes.schema import LAB, SECTIONS, TRL_SECTIONS, Recipe, section_names

PRESETS = ("lab", "ultralong-1m", "ultralong-2m", "ultralong-4m")

SCALE_SLACK = 1.05
"""A window may be this much longer than scale x original length: the released ones are, by 1.023."""


def load_recipe(name_or_path: str | FilePath, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a preset's name or of a YAML file, with `overrides` such as {"data.target_length": "2M"}.

    Raises RecipeError with all faults: unknown keys, wrong types and bad values, each with its line.
    """
    origin, text = _read(name_or_path)
    file = LocatedYaml(origin, text)
    for key, value in (overrides or {}).items():
        _override(file.values, file.lines, tuple(key.split(".")), value)
    faults = Faults(origin, file.lines)
    faults.messages.extend(file.faults)
    recipe = _build_recipe(origin, file.values, faults)
    if recipe is not None:
        _check_together(recipe, faults)
    if recipe is None or faults.messages:
        raise RecipeError(*faults.messages)
    return recipe


def _read(name_or_path: str | FilePath) -> tuple[str, str]:
    """Name for messages and text. A name without a slash or suffix is a preset."""
    if str(name_or_path) in PRESETS:
        preset = resources.files("ultralong_hf.recipes") / f"{name_or_path}.yaml"
        return preset.name, preset.read_text(encoding="utf-8")
    path = FilePath(name_or_path)
    try:
        return path.name, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"{name_or_path} is no recipe: there is no such file, and the presets are "
            f"{', '.join(PRESETS)}.{nearest(str(name_or_path), PRESETS)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name_or_path} cannot be read as a recipe: {error}.") from None


def _override(
    values: dict[str, Any], lines: dict[Path, int | None], path: tuple[str, ...], value: Any
) -> None:
    """Sets one key; neither it nor what is in it has a line any more."""
    at = values
    for end, part in enumerate(path[:-1], start=1):
        if not isinstance(at.get(part), dict):
            at[part] = {}
            lines[path[:end]] = None
        at = at[part]
    at[path[-1]] = value
    for known in [p for p in lines if p[: len(path)] == path]:
        del lines[known]
    lines[path] = None


def _build_recipe(origin: str, values: dict[str, Any], faults: Faults) -> Recipe | None:
    """None where there was a fault."""
    check_keys(values, section_names(), (), faults)
    sections: dict[str, Any] = {}
    for name in section_names():
        value = values.get(name)
        value = {} if value is None else value
        if name in SECTIONS:
            sections[name] = build(SECTIONS[name], value, (name,), faults)
        else:
            sections[name] = _trl_section(name, value, faults)
    return None if faults.messages else Recipe(origin=origin, **sections)


def _trl_section(name: str, value: Any, faults: Faults) -> dict[str, Any]:
    """The section, its keys checked against TRL's dataclass; TRL is imported only when there are keys."""
    if not isinstance(value, dict):
        faults.add((name,), f"{name} is {value!r}; expected a mapping of keys to values.")
        return {}
    if not value:
        return {}
    from ultralong_hf.recipes.trl_keys import trl_hints, why_not

    hints = trl_hints(TRL_SECTIONS[name])
    check_keys(value, hints, (name,), faults, home=f"trl.{TRL_SECTIONS[name]}")
    for key in value:
        if reason := why_not(name, key):
            faults.add((name, key), f"{name}.{key} cannot be set in a recipe: {reason}")
    for key in [k for k in value if k in hints]:
        convert(value[key], hints[key], (name, key), faults)
    return value


def _check_together(recipe: Recipe, faults: Faults) -> None:
    """Values that are fine alone and not together."""
    rope, data = recipe.rope, recipe.data
    if rope.beta_fast <= rope.beta_slow:
        faults.add(
            ("rope", "beta_fast"),
            f"rope.beta_fast {rope.beta_fast:g} must be above rope.beta_slow {rope.beta_slow:g}.",
        )
    paths = [source.path for source in data.sources]
    if LAB in paths and len(paths) > 1:
        faults.add(
            ("data", "sources"),
            "data.sources holds lab beside others; its documents make a store of their own.",
        )
    if recipe.window < data.target_length:
        faults.add(
            ("rope", "target_length"),
            f"rope.target_length {format_length(recipe.window)} is shorter than a row, data.target_length "
            f"{format_length(data.target_length)}. Set it to null to follow the rows.",
        )
    for stage, key, held_out in (
        ("cpt", "data.eval_rows", data.eval_rows),
        ("sft", "instruct.eval_samples", recipe.instruct.eval_samples),
        ("preference", "preference_data.eval_pairs", recipe.preference_data.eval_pairs),
        ("orpo", "preference_data.eval_pairs", recipe.preference_data.eval_pairs),
        ("grpo", "grpo_data.eval_prompts", recipe.grpo_data.eval_prompts),
    ):
        strategy = getattr(recipe, stage).get("eval_strategy", "no")
        if strategy != "no" and not held_out:
            faults.add(
                (stage, "eval_strategy"),
                f"{stage}.eval_strategy is {strategy}, but {key} holds nothing out to evaluate on.",
            )
    for stage in (f.name for f in fields(recipe.parallel.global_batch)):
        if recipe.rows_of_step(stage) and "gradient_accumulation_steps" in getattr(recipe, stage):
            faults.add(
                (stage, "gradient_accumulation_steps"),
                f"{stage}.gradient_accumulation_steps and parallel.global_batch.{stage} both say how many "
                f"rows make a step. Leave one out, or set parallel.global_batch.{stage} to null.",
            )
    if recipe.sft.get("packing") and recipe.sft.get("packing_strategy") == "wrapped":
        faults.add(
            ("sft", "packing_strategy"),
            "sft.packing_strategy is wrapped, which cuts conversations and lets each see the one before. "
            "Leave it out: bfd keeps them whole and apart.",
        )
    if recipe.grpo and recipe.grpo_data.seed == recipe.evaluation.seed:
        faults.add(
            ("grpo_data", "seed"),
            f"grpo_data.seed and evaluation.seed are both {recipe.evaluation.seed}: the model would train on "
            "the prompts that it is tested with. Use another seed for one of them.",
        )
    if rope.scale and rope.original_length:
        reach = rope.scale * rope.original_length
        if recipe.window > reach * SCALE_SLACK:
            faults.add(
                ("rope", "scale"),
                f"rope.scale {rope.scale:g} times rope.original_length {rope.original_length:,} reaches "
                f"{reach:,.0f} tokens, not {recipe.window:,}. Set rope.scale to "
                f"{recipe.window / rope.original_length:g}, or to null to follow the length.",
            )
